"""Locks of folders: only one process writes to a run or a sweep."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from bellmax import UserError


@contextlib.contextmanager
def locked(folder: Path, activity: str) -> Iterator[Callable[[], bool]]:
    """Lock a folder until the block or the process ends.

    Args:
      folder: an existing folder.
      activity: what the lock is for, such as "training"; for the message.

    Yields:
      A function that returns whether the path still leads to the locked folder.

    Raises:
      UserError: another process holds the lock.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is {activity} in {folder}; wait or stop it") from None
        except OSError:  # some network file systems cannot lock folders
            pass
        yield lambda: _is_same_folder(folder, descriptor)
    finally:
        os.close(descriptor)


def _is_same_folder(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False
