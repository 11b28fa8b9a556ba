"""Folders of runs: checks of new and of existing ones."""

import os
from pathlib import Path

from bellmax import UserError
from bellmax.envs.options import did_you_mean


def check_new(out: Path) -> None:
    """Raise UserError if a folder cannot hold a new run because it is not empty."""
    if (out / "config.yaml").exists():
        raise UserError(f"{out} holds a run already; continue it with `bellmax resume {out}`")
    # A kill may leave a temporary file of the configuration; a restarted job ignores it.
    if out.is_dir() and any(path.name != "config.yaml.tmp" for path in out.iterdir()):
        raise UserError(f"{out} is not empty; name a new folder with --out")


def check_writable(folder: Path, role: str = "a run folder") -> None:
    """Raise UserError if a folder cannot be created or written; do not create it."""
    try:
        folder.exists()
    except OSError as error:  # a name that is too long
        raise UserError(f"{folder} cannot be {role}: {error.strerror}") from None
    there = next(p for p in [folder, *folder.absolute().parents] if os.path.lexists(p))
    if not there.is_dir():
        raise UserError(f"{folder} cannot be {role}: {there} is not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{folder} cannot be written: no permission to write in {there}")


MERGED = "merge.json"  # of a folder that `bellmax merge` wrote


def check_trains(run: Path) -> None:
    """Raise UserError for a run that was merged: it has policies, but no state to train from."""
    if (run / MERGED).exists():
        raise UserError(
            f"{run} was merged from other runs and can only be played; resume one of those that "
            f"{run / MERGED} names"
        )


def run_folder(name: str) -> Path:
    """Return the folder of a run; raise UserError if it does not exist or holds no run."""
    run = Path(name)
    if run.is_dir() and (run / "config.yaml").is_file():
        return run
    if run.is_dir():
        raise UserError(f"{run} is not a run: it has no config.yaml")
    parent = run.parent
    siblings = [str(path) for path in parent.iterdir()] if parent.is_dir() else []
    hint = did_you_mean(name, siblings)
    raise UserError(f"there is no run {run}" + (f"; {hint}" if hint else ""))
