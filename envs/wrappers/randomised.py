"""Domain randomisation: an environment whose physics parameters are resampled every episode."""

import dataclasses
import math
import zlib
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bellmax import UserError, must
from bellmax.envs.base import Environment, EnvSpec, EnvState, Parametric, TimeStep
from bellmax.envs.options import check_parameters


class RandomisedState(NamedTuple):
    """env_state: the wrapped environment's. parameters: [] float32 by name, of this episode."""

    env_state: EnvState
    parameters: dict[str, jax.Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Randomised:
    """Draws parameters uniformly and independently at every reset, unobserved by the agent.

    env: the environment, which must be `Parametric`.
    ranges: (low, high) by name, in the parameter's own unit; low == high fixes it. Parameters that
      are not named keep their nominal value, which may lie outside a range.

    Raises:
      UserError: the environment is not Parametric, has no such parameter, or low > high.

    Source: Tobin et al. 2017, arXiv:1703.06907 (of dynamics: Peng et al. 2018, arXiv:1710.06537).
    """

    env: Parametric
    ranges: Mapping[str, tuple[float, float]]

    def __post_init__(self) -> None:
        check_ranges(self.env, self.ranges)

    @property
    def spec(self) -> EnvSpec:
        return self.env.spec

    def reset(self, key: jax.Array) -> tuple[RandomisedState, TimeStep]:
        draw_key, env_key = jax.random.split(key)
        parameters = {
            # Keyed by name: adding a parameter does not change the others' draws.
            name: _uniform(jax.random.fold_in(draw_key, zlib.crc32(name.encode())), low, high)
            for name, (low, high) in self.ranges.items()
        }
        env_state, ts = self.env.with_parameters(parameters).reset(env_key)
        return RandomisedState(env_state, parameters), ts

    def step(
        self, state: RandomisedState, action: jax.Array, key: jax.Array
    ) -> tuple[RandomisedState, TimeStep]:
        env = self.env.with_parameters(state.parameters)
        env_state, ts = env.step(state.env_state, action, key)
        return state._replace(env_state=env_state), ts


def check_ranges(env: Environment, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Check the ranges of an environment's parameters.

    Raises:
      UserError: the environment is not Parametric, has no such parameter, or low > high.
    """
    task = env.spec.name
    if not isinstance(env, Parametric):
        allowed, hint = f"empty for {task}", "it has no parameters"
        raise UserError(must("env.randomise", allowed, ", ".join(ranges), hint))
    check_parameters(task, ranges, env.parameters)
    for name, (low, high) in ranges.items():
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise UserError(
                must(f"env.randomise.{name}", "(low, high) with low <= high", f"({low}, {high})")
            )


def _uniform(key: jax.Array, low: float, high: float) -> jax.Array:
    """[] float32 in [low, high]; clipped, because interpolation may round outside."""
    fraction = jax.random.uniform(key, dtype=jnp.float32)
    return jnp.clip(low + fraction * (high - low), jnp.float32(low), jnp.float32(high))
