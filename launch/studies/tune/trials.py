"""The trials of a search in optuna's storage, which outlives the process."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bellmax.envs.options import import_extra
from bellmax.launch.studies.tune.space import Dimension

STORAGE, NAME = "study.db", "bellmax"
STARTUP = 5  # trials that are never pruned, as there is little to compare them with


class Trial(NamedTuple):
    """A trial that has ended or runs.

    state: "complete", "pruned", "failed" or "running". value: its return; NaN if it has none.
    values: by key, as typed. reason: why it failed.
    """

    number: int
    state: str
    value: float
    values: dict[str, str]
    reason: str


class Trials:
    """The trials of the search in a folder; one process may write them at a time.

    Args:
      folder: of the search.
      space: of the search.
      seed: of the sampler. The values of trial n depend on it, n, and the trials before, and not on
        whether the search was interrupted.
      prunes: whether trials may be stopped early.
    """

    def __init__(self, folder: Path, space: Sequence[Dimension], *, seed: int, prunes: bool):
        optuna: Any = import_extra("optuna", "tune")
        self._optuna, self._space, self._seed = optuna, space, seed
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        pruners = optuna.pruners
        self._study = optuna.create_study(
            study_name=NAME,
            storage=f"sqlite:///{folder.absolute() / STORAGE}",
            direction="maximize",
            load_if_exists=True,
            pruner=pruners.MedianPruner(STARTUP) if prunes else pruners.NopPruner(),
        )
        self._active: dict[int, Any] = {}

    def all(self) -> list[Trial]:
        """Return all trials, by number."""
        return [self._describe(frozen) for frozen in self._study.get_trials(deepcopy=False)]

    def ask(self) -> Trial:
        """Start a trial with the values that the sampler chooses."""
        return self._start(self._study.ask())

    def running(self) -> list[Trial]:
        """Return the trials that an earlier start did not end."""
        for trial in [trial for trial in self.all() if trial.state == "running"]:
            if not trial.values:  # it was killed while it chose them
                self._start(self._active_trial(trial.number))
        return [trial for trial in self.all() if trial.state == "running"]

    def report(self, number: int, returns: Mapping[int, float]) -> bool:
        """Note returns by step until one is poor; return whether one is, and the trial should stop.

        Each is judged when it is noted, so the answer does not depend on how many come at once.
        """
        trial = self._active_trial(number)
        frozen = self._study.get_trials(deepcopy=False)[number]
        if "poor" in frozen.user_attrs:
            return True
        known = frozen.intermediate_values
        for step, value in sorted(returns.items()):
            if step not in known and math.isfinite(value):
                trial.report(value, step)
                if trial.should_prune():
                    trial.set_user_attr("poor", step)
                    return True
        return False

    def finish(self, number: int, value: float) -> None:
        """End a trial with its return; one that is not finite is a failure."""
        if math.isfinite(value):
            self._study.tell(number, value)
        else:
            self.fail(number, "its return is not finite")

    def prune(self, number: int) -> None:
        """End a trial that was stopped early."""
        self._study.tell(number, state=self._optuna.trial.TrialState.PRUNED)

    def fail(self, number: int, reason: str) -> None:
        """End a trial without a return."""
        self._active_trial(number).set_user_attr("reason", reason)
        self._study.tell(number, state=self._optuna.trial.TrialState.FAIL)

    def importances(self) -> dict[str, float]:
        """Return the share of the variance of returns that each key explains, greatest first.

        Empty for fewer than two complete trials of different returns.
        """
        complete = [trial for trial in self.all() if trial.state == "complete"]
        if len({trial.value for trial in complete}) < 2 or len(self._space) < 2:
            return {}
        evaluator = self._optuna.importance.FanovaImportanceEvaluator(seed=0)
        return self._optuna.importance.get_param_importances(self._study, evaluator=evaluator)

    def _start(self, trial: Any) -> Trial:
        values = {}
        for index, dimension in enumerate(self._space):
            # A sampler for each value: its random numbers do not depend on earlier starts, even
            # if one of them was killed between two values of this trial.
            seed = np.random.SeedSequence((self._seed, trial.number, index)).generate_state(1)
            sampler = self._optuna.samplers.TPESampler(seed=int(seed[0]), constant_liar=True)
            self._study.sampler = sampler
            values[dimension.key] = dimension.suggest(trial)
        # As typed: the storage may round numbers.
        trial.set_user_attr("values", values)
        self._active[trial.number] = trial
        return Trial(trial.number, "running", math.nan, values, "")

    def _active_trial(self, number: int) -> Any:
        if number not in self._active:  # of an earlier start
            frozen = self._study.get_trials(deepcopy=False)[number]
            self._active[number] = self._optuna.trial.Trial(self._study, frozen._trial_id)
        return self._active[number]

    def _describe(self, frozen: Any) -> Trial:
        state = "failed" if frozen.state.name == "FAIL" else str(frozen.state.name).lower()
        last = frozen.intermediate_values.get(max(frozen.intermediate_values, default=None))
        value = frozen.value if frozen.value is not None else last
        attributes = frozen.user_attrs
        values, reason = attributes.get("values", {}), attributes.get("reason", "")
        return Trial(frozen.number, state, math.nan if value is None else value, values, reason)
