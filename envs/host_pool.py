"""Host tasks that a pool of C++ threads steps together: what those of ale and envpool share."""

import math
from typing import Protocol

import numpy as np
from dm_env import specs

from bellmax import UserError
from bellmax.envs.base import EnvSpec
from bellmax.envs.host_base import HostTimeStep
from bellmax.envs.host_loop import (
    NO_FAULTS,
    NOT_FINITE,
    check_counts,
    check_in_a_row,
    check_shape,
    rows_not_finite,
    task_seed,
    with_limit,
)


class Pool(Protocol):
    """N tasks in threads, each of which opens its next episode by itself at the step after its end.

    reset(seeds [N] int): the first observations [N, ...] of tasks seeded with these numbers.
    step(actions [N, ...]) -> (observation, reward, terminated, truncated), [N] each. The arrays are
        fresh: nobody else writes to them. A task of which a life ended may go on instead of opening
        an episode: its next action is then 0, which does nothing.
    restart(mask [N] bool): opens an episode where the mask says so. Observations [N, ...]; the
        other rows mean nothing.
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

    Time limits are kept here and not by the pool. At the limit ale's last observation is a double
    exposure with the one before, and envpool takes a termination for a truncation.

    A task whose reward or observation is not finite is restarted, `is_first` there; that is the
    only fault that a pool survives, and not 10 times in a row of one task.

    Args:
      pool: the tasks.
      spec: of one of them. Its time limit is kept by this class too.
      num_envs: N.
      time_limit: truncates episodes after so many steps; the spec's stays if it is shorter.
    """

    def __init__(self, pool: Pool, spec: EnvSpec, num_envs: int, *, time_limit: int | None = None):
        self.spec = with_limit(spec, time_limit)
        self.num_envs = num_envs
        self.faults = dict(NO_FAULTS)
        self._pool = pool
        self._limit = math.inf if self.spec.time_limit is None else self.spec.time_limit
        self._in_a_row, self._time = np.zeros((2, num_envs), np.int64)
        # Episodes that are over, and which of them the pool knows nothing of.
        self._over, self._cut = np.zeros((2, num_envs), bool)

    def reset(self, seed: int) -> HostTimeStep:
        """Opens an episode everywhere; the same seed, 0 or more, gives the same streams."""
        self._in_a_row[:] = self._time[:] = 0
        self._over, self._cut = np.zeros((2, self.num_envs), bool)
        seeds = np.array([task_seed(seed, i) for i in range(self.num_envs)])
        no = np.zeros(self.num_envs, bool)
        return HostTimeStep(self._pool.reset(seeds), no.astype(np.float32), no, no)

    def step(self, action: np.ndarray) -> tuple[HostTimeStep, np.ndarray]:
        """One step of every task, of actions [N, ...]; a reset where an episode was over."""
        action = self._check(np.asarray(action))
        is_first, some = self._over, np.count_nonzero  # most steps open and end no episode
        if some(is_first):
            action = np.where(is_first.reshape(-1, *[1] * (action.ndim - 1)), 0, action)
        results = self._pool.step(action.astype(self.spec.action.dtype))
        observation, reward, terminated, truncated = results
        reward = reward.astype(np.float32)
        not_finite = ~np.isfinite(reward)
        not_finite[rows_not_finite(observation)] = True
        not_finite &= ~self._cut
        # An end at a first step is of the game behind a life, whose action did nothing.
        again = self._cut | not_finite | (terminated & is_first)
        if some(again):
            observation[again] = self._pool.restart(again)[again]
            self._check_restarted(observation, not_finite)
            is_first = is_first | not_finite
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
        """A picture of task 0, [H, W, 3] uint8."""
        return self._pool.render()

    def close(self) -> None:
        """Ends the threads."""
        self._pool.close()

    def _check(self, action: np.ndarray) -> np.ndarray:
        """The pools do not: a thread of ale's that got a wrong action never answers."""
        spec = self.spec.action
        check_shape(action, self.spec, (self.num_envs, *spec.shape))
        if isinstance(spec, specs.DiscreteArray):
            wrong = (action < 0) | (action >= spec.num_values)
            if np.count_nonzero(wrong):
                raise UserError(
                    f"{self.spec.name} takes actions 0 to {spec.num_values - 1}, not "
                    f"{action[wrong][0]}."
                )
        return action

    def _check_restarted(self, observation: np.ndarray, not_finite: np.ndarray) -> None:
        self.faults["not finite"] += int(not_finite.sum())
        self._in_a_row += not_finite
        check_in_a_row(self._in_a_row, self.spec, NOT_FINITE)
        if rows_not_finite(observation):
            raise UserError(f"{self.spec.name} opens an episode that is not finite.")


def check_pool(name: str, num_envs: int, time_limit: int | None, timeout: float | None) -> None:
    """Raises UserError if an argument of `make_batch` is none that a pool takes."""
    check_counts(num_envs, time_limit)
    if timeout is not None:
        raise UserError(f"{name} steps in threads, which cannot be timed out: leave timeout out.")
