"""navix's grids under the environment contract. Imported on first use."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from bellmax import UserError, must
from bellmax.envs.adapters.shared.dtypes import default_promotion, own_dtypes, same_dtypes
from bellmax.envs.base import EnvSpec, EnvState, TimeStep
from bellmax.envs.options import check_choice, check_options, check_unwrapped, import_extra, unknown

ENCODINGS = ("one_hot", "ids")
VIEWS = ("full", "first_person")
OPTIONS = ("encoding", "max_steps", "view")
NUM_TAGS, NUM_COLOURS, NUM_STATES = 11, 6, 4  # number of ids in each layer
_SYMBOLIC = {"full": "symbolic", "first_person": "symbolic_first_person"}


def make(
    task: str,
    *,
    view: str = "full",
    encoding: str = "one_hot",
    max_steps: int | None = None,
    **options: Any,
) -> "NavixEnv":
    """Makes a navix task, such as `Navix-DoorKey-8x8-v0`.

    Args:
      task: one of `list_tasks()`.
      view: what the agent sees, the `full` grid, or in `first_person` the 7 x 7 cells around it.
      encoding: of the observation, `one_hot` or `ids`, see `NavixEnv`.
      max_steps: the time limit in environment steps, at least 1; None is navix's own, 100.
      **options: none; others are refused.

    Raises:
      UserError: navix is not installed, or it has no such task or option.
    """
    tasks = list_tasks()
    if task not in tasks:
        raise unknown("task", task, tasks, of="navix")
    check_options(f"navix/{task}", options, OPTIONS)
    check_choice("view", view, VIEWS)
    check_choice("encoding", encoding, ENCODINGS)
    limit = {} if max_steps is None else {"max_steps": max_steps}
    if limit and (type(max_steps) is not int or max_steps < 1):
        allowed = "a whole number of environment steps, at least 1"
        raise UserError(must("max_steps", allowed, repr(max_steps)))
    observe = getattr(_navix().observations, _SYMBOLIC[view])
    env = _navix().make(task, observation_fn=observe, **limit)
    return NavixEnv(task, env, encoding, (0.0, 1.0))


def from_navix(env: Any) -> "NavixEnv":
    """Takes a navix environment object, with any of navix's functions of observation and reward.

    Args:
      env: a `navix.Environment`.

    Raises:
      UserError: it is in a wrapper of navix.
    """
    check_unwrapped(env, "environments.wrappers", "a navix environment")
    return NavixEnv(type(env).__name__, env)


def list_tasks() -> list[str]:
    """navix's tasks, without the prefix `navix/`."""
    return sorted(_navix().registry())


class NavixState(NamedTuple):
    """inner: navix's own state, without its key and its cache. time: [] int32, since the reset."""

    inner: Any
    time: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class NavixEnv:
    """One navix task, without navix's automatic resets.

    Observations are the symbols of cells, a view [V, W] of the grid: `one_hot` is [V, W, 21] bool,
    11 channels for what is in the cell, 6 for its colour and 4 for its state (the agent's
    direction, or a door: open, closed, locked); `ids` is [V, W, 3] uint8, the ids that navix
    returns. In first person the agent looks up from the middle, sees through walls, and its own
    cell and direction are not shown. Objects whose observation function is another one are shown
    as they are, in float32 unless they are images.

    Actions are MiniGrid's: 0 left, 1 right, 2 forward, 3 pick up, 4 drop, 5 toggle, 6 done. The
    goal is worth 1, whenever it is reached. max_steps truncates, unless that step terminates.

    task: navix's name of the task. env: navix's object. encoding: `one_hot` or `ids`.
    reward_range: of one reward, None if unknown.
    """

    task: str
    env: Any
    encoding: str = "one_hot"
    reward_range: tuple[float, float] | None = None

    @property
    def spec(self) -> EnvSpec:
        shape, kind = self._shape, np.dtype(bool)
        observation: specs.Array
        if not self._is_symbolic:
            kind = self._kind
            observation = specs.Array(shape, kind, "observation")
        elif self.encoding == "ids":
            observation = specs.Array(shape, np.uint8, "observation")
        else:
            shape = (*shape[:2], NUM_TAGS + NUM_COLOURS + NUM_STATES)
            observation = specs.BoundedArray(shape, kind, False, True, "observation")
        return EnvSpec(
            name=f"navix/{self.task}",
            observation=observation,
            action=specs.DiscreteArray(len(self.env.action_set), np.int32, "action"),
            time_limit=int(self.env.max_steps),
            reward_range=self.reward_range,
        )

    def reset(self, key: jax.Array) -> tuple[EnvState, TimeStep]:
        with default_promotion():
            theirs = self.env.reset(key)
        no = jnp.zeros((), bool)
        state = NavixState(self._kept(own_dtypes(theirs.state)), jnp.zeros((), jnp.int32))
        return state, TimeStep(self._observe(theirs.observation), jnp.float32(0), no, no)

    def step(self, state: EnvState, action: jax.Array, key: jax.Array) -> tuple[EnvState, TimeStep]:
        from navix import Timestep as Theirs

        unused: Any = jnp.float32(0)  # `_step` reads only the state and the time
        inner = state.inner.replace(key=key)  # of the balls of Dynamic-Obstacles
        before = Theirs(
            state.time, observation=unused, action=unused, reward=unused, step_type=unused,
            state=inner,
        )  # fmt: skip
        with default_promotion():
            after = self.env._step(before, action)  # `step` resets automatically
        ts = TimeStep(
            observation=self._observe(after.observation),
            reward=jnp.asarray(after.reward, jnp.float32).reshape(()),
            terminated=jnp.asarray(after.is_termination()).reshape(()),
            truncated=jnp.asarray(after.is_truncation()).reshape(()),
        )
        inner = same_dtypes(state.inner, self._kept(after.state))
        return NavixState(inner, state.time + 1), ts

    def _kept(self, state: Any) -> Any:
        """The state without its key, and without its pictures if none is observed."""
        return state.replace(key=(), cache=() if self._is_symbolic else state.cache)

    def _observe(self, seen: jax.Array) -> jax.Array:
        if not self._is_symbolic:
            return jnp.asarray(seen, self._kind)
        if self.encoding == "ids":
            return seen.astype(jnp.uint8)
        ids, sizes = seen.astype(jnp.int32), (NUM_TAGS, NUM_COLOURS, NUM_STATES)
        layers = [ids[..., i, None] == jnp.arange(n)[None, None] for i, n in enumerate(sizes)]
        return jnp.concatenate(layers, axis=-1)

    @property
    def _is_symbolic(self) -> bool:
        seen = _navix().observations
        return self.env.observation_fn in [getattr(seen, name) for name in _SYMBOLIC.values()]

    @functools.cached_property
    def _raw(self) -> Any:
        """Shape and dtype of navix's own observation."""
        with default_promotion():
            return jax.eval_shape(self.env.reset, jax.random.key(0)).observation

    @property
    def _shape(self) -> tuple[int, ...]:
        return tuple(self._raw.shape)

    @property
    def _kind(self) -> np.dtype:
        kept = self._raw.dtype in (np.uint8, bool)
        return np.dtype(self._raw.dtype if kept else np.float32)


def _navix() -> Any:
    return import_extra("navix", "navix")
