"""Catch, tested equal to bsuite's step by step."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from bellmax import UserError, must
from bellmax.envs.base import EnvSpec, TimeStep
from bellmax.envs.tasks import drawing


class CatchState(NamedTuple):
    """ball_x, ball_y, paddle_x: [] int32, column and row of the ball, column of the paddle."""

    ball_x: jax.Array
    ball_y: jax.Array
    paddle_x: jax.Array


@dataclasses.dataclass(frozen=True)
class Catch:
    """Move a paddle (left, stay, right) under a falling ball; reward 1 for a catch, -1 for a miss.

    The episode terminates when the ball reaches the bottom row, after `rows - 1` steps.

    Source: Mnih et al. 2014, arXiv:1406.6247; Osband et al. 2019, arXiv:1908.03568, bsuite's catch.
    """

    rows: int = 10
    columns: int = 5

    def __post_init__(self):
        for name, least in (("rows", 2), ("columns", 1)):
            if getattr(self, name) < least:
                raise UserError(must(f"Catch's {name}", f"at least {least}", getattr(self, name)))

    @property
    def spec(self) -> EnvSpec:
        shape = (self.rows, self.columns)
        return EnvSpec(
            name="bellmax/Catch",
            observation=specs.BoundedArray(shape, np.float32, 0.0, 1.0, "observation"),
            action=specs.DiscreteArray(3, np.int32, "action"),
            reward_range=(-1.0, 1.0),
        )

    def reset(self, key: jax.Array) -> tuple[CatchState, TimeStep]:
        # One random draw where randint makes two; float32 never rounds the product up to
        # `columns`.
        ball_x = (jax.random.uniform(key, dtype=jnp.float32) * self.columns).astype(jnp.int32)
        state = CatchState(
            ball_x, jnp.zeros((), jnp.int32), jnp.full((), self.columns // 2, jnp.int32)
        )
        no = jnp.zeros((), bool)
        return state, TimeStep(self._observe(state), jnp.float32(0), terminated=no, truncated=no)

    def step(
        self, state: CatchState, action: jax.Array, key: jax.Array
    ) -> tuple[CatchState, TimeStep]:
        del key  # nothing is random after the reset
        paddle_x = jnp.clip(state.paddle_x + action - 1, 0, self.columns - 1).astype(jnp.int32)
        state = CatchState(state.ball_x, state.ball_y + 1, paddle_x)
        landed = state.ball_y == self.rows - 1
        reward = jnp.where(landed, jnp.where(paddle_x == state.ball_x, 1.0, -1.0), 0.0)
        no = jnp.zeros((), bool)
        return state, TimeStep(self._observe(state), reward, terminated=landed, truncated=no)

    def draw(self, env_state: CatchState) -> np.ndarray:
        ball = int(env_state.ball_y), int(env_state.ball_x)
        return drawing.catch(self.rows, self.columns, ball, int(env_state.paddle_x))

    def _observe(self, state: CatchState) -> jax.Array:
        """[rows, columns] float32, ones where the ball and the paddle are."""
        rows, columns = jnp.arange(self.rows)[:, None], jnp.arange(self.columns)[None, :]
        ball = (rows == state.ball_y) & (columns == state.ball_x)
        paddle = (rows == self.rows - 1) & (columns == state.paddle_x)
        return (ball | paddle).astype(jnp.float32)
