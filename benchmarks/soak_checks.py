"""Compare the steps in replay with those that the environments of `soak_task` showed."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from soak_task import TERMINATED, Marks, read_ledger, read_marks


class Verdict(NamedTuple):
    """Numbers of steps that are missing, repeated, or have wrong flags, actions or rewards."""

    lost: int = 0
    doubled: int = 0
    mislabelled: int = 0

    def plus(self, other: "Verdict") -> "Verdict":
        return Verdict(*(a + b for a, b in zip(self, other, strict=True)))


def judge(steps: Any) -> Verdict:
    """Compare consecutive steps [T, N] with the marks of their observations.

    The flags of the last step are not checked, because they depend on the step after it.
    """
    marks = read_marks(steps.observation)
    now, after = Marks(*(x[:-1] for x in marks)), Marks(*(x[1:] for x in marks))
    same = now.instance == after.instance
    ahead = np.where(same, after.number - now.number, after.number + 1)
    is_last, discount = np.asarray(steps.is_last)[:-1], np.asarray(steps.discount)[:-1]
    going = ~is_last
    # The step before one that broke is the last of its episode; all others say themselves.
    wrong = is_last != ((now.ending > 0) | ~same)
    wrong |= np.asarray(steps.is_first)[1:] != is_last
    wrong |= (after.action == 0) != is_last
    wrong |= going & (np.asarray(steps.action)[:-1] + 1 != after.action)
    wrong |= going & (np.asarray(steps.reward)[:-1] != 1)
    wrong |= going & ((discount == 0) != (after.ending == TERMINATED))
    lost, doubled = np.maximum(ahead - 1, 0).sum(), (ahead < 1).sum()
    return Verdict(int(lost), int(doubled), int(wrong.sum()))


class Tally(NamedTuple):
    """What went into replay. newest: the last step of every environment, leaves [1, N], or None.

    numbers: instance -> the number of its newest step. steps: vector steps. after: the time step
    that followed the last rollout.
    """

    newest: Any = None
    numbers: dict[int, int] = {}
    verdict: Verdict = Verdict()
    steps: int = 0
    transitions: int = 0
    episodes: int = 0
    after: Any = None

    def take(self, records: Any, after: Any = None) -> "Tally":
        """After a rollout of steps [L, N] and the time step that followed it."""
        # Prepend the last step of the rollout before, if there was one.
        window = records
        if self.newest is not None:
            window = jax.tree.map(lambda a, b: np.concatenate([a, b]), self.newest, records)
        marks = read_marks(records.observation)
        begun = self.newest is not None or not marks.number[0].any()
        again = self._again(read_marks(window.observation).instance)
        pairs = zip(marks.instance.ravel().tolist(), marks.number.ravel().tolist(), strict=True)
        return Tally(
            jax.tree.map(lambda x: np.array(x[-1:]), records),
            self.numbers | dict(pairs),
            self.verdict.plus(judge(window)).plus(Verdict(int(not begun), again)),
            self.steps + len(marks.number),
            self.transitions + int((~np.asarray(records.is_last)).sum()),
            self.episodes + int((marks.ending > 0).sum()),
            after,
        )

    def _again(self, instance: np.ndarray) -> int:
        """Count the instances [T, N] that return to a stream that they have left, or are in two."""
        entering = instance[1:][instance[1:] != instance[:-1]].tolist()
        shared = instance.shape[1] - len(np.unique(instance[-1]))
        return shared + sum(i in self.numbers for i in entering)

    def alive(self) -> list[int]:
        """Return the newest instance of each environment in replay."""
        return [] if self.newest is None else read_marks(self.newest.observation)[0][0].tolist()


def check_replay(replay: Any, tally: Tally) -> list[str]:
    """Return errors in the ring, whose steps are checked in the order in which they were added."""
    num_envs, filled = tally.newest.is_last.shape[1], int(replay.filled)
    slots = replay.storage.is_last.shape[1] // num_envs
    order = (int(replay.cursor) - filled + np.arange(filled)) % slots
    steps = jax.tree.map(
        lambda x: np.asarray(x)[0].reshape(slots, num_envs, *x.shape[2:])[order], replay.storage
    )
    wrong = judge(steps)
    newest, last = (read_marks(x.observation[-1]) for x in (steps, tally.newest))
    problems = [f"replay holds {wrong}"] if any(wrong) else []
    if not np.array_equal(newest, last) or filled != min(slots, tally.steps):
        problems.append("replay does not hold the newest steps")
    return problems


def check_ends(
    ledger: Path, tally: Tally, killed: list[int], first: int = 0
) -> tuple[int, list[str]]:
    """Compare faults and kills of environments with the steps that are missing at them.

    Args:
      ledger: written by the environments.
      tally: of the steps in replay.
      killed: instances that were killed.
      first: the first instance that an actor made; those before it were read for their specs.
    """
    others = {i: pid for i, pid in read_ledger(ledger, "made").items() if pid != os.getpid()}
    made = [i for i in others if i >= first]
    raised = {i: n for i, n in read_ledger(ledger, "raised").items() if i in made}
    # Actors are ahead of the learner, so that steps of the newest instances may not be in replay.
    recent = set(made[-2 * len(tally.alive()) :]) | set(tally.alive())
    unseen = [i for i in made if i not in tally.numbers and i not in recent]
    cut = [i for i, n in raised.items() if i not in recent and tally.numbers.get(i, n - 1) != n - 1]
    problems = [f"instance {i} never came" for i in unseen]
    problems += [f"instance {i} lacks steps before it broke" for i in cut]
    return len({*raised, *killed}), problems


def check_counts(state: Any, tally: Tally, log: dict[str, Any]) -> list[str]:
    """Return the counters of the state and of the log that differ from the counts made here."""
    ending = int((read_marks(tally.after.observation).ending > 0).sum())
    counted = {
        "vector_steps": (int(state.vector_steps), tally.steps),
        "env_steps": (int(state.actor.env_steps[0]), tally.transitions),
        "episodes": (int(state.actor.episodes[0]), tally.episodes + ending),
        "env_steps in the log": (log["env_steps"], tally.transitions),
    }
    return [f"{name} is {a}, not {b}" for name, (a, b) in counted.items() if a != b]


def restarts(report: dict[str, float]) -> dict[str, float]:
    """Return the restarts in a runner's report, or in a row of its log."""
    return {name: n for name, n in report.items() if name.startswith("restarts_")}


def check_restarts(
    tally: Tally, broken: int, counted: dict[str, float], log: dict[str, Any]
) -> list[str]:
    """Compare the runner's counts, and those in the last row of its log, with the real faults."""
    problems = []
    if counted != {**dict.fromkeys(counted, 0), "restarts_raised": broken}:
        problems.append(f"{broken} environments broke, and the runner counts {counted}")
    # Replay lags behind the log, and the log behind the actors.
    logged, replaced = log["restarts_raised"], len(tally.numbers) - len(tally.alive())
    if not replaced <= logged <= broken:
        problems.append(f"{logged} restarts in the log, {replaced} in replay, {broken} in all")
    return problems
