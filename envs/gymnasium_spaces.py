"""Spaces of Gymnasium as specs, and what is converted on the way. Imported when a task is made."""

from typing import Any

import numpy as np
from dm_env import specs

from bellmax import UserError
from bellmax.envs.host_base import Conversion
from bellmax.envs.registry import suggest


def convert_observation(space: Any, name: str, *, key: str | int | None = None) -> Conversion:
    """How observations of a space are shown.

    Args:
      space: a Box: uint8 and bool stay, all else becomes float32, without bounds if one of them is
        infinite. A Discrete becomes a one-hot float32 vector, a MultiBinary float32. A Dict or
        Tuple: that of `key` in it.
      name: of the task, for messages.
      key: which entry of a Dict or Tuple is the observation.

    Raises:
      UserError: a space of another kind, or there is no such entry.
    """
    from gymnasium import spaces

    if isinstance(space, spaces.Dict | spaces.Tuple):
        entry = _find_entry(space, name, key)
        inner = convert_observation(space[entry], name)
        return Conversion(inner.spec, lambda value: inner.convert(value[entry]))
    if key is not None:
        raise UserError(f"{name} has a single observation: leave observation_key out.")
    if isinstance(space, spaces.Discrete):
        rows, start = np.eye(int(space.n), dtype=np.float32), int(space.start)
        one_hot = specs.BoundedArray((int(space.n),), np.float32, 0.0, 1.0, "observation")
        return Conversion(one_hot, lambda value: rows[int(value) - start])
    if isinstance(space, spaces.MultiBinary):
        binary = specs.BoundedArray(space.shape, np.float32, 0.0, 1.0, "observation")
        return Conversion(binary, _to_float32)
    if isinstance(space, spaces.Box):
        spec = _box_spec(space, "observation")
        return Conversion(spec, np.asarray if spec.dtype == space.dtype else _to_float32)
    raise UserError(
        f"{name} shows observations of {type(space).__name__}, but bellmax takes Box, Discrete, "
        "MultiBinary, or an entry of a Dict; a wrapper such as "
        "gymnasium.wrappers.FlattenObservation makes one."
    )


def convert_action(space: Any, name: str) -> Conversion:
    """How actions become a space's: Discrete from [0, n), a Box of floats from float32.

    Raises:
      UserError: a space of another kind.
    """
    from gymnasium import spaces

    if isinstance(space, spaces.Discrete):
        start = int(space.start)
        numbers = specs.DiscreteArray(int(space.n), np.int32, "action")
        return Conversion(numbers, lambda action: int(action) + start)
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        dtype = space.dtype
        return Conversion(_box_spec(space, "action"), lambda action: np.asarray(action, dtype))
    raise UserError(
        f"{name} takes actions of {space}, but bellmax gives those of a Discrete or of a Box of "
        "floats."
    )


def _box_spec(space: Any, role: str) -> specs.Array:
    dtype = np.dtype(space.dtype if space.dtype in (np.uint8, np.bool_) else np.float32)
    largest = np.finfo(np.float32).max if dtype == np.float32 else np.inf
    low, high = np.asarray(space.low), np.asarray(space.high)
    if np.any(low <= -largest) or np.any(high >= largest):
        return specs.Array(space.shape, dtype, role)
    return specs.BoundedArray(space.shape, dtype, low.astype(dtype), high.astype(dtype), role)


def _to_float32(value: Any) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):  # LoopBatch finds what is not finite
        return np.asarray(value).astype(np.float32, copy=False)


def _find_entry(space: Any, name: str, key: str | int | None) -> Any:
    entries = list(getattr(space, "spaces", {}))  # keys of a Dict
    if not isinstance(space.spaces, dict):
        entries = list(range(len(space.spaces)))
    if key not in entries:
        listed = ", ".join(repr(entry) for entry in entries)
        near = suggest(str(key), [str(entry) for entry in entries]) if key is not None else ""
        came = "" if key is None else f", not {key!r}{near}"
        raise UserError(
            f"{name} shows several observations: choose {listed} with the option "
            f"observation_key{came}."
        )
    return key
