"""Host tasks that are stepped by a pool of C++ threads: the common part of ale and envpool."""

import math
from typing import Protocol

import numpy as np
from dm_env import specs

from bellmax import UserError, must
from bellmax.envs.base import EnvSpec
from bellmax.envs.host.base import HostTimeStep
from bellmax.envs.host.loop import (
    NO_FAULTS,
    check_counts,
    check_in_a_row,
    check_shape,
    rows_not_finite,
    task_seed,
    with_limit,
)
from bellmax.envs.host.values import not_finite


class Pool(Protocol):
    """N tasks in threads; each starts its next episode at the step after the end of the last one.

    reset(seeds [N] int): the first observations [N, ...] of tasks with these seeds.
    step(actions [N, ...]) -> (observation, reward, terminated, truncated), [N] each. The arrays are
        new and not shared. After the loss of a life a task may continue the game instead of
        starting an episode; its next action is then 0, a no-op.
    restart(mask [N] bool): starts an episode where the mask is True. Returns observations
        [N, ...]; rows outside the mask are undefined.
    """

    def reset(self, seeds: np.ndarray) -> np.ndarray: ...

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]: ...

    def restart(self, mask: np.ndarray) -> np.ndarray: ...

    def render(self) -> np.ndarray: ...

    def close(self) -> None: ...


class PoolBatch:
    """A HostBatch of a pool's tasks.

    This class enforces time limits instead of the pool: at the limit, ale's last observation is a
    mixture with the one before, and envpool reports a termination as a truncation.

    A task whose reward or observation is not finite is restarted; `is_first` is True at that step.
    A pool recovers from no other fault, and 10 consecutive faults of one task are an error.

    Args:
      pool: the tasks.
      spec: spec of one task. This class enforces its time limit too.
      num_envs: N.
      time_limit: truncates episodes after this number of steps; the spec's limit applies if it is
        shorter.
    """

    def __init__(self, pool: Pool, spec: EnvSpec, num_envs: int, *, time_limit: int | None = None):
        self.spec = with_limit(spec, time_limit)
        self.num_envs = num_envs
        self.faults = dict(NO_FAULTS)
        self._pool = pool
        self._limit = math.inf if self.spec.time_limit is None else self.spec.time_limit
        self._in_a_row, self._time = np.zeros((2, num_envs), np.int64)
        # Episodes that have ended, and those among them that were cut here and not by the pool.
        self._over, self._cut = np.zeros((2, num_envs), bool)

    def reset(self, seed: int) -> HostTimeStep:
        """Starts an episode in every task; the same seed, 0 or more, gives the same streams."""
        self._in_a_row[:] = self._time[:] = 0
        self._over, self._cut = np.zeros((2, self.num_envs), bool)
        seeds = np.array([task_seed(seed, i) for i in range(self.num_envs)])
        no = np.zeros(self.num_envs, bool)
        return HostTimeStep(self._pool.reset(seeds), no.astype(np.float32), no, no)

    def step(self, action: np.ndarray) -> tuple[HostTimeStep, np.ndarray]:
        """Steps every task; action: [N, ...]. A task whose episode has ended is reset instead."""
        action = self._check(np.asarray(action))
        is_first, some = self._over, np.count_nonzero  # at most steps no episode starts or ends
        if some(is_first):
            action = np.where(is_first.reshape(-1, *[1] * (action.ndim - 1)), 0, action)
        results = self._pool.step(action.astype(self.spec.action.dtype))
        observation, reward, terminated, truncated = results
        reward = reward.astype(np.float32)
        broken = ~np.isfinite(reward)
        broken[rows_not_finite(observation)] = True
        broken &= ~self._cut
        # A termination at a first step means that the game of a lost life ended during its no-op.
        again = self._cut | broken | (terminated & is_first)
        if some(again):
            words = {
                int(i): not_finite(observation[i], float(reward[i])) for i in np.flatnonzero(broken)
            }
            observation[again] = self._pool.restart(again)[again]
            self._check_restarted(observation, broken, words)
            is_first = is_first | broken
        self._in_a_row[~is_first] = 0
        self._time += 1
        if some(is_first):
            self._time[is_first] = 0
            reward[is_first] = 0
            terminated, truncated = terminated & ~is_first, truncated & ~is_first
        late = self._time >= self._limit
        self._cut = late & ~terminated & ~truncated
        truncated = (truncated & ~terminated) | self._cut
        self._over = terminated | truncated
        return HostTimeStep(observation, reward, terminated, truncated), is_first

    def render(self) -> np.ndarray:
        """Draws task 0, [H, W, 3] uint8."""
        return self._pool.render()

    def close(self) -> None:
        """Ends the threads."""
        self._pool.close()

    def _check(self, action: np.ndarray) -> np.ndarray:
        """Validates actions, as pools do not: a thread of ale hangs after an invalid action."""
        spec = self.spec.action
        check_shape(action, self.spec, (self.num_envs, *spec.shape))
        if isinstance(spec, specs.DiscreteArray):
            wrong = (action < 0) | (action >= spec.num_values)
            if np.count_nonzero(wrong):
                raise UserError(
                    must(
                        f"actions of {self.spec.name}",
                        f"from 0 to {spec.num_values - 1}",
                        action[wrong][0],
                    )
                )
        return action

    def _check_restarted(
        self, observation: np.ndarray, broken: np.ndarray, words: dict[int, str]
    ) -> None:
        self.faults["not finite"] += int(broken.sum())
        self._in_a_row += broken
        check_in_a_row(self._in_a_row, self.spec, words)
        if rows_not_finite(observation):
            raise UserError(f"{self.spec.name} starts an episode with a non-finite observation")


def check_pool(name: str, num_envs: int, time_limit: int | None, timeout: float | None) -> None:
    """Raises UserError if a pool does not support an argument of `make_batch`."""
    check_counts(num_envs, time_limit)
    if timeout is not None:
        raise UserError(
            must("timeout", f"None for {name}", timeout, "its threads cannot be timed out")
        )
