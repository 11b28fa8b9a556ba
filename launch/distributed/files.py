"""Atomic writes of files."""

import os
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file atomically: a kill or a full disk leaves the old file unchanged."""
    written = path.with_name(f"{path.name}.tmp")
    try:
        # An existing file is removed: it may be a link, in a run that came from someone else.
        written.unlink(missing_ok=True)
        with written.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        written.replace(path)
        sync(path.parent)
    except OSError as error:
        written.unlink(missing_ok=True)
        # The error of a write has no file name.
        raise OSError(error.errno, error.strerror, str(path)) from error


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, and wait until they are on disk."""
    missing = [path for path in [folder, *folder.absolute().parents] if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of files, is on disk."""
    if path.is_dir() and os.name != "posix":
        return  # folders cannot be opened there
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
