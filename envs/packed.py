"""Observations of several arrays, an image and a vector, as one array of bytes.

Rollouts, replay and runners hold one array for an observation; a network of the user's own gets the
arrays by name. A task's own process needs no jax for this.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from dm_env import specs


class PackedArray(specs.Array):
    """Spec of named arrays whose bytes follow one another: [size] uint8.

    Args:
      entries: name -> spec of one array, which may be packed itself.
    """

    def __init__(self, entries: Mapping[str, specs.Array]):
        self.entries = dict(entries)
        super().__init__((sum(map(_num_bytes, self.entries.values())),), np.uint8, "observation")

    def pack(self, arrays: Mapping[str, Any]) -> np.ndarray:
        """[..., size] uint8 from arrays by name, [..., *shape] each.

        Raises:
          ValueError: an array lacks, has another shape or kind of dtype, or is not finite.
        """
        parts = []
        for name, spec in self.entries.items():
            value = arrays[name] if name in arrays else None
            if isinstance(spec, PackedArray) and isinstance(value, Mapping):
                value = spec.pack(value)
            value = np.asarray(value)
            lead = value.shape[: value.ndim - len(spec.shape)]
            if value.shape != (*lead, *spec.shape):
                raise ValueError(f"{name!r} must have shape {spec.shape}, got {value.shape}")
            if not np.can_cast(value.dtype, spec.dtype, "same_kind"):
                raise ValueError(f"{name!r} must be {spec.dtype}, got {value.dtype}")
            value = np.ascontiguousarray(value, spec.dtype).reshape(*lead, -1)
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise ValueError(f"{name!r} is not finite")
            parts.append(value.view(np.uint8))
        return np.concatenate(parts, axis=-1)

    def unpack(self, packed: Any) -> dict[str, Any]:
        """The arrays by name, [..., *shape] each, of jax's [..., size] uint8."""
        import jax
        import jax.numpy as jnp

        lead, start, found = packed.shape[:-1], 0, {}
        for name, spec in self.entries.items():
            part = packed[..., start : start + _num_bytes(spec)]
            start += _num_bytes(spec)
            if isinstance(spec, PackedArray):
                found[name] = spec.unpack(part)
            elif spec.dtype.itemsize == 1:
                found[name] = part.reshape(*lead, *spec.shape).astype(spec.dtype)
            else:
                rows = part.reshape(*lead, *spec.shape, spec.dtype.itemsize)
                found[name] = jax.lax.bitcast_convert_type(rows, jnp.dtype(spec.dtype))
        return found

    def __repr__(self) -> str:
        each = (f"{name} {shown(spec)}" for name, spec in self.entries.items())
        return f"{{{', '.join(each)}}}"

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, PackedArray) and self.entries == other.entries

    __hash__ = None

    def __reduce__(self) -> Any:
        return PackedArray, (self.entries,)


def shown(spec: specs.Array) -> str:
    """A spec for messages: shape and dtype, those of each array if it is packed."""
    return repr(spec) if isinstance(spec, PackedArray) else f"{list(spec.shape)} {spec.dtype}"


def _num_bytes(spec: specs.Array) -> int:
    return math.prod(spec.shape) * spec.dtype.itemsize
