"""xminigrid's MiniGrid tasks under the environment contract. Imported on first use."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from bellmax import UserError, must
from bellmax.envs.adapters.shared.dtypes import default_promotion, own_dtypes, same_dtypes
from bellmax.envs.base import EnvSpec, EnvState, TimeStep
from bellmax.envs.options import check_choice, check_options, check_unwrapped, import_extra, unknown
from bellmax.envs.tasks import drawing

ENCODINGS = ("one_hot", "ids")
OPTIONS = ("encoding", "layout", "max_steps", "view_size")
NUM_TILES, NUM_COLOURS = 13, 12  # number of ids in the first and in the second layer
_NOTHING, _DOOR_OPEN = 0, 10  # ids of tiles
_PREFIX = "MiniGrid-"  # XLand tasks need a ruleset, which a task name cannot give


def make(
    task: str, *, encoding: str = "one_hot", layout: int | None = None, **options: Any
) -> "XminigridEnv":
    """Makes a MiniGrid task of xminigrid, such as `MiniGrid-DoorKey-16x16`.

    Args:
      task: one of `list_tasks()`.
      encoding: of the observation, `one_hot` or `ids`, see `XminigridEnv`.
      layout: seed, 0 or more, of one layout that all episodes share: rooms, objects and the
        agent's start are the same; None draws a new layout in each episode.
      **options: view_size, side in cells of the square that the agent sees, odd and at least 3;
        max_steps, the time limit in environment steps, at least 1. The task defines both defaults.

    Raises:
      UserError: xminigrid is not installed, or it has no such task or option.
    """
    tasks = list_tasks()
    if task not in tasks:
        raise unknown("MiniGrid task", task, tasks, of="xminigrid")
    check_options(f"xminigrid/{task}", options, OPTIONS)
    check_choice("encoding", encoding, ENCODINGS)
    numbers = options if layout is None else {**options, "layout": layout}
    for name, value in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise UserError(must(name, "a whole number", repr(value)))
    if layout is not None and not 0 <= layout < 2**31:
        raise UserError(must("layout", "from 0 to 2**31 - 1", layout))
    env, params = _xminigrid().make(task, **options)
    if params.view_size < 3 or params.view_size % 2 == 0:
        raise UserError(must("view_size", "odd and at least 3", params.view_size))
    if params.max_steps < 1:
        raise UserError(must("max_steps", "at least 1 environment step", params.max_steps))
    return XminigridEnv(task, env, params, encoding, layout)


def from_xminigrid(env: Any, params: Any = None) -> "XminigridEnv":
    """Takes an xminigrid environment object, XLand's included.

    Args:
      env: an `xminigrid.environment.Environment`.
      params: its `EnvParams`; None takes its default_params().

    Raises:
      UserError: it is in a wrapper of xminigrid.
    """
    check_unwrapped(env, "xminigrid.wrappers", "an xminigrid environment")
    params = env.default_params() if params is None else params
    return XminigridEnv(type(env).__name__, env, params)


def list_tasks() -> list[str]:
    """xminigrid's MiniGrid tasks, without the prefix `xminigrid/`."""
    names = _xminigrid().registered_environments()
    return sorted(name for name in names if name.startswith(_PREFIX))


@dataclasses.dataclass(frozen=True, eq=False)
class XminigridEnv:
    """One MiniGrid task of xminigrid, without xminigrid's wrappers.

    Observations are the square of view_size x view_size cells in front of the agent, rotated so
    that the agent looks up from the middle of the last row. As in MiniGrid, they do not contain the
    agent's direction. Unlike in MiniGrid, the agent sees through walls, and the object that it
    carries is not observed. `one_hot`: [V, V, 25] bool, 13 channels for the tile (xminigrid's
    `Tiles`), 12 for the colour (`Colors`). `ids`: [V, V, 2] uint8, the ids that xminigrid returns.

    Actions: 0 forward, 1 turn right, 2 turn left, 3 pick up, 4 put down, 5 toggle. Success in step
      t is rewarded with 1 - 0.9 t / max_steps and terminates; the wrong choice in Memory terminates
      with reward 0; Playground has no goal. max_steps truncates, unless that step terminates.

    task: xminigrid's name of the task. env: xminigrid's object. params: its `EnvParams`.
    encoding: `one_hot` or `ids`. layout: of all episodes, or None.
    """

    task: str
    env: Any
    params: Any
    encoding: str = "one_hot"
    layout: int | None = None

    @property
    def spec(self) -> EnvSpec:
        view = (self.params.view_size, self.params.view_size)
        if self.encoding == "ids":
            high = max(NUM_TILES, NUM_COLOURS) - 1
            observation = specs.BoundedArray((*view, 2), np.uint8, 0, high, "observation")
        else:
            shape = (*view, NUM_TILES + NUM_COLOURS)
            observation = specs.BoundedArray(shape, np.bool_, False, True, "observation")
        return EnvSpec(
            name=f"xminigrid/{self.task}",
            observation=observation,
            action=specs.DiscreteArray(self.env.num_actions(self.params), np.int32, "action"),
            time_limit=self.params.max_steps,
            reward_range=(0.0, 1.0),
        )

    @property
    def num_cells(self) -> int:
        """4 height * width, an upper bound of the reachable cells: walls count too."""
        return 4 * self.params.height * self.params.width

    def cell(self, env_state: EnvState) -> jax.Array:
        """[] int32, (2 carries + open) * height * width + row * width + column.

        carries: whether the agent holds an object. open: whether any door is open. The agent's
          direction is ignored. If every reset draws a new layout, a cell is a position in the grid,
          whatever the layout.
        """
        agent, (height, width) = env_state.agent, env_state.grid.shape[:2]
        carries = (agent.pocket[0] != _NOTHING).astype(jnp.int32)
        opened = jnp.any(env_state.grid[..., 0] == _DOOR_OPEN).astype(jnp.int32)
        place = agent.position[0] * width + agent.position[1]
        return ((2 * carries + opened) * (height * width) + place).astype(jnp.int32)

    def reset(self, key: jax.Array) -> tuple[EnvState, TimeStep]:
        key = key if self.layout is None else jax.random.key(self.layout)
        with default_promotion():
            theirs = self.env.reset(self.params, key)
        # Only resetting wrappers use the state's key; `vectorise` passes keys to step and reset.
        state = own_dtypes(theirs.state.replace(key=()))
        no = jnp.zeros((), bool)
        observation = self._observe(theirs.observation)
        return state, TimeStep(observation, jnp.float32(0), terminated=no, truncated=no)

    def step(self, state: EnvState, action: jax.Array, key: jax.Array) -> tuple[EnvState, TimeStep]:
        del key  # nothing is random after the reset
        from xminigrid.types import TimeStep as Theirs

        unused: Any = jnp.float32(0)  # `step` only reads the state
        before = Theirs(state, step_type=unused, reward=unused, discount=unused, observation=unused)
        with default_promotion():
            after = self.env.step(self.params, before, action)
        # LAST covers termination and truncation; only a termination has discount 0.
        terminated = after.discount == 0
        late = after.state.step_num >= self.params.max_steps
        ts = TimeStep(
            observation=self._observe(after.observation),
            reward=jnp.asarray(after.reward, jnp.float32),
            terminated=terminated,
            truncated=~terminated & late,
        )
        return same_dtypes(state, after.state), ts

    def draw(self, env_state: EnvState) -> np.ndarray:
        """xminigrid's own picture of the grid; the agent's field of view is lighter."""
        from xminigrid.rendering.rgb_render import render

        grid, view = np.asarray(env_state.grid), self.params.view_size
        tile = max(8, drawing.SIDE // max(grid.shape[:2]))
        return render(grid, env_state.agent, view, tile)

    def _observe(self, ids: jax.Array) -> jax.Array:
        """Encode xminigrid's image [V, V, 2] as the observation."""
        if self.encoding == "ids":
            return ids.astype(jnp.uint8)
        tiles = ids[..., :1] == jnp.arange(NUM_TILES, dtype=ids.dtype)[None, None]
        colours = ids[..., 1:] == jnp.arange(NUM_COLOURS, dtype=ids.dtype)[None, None]
        return jnp.concatenate([tiles, colours], axis=-1)


def _xminigrid() -> Any:
    return import_extra("xminigrid", "xminigrid")
