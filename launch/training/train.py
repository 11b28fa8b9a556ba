"""Start and resume a run: create its folder, build its parts, train, and write its policies."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from bellmax import UserError
from bellmax.launch.actors.ray_actor import make_ray_actors
from bellmax.launch.config.overrides import flatten
from bellmax.launch.config.points import point_name
from bellmax.launch.config.run_config import RunConfig, load, read_source, to_dict, to_yaml
from bellmax.launch.config.sentences import must, show
from bellmax.launch.distributed.files import make_folder, write_whole
from bellmax.launch.distributed.locks import locked
from bellmax.launch.distributed.processes import (
    distributed_guard,
    is_first,
    primary_folder,
    wait_for_all,
)
from bellmax.launch.distributed.ray_cluster import check, room_for
from bellmax.launch.reporting.loggers import Logger, check_loggers, open_loggers
from bellmax.launch.reporting.metrics import FILE, MetricsLog, read_metrics
from bellmax.launch.reporting.plot import plot_runs
from bellmax.launch.reporting.progress import Progress
from bellmax.launch.reporting.versions import all_versions
from bellmax.launch.runners.evaluation import row_score
from bellmax.launch.runners.train_state import TrainState
from bellmax.launch.training.checkpoints import Checkpoints
from bellmax.launch.training.experiment import Experiment, build, check_memory
from bellmax.launch.training.folders import (
    check_new,
    check_trains,
    emptied_on_failure,
    resume_command,
)
from bellmax.launch.training.loop import Session, first_checkpoint

# Keys that a resumed run may change: the saved state does not depend on them, except for rounding
# on `devices`.
RESUMABLE = (
    *("steps", "devices", "log_every", "evaluate_every", "evaluation_episodes"),
    *("evaluation_max_steps", "checkpoint_every", "keep_checkpoints"),
    *("tensorboard", "wandb", "loggers", "replay.memory_fraction"),
)
_CHECKPOINTS, _VERSIONS = "checkpoints", "versions.json"
# Versions on which the numbers of a run depend.
_WATCHED = ("bellmax", "jax", "jaxlib", "platform")


class Output(NamedTuple):
    """Outputs of a run in addition to its folder and the loggers of its configuration.

    shows_progress: whether progress is printed to standard output.
    loggers: (name, logger) of additional loggers.
    on_metrics, report: as in `MetricsLog`.
    written: called after every interval, when its rows and checkpoint are in the folder; may return
        a sentence for the user.
    renamed: (part of a sentence, what takes its place), such as the name of a temporary folder.
    """

    shows_progress: bool = True
    loggers: Sequence[tuple[str, Logger]] = ()
    on_metrics: Callable[[int, dict[str, float]], object] | None = None
    report: Callable[[str], object] | None = None
    written: Callable[[], str | None] = lambda: None
    renamed: tuple[str, str] = ("", "")

    def shown(self, sentence: str) -> str:
        """Return a sentence with the names that the user knows."""
        return sentence.replace(*self.renamed) if self.renamed[0] else sentence


TERMINAL = Output()


def train(
    config: RunConfig,
    out: Path,
    actors: str | None = None,
    output: Output = TERMINAL,
    *,
    continues: bool = False,
) -> int:
    """Train from scratch into the folder `out`; return the exit code.

    Args:
      config: the run's configuration.
      out: a new or empty folder.
      actors: where actors run: `ray` or `ray://HOST:PORT`; None is this process.
      output: outputs of the run besides its folder.
      continues: whether to resume a run that another process has started in `out` meanwhile.

    Raises:
      UserError: the folder is in use, or holds a run.
    """
    with _opened(out, config, actors) as opened, contextlib.ExitStack() as stack:
        # Building takes seconds, in which another process may have started a run there.
        if (out / "config.yaml").exists() and continues:
            return _continue(opened, out, output)
        check_new(out)
        wait_for_all("every process has looked at the new folder")  # before one writes there
        stack.enter_context(emptied_on_failure(opened.folder))
        write_whole(opened.folder / "config.yaml", to_yaml(config).encode())
        versions = json.dumps(all_versions(), indent=2) + "\n"
        write_whole(opened.folder / _VERSIONS, versions.encode())
        return _run(opened, out, None, [], output)


def check_resumable(run: Path, config: RunConfig) -> None:
    """Raise UserError if a configuration changes a key that a resumed run must keep."""
    check_trains(run)
    raw = read_source(run).mapping
    agent = raw.get("agent") if isinstance(raw, Mapping) else None
    if isinstance(agent, Mapping) and agent.get("name") != config.agent_name:
        # The other agent's code is not imported, because it may come from someone else.
        raise _cannot_change(run, "agent.name", agent.get("name"), config.agent_name)
    old, new = flatten(to_dict(load(run, trust=True))), flatten(to_dict(config))
    names = [*new, *(name for name in old if name not in new)]
    changed = [name for name in names if new.get(name) != old.get(name) and name not in RESUMABLE]
    if changed:
        # Another agent or task explains all other differences.
        key = next((name for name in ("agent.name", "env.name") if name in changed), changed[0])
        raise _cannot_change(run, key, old.get(key), new.get(key))


def _cannot_change(run: Path, key: str, old: Any, new: Any) -> UserError:
    hint = (
        f"a resumed run can change {', '.join(RESUMABLE)}, and `bellmax train` with another "
        "--out starts another run"
    )
    return UserError(must(key, f"{show(old)} as in {run}", new, hint=hint))


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
    with _opened(run, config, actors) as opened:
        return _continue(opened, run, output)


def _continue(opened: "_Opened", run: Path, output: Output) -> int:
    config = opened.experiment.config
    check_resumable(run, config)
    start, said = _start(opened.experiment, run)
    write_whole(opened.folder / "config.yaml", to_yaml(config).encode())
    return _run(opened, run, start, said, output)


class _Opened(NamedTuple):
    """The parts of a run, its locked folder, and messages for the user.

    folder: the folder to which this process writes everything except checkpoints.
    in_place: returns whether the run's folder is still in its place.
    """

    experiment: Experiment
    folder: Path
    in_place: Callable[[], bool]
    messages: list[str]


@contextlib.contextmanager
def _opened(run: Path, config: RunConfig, actors: str | None) -> Iterator[_Opened]:
    """Build the parts of a run and lock its folder."""
    check_loggers(config)
    if actors:
        check(actors, config)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_traced(config))
        experiment = build(config, make_actor=make_ray_actors(config) if actors else None)
        messages = [check_memory(experiment)]
        if actors:
            messages.append(stack.enter_context(room_for(actors, config.host.actors)))
        stack.enter_context(distributed_guard(lambda: resume_command(run)))
        folder = stack.enter_context(primary_folder(run))
        make_folder(folder)
        in_place = stack.enter_context(locked(folder, "training"))
        yield _Opened(experiment, folder, in_place, messages)


@contextlib.contextmanager
def _traced(config: RunConfig) -> Iterator[None]:
    """Say in a sentence if an agent needs to know a value that `vmap` traces."""
    try:
        yield
    except (jax.errors.ConcretizationTypeError, UserError) as error:
        # An agent's own check may refuse a traced value, and names it.
        asked = not isinstance(error, UserError) or "Tracer" in str(error)
        if not config.vmap or not asked:
            raise
        hint = "`bellmax sweep` trains a run for each value"
        allowed = "of numbers that no branch and no shape of this agent depends on"
        raise UserError(must("vmap", allowed, ", ".join(config.vmap), hint=hint)) from error


class _Start(NamedTuple):
    """The checkpoint from which a run continues.

    evaluated: [S], scores at that step, None if the log lacks them.
    """

    step: int
    state: TrainState
    evaluated: np.ndarray | None
    diverged: Sequence[int] = ()


def _start(experiment: Experiment, run: Path) -> tuple[_Start | None, list[str]]:
    """Return the latest checkpoint, None where there is none yet, and messages for the user."""
    keep = experiment.config.keep_checkpoints
    checkpoints = Checkpoints(run / _CHECKPOINTS, keep=keep, read_only=not is_first())
    if not checkpoints.steps() and not (run / "policy").exists():
        _check_never_saved(experiment, run)
        return None, [f"{run} has no checkpoint yet: starting at step 0"]
    step, state, warning = experiment.restore(checkpoints, None)
    runner = experiment.runner
    episodes = "" if runner.resumes_episodes else ", with new episodes"
    said = [f"resuming {run} at step {step:,}{episodes}", *([warning] if warning else [])]
    said += changed_versions(run)
    extra = checkpoints.extra(step)
    runner.resume_restarts(extra.get("restarts", {}))
    if step > experiment.config.steps:
        allowed = f"at least {step}, those that {run} has taken already"
        raise UserError(must("steps", allowed, experiment.config.steps))
    evaluated, diverged = _evaluated(experiment, run, step), extra.get("diverged", ())
    return _Start(step, state, evaluated, diverged), said


def _check_never_saved(experiment: Experiment, run: Path) -> None:
    """Raise UserError if the log shows that checkpoints were saved that are now missing."""
    if not (run / FILE).exists():
        return
    rows = read_metrics(run)
    last = max((row.get("step", 0) for row in rows), default=0)
    first_save = first_checkpoint(experiment.config)
    played = any(row["kind"] == "evaluation" and row.get("step", 0) >= first_save for row in rows)
    if rows and (not (run / _CHECKPOINTS).is_dir() or last > first_save or played):
        raise UserError(
            f"the checkpoints of {run} are gone, while its {FILE} goes to step {last:,}; put "
            f"{run / _CHECKPOINTS} back, or train in a new folder"
        )


def changed_versions(run: Path) -> list[str]:
    """Return a message about versions that changed since the run began; [] if none did."""
    try:
        before = json.loads((run / _VERSIONS).read_text())
        names = [name for name in _WATCHED if name in before]
    except (OSError, ValueError, TypeError):  # lost or damaged
        return []
    now = all_versions()
    changed = [f"{name} {before[name]}" for name in names if before[name] != now[name]]
    here = [f"{name} {now[name]}" for name in names if before[name] != now[name]]
    if not changed:
        return []
    return [
        f"the run began with {', '.join(changed)} and continues with {', '.join(here)}: its "
        "numbers may differ from those of an uninterrupted run"
    ]


def _evaluated(experiment: Experiment, run: Path, step: int) -> np.ndarray | None:
    """Return the scores [S] of the evaluation logged at a step; None if any is missing."""
    if not (run / FILE).exists():
        return None
    rows = [row for row in read_metrics(run) if row.get("step") == step]
    rows = [row for row in rows if row.get("kind") == "evaluation"]
    scores = {(r["seed"], *r.get("vmap", {}).values()): row_score(r) for r in rows}
    learners = zip(experiment.seeds, experiment.points, strict=True)
    found = [scores.get((seed, *point.values())) for seed, point in learners]
    return None if None in found else np.array(found)


def _run(opened: _Opened, run: Path, start: _Start | None, said: list[str], output: Output) -> int:
    """Train. All processes write checkpoints to `run`; other files go to `opened.folder`."""
    experiment, out, in_place, messages = opened
    config, resume_step = experiment.config, start.step if start else None
    if is_first():
        make_folder(run / _CHECKPOINTS)  # an empty folder shows that nothing was saved yet

    loggers = open_loggers(out, config, resume_step) if is_first() else []
    log = MetricsLog(
        out,
        loggers=[*loggers, *output.loggers],
        on_metrics=output.on_metrics,
        resume_step=resume_step,
        report=output.report,
    )
    keep = config.keep_checkpoints
    checkpoints = Checkpoints(run / _CHECKPOINTS, keep=keep, read_only=not is_first())
    silent = not (output.shows_progress and is_first())
    progress = Progress(config.steps, seeds=len(experiment.seeds), silent=silent)
    with log, progress, contextlib.closing(experiment):
        for message in [*messages, *said]:
            progress.message(output.shown(message))
        known: dict[str, Any] = {} if start is None else {"resume_step": start.step}
        if start is not None:
            known |= {"evaluated": start.evaluated, "diverged": start.diverged}
        session = Session(
            experiment,
            checkpoints,
            log,
            progress,
            in_place=in_place,
            folder=out,
            written=output.written,
            **known,
        )
        state = session.advance_to_end(start.state if start else experiment.init())
        scores = session.evaluate(state)
        what, form = ("return", ".1f") if experiment.agent.score is None else ("objective", ".3g")
        for point, places in experiment.groups:
            each = ", ".join(f"{value:{form}}" for value in scores[places])
            where = f" at {point_name(point)}" if point else ""
            mean = scores[places].mean()
            progress.message(f"evaluation {what} {mean:{form}}{where} ({each} by seed)")
        curves = plot_runs([out])
        log.write_file(session.total_steps, "curve", curves[0])
        places = f"curve: {curves[0]}\npolicy: {out / 'policy'}\nrun: {out}"
        progress.message(output.shown(places))
    return 0
