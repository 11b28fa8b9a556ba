"""The commands of `bellmax`: their options and functions. Each imports its parts when it runs."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bellmax import UserError, must
from bellmax.envs.options import unknown
from bellmax.launch.cli import options as command_options
from bellmax.launch.cli import sharing, tuning
from bellmax.launch.cli.places import Place, folder_to_play, folder_to_train
from bellmax.launch.config.yaml_files import is_unicode
from bellmax.launch.distributed.remote import check_local
from bellmax.launch.distributed.signals import interruptible
from bellmax.launch.training.folders import (
    check_new,
    check_steps,
    check_writable,
    is_finished,
    resume_command,
    run_folder,
)

if TYPE_CHECKING:
    from bellmax.launch.config.run_config import RunConfig
    from bellmax.launch.training.train import Output


class Command(NamedTuple):
    """A command.

    options: dataclass of its options. run: takes an instance of `options`; returns the exit code.
    overrides: whether configuration overrides (`--key value`) follow, as second argument of `run`.
    """

    options: type
    run: Callable[..., int]
    overrides: bool = False


def _train(arguments: command_options.Train, overrides: Sequence[str]) -> int:
    if arguments.resume and not arguments.out:
        raise UserError(
            must("--out", "the folder of the run to continue", "nothing", "give --out DIR")
        )
    if not arguments.out:
        return _train_in_new_folder(arguments, overrides)
    with folder_to_train(arguments.out, arguments.coordinator) as (out, output):
        check_writable(out)
        if arguments.resume and (out / "config.yaml").exists():
            return _continue(out, arguments.source, arguments, overrides, output)
        check_new(out)
        config = _load(arguments, arguments.source, overrides)
        return _train_in(out, config, arguments, output)


def _train_in_new_folder(arguments: command_options.Train, overrides: Sequence[str]) -> int:
    check_writable(Path("runs"))
    config = _load(arguments, arguments.source, overrides)
    out = make_default_folder(arguments.source)
    try:
        return _train_in(out, config, arguments)
    finally:  # a run that was refused leaves no folder
        with contextlib.suppress(OSError):
            out.rmdir()
            out.parent.rmdir()


def _train_in(
    out: Path,
    config: "RunConfig",
    arguments: command_options.Train,
    output: "Output | None" = None,
) -> int:
    _configure_jax(deterministic=arguments.deterministic)
    _join_processes(arguments)
    from bellmax.launch.training.train import train

    with interruptible(lambda: _how_to_continue(out)):
        report = {} if output is None else {"output": output}
        return train(config, out, arguments.actors, continues=arguments.resume, **report)


def _resume(arguments: command_options.Resume, overrides: Sequence[str]) -> int:
    with folder_to_train(arguments.run, arguments.coordinator) as (folder, output):
        run = run_folder(str(folder))
        check_writable(run)
        return _continue(run, str(run), arguments, overrides, output)


def _continue(
    run: Path,
    source: str,
    arguments: command_options.Train | command_options.Resume,
    overrides: Sequence[str],
    output: "Output | None",
) -> int:
    """Resume a run with the configuration of `source` and the overrides."""
    from bellmax.launch.config.options import read_overrides

    check_steps(run, read_overrides(overrides).get("steps"))
    config = _load(arguments, source, overrides)
    if is_finished(run, config.steps, config.env.num_envs * config.rollout_length):
        name = output.shown(str(run)) if output else run
        print(f"{name} has taken its {config.steps:,} steps already; raise --steps to train on")
        sys.stdout.flush()
    _configure_jax(deterministic=arguments.deterministic)
    _join_processes(arguments)
    from bellmax.launch.training.train import resume

    with interruptible(lambda: _how_to_continue(run)):
        report = {} if output is None else {"output": output}
        return resume(run, config, arguments.actors, **report)


def _sweep(arguments: command_options.Sweep, overrides: Sequence[str]) -> int:
    if not arguments.out:
        raise UserError(must("--out", "the folder of the sweep", "nothing", "give --out DIR"))
    check_local(arguments.out, "--out")
    out = Path(arguments.out)
    check_writable(out, "the folder of a sweep")
    from bellmax.launch.studies.sweep.jobs import sweep

    return sweep(arguments.source, out, overrides, arguments.jobs, trust=arguments.trust)


def _evaluate(arguments: command_options.Evaluate) -> int:
    with folder_to_play(arguments.run) as place:
        return _evaluate_in(place.folder, arguments)


def _evaluate_in(run: Path, arguments: command_options.Evaluate) -> int:
    if arguments.robust:
        return _evaluate_robust(arguments, run)
    for name in ("box", "parameter", "points", "upper_end", "out"):
        if value := getattr(arguments, name):
            option = f"--{name.replace('_', '-')}"
            raise UserError(must(option, "left out without --robust", value))
    _configure_jax()
    from bellmax.launch.studies.evaluate import as_json, describe_evaluation, evaluate_run

    episodes = arguments.episodes or 100
    which = arguments.checkpoint, arguments.seed
    found = evaluate_run(run, episodes, *which, trust=arguments.trust)
    lines = [json.dumps(as_json(found))] if arguments.json else describe_evaluation(found)
    print("\n".join(lines))
    return 0


def _evaluate_robust(arguments: command_options.Evaluate, run: Path) -> int:
    from bellmax.launch.config.boxes import own_box

    for name in ("seed", "json"):
        if getattr(arguments, name) not in (None, False):
            raise UserError(f"--{name} and --robust exclude each other")
    if arguments.parameter and arguments.box:
        hint = "--parameter makes a box of your own"
        raise UserError(must("--box", "left out with --parameter", arguments.box, hint))
    box = own_box(arguments.parameter) if arguments.parameter else arguments.box or "2d"
    _configure_jax()
    from bellmax.launch.studies.robust.report import robust_run

    return robust_run(
        run,
        box,
        points=arguments.points or 10,
        upper_end=arguments.upper_end or "included",
        episodes=arguments.episodes or 10,
        checkpoint=arguments.checkpoint,
        trust=arguments.trust,
        out=_path(arguments.out),
    )


def _record(arguments: command_options.Record) -> int:
    with folder_to_play(arguments.run) as place:
        return _record_in(place, arguments)


def _record_in(place: Place, arguments: command_options.Record) -> int:
    run, out = place.folder, _path(arguments.out)
    check_writable(out.parent if out else run, "the folder of a video")
    _configure_jax()
    from bellmax.launch.studies.record import record_run

    record_run(
        run,
        episodes=arguments.episodes,
        checkpoint=arguments.checkpoint,
        seed=arguments.seed,
        out=out,
        fps=arguments.fps,
        max_steps=arguments.max_steps,
        log=arguments.log,
        trust=arguments.trust,
        say=lambda sentence: print(place.shown(sentence)),
    )
    return 0


def _plot(arguments: command_options.Plot) -> int:
    with contextlib.ExitStack() as stack:
        places = [stack.enter_context(folder_to_play(run)) for run in arguments.runs]
        return _plot_in(places, arguments)


def _plot_in(places: list[Place], arguments: command_options.Plot) -> int:
    from bellmax.launch.reporting.plot import plot_runs
    from bellmax.launch.reporting.plot_options import read_look

    metric = {"metric": arguments.metric} if arguments.metric else {}
    look = read_look(
        title=arguments.title,
        labels=arguments.labels,
        size=arguments.size,
        limits=arguments.range,
        smoothing=arguments.smoothing,
        group=arguments.group,
        pdf=arguments.pdf,
        log_scale=arguments.log_scale,
    )
    runs = [place.folder for place in places]
    for path in plot_runs(runs, _path(arguments.out), look=look, **metric):
        print(places[0].shown(str(path)))
    return 0


def _merge(arguments: command_options.Merge) -> int:
    if not arguments.out:
        raise UserError("name the folder of the merged policy with --out DIR")
    check_local(arguments.out, "--out")
    runs, out = [run_folder(run) for run in arguments.runs], Path(arguments.out)
    if len(runs) < 2:
        raise UserError(must("RUN", "given twice or more", runs[0], "`bellmax merge A B`"))
    start = run_folder(arguments.start) if arguments.start else None
    if start is None and (arguments.method == "spherical" or arguments.eta is not None):
        what = "--eta" if arguments.eta is not None else "--method spherical"
        raise UserError(f"{what} needs --start RUN, the run from which the others started")
    check_writable(out)
    check_new(out)
    _configure_jax()
    from bellmax.launch.studies.merge import merge_runs

    eta = 1.0 if arguments.eta is None else arguments.eta
    options = {"method": arguments.method, "eta": eta, "checkpoint": arguments.checkpoint}
    print("\n".join(merge_runs(runs, out, start=start, trust=arguments.trust, **options)))
    return 0


def _list(arguments: command_options.List) -> int:
    from bellmax import envs
    from bellmax.agents import registry
    from bellmax.launch.cli.descriptions import describe_names
    from bellmax.launch.config.run_config import list_presets

    kinds = {"agents": registry.names, "envs": envs.list_names, "presets": list_presets}
    names = kinds[arguments.kind]()
    words = describe_names(arguments.kind, names)
    width = max(map(len, names))
    print("\n".join(f"{name:<{width}}  {words[name]}".rstrip() for name in names))
    return 0


def _show_config(arguments: command_options.ShowConfig, overrides: Sequence[str]) -> int:
    from bellmax.launch.config.run_config import load, to_yaml

    config = load(arguments.source, overrides, trust=arguments.trust)
    print(to_yaml(config, unicode=is_unicode(sys.stdout)), end="")
    return 0


def _schema(arguments: command_options.Schema) -> int:
    from bellmax.agents import registry
    from bellmax.launch.config.run_config import json_schema, list_presets, load

    agent, presets = arguments.name, list_presets()
    if agent in presets:
        agent = load(agent).agent_name
    if not registry.is_known(agent):
        choices = [*registry.names(), *presets]
        raise unknown("agent or preset", arguments.name, choices, registry.names())
    print(json.dumps(json_schema(agent), indent=2, allow_nan=False))
    return 0


def _check_env(arguments: command_options.CheckEnv, overrides: Sequence[str]) -> int:
    from bellmax import envs
    from bellmax.launch.config.options import read_overrides
    from bellmax.launch.config.run_config import load
    from bellmax.launch.distributed.devices import check_platform

    check_platform()
    for key in read_overrides(overrides):
        if not key.startswith("env.options."):
            taken = "an option of the task, --env.options.NAME VALUE"
            raise UserError(f"check-env takes {taken}, got --{key.replace('_', '-')}")
    options = load("dqn", [f"--env.name={arguments.name}", *overrides]).env.options
    problems = envs.check_env(arguments.name, **options)
    print("\n".join(problems or [f"{arguments.name}: nothing wrong found"]))
    if not problems:
        print("\n".join(envs.describe_spaces(arguments.name, **options)))
    return 1 if problems else 0


def _doctor(arguments: command_options.Doctor) -> int:
    from bellmax.launch.cli.doctor import doctor

    lines, code = doctor()
    print("\n".join(lines))
    return code


def _path(name: str | None) -> Path | None:
    check_local(name or "", "--out")
    return Path(name) if name else None


def _configure_jax(*, deterministic: bool = False) -> None:
    from bellmax.launch.distributed.devices import configure_jax

    configure_jax(deterministic=deterministic)


def _load(
    arguments: command_options.Train | command_options.Resume, source: str, overrides: Sequence[str]
) -> "RunConfig":
    """Return the configuration of a run, with the loggers that the command adds."""
    from bellmax.launch.config.run_config import load

    return load(source, overrides, trust=arguments.trust, loggers=arguments.logger)


def _join_processes(arguments: command_options.Where) -> None:
    if arguments.actors and arguments.coordinator:
        hint = "Ray actors work for a run of one process"
        raise UserError(must("--actors", "left out with --coordinator", arguments.actors, hint))
    from bellmax.launch.distributed.processes import join_processes

    join_processes(arguments.coordinator, arguments.processes, arguments.process)


def _how_to_continue(run: Path) -> str:
    if (run / "config.yaml").is_file():
        return f"the last checkpoint is kept: `{resume_command(run)}` continues from it"
    return "nothing was written yet"


def make_default_folder(source: str) -> Path:
    """Make and return the folder runs/SOURCE-DATE-TIME; a number follows if it exists."""
    path = Path(source)
    named = path.parent if path.name == "config.yaml" else path.with_suffix("")
    is_file = path.is_absolute() or path.suffix in (".yaml", ".yml")
    name = named.name if is_file else source.strip("/").replace("/", "-")
    first = Path("runs") / f"{name or 'run'}-{time.strftime('%Y%m%d-%H%M%S')}"
    candidates = [first, *(first.with_name(f"{first.name}-{n}") for n in range(2, 1000))]
    return next(filter(_make_new_folder, candidates), first)


def _make_new_folder(folder: Path) -> bool:
    """Make a folder; return False if it exists: another process may have just made it."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return False
    return True


COMMANDS = {
    "train": Command(command_options.Train, _train, overrides=True),
    "resume": Command(command_options.Resume, _resume, overrides=True),
    "sweep": Command(command_options.Sweep, _sweep, overrides=True),
    "tune": Command(command_options.Tune, tuning.tune, overrides=True),
    "evaluate": Command(command_options.Evaluate, _evaluate),
    "record": Command(command_options.Record, _record),
    "plot": Command(command_options.Plot, _plot),
    "merge": Command(command_options.Merge, _merge),
    "export": Command(command_options.Export, sharing.export),
    "push": Command(command_options.Push, sharing.push),
    "pull": Command(command_options.Pull, sharing.pull),
    "list": Command(command_options.List, _list),
    "show-config": Command(command_options.ShowConfig, _show_config, overrides=True),
    "schema": Command(command_options.Schema, _schema),
    "check-env": Command(command_options.CheckEnv, _check_env, overrides=True),
    "doctor": Command(command_options.Doctor, _doctor),
}
