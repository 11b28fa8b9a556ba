"""Checkpoints: saving the whole `TrainState` atomically, and restoring it bit for bit.

orbax writes and reads the arrays (`orbax_items`). This module adds what orbax lacks: checksums,
one-sentence errors, and keeping the best checkpoint when its score is known only after the save.
"""

import contextlib
import ctypes
import errno
import json
import math
import os
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from bellmax import UserError, must
from bellmax.launch.distributed.files import make_folder, sync, write_whole
from bellmax.launch.distributed.processes import is_first
from bellmax.launch.training.checkpoint_files import (
    EARLIER,
    META,
    REPLAY,
    STATE,
    UNFINISHED,
    damage,
    is_checkpoint,
    remove,
    remove_leftovers,
    write_manifest,
)
from bellmax.launch.training.pieces import Cut, cut

_METRICS = "metrics"  # orbax's name for the item of metrics, and for its file


class CheckpointError(UserError):
    """A checkpoint could not be written; earlier ones are kept."""

    exit_code = 1  # of the command line: a failure of the machine, not a mistake of the user


class Checkpoints:
    """The checkpoints of one run: `folder/<step>/`, the latest `keep` and the best by metric.

    A save writes to a temporary folder, which is renamed when it is complete, so a kill at any
    moment leaves all earlier checkpoints intact. Saving step s removes checkpoints of later steps:
    a run that was resumed before s has abandoned them.

    All processes of a run must call `save` and `restore`: each writes and reads its own part of
    the arrays. They must share the folder.

    Args:
      folder: created at the first save.
      keep: >= 1, number of latest checkpoints to keep; the best is kept in addition.
      read_only: do not remove the remains of killed saves; for a run that may be training.
    """

    def __init__(self, folder: Path, *, keep: int, read_only: bool = False):
        self._folder = Path(folder).absolute()
        self._keep = keep
        if not read_only:
            remove_leftovers(self._folder)

    def save(self, step: int, state: Any, *, metric: float | None, extra: dict[str, Any]) -> None:
        """Write `state`; on return everything is on disk and no buffer is referenced.

        Args:
          step: >= 0; an existing checkpoint of this step is replaced.
          state: pytree of jax arrays, which may be typed PRNG keys.
          metric: higher is better; None or NaN never counts as best.
          extra: JSON values saved with the state, see `extra()`.

        Raises:
          CheckpointError: the disk is full or refuses to write; earlier checkpoints are kept.
        """
        leaves = _named_leaves(state)
        arrays = {name: _raw(leaf) for name, leaf in leaves.items() if leaf.size}
        cuts = {name: how for name, array in arrays.items() if (how := cut(array))}
        meta = {
            "extra": extra,
            "leaves": {name: _describe(leaf) for name, leaf in leaves.items()},
            "keys": {n: str(jax.random.key_impl(x)) for n, x in leaves.items() if _is_key(x)},
            "cuts": cuts,
        }
        try:
            from bellmax.launch.training import orbax_items

            make_folder(self._folder)
            path = self._folder / str(step)
            unfinished = path.with_name(path.name + UNFINISHED)
            orbax_items.save(unfinished, _by_item(arrays), cuts, meta)
            if is_first():
                write_manifest(unfinished)
                if is_checkpoint(path):
                    remove(path)
                unfinished.rename(path)
                sync(self._folder)
            if jax.process_count() > 1:  # other processes may read it only after it is renamed
                multihost_utils.sync_global_devices(f"checkpoint {step}")
        except Exception as error:  # tensorstore reports a full disk as a ValueError
            if is_first():
                remove_leftovers(self._folder)
            kept = max(self.steps(), default=None)
            raise CheckpointError(
                f"checkpoint {step} could not be saved to {self._folder} ({_reason(error)}); "
                + ("there is no earlier one" if kept is None else f"checkpoint {kept} is kept")
            ) from error
        if is_first():
            if metric is not None:
                self.score(step, metric)
            self._prune(step)
        _trim_heap()

    def score(self, step: int, metric: float) -> None:
        """Store the metric of a checkpoint that was saved without one.

        Raises:
          OSError: there is no such checkpoint, or the disk is full or refuses to write; the
            checkpoint is unchanged.
        """
        if not math.isfinite(metric) or self._metric(step) is not None:
            return
        folder = self._folder / str(step) / _METRICS
        make_folder(folder)
        stored = {"metric": float(metric), "checksum": _checksum(float(metric))}
        write_whole(folder / _METRICS, json.dumps(stored).encode())
        self._prune(step)

    def steps(self) -> list[int]:
        """Return the steps that have a complete checkpoint, ascending."""
        if not self._folder.is_dir():
            return []
        return sorted(int(path.name) for path in self._folder.iterdir() if is_checkpoint(path))

    def latest(self) -> int | None:
        """Return the newest step saved, or None."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """Return the step with the highest metric (the later of equals); None without a metric."""
        scored = [(self._metric(step), step) for step in self.steps()]
        return max(((m, s) for m, s in scored if m is not None), default=(None, None))[1]

    def extra(self, step: int) -> dict[str, Any]:
        """Return the `extra` that was saved with `step`."""
        self._check(step, [META])
        return self._meta(step)["extra"]

    def restore(self, step: int, abstract_state: Any, *, partial: bool = False) -> Any:
        """Read the state saved at `step`, bit for bit.

        Args:
          step: one of `steps()`.
          abstract_state: a state, or its shapes and dtypes. Leaves keep its NamedShardings.
          partial: `abstract_state` may lack leaves of the checkpoint, which are then not read;
            without the replay, none of its files are read.

        Returns:
          The state; leaves without a NamedSharding are uncommitted arrays on the default device,
          as a jitted function returns them, so a function compiled for a fresh state accepts it.

        Raises:
          UserError: there is no such step, or its checkpoint is damaged or does not fit
            `abstract_state`.
        """
        if step not in self.steps():
            saved = ", ".join(map(str, self.steps())) or "none"
            raise UserError(f"there is no checkpoint {step} in {self._folder}; saved: {saved}")
        items = _items_of(abstract_state)
        try:
            self._check(step, items)
        except UserError as error:
            older = [s for s in self.steps() if s < step and self._is_intact(s, items)]
            rest = f"checkpoint {older[-1]} is intact" if older else "no older one is intact"
            raise UserError(f"{error}; {rest}") from error
        return self._load(step, abstract_state, partial)

    def restore_latest_valid(
        self, abstract_state: Any, *, partial: bool = False
    ) -> tuple[int, Any, str | None]:
        """Read the newest undamaged checkpoint; arguments as in `restore`.

        Returns:
          (step, state, warning): warning is a sentence if newer checkpoints are damaged.

        Raises:
          UserError: none is intact, or it does not fit `abstract_state`.
        """
        items = _items_of(abstract_state)
        damaged = []
        for step in reversed(self.steps()):
            if self._is_intact(step, items):
                names = ", ".join(damaged)
                warning = (
                    f"checkpoint {names} is damaged; {step} is used instead" if names else None
                )
                return step, self._load(step, abstract_state, partial), warning
            damaged.append(str(step))
        for step in reversed(self.steps()):
            self._check_version(step)
        raise UserError(f"there is no intact checkpoint in {self._folder}")

    def _check(self, step: int, items: Collection[str]) -> None:
        """Raise UserError if any file of these items is damaged."""
        self._check_version(step)
        if found := damage(self._folder / str(step), items):
            raise UserError(f"checkpoint {step} in {self._folder} is damaged") from found

    def _check_version(self, step: int) -> None:
        """Raise UserError if a checkpoint has the format of an older bellmax."""
        if (self._folder / str(step) / EARLIER).exists():
            raise UserError(
                f"checkpoint {step} in {self._folder} has the format of an older bellmax, which "
                "this one cannot read; continue the run with the older one, or train again"
            )

    def _is_intact(self, step: int, items: Collection[str]) -> bool:
        try:
            self._check(step, items)
        except UserError:
            return False
        return True

    def _meta(self, step: int) -> dict[str, Any]:
        return json.loads((self._folder / str(step) / META / "metadata").read_text())

    def _load(self, step: int, abstract_state: Any, partial: bool) -> Any:
        """Read a checkpoint after `_check`."""
        from bellmax.launch.training import orbax_items

        named, meta = _named_leaves(abstract_state), self._meta(step)
        _check_fit(step, meta["leaves"], named, partial)
        specs = {name: _raw_spec(spec) for name, spec in named.items()}
        other = {n: how for n in named if (how := meta["leaves"][n]) != _describe(named[n])}
        changed = {n: jax.ShapeDtypeStruct(_shape(how), specs[n].dtype) for n, how in other.items()}
        cuts = {name: Cut(*how) for name, how in meta["cuts"].items()}
        # orbax refuses to save empty arrays.
        empty = {name: spec for name, spec in specs.items() if not spec.size}
        arrays = {n: jnp.zeros(x.shape, x.dtype, device=x.sharding) for n, x in empty.items()}
        saved = _by_item({name: spec for name, spec in (specs | changed).items() if spec.size})
        try:
            arrays |= orbax_items.restore(self._folder / str(step), saved, cuts)
        except Exception as error:
            if step in self.steps():
                raise
            raise UserError(f"checkpoint {step} was removed while it was read") from error
        arrays = {name: _reshaped(array, specs[name]) for name, array in arrays.items()}
        for name, impl in meta["keys"].items():
            if name in arrays:
                arrays[name] = jax.random.wrap_key_data(arrays[name], impl=impl)
        structure = jax.tree.structure(abstract_state)
        return jax.tree.unflatten(structure, [arrays[name] for name in named])

    def _metric(self, step: int) -> float | None:
        with contextlib.suppress(Exception):  # the metric is missing or damaged
            stored = json.loads((self._folder / str(step) / _METRICS / _METRICS).read_text())
            if stored["checksum"] == _checksum(stored["metric"]):
                return stored["metric"]
        return None

    def _prune(self, step: int) -> None:
        """Remove all but the latest and the best; a failure to remove is ignored."""
        steps = [s for s in self.steps() if s <= step]
        kept = {*steps[-self._keep :], self.best()}
        for old in [s for s in self.steps() if s > step or s not in kept]:
            with contextlib.suppress(OSError):
                remove(self._folder / str(old))


def _trim_heap() -> None:
    """Return freed memory to the system; malloc keeps some for each of orbax's threads."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:  # only glibc has it
        trim(0)


def _checksum(metric: float) -> int:
    return zlib.crc32(repr(metric).encode())


def _by_item(leaves: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Group leaves into items: the replay, which playing a run does not need, and the rest."""
    items: dict[str, dict[str, Any]] = {}
    for name, leaf in leaves.items():
        item = REPLAY if name.partition("/")[0] == REPLAY else STATE
        items.setdefault(item, {})[name] = leaf
    return items


def _items_of(abstract_state: Any) -> list[str]:
    """Return the items from which a state is read."""
    return [META, *_by_item(_named_leaves(abstract_state))]


def _named_leaves(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _raw(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _raw_spec(spec: Any) -> jax.ShapeDtypeStruct:
    raw = jax.eval_shape(_raw, spec)
    return jax.ShapeDtypeStruct(raw.shape, raw.dtype, sharding=getattr(spec, "sharding", None))


def _describe(leaf: Any) -> str:
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def _shape(description: str) -> tuple[int, ...]:
    """Return the shape in what `_describe` returned."""
    sizes = description.partition("[")[2].removesuffix("]")
    return tuple(map(int, sizes.split(","))) if sizes else ()


def _has_same_rows(name: str, one: str, other: str) -> bool:
    """Whether two descriptions are of a leaf of the replay with the same steps.

    On one device time and environments are one axis, and the numbers of an observation may be in
    it too; on several devices they are axes of their own (`replay.ring`).
    """
    if not name.startswith(f"{REPLAY}/storage"):
        return False
    shapes = _shape(one), _shape(other)
    seeds, sizes = {shape[:1] for shape in shapes}, {math.prod(shape) for shape in shapes}
    types = {text.partition("[")[0] for text in (one, other)}
    return len(seeds) == len(sizes) == len(types) == 1 and len(shapes[0]) != len(shapes[1])


def _reshaped(array: jax.Array, spec: Any) -> jax.Array:
    """Return an array in the shape of a spec, and placed as it says."""
    if array.shape == spec.shape:
        return array
    if spec.sharding is None:
        return array.reshape(spec.shape)
    rows = np.asarray(array).reshape(spec.shape)
    return jax.make_array_from_callback(spec.shape, spec.sharding, lambda index: rows[index])


def _reason(error: Exception) -> str:
    """Extract the system's error message from the longer message of orbax or tensorstore."""
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.ENOENT)
    known = [os.strerror(code) for code in codes]
    text = str(error) or type(error).__name__
    return next((reason.lower() for reason in known if reason in text), text.splitlines()[0][:200])


def _check_fit(step: int, saved: dict[str, str], specs: dict[str, Any], partial: bool) -> None:
    """Raise UserError with the first leaf that differs."""
    wanted = {name: _describe(spec) for name, spec in specs.items()}
    for name in wanted if partial else [*wanted, *saved]:
        expected, found = wanted.get(name, "nothing"), saved.get(name, "nothing")
        if expected != found and not _has_same_rows(name, expected, found):
            hint = "use the configuration of its run"
            words = must(name, expected, found, hint)
            raise UserError(f"checkpoint {step} does not fit this run: {words}")
