"""Frame stacking: an observation is the latest ones, joined on the last axis."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from bellmax import UserError, must
from bellmax.envs.base import Environment, EnvSpec, EnvState, TimeStep
from bellmax.envs.packed import PackedArray


def stack_frames(env: Environment, num_frames: int) -> Environment:
    """Joins the last `num_frames` observations on their last axis, oldest first."""
    if num_frames < 1:
        raise UserError(must("frame_stack", "at least 1", num_frames, "1 is no stacking"))
    if num_frames == 1:
        return env
    if not env.spec.observation.shape:
        raise UserError(
            must("frame_stack", f"1 for {env.spec.name}", num_frames, "its observation is a scalar")
        )
    return FrameStack(env, num_frames)


class FrameStackState(NamedTuple):
    """env_state: the wrapped environment's. frames: [..., num_frames * C], oldest first."""

    env_state: EnvState
    frames: jax.Array


@dataclasses.dataclass(frozen=True)
class FrameStack:
    """An environment that stacks its latest observations; a reset repeats the first one."""

    env: Environment
    num_frames: int

    @property
    def spec(self) -> EnvSpec:
        spec = self.env.spec
        return spec._replace(observation=repeat_spec(spec.observation, self.num_frames))

    def reset(self, key: jax.Array) -> tuple[FrameStackState, TimeStep]:
        env_state, ts = self.env.reset(key)
        frames = jnp.concatenate([ts.observation] * self.num_frames, axis=-1)
        return FrameStackState(env_state, frames), ts._replace(observation=frames)

    def step(
        self, state: FrameStackState, action: jax.Array, key: jax.Array
    ) -> tuple[FrameStackState, TimeStep]:
        env_state, ts = self.env.step(state.env_state, action, key)
        newer = state.frames[..., ts.observation.shape[-1] :]
        frames = jnp.concatenate([newer, ts.observation], axis=-1)
        return FrameStackState(env_state, frames), ts._replace(observation=frames)


def repeat_spec(spec: specs.Array, times: int) -> specs.Array:
    """The spec of `times` observations concatenated on the last axis.

    Raises:
      UserError: an observation is several arrays.
    """
    if isinstance(spec, PackedArray):
        hint = "stack frames in the environment, or choose an entry with observation_key"
        raise UserError(must("frame_stack", f"1 for observations {spec}", times, hint))
    shape = (*spec.shape[:-1], spec.shape[-1] * times)
    if not isinstance(spec, specs.BoundedArray):
        return specs.Array(shape, spec.dtype, spec.name)
    low, high = (
        np.concatenate([np.broadcast_to(bound, spec.shape)] * times, axis=-1)
        for bound in (spec.minimum, spec.maximum)
    )
    return specs.BoundedArray(shape, spec.dtype, low, high, spec.name)
