"""Time limits: episodes are truncated after a number of steps."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bellmax import UserError, must
from bellmax.envs.base import Environment, EnvSpec, EnvState, TimeStep


def limit_time(env: Environment, time_limit: int | None) -> Environment:
    """Truncates episodes after `time_limit` steps, unless the environment does so sooner."""
    if time_limit is None:
        return env
    if time_limit < 1:
        raise UserError(must("time_limit", "at least 1 environment step", time_limit))
    own = env.spec.time_limit
    return env if own is not None and own <= time_limit else TimeLimit(env, time_limit)


class TimeLimitState(NamedTuple):
    """env_state: the wrapped environment's. time: [] int32, steps since the reset."""

    env_state: EnvState
    time: jax.Array


@dataclasses.dataclass(frozen=True)
class TimeLimit:
    """An environment that truncates after `time_limit` steps, unless that step terminates."""

    env: Environment
    time_limit: int

    @property
    def spec(self) -> EnvSpec:
        return self.env.spec._replace(time_limit=self.time_limit)

    def reset(self, key: jax.Array) -> tuple[TimeLimitState, TimeStep]:
        env_state, ts = self.env.reset(key)
        return TimeLimitState(env_state, jnp.zeros((), jnp.int32)), ts

    def step(
        self, state: TimeLimitState, action: jax.Array, key: jax.Array
    ) -> tuple[TimeLimitState, TimeStep]:
        env_state, ts = self.env.step(state.env_state, action, key)
        time = state.time + 1
        truncated = ~ts.terminated & (ts.truncated | (time >= self.time_limit))
        return TimeLimitState(env_state, time), ts._replace(truncated=truncated)
