"""Saving and restoring the items of a checkpoint with orbax. Import it in functions: it is slow.

STATE and REPLAY hold arrays by name, META holds JSON, and MANIFEST the checksums of their files.

While orbax writes an array it holds several copies of it (google/orbax#1640), and its limits
`save_concurrent_gb` and `restore_concurrent_gb` refuse an array that is larger than they are. So
large arrays are saved as pieces, each an array of its own to orbax, one after the other.
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

from bellmax.launch.training import pieces
from bellmax.launch.training.checkpoint_files import MANIFEST, META, REPLAY, STATE, write_manifest
from bellmax.launch.training.pieces import Cut, named_sharding

_CHUNKS = 4  # of a piece, compressed in parallel


def save(
    folder: Path,
    step: int,
    items: Mapping[str, dict[str, jax.Array]],
    cuts: Mapping[str, Cut],
    meta: dict[str, Any],
) -> None:
    """Writes folder/<step>; all processes of a run must call it.

    Args:
      folder: of the run's checkpoints.
      step: >= 0; folder/<step> must not exist.
      items: STATE, REPLAY or both: non-empty arrays by name, no typed keys.
      cuts: of the arrays that are saved in pieces, by name.
      meta: JSON values.
    """
    trees = {item: _in_pieces(arrays, cuts) for item, arrays in items.items()}
    arguments = {item: _save_arguments(tree) for item, tree in trees.items()}
    arguments |= {META: ocp.args.JsonSave(meta), MANIFEST: _ManifestArgs()}
    with _quiet(), _settled(), _manager(folder, create=True) as manager:
        manager.save(step, args=ocp.args.Composite(**arguments), force=True)


def read_meta(folder: Path, step: int) -> dict[str, Any]:
    """Return the `meta` that was saved."""
    with _quiet(), _manager(folder) as manager:
        args = ocp.args.Composite(**{META: ocp.args.JsonRestore()})
        return manager.restore(step, args=args)[META]


def restore(
    folder: Path, step: int, items: Mapping[str, dict[str, Any]], cuts: Mapping[str, Cut]
) -> dict[str, jax.Array]:
    """Reads the named arrays only; all processes of a run must call it.

    Args:
      folder, step: as in `save`.
      items: STATE, REPLAY or both: shapes and dtypes by name. Arrays with a NamedSharding get it;
        others are uncommitted arrays on the default device.
      cuts: as they were saved.

    Returns:
      The arrays by name. XLA owns them, so they can be donated.
    """
    restored = {}
    with _quiet(), _manager(folder) as manager:
        for item, specs in items.items():
            small = {name: spec for name, spec in specs.items() if name not in cuts}
            for name, array in (_read(manager, step, item, small) if small else {}).items():
                restored[name] = array if isinstance(array, jax.Array) else jnp.array(array)
            for name in [name for name in specs if name in cuts]:
                restored[name] = _read_pieces(manager, step, item, name, specs[name], cuts[name])
    return restored


@dataclasses.dataclass(frozen=True)
class _Piece:
    """Some rows of an array along `axis`."""

    array: jax.Array
    axis: int
    first: int
    rows: int


class _PieceHandler(ocp.type_handlers.ArrayHandler):
    """Cuts and saves one piece after the other, so that one at a time is in memory."""

    async def serialize(self, values: Sequence[Any], infos: Any, args: Any = None) -> list[Any]:
        for piece, info, arg in zip(values, infos, args, strict=True):
            sharding = named_sharding(piece.array)
            array = _take(piece.array, piece.first, piece.axis, piece.rows, sharding)
            for written in await super().serialize([array], [info], [arg]):
                written.result()
        return []


class _ManifestHandler(ocp.CheckpointHandler):
    """Writes MANIFEST after orbax has finished all other items."""

    def save(self, directory: Any, args: Any) -> None:
        pass

    def restore(self, directory: Any, args: Any = None) -> None:
        pass

    def finalize(self, directory: Any) -> None:
        others = [path for path in Path(directory).parent.iterdir() if path.is_dir()]
        if any("tmp" in path.name for path in others if path.name != directory.name):
            raise RuntimeError(f"orbax finished {MANIFEST} before other items")
        write_manifest(Path(directory).parent, Path(directory) / MANIFEST)


@ocp.args.register_with_handler(_ManifestHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class _ManifestArgs(ocp.args.CheckpointArgs):
    pass


@contextlib.contextmanager
def _manager(folder: Path, *, create: bool = False) -> Iterator[ocp.CheckpointManager]:
    """A manager that is used once, because its list of checkpoints is a cache.

    It keeps every checkpoint. Its own policies need the score at the time of the save, and it
    removes a checkpoint file by file under its name, which a kill leaves half removed.
    """
    # META and the caller say what these files would.
    options = {"array_metadata_store": None, "enable_write_sharding_file": False}
    types = ocp.type_handlers.create_type_handler_registry(
        (jax.Array, ocp.type_handlers.ArrayHandler(**options, use_replica_parallel=False)),
        (_Piece, _PieceHandler(**options, use_replica_parallel=False)),
        (np.ndarray, ocp.type_handlers.NumpyHandler()),
    )
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    for item in (STATE, REPLAY):
        handler = ocp.PyTreeCheckpointHandler(
            type_handler_registry=types, enable_pinned_host_transfer=False
        )
        registry.add(item, ocp.args.PyTreeSave, handler)
        registry.add(item, ocp.args.PyTreeRestore, handler)
    handler = ocp.JsonCheckpointHandler()
    registry.add(META, ocp.args.JsonSave, handler)
    registry.add(META, ocp.args.JsonRestore, handler)
    registry.add(MANIFEST, _ManifestArgs, _ManifestHandler())  # orbax finishes items in this order
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
        for i, rows in enumerate(how.spans(array.shape)):
            tree[_piece_name(name, i)] = _Piece(array, how.axis, *rows)
    return tree


def _piece_name(name: str, i: int) -> str:
    return f"{name}/{i:05d}"


def _save_arguments(tree: Mapping[str, Any]) -> Any:
    chunk = ocp.SaveArgs(chunk_byte_size=max(pieces.PIECE_BYTES // _CHUNKS, 1))
    each = {name: chunk if isinstance(x, _Piece) else ocp.SaveArgs() for name, x in tree.items()}
    return ocp.args.PyTreeSave(dict(tree), save_args=each)


def _read(manager: Any, step: int, item: str, specs: Mapping[str, Any]) -> dict[str, Any]:
    """Reads some arrays of one item; those without a NamedSharding are NumPy arrays."""
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
    for i, (first, rows) in enumerate(how.spans(spec.shape)):
        shape = list(spec.shape)
        shape[how.axis] = rows
        part = jax.ShapeDtypeStruct(shape, spec.dtype, sharding=sharding)
        (read,) = _read(manager, step, item, {_piece_name(name, i): part}).values()
        # Without waiting, several pieces would be in memory.
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
    """Suppresses orbax's log of its progress, and of errors that it also raises."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _settled() -> Iterator[None]:
    """After a failed write waits for orbax's other threads, and suppresses what they print.

    Until the program ends, Python may report that their event loop is closed or that their
    exceptions were never retrieved. One error has been raised for all of them.
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
                threading.Thread.join(thread, 60)  # orbax's own `join` raises the thread's error
        logging.getLogger("asyncio").addFilter(_is_not_of_orbax)
        raise
    sys.unraisablehook = before


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.getMessage()
