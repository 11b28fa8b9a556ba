"""Folders of runs as commands name them: on this machine, or in an object store."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bellmax import UserError, must
from bellmax.launch.distributed.remote import is_remote, mirrored
from bellmax.launch.training.folders import run_folder

if TYPE_CHECKING:
    from bellmax.launch.training.train import Output


class Place(NamedTuple):
    """A run's folder, or a copy of it; name: of the run as it was typed."""

    folder: Path
    name: str

    def shown(self, text: str) -> str:
        """Return a text with the run's name in place of its copy's."""
        return text.replace(str(self.folder), self.name)


@contextlib.contextmanager
def folder_to_train(name: str, coordinator: str | None) -> "Iterator[tuple[Path, Output | None]]":
    """Yield the folder to train in, and where the run reports to; None: the terminal."""
    if not is_remote(name):
        yield Path(name), None
        return
    if coordinator:
        allowed = "a folder that all processes see, with --coordinator"
        hint = "mount the object store as a folder"
        raise UserError(must("the run's folder", allowed, repr(name), hint))
    from bellmax.launch.training.train import TERMINAL

    with mirrored(name, trains=True) as mirror:
        renamed = str(mirror.local), mirror.address
        yield mirror.local, TERMINAL._replace(written=mirror.try_push, renamed=renamed)


@contextlib.contextmanager
def folder_to_play(name: str) -> Iterator[Place]:
    """Yield the folder of a run; of one in an object store a copy without its replay."""
    if not is_remote(name):
        yield Place(run_folder(name), name)
        return
    with mirrored(name, leaves_out=lambda file: "/replay/" in file) as mirror:
        yield Place(run_folder(str(mirror.local)), mirror.address)
