"""Host tasks that step together: in a loop, or each in a process of its own."""

import contextlib
import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bellmax import UserError
from bellmax.envs.host_base import HostEnvironment, HostTimeStep, in_words
from bellmax.envs.host_process import ProcessEnvironment

if TYPE_CHECKING:
    from bellmax.envs.base import EnvSpec

NO_FAULTS = {"raised": 0, "timed out": 0, "not finite": 0}
NOT_FINITE = "an observation or a reward was not finite"
_LARGEST = float(np.finfo(np.float32).max)  # a reward beyond it is infinite to the learner
MAX_FAULTS = 10  # of one task in a row, without one good step between


class LoopBatch:
    """A HostBatch of tasks that are made one by one.

    A task that raises in `reset` or `step`, takes longer than `timeout`, or returns an observation
    or a reward that is not finite, is closed, made anew and reset with a fresh number of its own
    stream: `is_first` there. A UserError of the task goes through.

    Args:
      make_one: makes one task; picklable if there is a timeout.
      num_envs: N >= 1.
      time_limit: truncates episodes after so many steps, 1 or more; the task's own limit stays if
        it is shorter.
      timeout: seconds that a reset or step may take, above 0. Each task then has a process of its
        own (`ProcessEnvironment`) and all step at the same time.

    Attributes:
      spec: of one task. num_envs: N.
      faults: how often tasks were made anew, by reason.
      last_fault: what the last of these was, in words; the empty string before one.

    Raises:
      UserError: an argument is out of range or has the wrong shape, a task returns another shape or
        dtype than its spec, or one of them was made anew 10 times in a row.
    """

    def __init__(
        self,
        make_one: Callable[[], HostEnvironment],
        num_envs: int,
        *,
        time_limit: int | None = None,
        timeout: float | None = None,
    ):
        check_counts(num_envs, time_limit)
        if timeout is not None and not timeout > 0:
            raise UserError(
                f"timeout must be above 0 seconds, not {timeout}; leave it out for none."
            )
        self.num_envs = num_envs
        self.faults = dict(NO_FAULTS)
        self.last_fault = ""
        self._make, self._apart = make_one, timeout is not None
        if timeout is not None:
            self._make = functools.partial(ProcessEnvironment, make_one, timeout)
        self._tasks: list[HostEnvironment] = []
        try:
            for _ in range(num_envs):
                self._tasks.append(self._make())
            spec = self._tasks[0].spec
        except BaseException:
            self.close()
            raise
        self.spec = with_limit(spec, time_limit)
        self._shown = spec.observation.shape, spec.observation.dtype
        self._actions = num_envs, *spec.action.shape
        self._limit = math.inf if time_limit is None else time_limit
        self._no = np.zeros(num_envs, bool)
        self._no.flags.writeable = False  # it is handed out wherever nothing ends
        self._begin(0)

    def reset(self, seed: int) -> HostTimeStep:
        """Opens an episode everywhere; the same seed, 0 or more, gives the same streams."""
        self._begin(seed)
        seeds = [task_seed(seed, i) for i in range(self.num_envs)]
        observation = self._call([True] * self.num_envs, seeds)[0]
        return HostTimeStep(observation, np.zeros(self.num_envs, np.float32), self._no, self._no)

    def step(self, action: np.ndarray) -> tuple[HostTimeStep, np.ndarray]:
        """One step of every task, of actions [N, ...]; a reset where an episode was over."""
        action = np.array(action)  # tasks may write to it
        check_shape(action, self.spec, self._actions)
        first, arguments = self._over, action
        if True in first:
            arguments = [None if over else a for over, a in zip(first, action, strict=True)]
        observation, answers, rewards, restarted = self._call(first, arguments)
        for i in restarted:
            first[i] = True
        # Task by task: it is Python that steps them, and numpy takes longer for a few numbers.
        terminated, truncated = [False] * self.num_envs, [False] * self.num_envs
        for i, ts in enumerate(answers):
            if first[i]:
                self._time[i], rewards[i] = 0, 0.0
                continue
            self._in_a_row[i] = 0
            self._time[i] += 1
            if ts.terminated:
                terminated[i] = True
            elif ts.truncated or self._time[i] >= self._limit:
                truncated[i] = True
        is_first = np.array(first) if True in first else self._no
        reward, flags = np.array(rewards, np.float32), (self._no, self._no)
        self._over = terminated
        if True in terminated or True in truncated:
            flags = np.array(terminated), np.array(truncated)
            self._over = [a or b for a, b in zip(terminated, truncated, strict=True)]
        return HostTimeStep(observation, reward, *flags), is_first

    def render(self) -> np.ndarray:
        """A picture of task 0, [H, W, 3] uint8."""
        return self._tasks[0].render()

    def close(self) -> None:
        """Closes every task; what they raise then is lost."""
        for task in self._tasks:
            if isinstance(task, ProcessEnvironment):
                task.begin_close()  # all of them at once
        for task in self._tasks:
            _close(task)
        self._tasks = []

    def _begin(self, seed: int) -> None:
        """Where every task is before its first reset; seed: of their streams."""
        self._seed = seed
        self._restarts, self._in_a_row, self._time = ([0] * self.num_envs for _ in range(3))
        self._over = [False] * self.num_envs

    def _call(
        self, resets: Sequence[bool], arguments: Sequence[Any] | np.ndarray
    ) -> tuple[np.ndarray, list[HostTimeStep], list[float], list[int]]:
        """Resets or steps each task, by a number or None in the one case, an action in the other.

        Returns:
          The observations in a fresh array, [N, ...], what each task answered, its reward, and
          which tasks were made anew.
        """
        tasks: Any = self._tasks
        if self._apart:
            for task, resetting, argument in zip(tasks, resets, arguments, strict=True):
                task.ask("reset" if resetting else "step", argument)
        restarted: list[int] = []
        answers: list[HostTimeStep] = []
        for i, task in enumerate(tasks):
            try:
                if self._apart:
                    ts = task.answer()
                elif resets[i]:
                    ts = task.reset(arguments[i])
                else:
                    ts = task.step(arguments[i])
            except UserError:
                raise
            except Exception as error:
                ts = self._restart(i, error)
                restarted.append(i)
            answers.append(ts)
        observation, rewards, broken = self._gather(answers)
        if broken:
            for i in broken:
                answers[i] = self._restart(i, None)
                restarted.append(i)
            observation, rewards, _ = self._gather(answers)
        return observation, answers, rewards, restarted

    def _gather(self, answers: Sequence[HostTimeStep]) -> tuple[np.ndarray, list[float], list[int]]:
        """Observations in a fresh array, rewards, and where the one or the other is not finite."""
        shape, dtype = self._shown
        observation = np.empty((len(answers), *shape), dtype)
        rewards: list[float] = []
        broken: list[int] = []
        for i, ts in enumerate(answers):
            value, reward = np.asarray(ts.observation), ts.reward
            if value.shape != shape or value.dtype != dtype:
                value = self._converted(i, value)
            observation[i] = value
            if type(reward) is not float:
                # None is not finite either.
                reward = float(np.asarray(reward, np.float64).reshape(()))
            rewards.append(reward)
            if not -_LARGEST <= reward <= _LARGEST:
                broken.append(i)
        if not_finite := rows_not_finite(observation):
            broken = sorted({*broken, *not_finite})
        return observation, rewards, broken

    def _converted(self, i: int, value: np.ndarray) -> np.ndarray:
        """An observation of task i in the spec's dtype.

        Raises:
          UserError: it is of another shape or another kind.
        """
        shape, dtype = self._shown
        if value.shape != shape or not np.can_cast(value.dtype, dtype, "same_kind"):
            raise UserError(
                f"Task {i} of {self.spec.name} shows an observation of shape {value.shape} "
                f"and dtype {value.dtype}, not {shape} and {dtype} as its spec says."
            )
        with np.errstate(over="ignore", invalid="ignore"):  # what is too big is a fault
            return value.astype(dtype)

    def _restart(self, i: int, error: Exception | None) -> HostTimeStep:
        """Task i made anew and reset, as often as it takes; None stands for "not finite"."""
        while True:
            self._book(i, error)
            _close(self._tasks[i])
            self._restarts[i] += 1
            try:
                self._tasks[i] = self._make()
                ts = self._tasks[i].reset(task_seed(self._seed, i, self._restarts[i]))
            except UserError:
                raise
            except Exception as again:
                error = again
                continue
            if not self._gather([ts])[2]:
                return ts
            error = None

    def _book(self, i: int, error: Exception | None) -> None:
        reason, words = _describe(error)
        self.faults[reason] += 1
        self.last_fault = words
        self._in_a_row[i] += 1
        check_in_a_row(self._in_a_row, self.spec, words, error)


def check_in_a_row(
    faults: Sequence[int] | np.ndarray, spec: "EnvSpec", words: str, error: Exception | None = None
) -> None:
    """Raises UserError where a task had too many faults in a row, [N]; words: what the last was."""
    for i in np.flatnonzero(np.asarray(faults) >= MAX_FAULTS)[:1]:
        raise UserError(
            f"Task {i} of {spec.name} failed {MAX_FAULTS} times in a row, the last time because "
            f"{words}."
        ) from error


def task_seed(seed: int, index: int, restarts: int = 0) -> int:
    """The number in [0, 2^31) that task `index` of a batch is seeded with.

    `restarts` counts how often it was made anew since the batch was seeded.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(index, restarts))
    return int(sequence.generate_state(1)[0] >> 1)


def _close(task: HostEnvironment) -> None:
    with contextlib.suppress(Exception):
        task.close()


def _describe(error: Exception | None) -> tuple[str, str]:
    """The reason of a fault, and its words."""
    if error is None:
        return "not finite", NOT_FINITE
    reason = "timed out" if isinstance(error, TimeoutError) else "raised"
    # Those of a process are words already.
    return reason, str(error) if isinstance(error, ChildProcessError) else in_words(error)


def check_counts(num_envs: int, time_limit: int | None) -> None:
    """Raises UserError if there is to be no task, or no step in an episode."""
    if num_envs < 1:
        raise UserError(f"num_envs must be at least 1, not {num_envs}.")
    if time_limit is not None and time_limit < 1:
        raise UserError(f"time_limit must be at least 1 environment step, not {time_limit}.")


def check_shape(action: np.ndarray, spec: "EnvSpec", shape: tuple[int, ...]) -> None:
    """Raises UserError if actions are not of the shape [N, ...] that the spec asks for."""
    if action.shape != shape:
        raise UserError(
            f"The actions of {shape[0]} {spec.name} must have shape {shape}, not {action.shape}."
        )


def with_limit(spec: "EnvSpec", time_limit: int | None) -> "EnvSpec":
    """The spec with the shorter of its own time limit and another."""
    limits = [limit for limit in (spec.time_limit, time_limit) if limit is not None]
    return spec._replace(time_limit=min(limits, default=None))


def rows_not_finite(observation: np.ndarray) -> list[int]:
    """Which observations, of [N, ...], are not finite."""
    if observation.dtype.kind != "f":
        return []
    finite = np.isfinite(observation)
    if finite.all():
        return []
    return np.flatnonzero(~finite.reshape(len(finite), -1).all(axis=1)).tolist()
