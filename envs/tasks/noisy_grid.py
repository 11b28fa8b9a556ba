"""NoisyGrid: four rooms, one distant goal, and a noisy TV that distracts curious agents."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from bellmax import UserError, must
from bellmax.envs.base import EnvSpec, TimeStep
from bellmax.envs.options import check_choice
from bellmax.envs.tasks import drawing

NOISES = ("none", "always", "remote")
REMOTE = 4  # the action after up, right, down, left
_MOVES = np.array([(-1, 0), (0, 1), (1, 0), (0, -1), (0, 0)], np.int32)  # rows, columns


class NoisyGridState(NamedTuple):
    """row, column: [] int32, where the agent is. time: [] int32, steps since the reset.

    screen: [size, size, channels] uint8, what the TV shows.
    """

    row: jax.Array
    column: jax.Array
    time: jax.Array
    screen: jax.Array


@dataclasses.dataclass(frozen=True)
class NoisyGrid:
    """Walk from the top left of four rooms to the bottom right; observations include a noisy TV.

    Actions: 0 up, 1 right, 2 down, 3 left, 4 use the remote control without moving. Walls fill the
      middle row and the middle column, each with a doorway in both halves; the agent does not move
      if it walks into a wall or off the grid. The goal is rewarded with 1 and terminates; all other
      rewards are 0. The shortest path takes 2 (size - 1) steps. Only the noise is random.

    Observations are [size, size, 1 + channels] uint8: 255 where the agent is, then the TV. Neither
    rewards nor dynamics depend on the TV, but an agent that is rewarded for surprise may watch only
    the TV.

    size: rows and columns, odd, at least 5.
    noise: `none`, a dark TV; `always`, new uniform bytes at every reset and step; `remote`, dark
      at first, new uniform bytes after action 4, otherwise unchanged.
    channels: image planes of the TV, at least 1.
    time_limit: environment steps to truncation, at least 1.

    Source: the noisy TV of Burda et al. 2019, arXiv:1808.04355; noise on an action is that of Noisy
    Montezuma in Guo et al. 2022, arXiv:2206.08332. The grid is ours.
    """

    size: int = 13
    noise: str = "none"
    channels: int = 1
    time_limit: int = 200

    def __post_init__(self):
        if self.size < 5 or self.size % 2 == 0:
            raise UserError(must("NoisyGrid's size", "odd and at least 5", self.size))
        check_choice("NoisyGrid's noise", self.noise, NOISES)
        for name in ("channels", "time_limit"):
            if (value := getattr(self, name)) < 1:
                raise UserError(must(f"NoisyGrid's {name}", "at least 1", value))

    @property
    def spec(self) -> EnvSpec:
        shape = (self.size, self.size, 1 + self.channels)
        return EnvSpec(
            name="bellmax/NoisyGrid",
            observation=specs.BoundedArray(shape, np.uint8, 0, 255, "observation"),
            action=specs.DiscreteArray(len(_MOVES), np.int32, "action"),
            time_limit=self.time_limit,
            reward_range=(0.0, 1.0),
        )

    @functools.cached_property
    def walls(self) -> np.ndarray:
        """[size, size] bool, cells that the agent cannot enter."""
        middle = self.size // 2
        doorways = [middle // 2, middle + 1 + middle // 2]
        walls = np.zeros((self.size, self.size), bool)
        walls[middle], walls[:, middle] = True, True
        walls[middle, doorways], walls[doorways, middle] = False, False
        return walls

    @property
    def num_cells(self) -> int:
        """size ** 2. All are reachable except the 2 size - 5 cells of the walls."""
        return self.size**2

    def cell(self, env_state: NoisyGridState) -> jax.Array:
        """[] int32, row * size + column."""
        return env_state.row * self.size + env_state.column

    def reset(self, key: jax.Array) -> tuple[NoisyGridState, TimeStep]:
        zero = jnp.zeros((), jnp.int32)
        dark = jnp.zeros((self.size, self.size, self.channels), jnp.uint8)
        screen = self._noise(key) if self.noise == "always" else dark
        return self._show(NoisyGridState(zero, zero, zero, screen))

    def step(
        self, state: NoisyGridState, action: jax.Array, key: jax.Array
    ) -> tuple[NoisyGridState, TimeStep]:
        move = jnp.asarray(_MOVES)[action]
        row, column = (
            jnp.clip(old + change, 0, self.size - 1)
            for old, change in zip((state.row, state.column), move, strict=True)
        )
        blocked = jnp.asarray(self.walls)[row, column]
        screen = state.screen
        if self.noise == "always":
            screen = self._noise(key)
        elif self.noise == "remote":
            screen = jnp.where(action == REMOTE, self._noise(key), screen)
        return self._show(
            NoisyGridState(
                row=jnp.where(blocked, state.row, row),
                column=jnp.where(blocked, state.column, column),
                time=state.time + 1,
                screen=screen,
            )
        )

    def draw(self, env_state: NoisyGridState) -> np.ndarray:
        agent, goal = (int(env_state.row), int(env_state.column)), (self.size - 1, self.size - 1)
        return drawing.rooms_and_screen(self.walls, agent, goal, np.asarray(env_state.screen))

    def _noise(self, key: jax.Array) -> jax.Array:
        return jax.random.bits(key, (self.size, self.size, self.channels), jnp.uint8)

    def _show(self, state: NoisyGridState) -> tuple[NoisyGridState, TimeStep]:
        last = self.size - 1
        arrived = (state.row == last) & (state.column == last)
        rows = jnp.arange(self.size)[:, None, None] == state.row
        columns = jnp.arange(self.size)[None, :, None] == state.column
        agent = jnp.where(rows & columns, 255, 0).astype(jnp.uint8)
        return state, TimeStep(
            observation=jnp.concatenate([agent, state.screen], axis=-1),
            reward=arrived.astype(jnp.float32),
            terminated=arrived,
            truncated=~arrived & (state.time >= self.time_limit),
        )
