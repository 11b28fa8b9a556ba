"""DeepSea, the exploration task of bsuite, tested equal to bsuite's step by step."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from bellmax import UserError, must
from bellmax.envs.base import EnvSpec, TimeStep
from bellmax.envs.tasks import drawing


class DeepSeaState(NamedTuple):
    """row, column: [] int32, where the diver is; row == size after the last step."""

    row: jax.Array
    column: jax.Array


@dataclasses.dataclass(frozen=True)
class DeepSea:
    """A diver sinks through a size x size grid; only moving right at every step earns 1.

    Every step moves down one row, and the episode terminates after `size` steps. Moving right
    costs `unscaled_move_cost / size`. Which of the two actions means "right" differs from cell to
    cell. A uniformly random policy finds the reward once in 2 ** size episodes.

    size: rows and columns of the grid, at least 2.
    deterministic: False lets "right" fail with probability 1 / size and adds N(0, 1) to the
      rewards of both ends of the bottom row.
    randomise_actions: False makes action 1 "right" in every cell.
    mapping_seed: seed of the action mapping; bsuite gives the same mapping for the same seed.

    Source: Osband et al. 2019, arXiv:1908.03568; bsuite's deep_sea.
    """

    size: int = 10
    deterministic: bool = True
    randomise_actions: bool = True
    mapping_seed: int = 0
    unscaled_move_cost: float = 0.01

    def __post_init__(self):
        if self.size < 2:
            raise UserError(must("DeepSea's size", "at least 2", self.size))

    @property
    def spec(self) -> EnvSpec:
        shape = (self.size, self.size)
        return EnvSpec(
            name="bellmax/DeepSea",
            observation=specs.BoundedArray(shape, np.float32, 0.0, 1.0, "observation"),
            action=specs.DiscreteArray(2, np.int32, "action"),
            reward_range=(-self._cost, 1.0) if self.deterministic else None,
        )

    @property
    def optimal_return(self) -> float:
        """Expected undiscounted return of the best policy."""
        arrival = 1.0 if self.deterministic else (1 - 1 / self.size) ** (self.size - 1)
        return arrival - self.unscaled_move_cost

    @functools.cached_property
    def action_mapping(self) -> np.ndarray:
        """[size, size] int, the action that means "right" in each cell."""
        shape = (self.size, self.size)
        if not self.randomise_actions:
            return np.ones(shape, np.int32)
        return np.random.RandomState(self.mapping_seed).binomial(1, 0.5, shape).astype(np.int32)

    @property
    def num_cells(self) -> int:
        """(size + 1) * size, as the final state is one row lower. Reachable: column <= row."""
        return (self.size + 1) * self.size

    def cell(self, env_state: DeepSeaState) -> jax.Array:
        """[] int32, row * size + column."""
        return env_state.row * self.size + env_state.column

    @property
    def _cost(self) -> float:
        return self.unscaled_move_cost / self.size

    def reset(self, key: jax.Array) -> tuple[DeepSeaState, TimeStep]:
        del key  # every episode starts in the same corner
        state = DeepSeaState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))
        no = jnp.zeros((), bool)
        return state, TimeStep(self._observe(state), jnp.float32(0), terminated=no, truncated=no)

    def step(
        self, state: DeepSeaState, action: jax.Array, key: jax.Array
    ) -> tuple[DeepSeaState, TimeStep]:
        row, column, last = state.row, state.column, self.size - 1
        right = action == jnp.asarray(self.action_mapping)[row, column]
        reward = jnp.where(right & (column == last), 1.0, 0.0) - jnp.where(right, self._cost, 0.0)
        moved_right = right
        if not self.deterministic:
            slip_key, noise_key = jax.random.split(key)
            moved_right &= jax.random.uniform(slip_key, dtype=jnp.float32) > 1 / self.size
            at_end = (row == last) & ((column == 0) | (column == last))
            reward += jnp.where(at_end, jax.random.normal(noise_key, dtype=jnp.float32), 0.0)
        # A "right" that slipped stays in its column.
        shift = jnp.where(moved_right, 1, jnp.where(right, 0, -1))
        state = DeepSeaState(row + 1, jnp.clip(column + shift, 0, last))
        terminated = state.row >= self.size
        no = jnp.zeros((), bool)
        return state, TimeStep(self._observe(state), reward, terminated=terminated, truncated=no)

    def draw(self, env_state: DeepSeaState) -> np.ndarray:
        return drawing.deep_sea(self.size, int(env_state.row), int(env_state.column))

    def _observe(self, state: DeepSeaState) -> jax.Array:
        """[size, size] float32, one where the diver is; all zeros below the bottom."""
        rows = jnp.arange(self.size)[:, None] == state.row
        columns = jnp.arange(self.size)[None, :] == state.column
        return (rows & columns).astype(jnp.float32)
