"""Pictures of JAX environments inside wrappers: their own drawings, or their observations."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import numpy as np
from dm_env import specs

from bellmax import UserError
from bellmax.envs.base import Drawable, Environment, EnvSpec, EnvState, TimeStep
from bellmax.envs.tasks import drawing
from bellmax.envs.wrappers.frame_stack import FrameStack, FrameStackState
from bellmax.envs.wrappers.randomised import Randomised, RandomisedState
from bellmax.envs.wrappers.time_limit import TimeLimit, TimeLimitState

Draw: TypeAlias = Callable[[EnvState], np.ndarray]


class ObservedState(NamedTuple):
    """env_state: the wrapped environment's. observation: [H, W] or [H, W, C], the latest one."""

    env_state: EnvState
    observation: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class Observed:
    """An environment that draws its observation, see `picture_of`."""

    env: Environment

    @property
    def spec(self) -> EnvSpec:
        return self.env.spec

    def reset(self, key: jax.Array) -> tuple[ObservedState, TimeStep]:
        env_state, ts = self.env.reset(key)
        return ObservedState(env_state, ts.observation), ts

    def step(
        self, state: ObservedState, action: jax.Array, key: jax.Array
    ) -> tuple[ObservedState, TimeStep]:
        env_state, ts = self.env.step(state.env_state, action, key)
        return ObservedState(env_state, ts.observation), ts

    def draw(self, env_state: ObservedState) -> np.ndarray:
        return picture_of(np.asarray(env_state.observation), self.spec.observation)


def find_drawing(env: Environment) -> tuple[Environment, Draw]:
    """Find an environment that can be drawn, and the function that draws its states.

    Args:
      env: a task, perhaps within TimeLimit, FrameStack or Randomised.

    Returns:
      (environment, draw): the environment is `env`, or a wrapper with the same dynamics; `draw`
      maps one unbatched state of it (NumPy arrays), also one from inside `vectorise`, to [H, W, 3]
      uint8.

    Raises:
      UserError: the task is not Drawable, and its observation is not an image.
    """
    inner = env
    while isinstance(inner, TimeLimit | FrameStack | Randomised):
        inner = inner.env
    if not isinstance(inner, Drawable):
        spec = env.spec.observation
        if not _is_picture(spec):
            raise UserError(
                f"{env.spec.name} cannot draw pictures; it has no `draw`, and an observation of "
                f"shape {spec.shape} and dtype {spec.dtype} is not an image"
            )
        env = inner = Observed(env)
    drawn = inner.draw

    def draw(state: EnvState) -> np.ndarray:
        while isinstance(state, TimeLimitState | FrameStackState | RandomisedState):
            state = state.env_state
        return drawn(state)

    return env, draw


def picture_of(observation: np.ndarray, spec: specs.Array) -> np.ndarray:
    """Draw an observation [H, W] or [H, W, C] as [H, W, 3] uint8, enlarged to about 256 pixels.

    3 channels of uint8 are RGB, one channel is grey; otherwise each channel has its own colour.
    Floats are scaled from the spec's bounds, or from [0, 1].
    """
    values = observation.reshape(*observation.shape[:2], -1)
    if values.dtype == np.uint8 and values.shape[2] == 3:
        return drawing.board(values)
    low, high = 0.0, 255.0 if values.dtype == np.uint8 else 1.0
    if isinstance(spec, specs.BoundedArray) and values.dtype.kind == "f":
        low, high = float(np.min(spec.minimum)), float(np.max(spec.maximum))
    shares = np.clip((values.astype(np.float64) - low) / (high - low), 0, 1)
    if values.shape[2] > 1:
        return drawing.planes(shares)
    return drawing.board((255 * shares).round().astype(np.uint8).repeat(3, axis=2))


def _is_picture(spec: specs.Array) -> bool:
    """Whether `picture_of` supports it; [H, W] floats are refused, as they may be features."""
    if len(spec.shape) not in (2, 3):
        return False
    if spec.dtype in (np.bool_, np.uint8):
        return True
    if len(spec.shape) == 2 or spec.dtype.kind != "f":
        return False
    bounds = spec if isinstance(spec, specs.BoundedArray) else None
    return bounds is None or bool(np.isfinite([bounds.minimum, bounds.maximum]).all())
