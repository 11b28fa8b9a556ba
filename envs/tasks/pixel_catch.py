"""Catch rendered at the size of an Atari frame: agents for Atari's shapes run fully on device."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from bellmax import UserError, must
from bellmax.envs.base import EnvSpec, TimeStep
from bellmax.envs.tasks.catch import Catch, CatchState

SIZE = 84  # pixels, height and width of a preprocessed Atari frame


@dataclasses.dataclass(frozen=True)
class PixelCatch:
    """`Catch` observed as a grey frame: [84, 84, 1] uint8, 255 where ball and paddle are.

    Every cell of the board becomes a rectangle; if 84 is not a multiple of the board's size, the
    rectangles differ by one pixel. `frame_stack: 4` gives the [84, 84, 4] of Atari agents.

    Source: Mnih et al. 2014, arXiv:1406.6247; frame size: Mnih et al. 2015,
    doi:10.1038/nature14236.
    """

    rows: int = 10
    columns: int = 5

    def __post_init__(self):
        for name, least in (("rows", 2), ("columns", 1)):
            value = getattr(self, name)
            if not least <= value <= SIZE:
                raise UserError(must(f"PixelCatch's {name}", f"from {least} to {SIZE}", value))

    @property
    def spec(self) -> EnvSpec:
        shape = (SIZE, SIZE, 1)
        frame = specs.BoundedArray(shape, np.uint8, 0, 255, "observation")
        return self._catch.spec._replace(name="bellmax/PixelCatch", observation=frame)

    def reset(self, key: jax.Array) -> tuple[CatchState, TimeStep]:
        state, timestep = self._catch.reset(key)
        return state, timestep._replace(observation=self._draw(state))

    def step(
        self, state: CatchState, action: jax.Array, key: jax.Array
    ) -> tuple[CatchState, TimeStep]:
        state, timestep = self._catch.step(state, action, key)
        return state, timestep._replace(observation=self._draw(state))

    def draw(self, env_state: CatchState) -> np.ndarray:
        return self._catch.draw(env_state)

    @property
    def _catch(self) -> Catch:
        return Catch(self.rows, self.columns)

    def _draw(self, state: CatchState) -> jax.Array:
        """The frame; comparing cell indices per pixel is cheaper than a gather from a board."""
        row = (jnp.arange(SIZE) * self.rows // SIZE)[:, None, None]
        column = (jnp.arange(SIZE) * self.columns // SIZE)[None, :, None]
        ball = (row == state.ball_y) & (column == state.ball_x)
        paddle = (row == self.rows - 1) & (column == state.paddle_x)
        return jnp.where(ball | paddle, 255, 0).astype(jnp.uint8)
