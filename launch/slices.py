"""Large arrays on disk, written and read slice by slice: no second copy of one is in memory.

An array is a folder of tensorstore's, in the format zarr, of compressed chunks.
"""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore as ts

SLICE_BYTES = 1 << 25  # of an array that is in memory a second time
SAVING_BYTES = 12 * SLICE_BYTES  # as measured: copies, compressed chunks, what malloc holds back
_CHUNKS = 4  # to a slice: each is compressed in a thread of its own


def is_large(leaf: Any) -> bool:
    """Whether an array is worth more than one slice; those of keys never are."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return False
    return leaf.size * leaf.dtype.itemsize > SLICE_BYTES


def write_slices(folder: Path, array: Any) -> None:
    """Writes an array of jax or numpy; when it returns all is on disk and nothing refers to it.

    A slice is a copy, also where it could be a view: XLA does not reuse what a view has looked at.
    """
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        array = array.addressable_data(0)  # all of it, as other processes have it too
    axis, rows = _cut(array)
    chunks = list(array.shape)
    chunks[axis] = -(-rows // _CHUNKS)
    metadata = {"chunks": chunks, "compressor": {"id": "zstd", "level": 1}}
    spec = {"driver": "zarr", "kvstore": _files(folder), "metadata": metadata}
    dtype = ts.dtype(np.dtype(array.dtype))
    store = ts.open(spec, create=True, dtype=dtype, shape=array.shape).result()
    for first in range(0, array.shape[axis], rows):
        last = min(first + rows, array.shape[axis])
        if isinstance(array, jax.Array):
            part = np.asarray(_take(array, first, axis, last - first))
        else:
            part = array.take(range(first, last), axis)
        store[_along(axis, first, last)].write(part).result()


def read_slices(folder: Path, like: Any) -> jax.Array:
    """Reads what was written of an array with the shape and dtype of `like`.

    XLA owns what it returns, on the default device, so that it can be donated.
    """
    axis, rows = _cut(like)
    store = ts.open({"driver": "zarr", "kvstore": _files(folder)}).result()
    whole = jnp.zeros(like.shape, like.dtype)
    for first in range(0, like.shape[axis], rows):
        last = min(first + rows, like.shape[axis])
        part = store[_along(axis, first, last)].read().result()
        # Waited for: slices that are still to be put into place would be in memory together.
        whole = jax.block_until_ready(_put(whole, part, first, axis))
    return whole


def _files(folder: Path) -> dict[str, str]:
    return {"driver": "file", "path": str(folder)}


def _cut(array: Any) -> tuple[int, int]:
    """The axis that slices are taken along, which is the longest, and how long they are there."""
    axis = int(np.argmax(array.shape))
    row = array.size // array.shape[axis] * array.dtype.itemsize
    return axis, max(SLICE_BYTES // row, 1)


def _along(axis: int, first: int, last: int) -> tuple[slice, ...]:
    return (*[slice(None)] * axis, slice(first, last))


@functools.partial(jax.jit, static_argnums=(2, 3))
def _take(array: jax.Array, first: Any, axis: int, length: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(array, first, length, axis)


@functools.partial(jax.jit, static_argnums=3, donate_argnums=0)
def _put(whole: jax.Array, part: Any, first: Any, axis: int) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(whole, part, first, axis)
