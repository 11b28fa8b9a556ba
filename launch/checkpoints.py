"""Checkpoints: the whole `TrainState` on disk, atomically, and back bit for bit.

A checkpoint is a folder: one file of numpy's with the small arrays, a folder for each large one,
and META, which says what the arrays are and every file's checksum, so that damage is found before
it is read.
"""

import contextlib
import ctypes
import errno
import json
import math
import os
import shutil
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np

from bellmax import UserError
from bellmax.launch.slices import is_large, read_slices, write_slices

META = "bellmax.json"
_SMALL, _LARGE = "small.npz", "large"  # where these arrays are, numbered as META lists them


class CheckpointError(UserError):
    """A checkpoint could not be written; those written before it are still there."""

    exit_code = 1  # of the command line: the machine failed, not the user


class Checkpoints:
    """The checkpoints of one run: `folder/<step>/`, the latest `keep` and the best by metric.

    A save writes beside the others and is renamed into place when it is complete, so a process
    killed at any moment leaves every earlier checkpoint loadable. Saving step s drops checkpoints
    with a later step: they belong to a course of training that a resume from before s abandoned.

    Args:
      folder: created at the first save.
      keep: >= 1, how many of the latest to keep; the best is kept besides.
      read_only: leave the leftovers of killed saves alone, for reading a run that is training.
    """

    def __init__(self, folder: Path, *, keep: int, read_only: bool = False):
        if keep < 1:
            raise UserError(f"checkpoints to keep must be at least 1, got {keep}")
        self._folder = Path(folder).absolute()
        self._keep = keep
        self._metrics: dict[int, float | None] = {}
        if not read_only:
            self._sweep()

    def save(self, step: int, state: Any, *, metric: float | None, extra: dict[str, Any]) -> None:
        """Writes `state`; when it returns, everything is on disk and no buffer is referred to.

        Args:
          step: >= 0; an existing checkpoint of this step is replaced.
          state: pytree of arrays, typed PRNG keys included.
          metric: higher is better; None or NaN never counts as best.
          extra: JSON values that travel with the state, see `extra()`.

        Raises:
          CheckpointError: the disk is full or refuses; earlier checkpoints are kept.
        """
        leaves = _named_leaves(state)
        large = [name for name, leaf in leaves.items() if is_large(leaf)]
        small = [name for name in leaves if name not in large]
        meta = {
            "metric": float(metric) if metric is not None and math.isfinite(metric) else None,
            "extra": extra,
            "leaves": {name: _describe(leaf) for name, leaf in leaves.items()},
            "keys": {n: str(jax.random.key_impl(x)) for n, x in leaves.items() if _is_key(x)},
            "large": large,
            "small": small,
        }
        written = self._folder / f"{step}.saving"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            _write(written, {name: _raw(leaf) for name, leaf in leaves.items()}, meta)
            self._discard(step)
            written.rename(self._folder / str(step))
        except Exception as error:  # tensorstore reports a full disk as a ValueError
            self._sweep()
            kept = max(self.steps(), default=None)
            raise CheckpointError(
                f"checkpoint {step} could not be saved to {self._folder} ({_reason(error)}); "
                + ("there is no earlier one" if kept is None else f"checkpoint {kept} is kept")
            ) from error
        self._prune(step)
        _give_back()

    def score(self, step: int, metric: float) -> None:
        """Gives a checkpoint that was saved without a metric the one that it turned out to have.

        Raises:
          UserError: it is damaged.
          OSError: the disk is full or refuses; the checkpoint is as it was.
        """
        if not math.isfinite(metric) or self._metric(step) is not None:
            return
        meta = {**self._meta(step, check_files=False), "metric": float(metric)}
        write_whole(self._folder / str(step) / META, _stored(meta))
        self._metrics[step] = float(metric)
        self._prune(step)

    def steps(self) -> list[int]:
        """Steps that have a complete checkpoint, ascending."""
        if not self._folder.is_dir():
            return []
        return sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdigit())

    def latest(self) -> int | None:
        """The newest step saved, or None."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """The step with the highest metric (the later of equals), or None if none has one."""
        scored = [(self._metric(step), step) for step in self.steps()]
        return max(((m, s) for m, s in scored if m is not None), default=(None, None))[1]

    def extra(self, step: int) -> dict[str, Any]:
        """The `extra` that was saved with `step`."""
        return self._meta(step, check_files=False)["extra"]

    def restore(self, step: int, abstract_state: Any) -> Any:
        """Reads the state saved at `step`, bit for bit.

        Args:
          step: one of `steps()`.
          abstract_state: the state, or `jax.eval_shape` of what makes it.

        Returns:
          The state as uncommitted arrays on the default device, as a jitted function would return
          them: a function compiled for a fresh state is not compiled again for this one.

        Raises:
          UserError: no such step, the checkpoint is damaged, or it does not fit `abstract_state`.
        """
        if step not in self.steps():
            saved = ", ".join(map(str, self.steps())) or "none"
            raise UserError(f"there is no checkpoint {step} in {self._folder}; saved: {saved}")
        try:
            meta = self._meta(step)
        except UserError as error:
            older = next((s for s in reversed(self.steps()) if s < step and self._intact(s)), None)
            rest = "no older one is intact" if older is None else f"checkpoint {older} is intact"
            raise UserError(f"{error}; {rest}") from error
        _check_fit(step, meta["leaves"], abstract_state)
        return _rebuild(self._folder / str(step), meta, abstract_state)

    def restore_latest_valid(self, abstract_state: Any) -> tuple[int, Any, str | None]:
        """Reads the newest undamaged checkpoint.

        Returns:
          (step, state, warning): the warning is a sentence if newer ones had to be passed over.
        """
        damaged = []
        for step in reversed(self.steps()):
            if self._intact(step):
                names = ", ".join(damaged)
                warning = (
                    f"checkpoint {names} is damaged; {step} is used instead" if names else None
                )
                return step, self.restore(step, abstract_state), warning
            damaged.append(str(step))
        raise UserError(f"there is no intact checkpoint in {self._folder}")

    def _meta(self, step: int, *, check_files: bool = True) -> dict[str, Any]:
        """What META of a step holds; UserError if it, or any file it lists, has been altered."""
        path = self._folder / str(step)
        try:
            stored = json.loads((path / META).read_text())
            if stored["checksum"] != zlib.crc32(json.dumps(stored["meta"]).encode()):
                raise ValueError(f"{META} has changed")
            if check_files and stored["meta"]["files"] != _checksums(path):
                raise ValueError("a file is missing or has changed")
        except Exception as error:  # what a broken file raises depends on where it is broken
            raise UserError(f"checkpoint {step} in {self._folder} is damaged") from error
        return stored["meta"]

    def _intact(self, step: int) -> bool:
        try:
            self._meta(step)
        except UserError:
            return False
        return True

    def _metric(self, step: int) -> float | None:
        if step not in self._metrics:
            try:
                self._metrics[step] = self._meta(step, check_files=False)["metric"]
            except UserError:  # damaged: it cannot be the best
                self._metrics[step] = None
        return self._metrics[step]

    def _sweep(self) -> None:
        """Removes what killed or failed saves and removals left behind."""
        for leftover in self._folder.glob("[0-9]*.*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _prune(self, step: int) -> None:
        """Removes all but the latest and the best; a failure to remove harms nothing."""
        for later in [s for s in self.steps() if s > step]:
            self._discard(later)
        kept = {*self.steps()[-self._keep :], self.best()}
        for old in [s for s in self.steps() if s not in kept]:
            self._discard(old)

    def _discard(self, step: int) -> None:
        """Renames before removing: a half-removed checkpoint must not look like a whole one."""
        self._metrics.pop(step, None)
        path = self._folder / str(step)
        with contextlib.suppress(OSError):
            shutil.rmtree(path.rename(self._folder / f"{step}.deleted"), ignore_errors=True)


def _give_back() -> None:
    """Returns to the system what saving left free; else each of its threads' heaps keeps some."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:  # of glibc alone
        trim(0)


def write_whole(path: Path, data: bytes) -> None:
    """Replaces a file in one move: a kill or a full disk leaves the old one as it was."""
    written = path.with_name(f"{path.name}.tmp")
    try:
        with written.open("wb") as file:
            file.write(data)
            _sync(file)
        written.replace(path)
    except OSError as error:
        written.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error  # a write names no file


def _write(path: Path, arrays: dict[str, Any], meta: dict[str, Any]) -> None:
    path.mkdir()
    # Copies: a view of a buffer that lives on would stop XLA from reusing it when donated.
    small = [np.array(arrays[name]) for name in meta["small"]]
    with (path / _SMALL).open("wb") as file:
        np.savez(file, *small)
        _sync(file)
    for i, name in enumerate(meta["large"]):
        write_slices(path / _LARGE / str(i), arrays[name])
    meta = json.loads(json.dumps({**meta, "files": _checksums(path)}))
    with (path / META).open("wb") as file:
        file.write(_stored(meta))
        _sync(file)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _stored(meta: dict[str, Any]) -> bytes:
    """What is in META."""
    return json.dumps({"checksum": zlib.crc32(json.dumps(meta).encode()), "meta": meta}).encode()


def _checksums(folder: Path) -> dict[str, int]:
    """Of all files but META, and what a kill left of one that was to replace it."""
    everything = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files = [path for path in everything if not path.name.startswith(META)]
    return {path.relative_to(folder).as_posix(): _file_checksum(path) for path in files}


def _file_checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):  # a replay buffer may be larger than memory has room for
            checksum = zlib.crc32(block, checksum)
    return checksum


def _named_leaves(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _raw(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _describe(leaf: Any) -> str:
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def _reason(error: Exception) -> str:
    """The system's word for what went wrong, out of tensorstore's longer one."""
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.ENOENT)
    known = [os.strerror(code) for code in codes]
    text = str(error) or type(error).__name__
    return next((reason.lower() for reason in known if reason in text), text.splitlines()[0][:200])


def _check_fit(step: int, found: dict[str, str], like: Any) -> None:
    """UserError naming the first leaf that differs."""
    wanted = {name: _describe(leaf) for name, leaf in _named_leaves(like).items()}
    for name in [*wanted, *found]:
        expected, saved = wanted.get(name, "nothing"), found.get(name, "nothing")
        if expected != saved:
            raise UserError(
                f"checkpoint {step} does not fit this run: {name} should be {expected} and the "
                f"checkpoint has {saved}; use the configuration of its run"
            )


def _rebuild(path: Path, meta: dict[str, Any], like: Any) -> Any:
    """The pytree `like` with the arrays of a checkpoint."""
    if "small" not in meta:
        raise UserError(
            f"checkpoint {path.name} in {path.parent} was saved by an earlier bellmax, whose files "
            "this one does not read; go on with that version"
        )
    large = meta["large"]

    def leaf(name: str, spec: Any) -> jax.Array:
        if name in large:
            return read_slices(path / _LARGE / str(large.index(name)), spec)
        impl = meta["keys"].get(name)
        array = small[f"arr_{meta['small'].index(name)}"]
        if impl:
            return jax.random.wrap_key_data(jnp.array(array), impl=impl)
        # The format has no name for bfloat16. A copy that XLA owns, so that it can be donated.
        return jnp.array(array.view(spec.dtype))

    with np.load(path / _SMALL) as small:
        leaves = [leaf(*item) for item in _named_leaves(like).items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)
