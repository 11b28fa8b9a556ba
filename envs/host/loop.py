"""A batch of host tasks that are stepped in a loop, or each in its own process."""

import contextlib
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bellmax import UserError, must
from bellmax.envs.errors import described
from bellmax.envs.host.base import HostEnvironment, HostTimeStep, within
from bellmax.envs.host.process import ProcessEnvironment
from bellmax.envs.host.values import LARGEST, as_flag, as_mask, as_reward, not_finite
from bellmax.envs.validation import check_spec

if TYPE_CHECKING:
    from dm_env import specs

    from bellmax.envs.base import EnvSpec

NO_FAULTS = {"raised": 0, "timed out": 0, "not finite": 0}
_FLAGS = ("terminated", "truncated")
MAX_FAULTS = 10  # consecutive faults of one task, without a valid step between them


class LoopBatch:
    """A HostBatch of single tasks.

    If a task raises in `reset` or `step`, takes longer than `timeout`, or returns a non-finite
    observation or reward, it is closed, recreated and reset with the next seed of its own stream;
    `is_first` is True at that step. A UserError of the task is not caught.

    Args:
      make_one: makes one task; must be picklable if there is a timeout.
      num_envs: N >= 1.
      time_limit: truncates episodes after this number of steps, 1 or more; the task's own limit
        applies if it is shorter.
      timeout: seconds that a reset or step may take, above 0. Each task then runs in its own
        process (`ProcessEnvironment`), and the tasks step concurrently.

    Attributes:
      spec: of one task. num_envs: N.
      faults: number of recreated tasks, by reason.
      first_fault, last_fault: descriptions of the first and of the most recent fault, with the line
        of the user's code that raised; empty strings if there was none.

    Raises:
      UserError: an argument is out of range or has the wrong shape, a task returns another shape
        or dtype than its spec, or a task failed 10 times in a row.
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
                must("timeout", "above 0 seconds", timeout, "leave it out for no timeout")
            )
        self.num_envs = num_envs
        self.faults = dict(NO_FAULTS)
        self.first_fault = self.last_fault = ""
        self._make, self._apart = make_one, timeout is not None
        if timeout is not None:
            self._make = functools.partial(ProcessEnvironment, make_one, timeout)
        self._tasks: list[HostEnvironment] = []
        try:
            for _ in range(num_envs):
                self._tasks.append(self._make())
            spec = self._tasks[0].spec
            check_spec(spec)
        except BaseException as error:
            self.close()
            if isinstance(error, ChildProcessError | TimeoutError) and self._apart:
                raise UserError(f"a task cannot be made: {_describe(error)[1]}") from error
            raise
        self.spec = with_limit(spec, time_limit)
        self._shown = spec.observation.shape, spec.observation.dtype
        self._actions = num_envs, *spec.action.shape
        self._own_action = _own_action(spec.action)
        self._limit = math.inf if time_limit is None else time_limit
        self._no = np.zeros(num_envs, bool)
        self._no.flags.writeable = False  # shared by all time steps at which no episode ends
        self._begin(0)

    def reset(self, seed: int) -> HostTimeStep:
        """Starts an episode in every task; the same seed, 0 or more, gives the same streams."""
        self._begin(seed)
        seeds = [task_seed(seed, i) for i in range(self.num_envs)]
        observation, answers, *_ = self._call([True] * self.num_envs, seeds)
        zeros, mask = np.zeros(self.num_envs, np.float32), self._masks(answers)
        return HostTimeStep(observation, zeros, self._no, self._no, mask)

    def step(self, action: np.ndarray) -> tuple[HostTimeStep, np.ndarray]:
        """Steps every task; action: [N, ...]. A task whose episode has ended is reset instead."""
        action = np.array(action)  # tasks may write to it
        check_shape(action, self.spec, self._actions)
        if self._own_action is not None:
            action = self._own_action(action)
        first, arguments = self._over, action
        if True in first:
            arguments = [None if over else a for over, a in zip(first, action, strict=True)]
        observation, answers, rewards, restarted = self._call(first, arguments)
        for i in restarted:
            first[i] = True
        # A Python loop over tasks: for a few numbers NumPy is slower.
        terminated, truncated = [False] * self.num_envs, [False] * self.num_envs
        for i, ts in enumerate(answers):
            if first[i]:
                self._time[i], rewards[i] = 0, 0.0
                continue
            self._in_a_row[i] = 0
            self._time[i] += 1
            # Checked only where they are not Python's: this loop is the cost of a step.
            over, cut = ts.terminated, ts.truncated
            if type(over) is not bool or type(cut) is not bool:
                over, cut = (as_flag(getattr(ts, f), f, self.spec.name) for f in _FLAGS)
            if over:
                terminated[i] = True
            elif cut or self._time[i] >= self._limit:
                truncated[i] = True
        is_first = np.array(first) if True in first else self._no
        reward, flags = np.array(rewards, np.float32), (self._no, self._no)
        self._over = terminated
        if True in terminated or True in truncated:
            flags = np.array(terminated), np.array(truncated)
            self._over = [a or b for a, b in zip(terminated, truncated, strict=True)]
        return HostTimeStep(observation, reward, *flags, self._masks(answers)), is_first

    def _masks(self, answers: Sequence[HostTimeStep]) -> Any:
        """Action masks [N, A], or () for a task without.

        Raises:
          UserError: a mask has another form.
        """
        if not self.spec.action_mask:
            return ()
        count, name = self.spec.action.num_values, self.spec.name  # type: ignore[attr-defined]
        return np.array([as_mask(ts.action_mask, count, name) for ts in answers])

    def render(self) -> np.ndarray:
        """Draws task 0, [H, W, 3] uint8."""
        return self._tasks[0].render()

    def close(self) -> None:
        """Closes every task and ignores their exceptions."""
        for task in self._tasks:
            if isinstance(task, ProcessEnvironment):
                task.begin_close()  # so that all processes close concurrently
        for task in self._tasks:
            _close(task)
        self._tasks = []

    def _begin(self, seed: int) -> None:
        """Sets the counters of every task to 0; seed: of the tasks' streams."""
        self._seed = seed
        self._restarts, self._in_a_row, self._time = ([0] * self.num_envs for _ in range(3))
        self._over = [False] * self.num_envs

    def _call(
        self, resets: Sequence[bool], arguments: Sequence[Any] | np.ndarray
    ) -> tuple[np.ndarray, list[HostTimeStep], list[float], list[int]]:
        """Resets or steps each task; the argument is a seed or None, or else an action.

        Returns:
          Observations in a new array [N, ...], the time step and the reward of each task, and the
          indices of recreated tasks.
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
            except (Exception, SystemExit) as error:
                ts = self._restart(i, error)
                restarted.append(i)
            answers.append(ts)
        observation, rewards, broken = self._gather(answers)
        if broken:
            for i, words in broken.items():
                answers[i] = self._restart(i, words)
                restarted.append(i)
            observation, rewards, _ = self._gather(answers)
        return observation, answers, rewards, restarted

    def _gather(
        self, answers: Sequence[HostTimeStep]
    ) -> tuple[np.ndarray, list[float], dict[int, str]]:
        """Observations in a new array, rewards, and by index of a task what is not finite."""
        shape, dtype = self._shown
        observation = np.empty((len(answers), *shape), dtype)
        rewards: list[float] = []
        broken: list[int] = []
        for i, ts in enumerate(answers):
            if type(ts) is not HostTimeStep:
                raise UserError(
                    must(
                        f"reset and step of {self.spec.name}",
                        "a HostTimeStep",
                        f"a {type(ts).__name__}",
                        verb="return",
                    )
                )
            value, reward = np.asarray(ts.observation), ts.reward
            if value.shape != shape or value.dtype != dtype:
                value = self._converted(i, value)
            observation[i] = value
            if type(reward) is not float:
                reward = as_reward(reward, self.spec.name)
            rewards.append(reward)
            if not -LARGEST <= reward <= LARGEST:
                broken.append(i)
        broken += rows_not_finite(observation)
        if not broken:
            return observation, rewards, {}
        words = {i: not_finite(observation[i], rewards[i]) for i in sorted(set(broken))}
        return observation, rewards, words

    def _converted(self, i: int, value: np.ndarray) -> np.ndarray:
        """An observation of task i in the spec's dtype.

        Raises:
          UserError: its shape or kind of dtype differs from the spec.
        """
        shape, dtype = self._shown
        if value.shape != shape or not np.can_cast(value.dtype, dtype, "same_kind"):
            raise UserError(
                must(
                    f"observations of task {i} of {self.spec.name}",
                    f"shape {shape} and dtype {dtype}",
                    f"{value.shape} and {value.dtype}",
                    verb="have",
                )
            )
        with np.errstate(
            over="ignore", invalid="ignore"
        ):  # an overflow becomes infinite, which is a fault
            return value.astype(dtype)

    def _restart(self, i: int, error: BaseException | str) -> HostTimeStep:
        """Recreates and resets task i until a reset succeeds; error: text if "not finite"."""
        while True:
            self._book(i, error)
            _close(self._tasks[i])
            self._restarts[i] += 1
            try:
                self._tasks[i] = self._make()
                ts = self._tasks[i].reset(task_seed(self._seed, i, self._restarts[i]))
            except UserError:
                raise
            except (Exception, SystemExit) as again:
                error = again
                continue
            broken = self._gather([ts])[2]
            if not broken:
                return ts
            error = broken[0]

    def _book(self, i: int, error: BaseException | str) -> None:
        reason, words = _describe(error)
        self.faults[reason] += 1
        self.first_fault = self.first_fault or words
        self.last_fault = words
        self._in_a_row[i] += 1
        cause = None if isinstance(error, str) else error
        check_in_a_row(self._in_a_row, self.spec, {i: words}, cause)


def check_in_a_row(
    faults: Sequence[int] | np.ndarray,
    spec: "EnvSpec",
    words: Mapping[int, str],
    error: BaseException | None = None,
) -> None:
    """Raises UserError if a task had too many consecutive faults.

    Args:
      faults: [N], consecutive faults of each task.
      spec: of one task.
      words: the last fault of each task that had one now, by index.
      error: the exception behind it, if any.
    """
    for i in np.flatnonzero(np.asarray(faults) >= MAX_FAULTS)[:1]:
        raise UserError(
            f"Task {i} of {spec.name} failed {MAX_FAULTS} times in a row, the last time because "
            f"{words[int(i)]}"
        ) from error


def task_seed(seed: int, index: int, restarts: int = 0) -> int:
    """The seed in [0, 2^31) of task `index` of a batch.

    `restarts`: how often the task was recreated since the batch was seeded.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(index, restarts))
    return int(sequence.generate_state(1)[0] >> 1)


def _own_action(spec: "specs.Array") -> Callable[[Any], np.ndarray] | None:
    """The function from agents' float32 actions to the spec's; None if they are the same."""
    if spec.dtype.kind != "f" or spec.dtype == np.float32:
        return None
    low, high = getattr(spec, "minimum", -np.inf), getattr(spec, "maximum", np.inf)
    return within(spec.dtype, low, high)


def _close(task: HostEnvironment) -> None:
    with contextlib.suppress(Exception, SystemExit):
        task.close()


def _describe(error: BaseException | str) -> tuple[str, str]:
    """The reason of a fault, and its description."""
    if isinstance(error, str):
        return "not finite", error
    reason = "timed out" if isinstance(error, TimeoutError) else "raised"
    # A ChildProcessError already has a description as its message.
    return reason, str(error) if isinstance(error, ChildProcessError) else described(error)


def check_counts(num_envs: int, time_limit: int | None) -> None:
    """Raises UserError if the number of tasks or the time limit is below 1."""
    if num_envs < 1:
        raise UserError(must("num_envs", "at least 1", num_envs))
    if time_limit is not None and time_limit < 1:
        raise UserError(must("time_limit", "at least 1 environment step", time_limit))


def check_shape(action: np.ndarray, spec: "EnvSpec", shape: tuple[int, ...]) -> None:
    """Raises UserError if actions do not have the shape [N, ...] of the spec."""
    if action.shape != shape:
        raise UserError(
            must(f"actions of {shape[0]} {spec.name}", f"shape {shape}", action.shape, verb="have")
        )


def with_limit(spec: "EnvSpec", time_limit: int | None) -> "EnvSpec":
    """The spec with the shorter of its own time limit and the given one."""
    limits = [limit for limit in (spec.time_limit, time_limit) if limit is not None]
    return spec._replace(time_limit=min(limits, default=None))


def rows_not_finite(observation: np.ndarray) -> list[int]:
    """Indices of observations, of [N, ...], that are not finite."""
    if observation.dtype.kind != "f":
        return []
    finite = np.isfinite(observation)
    if finite.all():
        return []
    return np.flatnonzero(~finite.reshape(len(finite), -1).all(axis=1)).tolist()
