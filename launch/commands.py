"""The commands of `bellmax`: what each takes and does. Each imports what it needs when it runs."""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from bellmax import UserError
from bellmax.launch.schema import nearest, unknown
from bellmax.launch.signals import interruptible
from bellmax.launch.values import show


class Command(NamedTuple):
    """run: takes the parsed arguments; add: declares them; overrides: takes --key value too."""

    help: str
    run: Callable[[argparse.Namespace], int]
    add: Callable[[argparse.ArgumentParser], Any]
    overrides: bool = False


def _train(arguments: argparse.Namespace) -> int:
    if arguments.resume and not arguments.out:
        raise UserError("--resume needs --out DIR, the folder of the run to go on with")
    out = Path(arguments.out) if arguments.out else _default_folder(arguments.source)
    _check_writable(out)
    if (out / "config.yaml").exists():
        if arguments.resume:
            return _go_on(out, arguments.source, arguments)
        raise UserError(f"{out} holds a run already; continue it with `bellmax resume {out}`")
    # A kill while the configuration is written leaves half of it; a job started again goes on.
    if out.is_dir() and any(path.name != "config.yaml.tmp" for path in out.iterdir()):
        raise UserError(f"{out} is not empty; name a new folder with --out")
    _configure_jax(arguments)
    from bellmax.launch.config import load

    config = load(arguments.source, arguments.overrides)
    _join_processes(arguments)
    from bellmax.launch.train import train

    with interruptible(lambda: _how_to_go_on(out)):
        return train(config, out, arguments.actors)


def _resume(arguments: argparse.Namespace) -> int:
    run = run_folder(arguments.run)
    _check_writable(run)
    return _go_on(run, str(run), arguments)


def _go_on(run: Path, source: str, arguments: argparse.Namespace) -> int:
    """Resumes a run as `source` and the overrides have it."""
    _configure_jax(arguments)
    from bellmax.launch.config import load

    config = load(source, arguments.overrides)
    _join_processes(arguments)
    from bellmax.launch.train import resume

    with interruptible(lambda: _how_to_go_on(run)):
        return resume(run, config, arguments.actors)


def _sweep(arguments: argparse.Namespace) -> int:
    if not arguments.out:
        raise UserError("name the folder of the sweep with --out DIR")
    out = Path(arguments.out)
    _check_writable(out, "the folder of a sweep")
    from bellmax.launch.sweep import sweep

    return sweep(arguments.source, out, arguments.overrides, arguments.jobs)


def _evaluate(arguments: argparse.Namespace) -> int:
    run, checkpoint = run_folder(arguments.run), _checkpoint(arguments.checkpoint)
    episodes = arguments.episodes
    if episodes is None:
        episodes = 10 if arguments.robust else 100
    _check_range("--episodes", episodes, 65536)
    if arguments.robust:
        return _evaluate_robust(arguments, run, episodes, checkpoint)
    for name in ("box", "parameter", "points", "upper_end", "out"):
        if getattr(arguments, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} needs --robust")
    _configure_jax(arguments)
    from bellmax.launch.evaluate import evaluate_run

    return evaluate_run(run, episodes, checkpoint)


def _evaluate_robust(
    arguments: argparse.Namespace, run: Path, episodes: int, checkpoint: str | int
) -> int:
    from bellmax.launch.uncertainty import UPPER_ENDS, check_points, own_box

    box, points = arguments.box or "2d", 10 if arguments.points is None else arguments.points
    if arguments.parameter and arguments.box:
        raise UserError("--box and --parameter exclude each other: a published box, or your own")
    upper_end = arguments.upper_end or "included"
    if upper_end not in UPPER_ENDS:
        raise unknown("--upper-end", upper_end, UPPER_ENDS)
    check_points(points)  # before a run is read and jax is there
    if arguments.parameter:
        box = own_box(arguments.parameter)
    _configure_jax(arguments)
    from bellmax.launch.robust_report import robust_run

    return robust_run(
        run,
        box,
        points=points,
        upper_end=upper_end,
        episodes=episodes,
        checkpoint=checkpoint,
        out=Path(arguments.out) if arguments.out else None,
    )


def _record(arguments: argparse.Namespace) -> int:
    run, checkpoint = run_folder(arguments.run), _checkpoint(arguments.checkpoint)
    _check_range("--episodes", arguments.episodes, 65536)
    if arguments.max_steps is not None:
        _check_range("--max-steps", arguments.max_steps, 2**31 - 1)
    out = Path(arguments.out) if arguments.out else None
    _check_writable(out.parent if out else run, "the folder of a video")
    _configure_jax(arguments)
    from bellmax.launch.record import record_run

    return record_run(
        run,
        episodes=arguments.episodes,
        checkpoint=checkpoint,
        seed=arguments.seed,
        out=out,
        fps=arguments.fps,
        max_steps=arguments.max_steps,
    )


def _plot(arguments: argparse.Namespace) -> int:
    runs = [run_folder(run) for run in arguments.runs]
    from bellmax.launch.plot import plot_runs

    metric = {"metric": arguments.metric} if arguments.metric else {}
    for path in plot_runs(runs, Path(arguments.out) if arguments.out else None, **metric):
        print(path)
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from bellmax import envs
    from bellmax.agents import registry
    from bellmax.launch.config import list_presets

    kinds = {"agents": registry.names, "envs": envs.list_names, "presets": list_presets}
    if arguments.kind not in kinds:
        raise unknown("kind of list", arguments.kind, kinds)
    print("\n".join(kinds[arguments.kind]()))
    return 0


def _show_config(arguments: argparse.Namespace) -> int:
    from bellmax.launch.config import load, to_yaml

    print(to_yaml(load(arguments.source, arguments.overrides)), end="")
    return 0


def _check_env(arguments: argparse.Namespace) -> int:
    from bellmax import envs

    problems = envs.check_env(arguments.name)
    print("\n".join(problems) if problems else f"{arguments.name}: nothing wrong found")
    return 1 if problems else 0


def _doctor(arguments: argparse.Namespace) -> int:
    from bellmax.launch.doctor import doctor

    lines, code = doctor()
    print("\n".join(lines))
    return code


def _configure_jax(arguments: argparse.Namespace) -> None:
    from bellmax.launch.devices import configure_jax

    configure_jax(deterministic=getattr(arguments, "deterministic", False))


def _join_processes(arguments: argparse.Namespace) -> None:
    if arguments.actors and arguments.coordinator:
        raise UserError("--actors is for a run of one process: leave out --coordinator")
    from bellmax.launch.processes import join_processes

    join_processes(arguments.coordinator, arguments.processes, arguments.process)


def _how_to_go_on(run: Path) -> str:
    if (run / "config.yaml").is_file():
        return f"the last checkpoint is kept: `bellmax resume {run}` continues from it"
    return "nothing was written yet"


def _default_folder(source: str) -> Path:
    path = Path(source)
    named = path.parent if path.name == "config.yaml" else path.with_suffix("")
    is_file = path.is_absolute() or path.suffix in (".yaml", ".yml")
    name = named.name if is_file else source.strip("/").replace("/", "-")
    first = Path("runs") / f"{name or 'run'}-{time.strftime('%Y%m%d-%H%M%S')}"
    candidates = [first, *(first.with_name(f"{first.name}-{n}") for n in range(2, 1000))]
    return next((path for path in candidates if not path.exists()), first)


def _checkpoint(name: str) -> str | int:
    """What --checkpoint says."""
    if name in ("latest", "best"):
        return name
    if not name.isdecimal():
        raise UserError(f"--checkpoint must be latest, best or a step, got {show(name)}")
    return int(name)


def _check_range(option: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise UserError(f"{option} must be an integer in [1, {most}], got {value}")


def _check_writable(folder: Path, role: str = "a run folder") -> None:
    """Refuses a folder that cannot be made or written, without making it."""
    try:
        folder.exists()
    except OSError as error:  # a name that is too long
        raise UserError(f"{folder} cannot be {role}: {error.strerror}") from None
    there = next(p for p in [folder, *folder.absolute().parents] if os.path.lexists(p))
    if not there.is_dir():
        raise UserError(f"{folder} cannot be {role}: {there} is not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{folder} cannot be written: no permission to write in {there}")


def run_folder(name: str) -> Path:
    """Returns the folder of a run; UserError if there is none of that name."""
    run = Path(name)
    if run.is_dir() and (run / "config.yaml").is_file():
        return run
    if run.is_dir():
        raise UserError(f"{run} is not a run: it has no config.yaml")
    parent = run.parent
    siblings = [str(path) for path in parent.iterdir()] if parent.is_dir() else []
    near = nearest(name, siblings)
    raise UserError(f"there is no run {run}" + (f"; did you mean {near}?" if near else ""))


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="PRESET|FILE", help="a preset's name or a YAML file")


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="the folder of a run")


def _add_deterministic(parser: argparse.ArgumentParser) -> None:
    text = "use deterministic GPU operations only: bitwise repeatable, slower"
    parser.add_argument("--deterministic", action="store_true", help=text)


def _add_actors(parser: argparse.ArgumentParser) -> None:
    text = "processes of Ray step the environments: ray on this machine, or ray://HOST:PORT"
    parser.add_argument("--actors", metavar="ADDRESS", help=text)


def _add_processes(parser: argparse.ArgumentParser) -> None:
    text = "this is one of several processes: ADDRESS:PORT of the first, or auto in a cluster"
    parser.add_argument("--coordinator", metavar="ADDRESS", help=text)
    text = "how many processes there are"
    parser.add_argument("--processes", type=int, metavar="N", help=text)
    text = "which of them this is, from 0"
    parser.add_argument("--process", type=int, metavar="I", help=text)


def _add_train(parser: argparse.ArgumentParser) -> None:
    _add_source(parser)
    text = "folder of the run; default: runs/PRESET-DATE-TIME"
    parser.add_argument("--out", metavar="DIR", help=text)
    text = "go on with the run in DIR if there is one: for jobs that are started again"
    parser.add_argument("--resume", action="store_true", help=text)
    _add_deterministic(parser)
    _add_processes(parser)
    _add_actors(parser)


def _add_resume(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    _add_deterministic(parser)
    _add_processes(parser)
    _add_actors(parser)


def _add_sweep(parser: argparse.ArgumentParser) -> None:
    _add_source(parser)
    text = "folder of the sweep; one that was started before is gone on with"
    parser.add_argument("--out", metavar="DIR", help=text)
    text = "runs at once on this machine, ray, or ray://HOST:PORT for a cluster; default: 1"
    parser.add_argument("--jobs", default="1", metavar="N", help=text)


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    text = "a seed, default: 100; with --robust a cell and seed, default: 10"
    parser.add_argument("--episodes", type=int, metavar="N", help=text)
    text = "latest (default), best, or a step"
    parser.add_argument("--checkpoint", default="latest", metavar="WHICH", help=text)
    text = "play on a grid of perturbed tasks: mean, worst case and CVaR over its cells"
    parser.add_argument("--robust", action="store_true", help=text)
    text = "a published uncertainty box of the task: 1d, 2d (default), 3d, ..."
    parser.add_argument("--box", metavar="NAME", help=text)
    text = "a range of your own in the place of --box, such as torso_mass=0.1,3; 1 to 3 of them"
    parser.add_argument("--parameter", action="append", metavar="NAME=LOW,HIGH", help=text)
    text = "of the grid, of each parameter, 2 or more; default: 10"
    parser.add_argument("--points", type=int, metavar="N", help=text)
    text = "included (default): both ends are points, as M2TD3's code has it; excluded: the upper "
    text += "one is none, as in that of RRLS"
    parser.add_argument("--upper-end", metavar="WHICH", help=text)
    text = "table and pictures of --robust, suffix aside; default: RUN/robust-BOX"
    parser.add_argument("--out", metavar="FILE", help=text)


def _add_record(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument("--episodes", type=int, default=1, metavar="N", help="default: 1")
    text = "latest (default), best, or a step"
    parser.add_argument("--checkpoint", default="latest", metavar="WHICH", help=text)
    text = "of the learner; default: the run's first"
    parser.add_argument("--seed", type=int, metavar="SEED", help=text)
    text = "a .gif or an .mp4, both with the extra `video`; default: RUN/episodes.gif"
    parser.add_argument("--out", metavar="FILE", help=text)
    text = "pictures a second; default: 30, and 10 for tasks that show boards or screens"
    parser.add_argument("--fps", type=int, metavar="N", help=text)
    text = "environment steps after which an episode is cut; default: as in evaluations of the run"
    parser.add_argument("--max-steps", type=int, metavar="N", help=text)


def _add_plot(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+", help="folders of runs")
    text = "file to write, suffix aside; default: RUN/curve, or curves for several runs"
    parser.add_argument("--out", metavar="FILE", help=text)
    text = "column of the evaluations or of the training log; default: episode_return"
    parser.add_argument("--metric", metavar="NAME", help=text)


def _add_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", metavar="agents|envs|presets")


def _add_check_env(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="suite/Task or module.path:factory")


COMMANDS = {
    "train": Command("Train an agent: a preset or file, then overrides.", _train, _add_train, True),
    "resume": Command("Continue a run exactly where it stopped.", _resume, _add_resume, True),
    "sweep": Command("Train all combinations of values: --seed 0,1.", _sweep, _add_sweep, True),
    "evaluate": Command("Play a trained agent without exploration.", _evaluate, _add_evaluate),
    "record": Command("Make a video of a trained agent.", _record, _add_record),
    "plot": Command("Draw the learning curves of runs.", _plot, _add_plot),
    "list": Command("Name the agents, environments or presets.", _list, _add_list),
    "show-config": Command("Print a resolved configuration.", _show_config, _add_source, True),
    "check-env": Command("Say what is wrong with an environment.", _check_env, _add_check_env),
    "doctor": Command(
        "Say what is installed and which devices there are.", _doctor, lambda p: None
    ),
}
