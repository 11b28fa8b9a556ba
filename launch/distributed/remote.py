"""Folders of runs in object stores, `gs://...` or `s3://...`: copies of them on the local disk.

An object store cannot append to a file, rename a folder in one step, or lock one. A run there is
trained in a temporary folder, and `Mirror.push` copies what has changed. A checkpoint's manifest is
copied after its other files, so a checkpoint that has all files of its manifest is complete.
"""

import contextlib
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bellmax import UserError, must
from bellmax.envs.errors import in_words

# With one slash too, as `pathlib` writes them.
SCHEMES = ("gs:/", "s3:/", "az:/")
_OWNER = "owner"  # a file with the token of the process that writes the folder
_LAST = "manifest.json"  # of a checkpoint
_UNFINISHED = (".tmp", ".deleted", ".unfinished")  # in the names of what is not to be copied
_BLOCK = 1 << 22  # bytes


class RemoteError(UserError):
    """An object store failed."""

    exit_code = 1  # of the command line: a failure of the machine, not a mistake of the user


class TakenError(RemoteError):
    """Another process has begun to write the folder."""


def is_remote(name: str | Path) -> bool:
    """Return whether a name is that of a folder in an object store."""
    return str(name).startswith(SCHEMES)


def check_local(name: str | Path, field: str) -> None:
    """Raise UserError for a path in an object store, where only one on this machine is taken."""
    if is_remote(name):
        hint = "`bellmax train`, `resume`, `evaluate`, `record` and `plot` take runs in a store"
        raise UserError(must(field, "a path on this machine", repr(str(name)), hint))


class Mirror:
    """A folder in an object store and its copy on the local disk.

    Args:
      address: of the folder, such as `gs://bucket/runs/first`.
      local: an empty folder.
      trains: whether `push` makes this process the owner of the folder.

    Raises:
      RemoteError: the store cannot be reached.
    """

    def __init__(self, address: str, local: Path, *, trains: bool = False):
        from etils import epath

        self.address, self.local = address.rstrip("/"), local
        self._remote: Any = epath.Path(self.address)
        self._copied: dict[str, tuple[int, int]] = {}
        self._trains, self._token = trains, b""

    def pull(self, leaves_out: Callable[[str], bool] = lambda name: False) -> None:
        """Copy all files from the store; `leaves_out`: of the path in the folder."""
        with self._failing("read"):
            if not self._remote.exists():
                return
            names = [n for n in _names(self._remote) if n != _OWNER and not leaves_out(n)]
            for name in names:
                to = self.local / name
                to.parent.mkdir(parents=True, exist_ok=True)
                with (self._remote / name).open("rb") as source, to.open("wb") as target:
                    shutil.copyfileobj(source, target, _BLOCK)
        if (self.local / "config.yaml").is_file():  # a store keeps no empty folder
            (self.local / "checkpoints").mkdir(exist_ok=True)
        self._copied = self._local_files()

    def push(self) -> None:
        """Copy new and changed files to the store, and remove there what was removed here.

        Raises:
          TakenError: another process has become the owner of the folder since the first call.
          RemoteError: the store failed; the next call copies the rest.
        """
        files = self._local_files()
        changed = [name for name in files if files[name] != self._copied.get(name)]
        gone = [name for name in self._copied if name not in files]
        if not changed and not gone:
            return
        with self._failing("written"):
            if self._trains:
                self._take()
            for name in sorted(changed, key=lambda name: (name.endswith(_LAST), name)):
                source = self.local / name
                with source.open("rb") as data, (self._remote / name).open("wb") as target:
                    shutil.copyfileobj(data, target, _BLOCK)
                self._copied[name] = files[name]
            for name in sorted(gone, key=lambda name: not name.endswith(_LAST)):
                (self._remote / name).unlink(missing_ok=True)
                del self._copied[name]

    def try_push(self) -> str | None:
        """Like `push`, but return a sentence if the store failed."""
        try:
            self.push()
        except TakenError:
            raise
        except RemoteError as error:
            return f"{error}; the next interval tries again"
        return None

    def _take(self) -> None:
        """Become the owner of the folder at the first call; raise if another process did since."""
        owner = self._remote / _OWNER
        if not self._token:
            token = uuid.uuid4().hex.encode()
            owner.write_bytes(token)
            self._token = token
        elif owner.read_bytes() != self._token:
            raise TakenError(f"another process has begun to write {self.address}; this one stops")

    def _local_files(self) -> dict[str, tuple[int, int]]:
        found = {}
        for path in sorted(self.local.rglob("*")):
            name = path.relative_to(self.local).as_posix()
            if path.is_file() and not any(mark in name for mark in _UNFINISHED):
                facts = path.stat()
                found[name] = facts.st_mtime_ns, facts.st_size
        return found

    @contextlib.contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        """Turn what the store's library raises into an error of one sentence."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # each store has errors of its own
            reason = in_words(error)
            raise RemoteError(f"{self.address} cannot be {what} ({reason})") from error


def _names(folder: Any, prefix: str = "") -> Iterator[str]:
    """Yield the paths of all files in a folder of a store."""
    for child in folder.iterdir():
        if child.is_dir():
            yield from _names(child, f"{prefix}{child.name}/")
        else:
            yield f"{prefix}{child.name}"


@contextlib.contextmanager
def mirrored(
    address: str, *, trains: bool = False, leaves_out: Callable[[str], bool] = lambda name: False
) -> Iterator[Mirror]:
    """Copy a folder of a store to a temporary one, and what changes there back at the end.

    The names of temporary files in a UserError are replaced by those in the store. If the last copy
    fails, the temporary folder is kept.

    Args:
      address: of the folder.
      trains: whether this process becomes the owner of the folder.
      leaves_out: as in `Mirror.pull`.
    """
    local, kept = Path(tempfile.mkdtemp(prefix="bellmax-")), False
    try:
        mirror = Mirror(address, local, trains=trains)
        mirror.pull(leaves_out)
        try:
            yield mirror
        except UserError as error:
            error.args = tuple(str(a).replace(str(local), mirror.address) for a in error.args)
            raise
        finally:
            try:
                mirror.push()
            except TakenError:
                raise
            except RemoteError as error:
                kept = True
                raise RemoteError(f"{error}; its files are kept in {local}") from error
    finally:
        if not kept:
            shutil.rmtree(local, ignore_errors=True)
