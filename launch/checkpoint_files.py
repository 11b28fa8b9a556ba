"""The files of a checkpoint: what they held when it was saved, and that they are on the disk.

orbax notes no checksums, so that a flipped bit in an array is read as another number, and does not
sync the folders that it renames. MANIFEST, an item of its own in every checkpoint, lists the files
of the other items with their CRC-32. Only these count: what else lies in a folder does no harm.
"""

import json
import os
import re
import shutil
import zlib
from collections.abc import Collection
from pathlib import Path

STATE, REPLAY, META = "state", "replay", "meta"  # the items of a checkpoint
MANIFEST = "manifest"  # one more, and the file in it
# Of saves that were killed, as orbax names them, and of removals that were; nothing else is ours.
_LEFTOVER = re.compile(r"\d+\.(orbax-checkpoint-tmp.*|deleted)")


def write_manifest(path: Path, file: Path) -> None:
    """Lists the files of the items in `path` in `file`, and sees that they are on the disk."""
    items = [path / item for item in (STATE, REPLAY, META) if (path / item).is_dir()]
    files = [one for item in items for one in sorted(item.rglob("*")) if one.is_file()]
    listed = {one.relative_to(path).as_posix(): _checksum(one) for one in files}
    data = {"checksum": zlib.crc32(json.dumps(listed).encode()), "files": listed}
    file.write_text(json.dumps(data))
    # Files further down are tensorstore's, which syncs them and their folders.
    for one in [*(one for one in files if one.parent in items), *items, file, file.parent]:
        sync(one)


def damage(path: Path, items: Collection[str]) -> Exception | None:
    """What is wrong with these items of the checkpoint in `path`; None if nothing is."""
    try:
        data = json.loads((path / MANIFEST / MANIFEST).read_text())
        if data["checksum"] != zlib.crc32(json.dumps(data["files"]).encode()):
            raise ValueError(f"{MANIFEST} has changed")
        for name, checksum in data["files"].items():
            if name.partition("/")[0] in items and _checksum(path / name) != checksum:
                raise ValueError(f"{name} has changed")
    except Exception as error:  # what a broken file raises depends on where it is broken
        return error
    return None


def remove(path: Path) -> None:
    """Renames before it removes: a half-removed checkpoint must not look like a whole one."""
    gone = path.with_name(f"{path.name}.deleted")
    shutil.rmtree(gone, ignore_errors=True)
    shutil.rmtree(path.rename(gone), ignore_errors=True)


def sweep(folder: Path) -> None:
    """Removes what killed or failed saves and removals left behind in the folder of a run."""
    if folder.is_dir():
        for path in [path for path in folder.iterdir() if _LEFTOVER.fullmatch(path.name)]:
            shutil.rmtree(path, ignore_errors=True)


def write_whole(path: Path, data: bytes) -> None:
    """Replaces a file in one move: a kill or a full disk leaves the old one as it was."""
    written = path.with_name(f"{path.name}.tmp")
    try:
        with written.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        written.replace(path)
        sync(path.parent)
    except OSError as error:
        written.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error  # a write names no file


def sync(path: Path) -> None:
    """Waits until a file, or which files a folder has, is on the disk."""
    if path.is_dir() and os.name != "posix":
        return  # where a folder cannot be opened
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):  # a replay may be larger than memory has room for
            checksum = zlib.crc32(block, checksum)
    return checksum
