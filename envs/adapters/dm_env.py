"""Adapts dm_env environments to the HostEnvironment protocol. Imported on first use."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import dm_env
import numpy as np
from dm_env import specs

from bellmax import UserError, must
from bellmax.envs.adapters.shared.discrete import convert_discrete
from bellmax.envs.base import EnvSpec
from bellmax.envs.host.base import Conversion, HostTimeStep, opening, within
from bellmax.envs.host.values import as_reward
from bellmax.envs.joint import joint_spec
from bellmax.envs.packed import PackedArray


def from_dm_env(
    env_factory: Callable[..., Any],
    name: str,
    *,
    time_limit: int | None = None,
    draw: Callable[[Any], np.ndarray] | None = None,
) -> "DmEnvTask":
    """Wraps a dm_env.Environment as a host environment, see `DmEnvTask`.

    Args:
      env_factory: makes the dm_env.Environment. It is called again for every seed, because
        dm_env's `reset` takes no seed. If it has an argument `seed`, it receives the seed, an int
        or None; otherwise bellmax cannot seed the environment.
      name: name in the spec and in messages.
      time_limit: steps after which the environment itself truncates; None if it does not.
      draw: function that draws an environment, [H, W, 3] uint8.

    Raises:
      UserError: bellmax does not support its observations or actions.
    """
    make_env: Callable[[int | None], Any]
    if _takes_seed(env_factory):
        make_env = functools.partial(_make_seeded, env_factory)
    else:
        make_env = functools.partial(_make_unseeded, env_factory)
    return DmEnvTask(make_env, name, time_limit=time_limit, draw=draw)


class DmEnvTask:
    """A HostEnvironment that wraps dm_env.Environments.

    The last step of an episode is a termination if its discount is 0, else a truncation. Discounts
    of other steps are ignored. Several named observations are concatenated into one float32 vector,
    sorted by name, or packed if one is an image. A single observation keeps its shape, except that
    [1, D] becomes [D]; uint8 and bool keep their dtype, all others become float32.

    Args:
      make_env: makes the environment for a seed or None.
      name, time_limit, draw: see `from_dm_env`.
    """

    def __init__(
        self,
        make_env: Callable[[int | None], Any],
        name: str,
        *,
        time_limit: int | None = None,
        draw: Callable[[Any], np.ndarray] | None = None,
    ):
        self._make_env, self._draw = make_env, draw
        self._env = make_env(None)
        self._observation = convert_observation(self._env.observation_spec())
        self._action = convert_action(self._env.action_spec(), name)
        range_ = _reward_range(self._env.reward_spec())
        self.spec = EnvSpec(name, self._observation.spec, self._action.spec, time_limit, range_)

    def reset(self, seed: int | None) -> HostTimeStep:
        if seed is not None:
            self._env.close()
            self._env = self._make_env(seed)
        return opening(self._observation.convert(self._checked(self._env.reset()).observation))

    def step(self, action: np.ndarray) -> HostTimeStep:
        ts = self._checked(self._env.step(self._action.convert(action)))
        terminated = bool(ts.last() and ts.discount == 0)
        truncated = bool(ts.last() and not terminated)
        observation = self._observation.convert(ts.observation)
        return HostTimeStep(
            observation, as_reward(ts.reward, self.spec.name), terminated, truncated
        )

    def _checked(self, ts: Any) -> dm_env.TimeStep:
        if not isinstance(ts, dm_env.TimeStep):
            raise UserError(
                must(
                    f"reset and step of {self.spec.name}",
                    "a dm_env.TimeStep",
                    f"a {type(ts).__name__}",
                    verb="return",
                )
            )
        return ts

    def render(self) -> np.ndarray:
        """Draw the state, [H, W, 3] uint8; UserError if the task cannot draw."""
        if self._draw is None:
            raise UserError(f"{self.spec.name} cannot draw pictures")
        return self._draw(self._env)

    def close(self) -> None:
        self._env.close()


def convert_observation(spec: Any) -> Conversion:
    """Conversion of the observations of a spec, or of nested mappings of specs, for the agent.

    Raises:
      UserError: one of them is not numeric.
    """
    leaves = _leaves(spec, ())
    parts = [_convert_leaf(leaf, path) for path, leaf in leaves]
    if len(parts) == 1:
        (path, _), (part,) = leaves[0], parts
        return Conversion(part.spec, lambda value: part.convert(_follow(value, path)))
    if any(len(part.spec.shape) == 3 for part in parts):
        return _packed(leaves, parts)
    size = sum(int(np.prod(part.spec.shape)) for part in parts)

    def join(value):
        found = [
            p.convert(_follow(value, path)) for (path, _), p in zip(leaves, parts, strict=True)
        ]
        return np.concatenate([_to_float32(part).ravel() for part in found])

    return Conversion(specs.Array((size,), np.float32, "observation"), join)


def _packed(leaves: list[Any], parts: list[Conversion]) -> Conversion:
    """Conversion to the bytes of each observation, for a network that takes them by name."""
    names = ["/".join(map(str, path)) for path, _ in leaves]
    spec = PackedArray({name: part.spec for name, part in zip(names, parts, strict=True)})

    def pack(value: Any) -> np.ndarray:
        each = zip(names, leaves, parts, strict=True)
        return spec.pack({n: part.convert(_follow(value, path)) for n, (path, _), part in each})

    return Conversion(spec, pack)


def convert_action(spec: Any, name: str) -> Conversion:
    """Conversion of the agent's actions (integers from 0, or bounded float32) to those of a spec.

    Several bounded integers with at most 256 combinations are one action, see `JointArray`.

    Raises:
      UserError: a spec of another kind, or with more combinations.
    """
    if isinstance(spec, specs.BoundedArray) and np.issubdtype(spec.dtype, np.integer):
        if spec.shape == ():
            low, high, dtype = int(spec.minimum), int(spec.maximum), spec.dtype
            numbers = specs.DiscreteArray(high - low + 1, np.int32, "action")
            return Conversion(numbers, lambda action: dtype.type(int(action) + low))
        lows, highs = (np.broadcast_to(b, spec.shape) for b in (spec.minimum, spec.maximum))
        counts = highs.astype(int) - lows.astype(int) + 1
        hint = "wrap the task in one that has fewer"
        joint = joint_spec(counts, lows, f"{name}'s actions", str(spec), hint)
        return Conversion(joint, lambda action: joint.split(action).astype(spec.dtype))
    elif isinstance(spec, specs.Array) and np.issubdtype(spec.dtype, np.floating):
        bounded = isinstance(spec, specs.BoundedArray)
        low, high = (spec.minimum, spec.maximum) if bounded else (-np.inf, np.inf)
        return Conversion(_shown(spec, spec.shape, "action"), within(spec.dtype, low, high))
    raise UserError(must(f"{name}'s actions", "bounded integers or floats", spec))


def _leaves(spec: Any, path: tuple[Any, ...]) -> list[tuple[tuple[Any, ...], Any]]:
    """The specs in nested mappings with the path of keys to each, sorted by key."""
    if not isinstance(spec, Mapping):
        return [(path, spec)]
    return [leaf for key in sorted(spec) for leaf in _leaves(spec[key], (*path, key))]


def _follow(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def _convert_leaf(spec: Any, path: tuple[Any, ...]) -> Conversion:
    if not isinstance(spec, specs.Array) or spec.dtype.kind not in "biuf":
        where = "/".join(map(str, path)) or "observation"
        raise UserError(must(f"observation {where!r}", "a numeric spec", spec, verb="have"))
    if isinstance(spec, specs.DiscreteArray):
        return convert_discrete(int(spec.num_values), 0, "the task")
    shape = spec.shape[1:] if len(spec.shape) == 2 and spec.shape[0] == 1 else spec.shape
    convert = np.asarray if spec.dtype in (np.uint8, np.bool_) else _to_float32
    return Conversion(
        _shown(spec, shape, "observation"), lambda value: convert(value).reshape(shape)
    )


def _shown(spec: specs.Array, shape: tuple[int, ...], role: str) -> specs.Array:
    """The agent's spec of that shape, with bounds if all of them are finite."""
    dtype = spec.dtype if spec.dtype in (np.uint8, np.bool_) else np.dtype(np.float32)
    if not isinstance(spec, specs.BoundedArray):
        return specs.Array(shape, dtype, role)
    low, high = (np.broadcast_to(bound, spec.shape) for bound in (spec.minimum, spec.maximum))
    low, high = (_cast(bound, dtype).reshape(shape) for bound in (low, high))
    if not np.all(np.isfinite(low) & np.isfinite(high)):
        return specs.Array(shape, dtype, role)
    return specs.BoundedArray(shape, dtype, low, high, role)


def _cast(value: np.ndarray, dtype: np.dtype) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        return value.astype(dtype, copy=False)


def _to_float32(value: Any) -> np.ndarray:
    return _cast(np.asarray(value), np.dtype(np.float32))


def _reward_range(spec: Any) -> tuple[float, float] | None:
    if not isinstance(spec, specs.BoundedArray) or spec.shape != ():
        return None
    low, high = float(spec.minimum), float(spec.maximum)
    return (low, high) if np.isfinite([low, high]).all() else None


def _takes_seed(env_factory: Callable[..., Any]) -> bool:
    """Whether the factory has an argument `seed` that is not bound yet."""
    if "seed" in getattr(env_factory, "keywords", {}):
        return False
    try:
        return "seed" in inspect.signature(env_factory).parameters
    except ValueError:  # some builtins have no signature
        return False


def _make_seeded(env_factory: Callable[..., Any], seed: int | None) -> Any:
    return env_factory(seed=seed)


def _make_unseeded(env_factory: Callable[..., Any], seed: int | None) -> Any:
    del seed
    return env_factory()
