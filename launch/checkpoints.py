"""Checkpoints: the whole `TrainState` on disk, atomically, and back bit for bit.

orbax writes and reads them, see `orbax_items`. What is here is what it does not do: damage is found
before a run uses it, errors are sentences, and the best one is kept though its score comes late.
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

from bellmax import UserError
from bellmax.launch.checkpoint_files import (
    META,
    REPLAY,
    STATE,
    damage,
    remove,
    sweep,
    sync,
    write_whole,
)
from bellmax.launch.pieces import Cut, cut
from bellmax.launch.processes import is_first

_METRICS = "metrics"  # where orbax keeps those of a checkpoint: an item, and the file in it
_EARLIER = "bellmax.json"  # a file in every checkpoint of bellmax 0.1.0, whose format was its own


class CheckpointError(UserError):
    """A checkpoint could not be written; those written before it are still there."""

    exit_code = 1  # of the command line: the machine failed, not the user


class Checkpoints:
    """The checkpoints of one run: `folder/<step>/`, the latest `keep` and the best by metric.

    A save writes beside the others and is renamed into place when it is complete, so a process
    killed at any moment leaves every earlier checkpoint loadable. Saving step s drops checkpoints
    with a later step: they belong to a course of training that a resume from before s abandoned.

    With several processes all of them must call `save`, and `restore` with shardings: each writes
    and reads its own part. The folder must be on storage that they share.

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
        if not read_only:
            sweep(self._folder)

    def save(self, step: int, state: Any, *, metric: float | None, extra: dict[str, Any]) -> None:
        """Writes `state`; when it returns, everything is on disk and no buffer is referred to.

        Args:
          step: >= 0; an existing checkpoint of this step is removed before.
          state: pytree of jax arrays, typed PRNG keys included.
          metric: higher is better; None or NaN never counts as best.
          extra: JSON values that travel with the state, see `extra()`.

        Raises:
          CheckpointError: the disk is full or refuses; earlier checkpoints are kept.
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
            from bellmax.launch import orbax_items

            self._folder.mkdir(parents=True, exist_ok=True)
            if is_first() and step in self.steps():
                remove(self._folder / str(step))
            orbax_items.save(self._folder, step, _by_item(arrays), cuts, meta)
            if is_first():
                sync(self._folder / str(step))
                sync(self._folder)
        except Exception as error:  # tensorstore reports a full disk as a ValueError
            if is_first():
                sweep(self._folder)
            kept = max(self.steps(), default=None)
            raise CheckpointError(
                f"checkpoint {step} could not be saved to {self._folder} ({_reason(error)}); "
                + ("there is no earlier one" if kept is None else f"checkpoint {kept} is kept")
            ) from error
        if is_first():
            if metric is not None:
                self.score(step, metric)
            self._prune(step)
        _give_back()

    def score(self, step: int, metric: float) -> None:
        """Gives a checkpoint that was saved without a metric the one that it turned out to have.

        Raises:
          OSError: there is no such checkpoint, or the disk is full or refuses; then the checkpoint
            is as it was.
        """
        if not math.isfinite(metric) or self._metric(step) is not None:
            return
        folder = self._folder / str(step) / _METRICS
        folder.mkdir(exist_ok=True)
        stored = {"metric": float(metric), "checksum": _checksum(float(metric))}
        write_whole(folder / _METRICS, json.dumps(stored).encode())
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
        self._check(step, [META])
        return self._meta(step)["extra"]

    def restore(self, step: int, abstract_state: Any, *, partial: bool = False) -> Any:
        """Reads the state saved at `step`, bit for bit.

        Args:
          step: one of `steps()`.
          abstract_state: the state, or `jax.eval_shape` of what makes it. Leaves that have a
            NamedSharding are put where it says.
          partial: whether the abstract state may lack leaves that were saved. Those are not read,
            nor are files of the replay if it has none of them.

        Returns:
          The state as uncommitted arrays on the default device, as a jitted function would return
          them: a function compiled for a fresh state is not compiled again for this one.

        Raises:
          UserError: no such step, the checkpoint is damaged, or it does not fit `abstract_state`.
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
        """Reads the newest undamaged checkpoint; arguments as in `restore`.

        Returns:
          (step, state, warning): the warning is a sentence if newer ones had to be passed over.

        Raises:
          UserError: there is none, or it does not fit `abstract_state`.
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
        """UserError if any file of these items has been altered."""
        self._check_version(step)
        if found := damage(self._folder / str(step), items):
            raise UserError(f"checkpoint {step} in {self._folder} is damaged") from found

    def _check_version(self, step: int) -> None:
        """UserError if an earlier bellmax saved it."""
        if (self._folder / str(step) / _EARLIER).exists():
            raise UserError(
                f"checkpoint {step} in {self._folder} is of bellmax 0.1.0, which alone reads it: "
                "go on with that version, or train again"
            )

    def _is_intact(self, step: int, items: Collection[str]) -> bool:
        try:
            self._check(step, items)
        except UserError:
            return False
        return True

    def _meta(self, step: int) -> dict[str, Any]:
        from bellmax.launch import orbax_items

        return orbax_items.read_meta(self._folder, step)

    def _load(self, step: int, abstract_state: Any, partial: bool) -> Any:
        """Reads a checkpoint that was found to be intact."""
        from bellmax.launch import orbax_items

        specs, meta = _named_leaves(abstract_state), self._meta(step)
        _check_fit(step, meta["leaves"], specs, partial)
        stored = {name: _raw_spec(spec) for name, spec in specs.items() if spec.size}
        cuts = {name: Cut(*how) for name, how in meta["cuts"].items()}
        arrays = orbax_items.restore(self._folder, step, _by_item(stored), cuts)

        def leaf(name: str, spec: Any) -> jax.Array:
            if not spec.size:  # which orbax refuses to save
                return jnp.zeros(spec.shape, spec.dtype)
            impl = meta["keys"].get(name)
            return jax.random.wrap_key_data(arrays[name], impl=impl) if impl else arrays[name]

        leaves = [leaf(*item) for item in specs.items()]
        return jax.tree.unflatten(jax.tree.structure(abstract_state), leaves)

    def _metric(self, step: int) -> float | None:
        with contextlib.suppress(Exception):  # damaged, it cannot be the best
            stored = json.loads((self._folder / str(step) / _METRICS / _METRICS).read_text())
            if stored["checksum"] == _checksum(stored["metric"]):
                return stored["metric"]
        return None

    def _prune(self, step: int) -> None:
        """Removes all but the latest and the best; a failure to remove harms nothing."""
        steps = [s for s in self.steps() if s <= step]
        kept = {*steps[-self._keep :], self.best()}
        for old in [s for s in self.steps() if s > step or s not in kept]:
            with contextlib.suppress(OSError):
                remove(self._folder / str(old))


def _give_back() -> None:
    """Returns to the system what saving left free; else each of its threads' heaps keeps some."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:  # of glibc alone
        trim(0)


def _checksum(metric: float) -> int:
    return zlib.crc32(repr(metric).encode())


def _by_item(leaves: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The replay's leaves and the others, where there are any: who plays needs no replay."""
    items: dict[str, dict[str, Any]] = {}
    for name, leaf in leaves.items():
        item = REPLAY if name.partition("/")[0] == REPLAY else STATE
        items.setdefault(item, {})[name] = leaf
    return items


def _items_of(abstract_state: Any) -> list[str]:
    """The items of a checkpoint that are read for a state."""
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


def _reason(error: Exception) -> str:
    """The system's word for what went wrong, out of orbax's and tensorstore's longer ones."""
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.ENOENT)
    known = [os.strerror(code) for code in codes]
    text = str(error) or type(error).__name__
    return next((reason.lower() for reason in known if reason in text), text.splitlines()[0][:200])


def _check_fit(step: int, saved: dict[str, str], specs: dict[str, Any], partial: bool) -> None:
    """UserError naming the first leaf that differs."""
    wanted = {name: _describe(spec) for name, spec in specs.items()}
    for name in wanted if partial else [*wanted, *saved]:
        expected, found = wanted.get(name, "nothing"), saved.get(name, "nothing")
        if expected != found:
            raise UserError(
                f"checkpoint {step} does not fit this run: {name} should be {expected} and the "
                f"checkpoint has {found}; use the configuration of its run"
            )
