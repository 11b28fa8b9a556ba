"""Host environments, which are stepped in Python, as the stream of `bellmax.envs.vector`.

`HostEnvironment` is one task, `HostBatch` several that step in parallel, and `HostVector` the
stream of time steps that an actor gets from a batch. All of them are stateful and return NumPy
arrays; stepping them does not need jax.
"""

import math
from typing import Any

import numpy as np

from bellmax import UserError, must
from bellmax.envs.host.base import HostBatch, HostEnvironment, HostTimeStep
from bellmax.envs.validation import check_spec
from bellmax.envs.vector import VectorTimeStep, agent_spec
from bellmax.envs.wrappers.frame_stack import repeat_spec

__all__ = ["HostBatch", "HostEnvironment", "HostTimeStep", "HostVector"]


class HostVector:
    """A batch as a stream of `VectorTimeStep`s of NumPy arrays, which are never overwritten later.

    A time step with `is_first` that does not follow one with `is_last` comes from a recreated
    task: the transition from the step before is invalid and must be excluded from learning.

    Args:
      batch: the tasks.
      reward_clip: rewards are clipped to [-reward_clip, reward_clip]; episode returns are not.
      frame_stack: number of latest observations to concatenate on the last axis, oldest first; a
        reset fills the stack with its first observation.

    Attributes:
      spec: of one task as the agent sees it. num_envs: N. faults, first_fault: the batch's.
      frame: [N, ...], the newest frame of the last observation; without stacking, the observation.

    Raises:
      UserError: an argument is out of range, or the observation cannot be stacked.
    """

    def __init__(self, batch: HostBatch, *, reward_clip: float | None = None, frame_stack: int = 1):
        if reward_clip is not None and not reward_clip > 0:
            raise UserError(
                must("reward_clip", "above 0", reward_clip, "leave it out for no clipping")
            )
        if frame_stack < 1:
            raise UserError(must("frame_stack", "at least 1", frame_stack, "1 is no stacking"))
        spec = batch.spec
        check_spec(spec)
        if frame_stack > 1:
            if not spec.observation.shape:
                raise UserError(
                    must(
                        "frame_stack",
                        f"1 for {spec.name}",
                        frame_stack,
                        "its observation is a scalar",
                    )
                )
            spec = spec._replace(observation=repeat_spec(spec.observation, frame_stack))
        self.spec = agent_spec(spec, reward_clip=reward_clip, normalised=False)
        self.num_envs = batch.num_envs
        self.faults = batch.faults
        self._batch, self._clip, self._frames = batch, reward_clip, frame_stack
        self.frame: Any = None
        self._observation: Any = None
        self._return = np.zeros(self.num_envs, np.float32)
        self._length = np.zeros(self.num_envs, np.int32)
        # Shared by all time steps at which no episode ends.
        self._no, self._ones = np.zeros(self.num_envs, bool), np.ones(self.num_envs, np.float32)
        for shared in self._no, self._ones:
            shared.flags.writeable = False

    @property
    def first_fault(self) -> str:
        """Description of the first fault of a task; "" if there was none, or it is not known."""
        return getattr(self._batch, "first_fault", "")

    def reset(self, seed: int) -> VectorTimeStep:
        """Starts an episode in every task."""
        return self._show(self._batch.reset(seed), np.ones(self.num_envs, bool))

    def step(self, action: np.ndarray) -> VectorTimeStep:
        """Steps every task; action: [N, ...]."""
        return self._show(*self._batch.step(action))

    def render(self) -> np.ndarray:
        """Draws task 0, [H, W, 3] uint8."""
        return self._batch.render()

    def close(self) -> None:
        """Closes the tasks."""
        self._batch.close()

    def _show(self, ts: HostTimeStep, is_first: np.ndarray) -> VectorTimeStep:
        reward, terminated = np.asarray(ts.reward, np.float32), ts.terminated
        returns, length = self._return + reward, self._length + np.int32(1)
        truncated, is_last, discount = ts.truncated, self._no, self._ones
        if True in is_first.tolist():  # at most steps no episode starts or ends
            arrays = terminated, truncated, reward, returns, length
            cleared = (np.where(is_first, x.dtype.type(0), x) for x in arrays)
            terminated, truncated, reward, returns, length = cleared
        if True in terminated.tolist() or True in truncated.tolist():
            truncated = truncated & ~terminated
            is_last, discount = terminated | truncated, np.float32(1) - terminated
        self._return, self._length = returns, length
        self.frame = np.asarray(ts.observation)
        if self._frames > 1:
            self._observation = self._stack(self.frame, is_first)
        clip = self._clip
        make: Any = VectorTimeStep  # annotated with jax.Array leaves
        return make(
            observation=self._observation if self._frames > 1 else self.frame,
            reward=reward if clip is None else np.clip(reward, -clip, clip),
            discount=discount,
            is_first=is_first,
            is_last=is_last,
            truncated=truncated,
            episode_return=returns,
            episode_length=length,
            action_mask=ts.action_mask,
        )

    def _stack(self, newest: np.ndarray, is_first: np.ndarray) -> np.ndarray:
        before = self._observation
        if before is None:
            return np.concatenate([newest] * self._frames, axis=-1)
        stacked, size = _aligned(before.shape, before.dtype), newest.shape[-1]
        # Shift the flat array by one frame: every position loses its oldest frame. Shifting each
        # position separately takes ten times as long.
        stacked.reshape(-1)[:-size] = before.reshape(-1)[size:]
        stacked[..., -size:] = newest
        for i in np.flatnonzero(is_first):
            stacked[i] = np.concatenate([newest[i]] * self._frames, axis=-1)
        return stacked


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an uninitialised array that starts at a multiple of 64 bytes.

    On a CPU, jax reads an aligned array without copying it and copies any other.
    """
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)
