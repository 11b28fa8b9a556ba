"""What a comparison is: sides, trials and seeds that are fixed before anything runs, and jobs."""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

Trial = dict[str, Any]


class Outcome(NamedTuple):
    """What a job measured.

    scores: metric -> [trials, seeds].
    x: [P] where curves were looked at. curves: [trials, seeds, P] of the study's `curve`.
    """

    scores: dict[str, np.ndarray]
    x: np.ndarray
    curves: np.ndarray


# (task, side, trials, seeds, name of the job) -> Outcome
Run = Callable[[str, str, list[Trial], list[int], str], Outcome]


class Study(NamedTuple):
    """A comparison of sides on some tasks.

    claim: of which it is a part. question: what it asks, one sentence.
    sides: name -> trials, the hyper-parameters that are tried; the first side is the baseline.
    metrics: name -> "lower" or "higher", which is better; each has its own choice of a trial.
    unit: what a curve counts. curve: what it shows.
    together: whether all trials of a side run in one program.
    minutes: of one core that a job of a task takes, (task, tuning) -> minutes.
    reported: further metrics that nothing is chosen by.
    notes: what else a reader must know, in sentences.
    tuning_seeds: of the tuning; () where nothing is tuned, and each side has a single trial.
    tuned_on: task -> the task whose tuning it takes; one that is not named is tuned by itself.
    paired: whether a seed is the same problem for every side. logarithmic: how curves are drawn.
    """

    claim: str
    name: str
    question: str
    tasks: tuple[str, ...]
    sides: dict[str, tuple[Trial, ...]]
    metrics: dict[str, str]
    run: Run
    tuning_seeds: tuple[int, ...]
    test_seeds: tuple[int, ...]
    unit: str
    curve: str
    together: bool
    minutes: Callable[[str, bool], float]
    reported: tuple[str, ...] = ()
    notes: str = ""
    tuned_on: Mapping[str, str] = MappingProxyType({})
    paired: bool = False
    logarithmic: bool = False

    @property
    def baseline(self) -> str:
        return next(iter(self.sides))

    @property
    def seeds(self) -> dict[bool, tuple[int, ...]]:
        """By whether it is tuning."""
        return {True: self.tuning_seeds, False: self.test_seeds}


class Job(NamedTuple):
    """One program: a side on a task, all seeds of a phase. trials: indices, () for the chosen."""

    study: Study
    task: str
    side: str
    tuning: bool
    trials: tuple[int, ...]

    @property
    def key(self) -> str:
        """Names the job in the results and among the folders of runs."""
        part = "test" if not self.tuning else "tuning"
        if self.tuning and not self.study.together:
            part = f"tuning_{self.trials[0]}"
        return f"{self.study.name}/{self.task}/{self.side}/{part}".replace(" ", "_")

    @property
    def cells(self) -> int:
        """(trial, seed) pairs; the test counts one trial for each seed."""
        return max(len(self.trials), 1) * len(self.study.seeds[self.tuning])


def check_fair(study: Study) -> None:
    """Raises ValueError unless every side has as many trials as every other, on unseen seeds."""
    counts = {side: len(trials) for side, trials in study.sides.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"{study.name}: sides have different numbers of trials, {counts}")
    for side, trials in study.sides.items():
        distinct = {tuple(sorted(trial.items())) for trial in trials}
        if len(distinct) != len(trials):
            raise ValueError(f"{study.name}: {side} tries the same trial twice")
    if not study.tuning_seeds and set(counts.values()) != {1}:
        raise ValueError(f"{study.name}: {counts} trials and no seeds to choose one by")
    if shared := set(study.tuning_seeds) & set(study.test_seeds):
        raise ValueError(f"{study.name}: seeds {sorted(shared)} are tuned on and reported")


def jobs_of(study: Study) -> Iterator[Job]:
    """Jobs in order: by task, first the tuning of all sides, then their tests."""
    check_fair(study)
    for task in study.tasks:
        tuned = task not in study.tuned_on and study.tuning_seeds
        for side, trials in study.sides.items() if tuned else ():
            indices = tuple(range(len(trials)))
            if study.together:
                yield Job(study, task, side, True, indices)
            else:
                yield from (Job(study, task, side, True, (index,)) for index in indices)
        for side in study.sides:
            yield Job(study, task, side, False, ())


def best_trial(scores: np.ndarray, better: str) -> int:
    """Index of the trial with the best mean over seeds; one that diverged is the worst.

    Args:
      scores: [trials, seeds].
      better: "lower" or "higher".
    """
    sign = 1.0 if better == "lower" else -1.0
    means = np.mean(sign * np.asarray(scores, np.float64), axis=1)
    return int(np.argmin(np.where(np.isfinite(means), means, np.inf)))
