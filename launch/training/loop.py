"""The training loop: advance a run by intervals, and log, evaluate and save between them."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import psutil

from bellmax import UserError
from bellmax.launch.config.points import point_name
from bellmax.launch.config.run_config import RunConfig
from bellmax.launch.distributed.processes import is_first, wait_for_all
from bellmax.launch.distributed.signals import signals_held
from bellmax.launch.reporting.metrics import MetricsLog
from bellmax.launch.reporting.progress import Progress
from bellmax.launch.runners.evaluation import evaluation_rows, row_score
from bellmax.launch.runners.train_state import IntervalMetrics, TrainState
from bellmax.launch.training.checkpoints import Checkpoints
from bellmax.launch.training.experiment import Experiment
from bellmax.launch.training.policy import best_score, point_folder, save_best, save_policies


class NotFiniteError(UserError):
    """A loss was NaN or infinite; the message gives the step and the last good checkpoint."""

    exit_code = 1  # of the command line: the run failed, not the command


class MovedError(UserError):
    """The folder of a run was moved or removed while it trained."""

    exit_code = 1  # of the command line: the run failed, not the command


class Session:
    """Trains from a state to the end of the run; logs, evaluates and saves on the way.

    Intervals end at steps that depend on the configuration alone, so a resumed run has the same
    intervals as an uninterrupted one.

    Args:
      experiment, checkpoints, log, progress: the parts of the run and its outputs.
      resume_step: step of the checkpoint from which the run continues.
      evaluated: [S], the scores of that checkpoint, if they are in the log.
      diverged: places of the learners whose loss was not finite before that checkpoint, while
        other points of the run continue.
      in_place: returns whether the run's folder is still in its place; called before a save.
      folder: where policies are saved at each checkpoint and best evaluation; None saves none.
      written: called after every interval, when all of it is in the folder; may return a sentence.
    """

    def __init__(
        self,
        experiment: Experiment,
        checkpoints: Checkpoints,
        log: MetricsLog,
        progress: Progress,
        *,
        resume_step: int | None = None,
        evaluated: np.ndarray | None = None,
        diverged: Sequence[int] = (),
        in_place: Callable[[], bool] = lambda: True,
        folder: Path | None = None,
        written: Callable[[], str | None] = lambda: None,
    ):
        self.experiment, self.checkpoints = experiment, checkpoints
        self.log, self.progress = log, progress
        self.saved, self.in_place, self.folder = resume_step, in_place, folder
        self.written = written
        self.diverged = np.isin(np.arange(len(experiment.seeds)), diverged)
        agents = [experiment.make_agent(p) if p else experiment.agent for p, _ in experiment.groups]
        self.schedules = [agent.schedules for agent in agents]
        self.best: list[float | None] = [None for _ in experiment.groups]
        if folder and resume_step is not None:
            folders = [point_folder(folder / "policy", point) for point, _ in experiment.groups]
            self.best = [best_score(each / "best") for each in folders]
        config = experiment.config
        self.steps_per_rollout = config.env.num_envs * config.rollout_length
        self.total = config.steps // self.steps_per_rollout
        self.warmup = math.ceil(config.warmup_steps / self.steps_per_rollout)
        self.evaluated: tuple[int, np.ndarray] | None = None
        if resume_step is not None and evaluated is not None:
            self.evaluated = resume_step, evaluated

    @property
    def total_steps(self) -> int:
        """Environment steps per seed at the end of the run."""
        return self._steps(self.total)

    def advance_to_end(self, state: TrainState) -> TrainState:
        """Train to the configured number of steps.

        Raises:
          NotFiniteError: a loss was not finite; that gradient step was the last.
          CheckpointError: a checkpoint could not be written; the earlier ones are kept.
          MovedError: the run's folder was moved or removed; training stopped.
        """
        advance = None
        if self._rollouts_taken(state) < self.total:
            advance = self._compile(state)
        wait_for_all("the training program is compiled")
        if jax.process_count() > 1:  # all processes must save, but the signal may reach only one
            return self._advance(state, advance, [])
        runner = self.experiment.runner
        runner.on_message(self.progress.message)
        with signals_held(runner.stop) as came:
            return self._advance(state, advance, came)

    def _advance(self, state: TrainState, advance: Any, came: list[int]) -> TrainState:
        """Train to the end or until a signal arrives; save the state reached."""
        rollouts = self._rollouts_taken(state)
        if rollouts:  # a resumed run may have stopped before the evaluation or save due here
            self._evaluate_and_save(state, rollouts)
        while rollouts < self.total and not came:
            stop = self._next_stop(rollouts)
            warmup = max(min(self.warmup, stop) - rollouts, 0)
            updates = int(state.learner.steps)
            started = time.perf_counter()
            state, interval = advance(state, np.int32(warmup), np.int32(stop - rollouts - warmup))
            interval = jax.device_get(interval)
            seconds = time.perf_counter() - started
            self._stop_if_not_finite(state, interval, updates)
            taken = self._rollouts_taken(state)
            if taken > rollouts:
                self._write_interval(state, interval, taken - rollouts, seconds)
            if rollouts <= self.warmup < taken:
                age = time.time() - psutil.Process().create_time()
                self.progress.message(f"first gradient step {age:.1f} s after the program started")
            rollouts = taken
            if not came:
                self._evaluate_and_save(state, rollouts)
                if sentence := self.written():
                    self.progress.message(sentence)
        if came:
            self._save(state, rollouts)
            self.progress.message(f"stopped; checkpoint {self._steps(rollouts)} is written")
        return state

    def evaluate(self, state: TrainState) -> np.ndarray:
        """Return and log the scores [S] of the greedy policies, `row_score`, once for each step.

        NaN if the run was asked to stop during the evaluation, which is then still due.
        """
        step = self._steps(self._rollouts_taken(state))
        if self.evaluated is None or self.evaluated[0] != step:
            episodes = self.experiment.evaluate(state, step)
            if episodes is None:
                return np.full(len(self.experiment.seeds), np.nan)
            report = self.experiment.evaluator.report()
            score = self.experiment.agent.score
            rows = evaluation_rows(episodes, self.experiment.seeds, step, score)
            rows = self._rows(rows)
            self.log.write([row | report for row in rows])
            self.evaluated = step, np.array([row_score(row) for row in rows])
            cut = sum(row["cut_episodes"] for row in rows)
            self.progress.message(
                f"step {step:,}: evaluation return "
                f"{self._describe(np.array([row['episode_return'] for row in rows]))}"
                + (f", objective {self._describe(self.evaluated[1])}" if score else "")
                + (f", {cut} of {sum(r['episodes'] for r in rows)} episodes cut" if cut else "")
                + "".join(f", {name} {n}" for name, n in report.items() if n)
            )
        return self.evaluated[1]

    def _rows(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Add the point to the row of each learner; one that diverged has no numbers any more."""
        for i, point in enumerate(self.experiment.points):
            if self.diverged[i]:
                numbers = float, np.floating
                rows[i] = {k: np.nan if isinstance(v, numbers) else v for k, v in rows[i].items()}
            if point:
                first = {name: rows[i][name] for name in ("kind", "step", "seed")}
                rows[i] = {**first, "vmap": point, **rows[i]}
        return rows

    def _scores(self, returns: np.ndarray) -> list[float]:
        """Return the mean over seeds of each point."""
        return [float(returns[places].mean()) for _, places in self.experiment.groups]

    def _describe(self, returns: np.ndarray) -> str:
        """Return the mean over seeds, of the best of several points."""
        scores, groups = self._scores(returns), self.experiment.groups
        if len(groups) == 1 or np.isnan(scores).all():
            return f"{scores[0]:.1f}"
        best = int(np.nanargmax(scores))
        return f"{scores[best]:.1f} at {point_name(groups[best][0])}, the best of {len(groups)}"

    def _steps(self, rollouts: int) -> int:
        return rollouts * self.steps_per_rollout

    def _rollouts_taken(self, state: TrainState) -> int:
        return int(state.vector_steps) // self.experiment.config.rollout_length

    def _next_stop(self, rollouts: int) -> int:
        """Return the end of the next interval; the first gradient step ends one, to be timed."""
        config, size = self.experiment.config, self.steps_per_rollout
        periods = config.log_every, config.evaluate_every, config.checkpoint_every
        stops = [next_stop(rollouts, period, size) for period in periods if period]
        if rollouts <= self.warmup:
            stops.append(self.warmup + 1)
        return min(*stops, self.total)

    def _ends_warmup_only(self, rollouts: int) -> bool:
        """Return whether an interval ends here only because of the first gradient step."""
        config = self.experiment.config
        periods = config.log_every, config.evaluate_every, config.checkpoint_every
        due = any(self._is_due(rollouts, period) for period in periods)
        return rollouts == self.warmup + 1 and not due

    def _is_due(self, rollouts: int, period: int) -> bool:
        """Return whether an action with a period in environment steps is due; 0: at the end."""
        if rollouts == self.total or not period:
            return rollouts == self.total
        return next_stop(rollouts - 1, period, self.steps_per_rollout) == rollouts

    def _compile(self, state: TrainState) -> Any:
        self.progress.compiling()
        started = time.perf_counter()
        advance = self.experiment.runner.compile(state)
        self.progress.compiled(time.perf_counter() - started)
        return advance

    def _evaluate_and_save(self, state: TrainState, rollouts: int) -> None:
        """Save and evaluate if due. Every checkpoint is evaluated, so that there is a best one.

        It saves first: an evaluation may take longer than a scheduler waits after SIGTERM.
        """
        config = self.experiment.config
        saves = self._is_due(rollouts, config.checkpoint_every)
        if saves:
            self._save(state, rollouts)
        if saves or self._is_due(rollouts, config.evaluate_every):
            scores, step = self._scores(self.evaluate(state)), self._steps(rollouts)
            finite = [score for score in scores if math.isfinite(score)]
            if self.saved == step and is_first() and finite:
                self.checkpoints.score(step, max(finite))
            for group, score in enumerate(scores):
                self._keep_best(state, step, group, score)
        if self.folder and rollouts == self.total:  # a resumed run restores lost or damaged files
            save_policies(self.experiment, state, self.folder / "policy", self._steps(rollouts))

    def _keep_best(self, state: TrainState, step: int, group: int, score: float) -> None:
        """Save the policies of a point if no earlier evaluation of it was better."""
        best = self.best[group]
        if self.folder and math.isfinite(score) and (best is None or score >= best):
            self.best[group] = score
            save_best(self.experiment, state, self.folder / "policy", step, group, score)

    def _save(self, state: TrainState, rollouts: int) -> None:
        """Save a checkpoint without a metric, unless this step is saved already."""
        if self.saved == self._steps(rollouts):
            return
        if not self.in_place():
            step = self._steps(rollouts)
            raise MovedError(
                f"the run's folder was moved or removed while it trained; it stopped at step "
                f"{step:,} without saving it, and earlier checkpoints are in the moved folder"
            )
        extra: dict[str, Any] = {"restarts": self.experiment.runner.restarts()}
        extra["diverged"] = np.flatnonzero(self.diverged).tolist()
        with signals_held():
            self.checkpoints.save(self._steps(rollouts), state, metric=None, extra=extra)
            self.saved = self._steps(rollouts)
            if self.folder:
                save_policies(self.experiment, state, self.folder / "policy", self.saved)

    def _write_interval(
        self, state: TrainState, interval: IntervalMetrics, rollouts: int, seconds: float
    ) -> None:
        step = self._steps(self._rollouts_taken(state))
        with np.errstate(invalid="ignore"):  # 0 / 0: no episode ended, or no gradient step
            columns = {
                "env_steps": np.asarray(state.actor.env_steps),
                "gradient_steps": np.full(interval.updates.shape, state.learner.steps),
                "episodes": interval.episodes,
                "episode_return": interval.episode_return / interval.episodes,
                "episode_length": interval.episode_length / interval.episodes,
                **{name: total / interval.updates for name, total in interval.learn.items()},
            }
        if isinstance(state.env.visited, jax.Array):
            columns["coverage"] = np.asarray(state.env.visited.sum(axis=1))
        taken = self._steps(rollouts) * len(self.experiment.seeds)
        rates = {
            "steps_per_second": taken / seconds,
            "updates_per_second": float(interval.updates.sum()) / seconds,
        }
        report = self.experiment.runner.report()
        waits = {name: report.pop(name) for name in ("learner_waited", "actors_waited") if report}
        notes = [f"{name} {min(waited / seconds, 1):.0%}" for name, waited in waits.items()]
        notes += [f"{name} {times}" for name, times in report.items() if times]
        columns |= self._schedules(int(state.learner.steps), step)
        timing = {"seconds": seconds, **rates, **waits}
        rows = [
            {"kind": "train", "step": step, "seed": seed}
            | {name: values[i] for name, values in columns.items()}
            | {**report, "timing": timing}
            for i, seed in enumerate(self.experiment.seeds)
        ]
        self.log.write(self._rows(rows))
        if self._ends_warmup_only(self._rollouts_taken(state)):
            return  # the rates of a single rollout would give a wrong ETA
        self.progress.update(
            step,
            **rates,
            episode_return=columns["episode_return"],
            loss=columns["loss"],
            notes=[note.replace("_", " ") for note in notes],
        )

    def _schedules(self, gradient_steps: int, step: int) -> dict[str, np.ndarray]:
        """Return the current values [S] of the agent's schedules, such as the learning rate."""
        experiment = self.experiment
        found: dict[str, np.ndarray] = {}
        for (_, places), schedules in zip(experiment.groups, self.schedules, strict=True):
            for name, value in schedules.items():
                values = found.setdefault(name, np.empty(len(experiment.seeds)))
                values[places] = float(value(gradient_steps, step))
        return found

    def _stop_if_not_finite(
        self, state: TrainState, interval: IntervalMetrics, updates: int
    ) -> None:
        """Raise NotFiniteError if a loss or parameter is not finite.

        While other points of the run are finite, the learner is only marked as diverged.

        Args:
          state, interval: at the end of the interval.
          updates: gradient steps before the interval.
        """
        params = jax.device_get(_finite(state.learner.params))
        # The parameters may be NaN although the loss is finite; such a state is not saved either.
        healthy = np.logical_and.reduce([interval.finite, *jax.tree.leaves(params)])
        new = ~healthy & ~self.diverged
        self.diverged |= new
        for i in np.flatnonzero(new):
            words = self._not_finite(int(i), interval, updates, params)
            if len(self.experiment.groups) == 1 or self.diverged.all():
                kept = self.checkpoints.latest()
                rest = f"checkpoint {kept} is kept"
                raise NotFiniteError(
                    f"{words}; {'no checkpoint was written yet' if kept is None else rest}"
                )
            self.progress.message(f"{words}; the others continue")

    def _not_finite(self, i: int, interval: IntervalMetrics, updates: int, params: Any) -> str:
        """Return what is not finite of learner i; params: [S] bool, whether a leaf is finite."""
        leaves = jax.tree_util.tree_leaves_with_path(params)
        broken = [path for path, finite in leaves if not finite[i]]
        where = (
            f"first bad leaf params/{jax.tree_util.keystr(broken[0], simple=True, separator='/')}"
            if broken
            else "every parameter is still finite: the first bad leaf is the loss"
        )
        what = "network" if interval.finite[i] else "loss"
        step, point = updates + int(interval.updates[i]), self.experiment.points[i]
        who = f"seed {self.experiment.seeds[i]}" + (f" at {point_name(point)}" if point else "")
        return f"the {what} of {who} is not finite at gradient step {step} ({where})"


def next_stop(rollouts: int, period: int, steps_per_rollout: int) -> int:
    """Return the first stop after `rollouts`: the rollout nearest to a multiple of the period.

    Stops whose periods are multiples of each other therefore coincide and do not drift.

    Args:
      rollouts: 0 or more.
      period: environment steps, 1 or more; if it is shorter than a rollout, every rollout is one.
      steps_per_rollout: environment steps.
    """
    count = rollouts * steps_per_rollout // period
    while (stop := round(count * period / steps_per_rollout)) <= rollouts:
        count += 1
    return stop


def first_checkpoint(config: RunConfig) -> int:
    """Return the environment step of the first checkpoint of an uninterrupted run."""
    size = config.env.num_envs * config.rollout_length
    total, period = config.steps // size, config.checkpoint_every
    return size * (min(next_stop(0, period, size), total) if period else total)


@jax.jit
def _finite(tree: Any) -> Any:
    """Return whether each seed [S] has only finite numbers, leaf by leaf."""
    return jax.tree.map(lambda x: jnp.isfinite(x).all(axis=tuple(range(1, x.ndim))), tree)
