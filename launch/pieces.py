"""How large arrays are cut into pieces, so that a save has no second copy of one in memory."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jax.sharding import NamedSharding

PIECE_BYTES = 1 << 25  # arrays that are larger are cut
SAVING_BYTES = 12 * PIECE_BYTES  # as measured: copies, compressed chunks, what malloc holds back


class Cut(NamedTuple):
    """Pieces of `rows` along `axis`."""

    axis: int
    rows: int

    def starts(self, shape: Sequence[int]) -> Iterator[tuple[int, int]]:
        """The first row and the number of rows of each piece of an array."""
        for first in range(0, shape[self.axis], self.rows):
            yield first, min(self.rows, shape[self.axis] - first)


def cut(array: Any) -> Cut | None:
    """How to cut an array; None if it is to stay whole.

    Along its longest axis, but not one that is split over devices: each keeps its part of a piece.
    """
    size = array.size * array.dtype.itemsize
    sharding = named_sharding(array)
    split = () if sharding is None else tuple(sharding.spec)
    axes = [i for i in range(array.ndim) if i >= len(split) or split[i] is None]
    if size <= PIECE_BYTES or not axes:
        return None
    axis = max(axes, key=lambda i: array.shape[i])
    return Cut(axis, max(PIECE_BYTES * array.shape[axis] // size, 1))


def named_sharding(array: Any) -> NamedSharding | None:
    """Where an array is, or is to be, on several devices; None for one device."""
    sharding = getattr(array, "sharding", None)
    return sharding if isinstance(sharding, NamedSharding) else None
