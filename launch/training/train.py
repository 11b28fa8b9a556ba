"""Start and resume a run: create its folder, build its parts, train, and write its policies."""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bellmax import UserError
from bellmax.launch.actors.ray_actor import make_ray_actors
from bellmax.launch.config.overrides import flatten
from bellmax.launch.config.run_config import RunConfig, load, to_dict, to_yaml
from bellmax.launch.config.sentences import must, show
from bellmax.launch.distributed.files import write_whole
from bellmax.launch.distributed.locks import locked
from bellmax.launch.distributed.processes import is_first, together, writable
from bellmax.launch.distributed.ray_cluster import check, room_for
from bellmax.launch.reporting.loggers import Logger, check_loggers, open_loggers
from bellmax.launch.reporting.metrics import FILE, MetricsLog, read_metrics
from bellmax.launch.reporting.plot import plot_runs
from bellmax.launch.reporting.progress import Progress
from bellmax.launch.reporting.versions import all_versions
from bellmax.launch.runners.train_state import TrainState
from bellmax.launch.training.checkpoints import Checkpoints
from bellmax.launch.training.experiment import Experiment, build, check_memory
from bellmax.launch.training.folders import check_trains
from bellmax.launch.training.loop import Session
from bellmax.launch.training.policy import save_policies

# Keys that a resumed run may change. The state and the steps taken so far do not depend on them,
# except for rounding (devices).
RESUMABLE = ("steps", "devices", "keep_checkpoints", "tensorboard", "wandb", "loggers")


class Output(NamedTuple):
    """Outputs of a run in addition to its folder and the loggers of its configuration.

    shows_progress: whether progress is printed to standard output.
    loggers: (name, logger) of additional loggers.
    on_metrics, report: as in `MetricsLog`.
    """

    shows_progress: bool = True
    loggers: Sequence[tuple[str, Logger]] = ()
    on_metrics: Callable[[int, dict[str, float]], object] | None = None
    report: Callable[[str], object] | None = None


TERMINAL = Output()


def train(
    config: RunConfig, out: Path, actors: str | None = None, output: Output = TERMINAL
) -> int:
    """Train from scratch into the folder `out`; return the exit code.

    Args:
      config: configuration of the run.
      out: a new or empty folder.
      actors: where actors of host environments run: `ray` or `ray://HOST:PORT`; None is this
        process.
      output: outputs in addition to the folder.
    """
    with _opened(out, config, actors) as (experiment, folder, messages):
        write_whole(folder / "config.yaml", to_yaml(config).encode())
        versions = json.dumps(all_versions(), indent=2) + "\n"
        write_whole(folder / "versions.json", versions.encode())
        return _run(experiment, out, folder, None, messages, output)


def check_resumable(run: Path, config: RunConfig) -> None:
    """Raise UserError if a configuration changes a key that a resumed run must keep."""
    check_trains(run)
    old, new = flatten(to_dict(load(run))), flatten(to_dict(config))
    names = [*new, *(name for name in old if name not in new)]
    changed = [name for name in names if new.get(name) != old.get(name) and name not in RESUMABLE]
    if changed:
        # Another agent or task explains all other differences.
        key = next((name for name in ("agent.name", "env.name") if name in changed), changed[0])
        hint = (
            f"a resumed run can change {', '.join(RESUMABLE)}, and `bellmax train` with another "
            "--out starts another run"
        )
        raise UserError(must(key, f"{show(old.get(key))} as in {run}", new.get(key), hint=hint))


def resume(
    run: Path, config: RunConfig, actors: str | None = None, output: Output = TERMINAL
) -> int:
    """Continue a run from its newest intact checkpoint; return the exit code.

    A run that stopped before its first checkpoint starts again.

    Args:
      run: the run's folder.
      config: configuration of the run from here on.
      actors, output: as in `train`.

    Raises:
      UserError: `config` changes a key that must stay, or every checkpoint is damaged.
    """
    check_resumable(run, config)
    with _opened(run, config, actors) as (experiment, folder, messages):
        start, said = _start(experiment, run)
        write_whole(folder / "config.yaml", to_yaml(config).encode())
        return _run(experiment, run, folder, start, [*messages, *said], output)


@contextlib.contextmanager
def _opened(
    run: Path, config: RunConfig, actors: str | None
) -> Iterator[tuple[Experiment, Path, list[str]]]:
    """Build an experiment, lock the run's folder, and yield both with messages for the user."""
    check_loggers(config)
    if actors:
        check(actors, config)
    experiment = build(config, make_actor=make_ray_actors(config) if actors else None)
    messages = [check_memory(experiment)]
    with contextlib.ExitStack() as stack:
        if actors:
            messages.append(stack.enter_context(room_for(actors, config.host.actors)))
        stack.enter_context(together(run))
        folder = stack.enter_context(writable(run))
        folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(locked(folder, "training"))
        yield experiment, folder, messages


class _Start(NamedTuple):
    """Where a run continues; evaluated: [S], the mean returns there if the log has them."""

    step: int
    state: TrainState
    evaluated: np.ndarray | None


def _start(experiment: Experiment, run: Path) -> tuple[_Start | None, list[str]]:
    """Return the latest checkpoint, None where there is none yet, and messages for the user."""
    keep = experiment.config.keep_checkpoints
    checkpoints = Checkpoints(run / "checkpoints", keep=keep, read_only=not is_first())
    if not checkpoints.steps() and not (run / "policy").exists():
        return None, [f"{run} has no checkpoint yet: starting at step 0"]
    step, state, warning = experiment.restore(checkpoints, None)
    runner = experiment.runner
    episodes = "" if runner.resumes_episodes else ", with new episodes"
    said = [f"resuming {run} at step {step:,}{episodes}", *([warning] if warning else [])]
    runner.resume_restarts(checkpoints.extra(step).get("restarts", {}))
    if step > experiment.config.steps:
        allowed = f"at least {step}, those that {run} has taken already"
        raise UserError(must("steps", allowed, experiment.config.steps))
    return _Start(step, state, _evaluated(experiment, run, step)), said


def _evaluated(experiment: Experiment, run: Path, step: int) -> np.ndarray | None:
    """Return the mean returns [S] of the evaluation logged at a step; None if any is missing."""
    if not (run / FILE).exists():
        return None
    rows = [row for row in read_metrics(run) if row.get("step") == step]
    returns = {r["seed"]: r["episode_return"] for r in rows if r.get("kind") == "evaluation"}
    found = [returns.get(seed) for seed in experiment.seeds]
    return None if None in found else np.array(found)


def _run(
    experiment: Experiment,
    run: Path,
    out: Path,
    start: _Start | None,
    messages: list[str],
    output: Output,
) -> int:
    """Train. All processes write checkpoints to `run`; each writes other files to its own `out`."""
    config, resume_step = experiment.config, start.step if start else None
    loggers = open_loggers(out, config, resume_step) if is_first() else []
    log = MetricsLog(
        out,
        loggers=[*loggers, *output.loggers],
        on_metrics=output.on_metrics,
        resume_step=resume_step,
        report=output.report,
    )
    keep = config.keep_checkpoints
    checkpoints = Checkpoints(run / "checkpoints", keep=keep, read_only=not is_first())
    silent = not (output.shows_progress and is_first())
    progress = Progress(config.steps, seeds=config.seeds, silent=silent)
    with log, progress, contextlib.closing(experiment):
        for message in messages:
            progress.message(message)
        known = {"resume_step": start.step, "evaluated": start.evaluated} if start else {}
        session = Session(experiment, checkpoints, log, progress, **known)
        state = session.advance_to_end(start.state if start else experiment.init())
        folder = save_policies(experiment, state, out)
        returns = session.evaluate(state)
        each = ", ".join(f"{value:.1f}" for value in np.atleast_1d(returns))
        progress.message(f"evaluation return {returns.mean():.1f} ({each} by seed)")
        curves = plot_runs([out])
        progress.message(f"curve: {curves[0]}\npolicy: {folder}\nrun: {out}")
    return 0
