"""Files of checkpoints: checksums, syncing to disk, and removal.

orbax stores no checksums, so it would read a flipped bit of an array as a different number, and it
does not sync folders. Each checkpoint therefore has a file MANIFEST: the CRC-32 of every file of
its items. Files that it does not list are ignored.
"""

import json
import re
import shutil
import zlib
from collections.abc import Collection
from pathlib import Path

from bellmax.launch.distributed.files import sync

STATE, REPLAY, META = "state", "replay", "meta"  # the items of a checkpoint
MANIFEST = "manifest.json"
EARLIER = "bellmax.json"  # a file in every checkpoint of an older format
UNFINISHED = ".unfinished"  # suffix of a checkpoint while it is written; orbax adds its own
_STEP = re.compile(r"0|[1-9][0-9]*")
# Names of what killed saves and removals leave behind; nothing else is removed.
_LEFTOVER = re.compile(rf"\d+\.(deleted|{UNFINISHED[1:]}.*)")


def write_manifest(path: Path) -> None:
    """Write the checksums of all items in `path`, and sync everything to disk."""
    items = [path / item for item in (STATE, REPLAY, META) if (path / item).is_dir()]
    files = [one for item in items for one in sorted(item.rglob("*")) if one.is_file()]
    listed = {one.relative_to(path).as_posix(): _checksum(one) for one in files}
    data = {"checksum": zlib.crc32(json.dumps(listed).encode()), "files": listed}
    (path / MANIFEST).write_text(json.dumps(data))
    # tensorstore has synced the files in deeper folders, which it wrote.
    top = [one for one in files if one.parent in items]
    for one in [*top, *items, path / MANIFEST, path]:
        sync(one)


def damage(path: Path, items: Collection[str]) -> Exception | None:
    """Return an error if one of the items of the checkpoint in `path` is damaged, else None."""
    try:
        data = json.loads((path / MANIFEST).read_text())
        if data["checksum"] != zlib.crc32(json.dumps(data["files"]).encode()):
            raise ValueError(f"{MANIFEST} has changed")
        for name, checksum in data["files"].items():
            if name.partition("/")[0] in items and _checksum(path / name) != checksum:
                raise ValueError(f"{name} has changed")
    except Exception as error:  # the type depends on the damage
        return error
    return None


def is_checkpoint(path: Path) -> bool:
    """Return whether a path is a checkpoint, damaged or not, and not a folder of the user's."""
    parts = (MANIFEST, STATE, META, EARLIER)
    return bool(_STEP.fullmatch(path.name)) and any((path / part).exists() for part in parts)


def remove(path: Path) -> None:
    """Remove a checkpoint. It is renamed first: a half removed one must not look complete."""
    gone = path.with_name(f"{path.name}.deleted")
    shutil.rmtree(gone, ignore_errors=True)
    shutil.rmtree(path.rename(gone), ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the remains of killed or failed saves and removals from `folder`."""
    if folder.is_dir():
        for path in [path for path in folder.iterdir() if _LEFTOVER.fullmatch(path.name)]:
            shutil.rmtree(path, ignore_errors=True)


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):  # the file may be larger than the free memory
            checksum = zlib.crc32(block, checksum)
    return checksum
