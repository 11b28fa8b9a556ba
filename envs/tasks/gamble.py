"""A gamble after a windfall: the best policy for the worst outcomes must know what it has won."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from bellmax.envs.base import EnvSpec, TimeStep

WINDFALLS = ((0.0, 0.5), (2.0, 0.5))  # reward of the first step, probability
SAFE = ((1.0, 1.0),)
RISKY = ((3.0, 0.6), (-1.0, 0.4))


class GambleState(NamedTuple):
    """time: [] int32, steps so far."""

    time: jax.Array


@dataclasses.dataclass(frozen=True)
class Gamble:
    """Two steps. The first earns 0 or 2, whatever the action; then action 0 earns 1, and action 1
    earns 3 with probability 0.6, else -1.

    The first reward is not in the observation. The mean return is largest, 2.4, for always
    gambling. The mean of the worst half of returns is at most 1.0 for policies of the observation,
    and 1.4 for gambling after a first reward of 0 alone.
    """

    @property
    def spec(self) -> EnvSpec:
        return EnvSpec(
            name="bellmax/Gamble",
            observation=specs.BoundedArray((2,), np.float32, 0.0, 1.0, "observation"),
            action=specs.DiscreteArray(2, np.int32, "action"),
            reward_range=(-1.0, 3.0),
        )

    @staticmethod
    def law(after_none: int, after_two: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns [K] and their probabilities [K], given the action after each first reward."""
        second = (SAFE, RISKY)
        chosen = {0.0: second[after_none], 2.0: second[after_two]}
        rows = [(first + then, p * q) for (first, p) in WINDFALLS for (then, q) in chosen[first]]
        returns, probabilities = zip(*rows, strict=True)
        return np.array(returns), np.array(probabilities)

    def reset(self, key: jax.Array) -> tuple[GambleState, TimeStep]:
        del key  # every episode starts the same way
        state, no = GambleState(jnp.zeros((), jnp.int32)), jnp.zeros((), bool)
        return state, TimeStep(_observe(state), jnp.float32(0), terminated=no, truncated=no)

    def step(
        self, state: GambleState, action: jax.Array, key: jax.Array
    ) -> tuple[GambleState, TimeStep]:
        chance = jax.random.uniform(key, dtype=jnp.float32)
        first = jnp.where(chance < WINDFALLS[0][1], WINDFALLS[0][0], WINDFALLS[1][0])
        risky = jnp.where(chance < RISKY[0][1], RISKY[0][0], RISKY[1][0])
        second = jnp.where(action == 1, risky, SAFE[0][0])
        reward = jnp.where(state.time == 0, first, second).astype(jnp.float32)
        state, no = GambleState(state.time + 1), jnp.zeros((), bool)
        return state, TimeStep(_observe(state), reward, state.time >= 2, no)


def _observe(state: GambleState) -> jax.Array:
    """[2] float32: a one at the number of the step; zeros at the end."""
    return (jnp.arange(2) == state.time).astype(jnp.float32)
