"""Checks of the folders of new and existing runs."""

import contextlib
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from bellmax import UserError, must
from bellmax.envs.options import did_you_mean
from bellmax.launch.config.sentences import show
from bellmax.launch.config.trust import code_in
from bellmax.launch.config.yaml_files import read_yaml
from bellmax.launch.distributed.remote import check_local
from bellmax.launch.training.checkpoint_files import is_checkpoint


def check_new(out: Path) -> None:
    """Raise UserError if a folder cannot hold a new run because it is not empty."""
    if (out / "config.yaml").exists():
        raise UserError(f"{out} holds a run already; continue it with `{resume_command(out)}`")
    # A process that is killed while it writes the configuration leaves this file; a restarted job
    # may use the folder.
    if out.is_dir() and any(path.name != "config.yaml.tmp" for path in out.iterdir()):
        raise UserError(f"{out} is not empty; name a new folder with --out")


def is_unused(run: Path) -> bool:
    """Return whether a run has neither a checkpoint nor a row of metrics."""
    for name in ("checkpoints", "policy"):
        if (run / name).is_dir() and any((run / name).iterdir()):
            return False
    log = run / "metrics.jsonl"
    return not log.exists() or not log.stat().st_size


@contextlib.contextmanager
def emptied_on_failure(run: Path) -> Iterator[None]:
    """Empty the folder of a new run that fails at its start, so that its name can be used again.

    The folder is kept if it has a checkpoint or a row of metrics.
    """
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            if is_unused(run):
                for path in run.iterdir():
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise


def check_steps(run: Path, steps: object) -> None:
    """Raise UserError if a run has already taken more than `steps`; wrong types are ignored."""
    folder = run / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    taken = max((int(name) for name in names if name.isdigit()), default=0)
    try:
        few = steps is not None and float(cast(Any, steps)) < taken
    except (TypeError, ValueError):  # not a number: validation reports it
        return
    if few:
        raise UserError(must("steps", f"at least {taken}, those that {run} has taken", steps))


def is_finished(run: Path, steps: int, rollout: int) -> bool:
    """Return whether a run has its last checkpoint.

    Args:
      run: the run's folder.
      steps: environment steps of the whole run.
      rollout: environment steps of a rollout.
    """
    return is_checkpoint(run / "checkpoints" / str(steps - steps % rollout))


def resume_command(run: Path) -> str:
    """Return the command that continues a run."""
    try:
        mapping = read_yaml(run / "config.yaml")
    except UserError:
        mapping = None
    trust = " --trust" if isinstance(mapping, Mapping) and code_in(mapping) else ""
    return f"bellmax resume {shlex.quote(str(run))}{trust}"


def check_writable(folder: Path, role: str = "a run folder") -> None:
    """Raise UserError if a folder cannot be created or written; do not create it."""
    check_local(folder, role)
    try:
        folder.exists()
    except (OSError, ValueError) as error:  # a name that is too long, or has a NUL in it
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{show(str(folder))} cannot be {role}: {reason}") from None
    existing = next(p for p in [folder, *folder.absolute().parents] if os.path.lexists(p))
    if not existing.is_dir():
        raise UserError(f"{folder} cannot be {role}: {existing} is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{folder} cannot be written: no permission to write in {existing}")


MERGED = "merge.json"  # a file that `bellmax merge` writes


def check_trains(run: Path) -> None:
    """Raise UserError for a merged run, which has policies but no state to train from."""
    if (run / MERGED).exists():
        raise UserError(
            f"{run} was merged from other runs and can only be played; resume one of the runs "
            f"that {run / MERGED} names"
        )


def run_folder(name: str) -> Path:
    """Return the folder of a run; raise UserError if it does not exist or holds no run."""
    check_local(name, "RUN")
    run = Path(name)
    try:
        run.exists()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{show(name)} cannot be a run: {reason}") from None
    if run.is_dir() and (run / "config.yaml").is_file():
        return run
    if run.is_dir():
        raise UserError(f"{run} is not a run: it has no config.yaml")
    parent = run.parent
    siblings = [str(path) for path in parent.iterdir()] if parent.is_dir() else []
    hint = did_you_mean(name, siblings)
    raise UserError(f"there is no run {run}" + (f"; {hint}" if hint else ""))
