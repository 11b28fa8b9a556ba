"""Pendulum-v1, tested equal to Gymnasium's step by step."""

import dataclasses
import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from bellmax import UserError, must
from bellmax.envs.base import EnvSpec, TimeStep
from bellmax.envs.options import check_parameters
from bellmax.envs.tasks import drawing

_SECONDS = 0.05
_MAX_SPEED = 8.0
_MAX_TORQUE = 2.0


class PendulumState(NamedTuple):
    """angle: [] float32, 0 is upright, in radians. speed: [] per second. time: [] int32, steps."""

    angle: jax.Array
    speed: jax.Array
    time: jax.Array


@dataclasses.dataclass(frozen=True)
class Pendulum:
    """Swing a pendulum up and hold it. A step costs a weighted sum of angle^2, speed^2, torque^2.

    Never terminates; truncated after `time_limit` steps. Its parameters are mass (kg), length (m)
    and gravity (m/s^2); they may be traced.

    Source: constants of gymnasium's Pendulum-v1.
    """

    time_limit: int = 200
    mass: float | jax.Array = 1.0
    length: float | jax.Array = 1.0
    gravity: float | jax.Array = 10.0

    def __post_init__(self):
        if self.time_limit < 1:
            raise UserError(must("Pendulum's time_limit", "at least 1", self.time_limit))
        for name, value in {"mass": self.mass, "length": self.length}.items():
            if isinstance(value, float | int) and not 0 < value < math.inf:
                raise UserError(must(f"Pendulum's {name}", "above 0", value))

    @property
    def spec(self) -> EnvSpec:
        high = np.array([1.0, 1.0, _MAX_SPEED], np.float32)
        worst = math.pi**2 + 0.1 * _MAX_SPEED**2 + 0.001 * _MAX_TORQUE**2
        return EnvSpec(
            name="bellmax/Pendulum",
            observation=specs.BoundedArray((3,), np.float32, -high, high, "observation"),
            action=specs.BoundedArray((1,), np.float32, -_MAX_TORQUE, _MAX_TORQUE, "action"),
            time_limit=self.time_limit,
            reward_range=(-worst, 0.0),
        )

    @property
    def parameters(self) -> dict[str, float]:
        nominal = {"mass": self.mass, "length": self.length, "gravity": self.gravity}
        return {name: float(value) for name, value in nominal.items()}

    def with_parameters(self, values: Mapping[str, jax.Array | float]) -> "Pendulum":
        check_parameters(self.spec.name, values, ("mass", "length", "gravity"))
        return dataclasses.replace(self, **values)

    def reset(self, key: jax.Array) -> tuple[PendulumState, TimeStep]:
        high = jnp.array([math.pi, 1.0], jnp.float32)
        angle, speed = jax.random.uniform(key, (2,), jnp.float32, -high, high)
        state = PendulumState(angle, speed, jnp.zeros((), jnp.int32))
        no = jnp.zeros((), bool)
        return state, TimeStep(_observe(state), jnp.float32(0), terminated=no, truncated=no)

    def step(
        self, state: PendulumState, action: jax.Array, key: jax.Array
    ) -> tuple[PendulumState, TimeStep]:
        del key  # nothing is random after the reset
        torque = jnp.clip(action[0], -_MAX_TORQUE, _MAX_TORQUE)
        lean = (state.angle + math.pi) % (2 * math.pi) - math.pi
        cost = lean**2 + 0.1 * state.speed**2 + 0.001 * torque**2
        pull = 1.5 * self.gravity / self.length * jnp.sin(state.angle)
        push = 3.0 / (self.mass * self.length**2) * torque
        speed = jnp.clip(state.speed + (pull + push) * _SECONDS, -_MAX_SPEED, _MAX_SPEED)
        state = PendulumState(state.angle + speed * _SECONDS, speed, state.time + 1)
        truncated = state.time >= self.time_limit
        no = jnp.zeros((), bool)
        return state, TimeStep(_observe(state), -cost, terminated=no, truncated=truncated)

    def draw(self, env_state: PendulumState) -> np.ndarray:
        return drawing.pendulum(float(env_state.angle))


def _observe(state: PendulumState) -> jax.Array:
    return jnp.stack([jnp.cos(state.angle), jnp.sin(state.angle), state.speed])
