"""CartPole-v1, tested equal to Gymnasium's step by step."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from bellmax import UserError, must
from bellmax.envs.base import EnvSpec, TimeStep
from bellmax.envs.tasks import drawing

_GRAVITY = 9.8
_POLE_MASS = 0.1
_TOTAL_MASS = 1.0 + _POLE_MASS
_HALF_LENGTH = 0.5
_POLE_MOMENT = _POLE_MASS * _HALF_LENGTH
_FORCE = 10.0
_SECONDS = 0.02
_MAX_ANGLE = 12 * 2 * math.pi / 360
_MAX_POSITION = 2.4


class CartPoleState(NamedTuple):
    """physics: [4] float32, position, velocity, angle, angular velocity. time: [] int32, steps."""

    physics: jax.Array
    time: jax.Array


@dataclasses.dataclass(frozen=True)
class CartPole:
    """Balance a pole on a cart. The reward is 1 per step, including the step that terminates.

    The episode terminates when the pole leans by more than 12 degrees or the cart is more than
    2.4 m away, and is truncated after `time_limit` steps.

    Source: Barto, Sutton and Anderson 1983; constants of gymnasium's CartPole-v1.
    """

    time_limit: int = 500

    def __post_init__(self):
        if self.time_limit < 1:
            raise UserError(must("CartPole's time_limit", "at least 1", self.time_limit))

    @property
    def spec(self) -> EnvSpec:
        high = np.array([2 * _MAX_POSITION, np.inf, 2 * _MAX_ANGLE, np.inf], np.float32)
        return EnvSpec(
            name="bellmax/CartPole",
            observation=specs.BoundedArray((4,), np.float32, -high, high, "observation"),
            action=specs.DiscreteArray(2, np.int32, "action"),
            time_limit=self.time_limit,
            reward_range=(0.0, 1.0),
        )

    def reset(self, key: jax.Array) -> tuple[CartPoleState, TimeStep]:
        physics = jax.random.uniform(key, (4,), jnp.float32, -0.05, 0.05)
        no = jnp.zeros((), bool)
        state = CartPoleState(physics, jnp.zeros((), jnp.int32))
        return state, TimeStep(physics, jnp.float32(0), terminated=no, truncated=no)

    def step(
        self, state: CartPoleState, action: jax.Array, key: jax.Array
    ) -> tuple[CartPoleState, TimeStep]:
        del key  # nothing is random after the reset
        physics = _move(state.physics, action)
        fallen = (jnp.abs(physics[0]) > _MAX_POSITION) | (jnp.abs(physics[2]) > _MAX_ANGLE)
        time = state.time + 1
        truncated = ~fallen & (time >= self.time_limit)
        ts = TimeStep(physics, jnp.float32(1), terminated=fallen, truncated=truncated)
        return CartPoleState(physics, time), ts

    def draw(self, env_state: CartPoleState) -> np.ndarray:
        position, _, angle, _ = map(float, env_state.physics)
        return drawing.cart_pole(position, angle, track=_MAX_POSITION, pole=2 * _HALF_LENGTH)


def _move(physics: jax.Array, action: jax.Array) -> jax.Array:
    """One Euler step of the physics."""
    velocity, angle, spin = physics[1], physics[2], physics[3]
    force = jnp.where(action == 1, _FORCE, -_FORCE)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    push = (force + _POLE_MOMENT * spin**2 * sin) / _TOTAL_MASS
    inertia = _HALF_LENGTH * (4.0 / 3.0 - _POLE_MASS * cos**2 / _TOTAL_MASS)
    spin_rate = (_GRAVITY * sin - cos * push) / inertia
    acceleration = push - _POLE_MOMENT * spin_rate * cos / _TOTAL_MASS
    return physics + _SECONDS * jnp.stack([velocity, acceleration, spin, spin_rate])
