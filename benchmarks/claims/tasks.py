"""Tasks that the claims need and the library does not have."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from bellmax.envs import DeepSea, Environment, EnvSpec, EnvState, TimeStep, make


class StickyState(NamedTuple):
    """env_state: the task's. action: [] int32, the one before."""

    env_state: EnvState
    action: jax.Array


@dataclasses.dataclass(frozen=True)
class Sticky:
    """A task that repeats the action before with some probability, as MinAtar does (0.1).

    Source: Machado et al. 2018, arXiv:1709.06009. An episode starts with action 0 before it.
    """

    env: Environment
    probability: float = 0.1

    @property
    def spec(self) -> EnvSpec:
        return self.env.spec._replace(name=f"sticky {self.env.spec.name}")

    def reset(self, key: jax.Array) -> tuple[StickyState, TimeStep]:
        env_state, ts = self.env.reset(key)
        return StickyState(env_state, jnp.zeros((), jnp.int32)), ts

    def step(
        self, state: StickyState, action: jax.Array, key: jax.Array
    ) -> tuple[StickyState, TimeStep]:
        step_key, stick_key = jax.random.split(key)
        sticks = jax.random.uniform(stick_key) < self.probability
        action = jnp.where(sticks, state.action, action).astype(jnp.int32)
        env_state, ts = self.env.step(state.env_state, action, step_key)
        return StickyState(env_state, action), ts


def sticky_minatar(
    game: str = "Breakout", probability: float = 0.1, max_steps_in_episode: int = 10_000
) -> Sticky:
    """A MinAtar game of gymnax with sticky actions; gymnax 1.0.1 has none."""
    limit = {"max_steps_in_episode": max_steps_in_episode}
    return Sticky(make(f"gymnax/{game}-MinAtar", **limit), probability)


@dataclasses.dataclass(frozen=True)
class Redundant:
    """A task with discrete actions, each of which there is many times: action a is a modulo n."""

    env: Environment
    copies: int

    @property
    def spec(self) -> EnvSpec:
        spec = self.env.spec
        action = specs.DiscreteArray(self._own * self.copies, np.int32, "action")
        return spec._replace(name=f"{spec.name}, {self.copies} times each action", action=action)

    @property
    def _own(self) -> int:
        return int(self.env.spec.action.num_values)

    def reset(self, key: jax.Array) -> tuple[EnvState, TimeStep]:
        return self.env.reset(key)

    def step(self, state: EnvState, action: jax.Array, key: jax.Array) -> tuple[EnvState, TimeStep]:
        return self.env.step(state, action % self._own, key)


def redundant_deepsea(size: int = 8, copies: int = 10) -> Redundant:
    """DeepSea with 2 `copies` actions."""
    return Redundant(DeepSea(size=size), copies)


@dataclasses.dataclass(frozen=True)
class AliasedDeepSea:
    """DeepSea whose cells share a few observations: where one is must be remembered.

    Each cell shows one of `codes` symbols, drawn once and for all; the rest is DeepSea. What comes
    next follows from the way so far and hardly at all from the symbol that is seen.

    size, codes: of the grid, and how many symbols there are.
    """

    size: int = 10
    codes: int = 6

    @functools.cached_property
    def sea(self) -> DeepSea:
        return DeepSea(size=self.size)

    @functools.cached_property
    def symbols(self) -> np.ndarray:
        """[size + 1, size] the symbol of each cell; that below the bottom is one of them too."""
        shape = self.size + 1, self.size
        return np.random.default_rng(0).integers(self.codes, size=shape)

    @property
    def spec(self) -> EnvSpec:
        observation = specs.BoundedArray((self.codes,), np.float32, 0.0, 1.0, "observation")
        name = f"DeepSea of {self.codes} symbols"
        return self.sea.spec._replace(name=name, observation=observation)

    @property
    def num_cells(self) -> int:
        return self.sea.num_cells

    def cell(self, env_state: EnvState) -> jax.Array:
        return self.sea.cell(env_state)

    def reset(self, key: jax.Array) -> tuple[EnvState, TimeStep]:
        return self._show(*self.sea.reset(key))

    def step(self, state: EnvState, action: jax.Array, key: jax.Array) -> tuple[EnvState, TimeStep]:
        return self._show(*self.sea.step(state, action, key))

    def _show(self, state: EnvState, ts: TimeStep) -> tuple[EnvState, TimeStep]:
        symbol = jnp.asarray(self.symbols)[state.row, state.column]
        seen = (jnp.arange(self.codes) == symbol).astype(jnp.float32)
        return state, ts._replace(observation=seen)
