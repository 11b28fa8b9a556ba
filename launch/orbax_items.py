"""The items of a checkpoint, written and read by orbax. Slow to import: inside functions only.

STATE and REPLAY hold arrays by name, META is JSON, and MANIFEST lists the files of all of them.

orbax holds more than one copy of an array while it writes it (google/orbax#1640), and its limits
count whole arrays: with `save_concurrent_gb` one that is larger is refused. So large arrays are
saved as pieces, each of them an array to orbax, which are cut off when it is their turn, and read
back one after the other.
"""

import contextlib
import dataclasses
import functools
import logging
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding

from bellmax.launch import pieces
from bellmax.launch.checkpoint_files import MANIFEST, META, REPLAY, STATE, write_manifest
from bellmax.launch.pieces import Cut, named_sharding

_CHUNKS = 4  # to a piece: each is compressed in a thread of its own


def save(
    folder: Path,
    step: int,
    items: Mapping[str, dict[str, jax.Array]],
    cuts: Mapping[str, Cut],
    meta: dict[str, Any],
) -> None:
    """Writes folder/<step>, which must not exist. Every process of a run must call it.

    Args:
      folder: is created.
      step: >= 0.
      items: STATE, REPLAY or both: arrays by name, none of them empty or of keys.
      cuts: how those are cut that are to be saved in pieces.
      meta: JSON values.
    """
    trees = {item: _in_pieces(arrays, cuts) for item, arrays in items.items()}
    arguments = {item: _save_arguments(tree) for item, tree in trees.items()}
    arguments |= {META: ocp.args.JsonSave(meta), MANIFEST: _ManifestArgs()}
    with _quiet(), _settled(), _manager(folder, create=True) as manager:
        manager.save(step, args=ocp.args.Composite(**arguments), force=True)


def read_meta(folder: Path, step: int) -> dict[str, Any]:
    """What `save` was given as `meta`."""
    with _quiet(), _manager(folder) as manager:
        args = ocp.args.Composite(**{META: ocp.args.JsonRestore()})
        return manager.restore(step, args=args)[META]


def restore(
    folder: Path, step: int, items: Mapping[str, dict[str, Any]], cuts: Mapping[str, Cut]
) -> dict[str, jax.Array]:
    """Reads arrays, and no others. Every process of a run must call it.

    Args:
      folder, step: as in `save`.
      items: STATE, REPLAY or both: shapes and dtypes by name. One with a NamedSharding is put
        where that says; others are uncommitted, on the default device.
      cuts: of those that were saved in pieces.
    """
    restored = {}
    with _quiet(), _manager(folder) as manager:
        for item, specs in items.items():
            small = {name: spec for name, spec in specs.items() if name not in cuts}
            for name, array in (_read(manager, step, item, small) if small else {}).items():
                # Numpy's is copied to where XLA owns it, so that it can be donated.
                restored[name] = array if isinstance(array, jax.Array) else jnp.array(array)
            for name in [name for name in specs if name in cuts]:
                restored[name] = _read_pieces(manager, step, item, name, specs[name], cuts[name])
    return restored


@dataclasses.dataclass(frozen=True)
class _Piece:
    """Rows of an array, along `axis`."""

    array: jax.Array
    axis: int
    first: int
    rows: int


class _PieceHandler(ocp.type_handlers.ArrayHandler):
    """Saves pieces: each is cut off its array when the one before it is on the disk."""

    async def serialize(self, values: Sequence[Any], infos: Any, args: Any = None) -> list[Any]:
        for piece, info, arg in zip(values, infos, args, strict=True):
            sharding = named_sharding(piece.array)
            array = _take(piece.array, piece.first, piece.axis, piece.rows, sharding)
            for written in await super().serialize([array], [info], [arg]):
                written.result()
        return []


class _ManifestHandler(ocp.CheckpointHandler):
    """Saves MANIFEST, when orbax has finished the other items and nothing in them changes more."""

    def save(self, directory: Any, args: Any) -> None:
        pass

    def restore(self, directory: Any, args: Any = None) -> None:
        pass

    def finalize(self, directory: Any) -> None:
        others = [path for path in Path(directory).parent.iterdir() if path.is_dir()]
        if any("tmp" in path.name for path in others if path.name != directory.name):
            raise RuntimeError(f"orbax finishes {MANIFEST} before other items")
        write_manifest(Path(directory).parent, Path(directory) / MANIFEST)


@ocp.args.register_with_handler(_ManifestHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class _ManifestArgs(ocp.args.CheckpointArgs):
    pass


@contextlib.contextmanager
def _manager(folder: Path, *, create: bool = False) -> Iterator[ocp.CheckpointManager]:
    """Made anew for each use: what it remembers of a folder may not hold any more.

    Which checkpoints are kept is not left to it: scores come after saves, and it removes files one
    by one, so that a kill leaves half a checkpoint under the name of a whole one.
    """
    # Keys, shardings and which process has what are known without files about them.
    options = {"array_metadata_store": None, "enable_write_sharding_file": False}
    types = ocp.type_handlers.create_type_handler_registry(
        (jax.Array, ocp.type_handlers.ArrayHandler(**options, use_replica_parallel=False)),
        (_Piece, _PieceHandler(**options, use_replica_parallel=False)),
        (np.ndarray, ocp.type_handlers.NumpyHandler()),
    )
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    for item in (STATE, REPLAY):
        handler = ocp.PyTreeCheckpointHandler(type_handler_registry=types)
        registry.add(item, ocp.args.PyTreeSave, handler)
        registry.add(item, ocp.args.PyTreeRestore, handler)
    handler = ocp.JsonCheckpointHandler()
    registry.add(META, ocp.args.JsonSave, handler)
    registry.add(META, ocp.args.JsonRestore, handler)
    registry.add(MANIFEST, _ManifestArgs, _ManifestHandler())  # the last: it is finished last
    with ocp.CheckpointManager(
        folder,
        options=ocp.CheckpointManagerOptions(
            create=create,
            enable_async_checkpointing=False,
            lightweight_initialize=True,
            save_root_metadata=False,
        ),
        handler_registry=registry,
    ) as manager:
        yield manager


def _in_pieces(arrays: Mapping[str, jax.Array], cuts: Mapping[str, Cut]) -> dict[str, Any]:
    tree: dict[str, Any] = {name: array for name, array in arrays.items() if name not in cuts}
    for name in [name for name in arrays if name in cuts]:
        how, array = cuts[name], arrays[name]
        for i, rows in enumerate(how.starts(array.shape)):
            tree[_piece_name(name, i)] = _Piece(array, how.axis, *rows)
    return tree


def _piece_name(name: str, i: int) -> str:
    return f"{name}/{i:05d}"


def _save_arguments(tree: Mapping[str, Any]) -> Any:
    chunk = ocp.SaveArgs(chunk_byte_size=max(pieces.PIECE_BYTES // _CHUNKS, 1))
    each = {name: chunk if isinstance(x, _Piece) else ocp.SaveArgs() for name, x in tree.items()}
    return ocp.args.PyTreeSave(dict(tree), save_args=each)


def _read(manager: Any, step: int, item: str, specs: Mapping[str, Any]) -> dict[str, Any]:
    """Some arrays of one item: jax's where a NamedSharding says so, else numpy's."""
    how = {name: _restore_argument(spec) for name, spec in specs.items()}
    args = ocp.args.PyTreeRestore(dict(specs), restore_args=how, partial_restore=True)
    return manager.restore(step, args=ocp.args.Composite(**{item: args}))[item]


def _restore_argument(spec: Any) -> Any:
    sharding = named_sharding(spec)
    if sharding is None:
        return ocp.RestoreArgs(restore_type=np.ndarray)
    return ocp.ArrayRestoreArgs(
        restore_type=jax.Array, sharding=sharding, global_shape=spec.shape, dtype=spec.dtype
    )


def _read_pieces(manager: Any, step: int, item: str, name: str, spec: Any, how: Cut) -> jax.Array:
    sharding = named_sharding(spec)
    whole = jnp.zeros(spec.shape, spec.dtype, device=sharding)
    for i, (first, rows) in enumerate(how.starts(spec.shape)):
        shape = list(spec.shape)
        shape[how.axis] = rows
        part = jax.ShapeDtypeStruct(shape, spec.dtype, sharding=sharding)
        (read,) = _read(manager, step, item, {_piece_name(name, i): part}).values()
        # Waited for: pieces that are still to be put into place would be in memory together.
        whole = jax.block_until_ready(_put(whole, read, first, how.axis, sharding))
    return whole


def _constrained(array: jax.Array, sharding: NamedSharding | None) -> jax.Array:
    return array if sharding is None else jax.lax.with_sharding_constraint(array, sharding)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _take(array: jax.Array, first: Any, axis: int, rows: int, sharding: Any) -> jax.Array:
    return _constrained(jax.lax.dynamic_slice_in_dim(array, first, rows, axis), sharding)


@functools.partial(jax.jit, static_argnums=(3, 4), donate_argnums=0)
def _put(whole: jax.Array, part: Any, first: Any, axis: int, sharding: Any) -> jax.Array:
    return _constrained(jax.lax.dynamic_update_slice_in_dim(whole, part, first, axis), sharding)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Holds back what orbax logs of its progress, and of errors that it raises as well."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _settled() -> Iterator[None]:
    """When the first of many writes fails, waits for orbax's threads, which are at the others.

    Of those others Python reports that their event loop is closed, or that nobody asked how they
    ended, at any time up to its own end. So after a failure this is not heard again.
    """
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    except Exception:
        for thread in threading.enumerate():
            if type(thread).__module__.startswith("orbax."):
                threading.Thread.join(thread, 60)  # its own raises what it failed with
        logging.getLogger("asyncio").addFilter(_is_not_of_orbax)
        raise
    sys.unraisablehook = before


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.getMessage()
