"""Conversion of Gymnasium's spaces to specs, and of their values. Imported on first use."""

from typing import Any

import numpy as np
from dm_env import specs

from bellmax import UserError, must
from bellmax.envs.adapters.shared.discrete import MAX_ONE_HOT, convert_discrete
from bellmax.envs.host.base import Conversion, within
from bellmax.envs.joint import joint_spec
from bellmax.envs.options import did_you_mean
from bellmax.envs.packed import PackedArray


def convert_observation(space: Any, name: str, *, key: str | int | None = None) -> Conversion:
    """Conversion of the observations of a space for the agent.

    Args:
      space: Box keeps uint8 and bool, all other dtypes become float32, without bounds if one of
        them is infinite. Discrete becomes a one-hot float32 vector, or stays a number if it has
        more than 4,096 values; MultiBinary becomes float32, MultiDiscrete one-hot vectors one after
        the other. Of a Dict or Tuple, the entry `key` is converted; without a key all entries are
        joined to one float32 vector in the order of the space, or packed if one is an image.
      name: of the task, for messages.
      key: the entry of a Dict or Tuple that the agent sees.

    Raises:
      UserError: the space has another type, or has no such entry.
    """
    from gymnasium import spaces

    if isinstance(space, spaces.Dict | spaces.Tuple) and key is None and _is_flat(space):
        return _joined(space, name)
    if isinstance(space, spaces.Dict | spaces.Tuple) and key is None and len(space.spaces) > 1:
        return _packed(space, name)
    if isinstance(space, spaces.Dict | spaces.Tuple):
        entry = _find_entry(space, name, key)  # the only one, if there is no key
        inner = convert_observation(space[entry], name)
        return Conversion(inner.spec, lambda value: inner.convert(value[entry]))
    if key is not None:
        hint = "it has a single observation"
        raise UserError(must("observation_key", f"left out for {name}", repr(key), hint))
    if isinstance(space, spaces.Discrete):
        return convert_discrete(int(space.n), int(space.start), name)
    if isinstance(space, spaces.MultiDiscrete) and _is_flat(space):
        return _one_hots(space, name)
    if isinstance(space, spaces.MultiBinary):
        binary = specs.BoundedArray(space.shape, np.float32, 0.0, 1.0, "observation")
        return Conversion(binary, _to_float32)
    if isinstance(space, spaces.Box):
        spec = _box_spec(space, "observation")
        return Conversion(spec, np.asarray if spec.dtype == space.dtype else _to_float32)
    raise UserError(
        must(
            f"{name}'s observation space",
            "Box, Discrete, MultiBinary, MultiDiscrete, or a Dict or Tuple of them",
            _shown(space),
            "wrap the task in a gymnasium.ObservationWrapper that returns one of them",
        )
    )


def convert_action(space: Any, name: str) -> Conversion:
    """Conversion of the agent's actions, [0, n) or float32, to those of a space.

    Args:
      space: Discrete; a Box of floats; MultiDiscrete or MultiBinary with at most 256 combinations,
        each of which is one action of the agent (see `JointArray`).
      name: of the task, for messages.

    Raises:
      UserError: the space has another type, or more combinations.
    """
    from gymnasium import spaces

    if isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary):
        binary = isinstance(space, spaces.MultiBinary)
        counts = np.full(space.shape, 2) if binary else space.nvec
        starts = None if binary else getattr(space, "start", None)
        hint = "wrap it in a gymnasium.ActionWrapper that has fewer"
        joint = joint_spec(counts, starts, f"{name}'s action space", _shown(space), hint)
        return Conversion(joint, lambda action: joint.split(action).astype(space.dtype))

    if isinstance(space, spaces.Discrete):
        start = int(space.start)
        numbers = specs.DiscreteArray(int(space.n), np.int32, "action")
        return Conversion(numbers, lambda action: int(action) + start)
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return Conversion(_box_spec(space, "action"), within(space.dtype, space.low, space.high))
    allowed = "Discrete, MultiDiscrete, MultiBinary or a Box of floats"
    raise UserError(must(f"{name}'s action space", allowed, _shown(space)))


def _is_flat(space: Any) -> bool:
    """Whether a space joins to a vector: it holds no image and nothing of very many values."""
    from gymnasium import spaces

    if isinstance(space, spaces.Dict | spaces.Tuple):
        return len(space.spaces) > 0 and all(map(_is_flat, _entries(space)))
    if isinstance(space, spaces.Discrete):
        return int(space.n) <= MAX_ONE_HOT
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum()) <= MAX_ONE_HOT
    return isinstance(space, spaces.Box | spaces.MultiBinary) and len(space.shape) <= 1


def _entries(space: Any) -> list[Any]:
    return [*space.spaces.values()] if isinstance(space.spaces, dict) else [*space.spaces]


def _joined(space: Any, name: str) -> Conversion:
    """Conversion of a Dict or Tuple to one float32 vector, in the order of the space."""
    keys = list(space.spaces) if isinstance(space.spaces, dict) else range(len(space.spaces))
    parts = [convert_observation(one, name) for one in _entries(space)]
    size = sum(int(np.prod(part.spec.shape)) for part in parts)

    def join(value: Any) -> np.ndarray:
        each = zip(keys, parts, strict=True)
        rows = [np.ravel(part.convert(value[key])) for key, part in each]
        return np.concatenate(rows).astype(np.float32, copy=False)

    return Conversion(specs.Array((size,), np.float32, "observation"), join)


def _packed(space: Any, name: str) -> Conversion:
    """Conversion of a Dict or Tuple to the bytes of its entries, for a network that takes them."""
    keys = list(space.spaces) if isinstance(space.spaces, dict) else range(len(space.spaces))
    parts = {str(k): convert_observation(space[k], name) for k in keys}
    spec = PackedArray({key: part.spec for key, part in parts.items()})

    def pack(value: Any) -> np.ndarray:
        each = zip(keys, parts.items(), strict=True)
        return spec.pack({name: part.convert(value[key]) for key, (name, part) in each})

    return Conversion(spec, pack)


def _one_hots(space: Any, name: str) -> Conversion:
    """Conversion of a MultiDiscrete to its one-hot vectors, one after the other."""
    counts = np.ravel(space.nvec)
    starts = np.ravel(getattr(space, "start", np.zeros_like(counts)))
    parts = [convert_discrete(int(n), int(s), name) for n, s in zip(counts, starts, strict=True)]

    def join(value: Any) -> np.ndarray:
        flat = np.asarray(value).reshape(len(parts))
        return np.concatenate([part.convert(one) for part, one in zip(parts, flat, strict=True)])

    size = int(counts.sum())
    return Conversion(specs.BoundedArray((size,), np.float32, 0.0, 1.0, "observation"), join)


def _shown(space: Any) -> str:
    if isinstance(space, type):
        return f"the class {space.__name__}"
    package = type(space).__module__.partition(".")[0]
    if package == "gym":
        return f"a {type(space).__name__} of the package gym instead of gymnasium"
    return str(space) if package == "gymnasium" else f"a {type(space).__name__}"


def _box_spec(space: Any, role: str) -> specs.Array:
    dtype = np.dtype(space.dtype if space.dtype in (np.uint8, np.bool_) else np.float32)
    largest = np.finfo(np.float32).max if dtype == np.float32 else np.inf
    low, high = np.asarray(space.low), np.asarray(space.high)
    if np.any(low <= -largest) or np.any(high >= largest):
        return specs.Array(space.shape, dtype, role)
    return specs.BoundedArray(space.shape, dtype, low.astype(dtype), high.astype(dtype), role)


def _to_float32(value: Any) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):  # LoopBatch checks that values are finite
        return np.asarray(value).astype(np.float32, copy=False)


def _find_entry(space: Any, name: str, key: str | int | None) -> Any:
    entries = list(getattr(space, "spaces", {}))  # keys of a Dict
    if not isinstance(space.spaces, dict):
        entries = list(range(len(space.spaces)))
    if key is None and len(entries) == 1:
        return entries[0]
    if key not in entries:
        listed = ", ".join(repr(entry) for entry in entries)
        near = "" if key is None else did_you_mean(str(key), [str(entry) for entry in entries])
        got = "nothing" if key is None else repr(key)
        hint = near or "--env.options.observation-key chooses one"
        raise UserError(must("observation_key", f"one of {listed}", got, hint))
    return key
