"""Saving and restoring the items of a checkpoint with orbax. Import it in functions: it is slow.

STATE and REPLAY hold arrays by name, and META holds JSON.

While orbax writes an array it holds several copies of it (google/orbax#1640), and its limits
`save_concurrent_gb` and `restore_concurrent_gb` refuse larger arrays. Large arrays are therefore
saved as a sequence of pieces, each of which orbax treats as a separate array.
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
from bellmax.launch.training.checkpoint_files import META, REPLAY, STATE
from bellmax.launch.training.pieces import Cut, named_sharding

_CHUNKS = 4  # chunks of a piece, compressed in parallel


def save(
    path: Path,
    items: Mapping[str, dict[str, jax.Array]],
    cuts: Mapping[str, Cut],
    meta: dict[str, Any],
) -> None:
    """Write items to a new folder; all processes of a run must call this.

    Args:
      path: the folder.
      items: STATE, REPLAY or both: non-empty arrays by name, no typed keys.
      cuts: how to cut the arrays that are saved in pieces, by name.
      meta: JSON values.
    """
    arguments: dict[str, Any] = {META: ocp.args.JsonSave(meta)}
    for item, arrays in items.items():
        arguments[item] = _save_arguments(_in_pieces(arrays, cuts))
    with _quiet(), _settled(), _checkpointer() as checkpointer:
        checkpointer.save(path, ocp.args.Composite(**arguments))


def restore(
    path: Path, items: Mapping[str, dict[str, Any]], cuts: Mapping[str, Cut]
) -> dict[str, jax.Array]:
    """Read only the named arrays; all processes of a run must call this.

    Args:
      path: as in `save`.
      items: STATE, REPLAY or both: shapes and dtypes by name. A NamedSharding is applied; arrays
        without one are uncommitted, on the default device.
      cuts: as given to `save`.

    Returns:
      The arrays by name. XLA owns them, so they can be donated.
    """
    restored = {}
    with _quiet(), _checkpointer() as checkpointer:
        for item, specs in items.items():
            read = functools.partial(_read, checkpointer, path, item)
            small = {name: spec for name, spec in specs.items() if name not in cuts}
            for name, array in (read(small) if small else {}).items():
                restored[name] = array if isinstance(array, jax.Array) else jnp.array(array)
            for name in [name for name in specs if name in cuts]:
                restored[name] = _read_pieces(read, name, specs[name], cuts[name])
    return restored


@dataclasses.dataclass(frozen=True)
class _Piece:
    """A range of rows of an array along `axis`."""

    array: jax.Array
    axis: int
    first: int
    rows: int


class _PieceHandler(ocp.type_handlers.ArrayHandler):
    """Save pieces one after the other, so that only one is in memory at a time."""

    async def serialize(self, values: Sequence[Any], infos: Any, args: Any = None) -> list[Any]:
        for piece, info, arg in zip(values, infos, args, strict=True):
            sharding = named_sharding(piece.array)
            array = _take(piece.array, piece.first, piece.axis, piece.rows, sharding)
            for written in await super().serialize([array], [info], [arg]):
                written.result()
        return []


def _checkpointer() -> ocp.Checkpointer:
    """Return an orbax checkpointer that reads, and writes to a temporary folder that it renames.

    It is not a CheckpointManager, whose policies need the score of a checkpoint when it is saved,
    and which removes a checkpoint file by file: a kill would leave an incomplete one.
    """
    # META and the caller already have the contents of these files.
    options = {"array_metadata_store": None, "enable_write_sharding_file": False}
    types = ocp.type_handlers.create_type_handler_registry(
        (jax.Array, ocp.type_handlers.ArrayHandler(**options, use_replica_parallel=False)),
        (_Piece, _PieceHandler(**options, use_replica_parallel=False)),
        (np.ndarray, ocp.type_handlers.NumpyHandler()),
    )
    handlers: dict[str, Any] = {META: ocp.JsonCheckpointHandler()}
    for item in (STATE, REPLAY):
        handlers[item] = ocp.PyTreeCheckpointHandler(
            type_handler_registry=types, enable_pinned_host_transfer=False
        )
    return ocp.Checkpointer(ocp.CompositeCheckpointHandler(**handlers))


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


def _read(checkpointer: Any, path: Path, item: str, specs: Mapping[str, Any]) -> dict[str, Any]:
    """Read some arrays of one item; those without a NamedSharding become NumPy arrays."""
    how = {name: _restore_argument(spec) for name, spec in specs.items()}
    args = ocp.args.PyTreeRestore(dict(specs), restore_args=how, partial_restore=True)
    return checkpointer.restore(path, ocp.args.Composite(**{item: args}))[item]


def _restore_argument(spec: Any) -> Any:
    sharding = named_sharding(spec)
    if sharding is None:
        return ocp.RestoreArgs(restore_type=np.ndarray)
    return ocp.ArrayRestoreArgs(
        restore_type=jax.Array, sharding=sharding, global_shape=spec.shape, dtype=spec.dtype
    )


def _read_pieces(read: Any, name: str, spec: Any, how: Cut) -> jax.Array:
    sharding = named_sharding(spec)
    whole = jnp.zeros(spec.shape, spec.dtype, device=sharding)
    for i, (first, rows) in enumerate(how.spans(spec.shape)):
        shape = list(spec.shape)
        shape[how.axis] = rows
        part = jax.ShapeDtypeStruct(shape, spec.dtype, sharding=sharding)
        (piece,) = read({_piece_name(name, i): part}).values()
        # Without waiting, several pieces would be in memory.
        whole = jax.block_until_ready(_put(whole, piece, first, how.axis, sharding))
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
    """Suppress orbax's progress messages, and its log of errors that it also raises."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _settled() -> Iterator[None]:
    """After a failed write, wait for orbax's other threads and suppress their output.

    Python may otherwise report that their event loop is closed or that their exceptions were never
    retrieved, although one error has been raised for all of them.
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
