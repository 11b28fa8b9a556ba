"""What a spec must be, told in sentences."""

from typing import Any, TypeGuard

import numpy as np
from dm_env import specs
from jax.core import Tracer

from bellmax import UserError
from bellmax.envs.base import EnvSpec


def check_spec(spec: Any) -> None:
    """Raises UserError with the first problem of a spec, if it has one."""
    for problem in spec_problems(spec):
        raise UserError(f"{getattr(spec, 'name', 'the environment')}: {problem}")


def spec_problems(spec: Any) -> list[str]:
    """What is wrong with a spec, one sentence each without a full stop."""
    if not isinstance(spec, EnvSpec):
        return [f"spec must be a bellmax.envs.EnvSpec, got a {type(spec).__name__}"]
    problems = _array_problems("observation", spec.observation)
    problems += _array_problems("action", spec.action) or _action_problems(spec.action)
    limit, range_ = spec.time_limit, spec.reward_range
    if _is_known(limit) and limit < 1:
        problems.append(f"spec.time_limit must be at least 1, got {limit}")
    if range_ is not None and all(map(_is_known, range_)) and not range_[0] <= range_[1]:
        problems.append(f"spec.reward_range must be (low, high), got {range_}")
    return problems


def _is_known(value: Any) -> TypeGuard[float]:
    """Whether a number is there and not traced, as under a vmap over tasks."""
    return value is not None and not isinstance(value, Tracer)


def _array_problems(name: str, array: Any) -> list[str]:
    if not isinstance(array, specs.Array):
        return [f"spec.{name} must be a dm_env spec, got a {type(array).__name__}"]
    if array.dtype.kind not in "biuf":
        return [f"spec.{name} must be numeric, got dtype {array.dtype}"]
    if 0 in array.shape:
        return [f"spec.{name} must have at least one entry, got shape {array.shape}"]
    bounds = [getattr(array, bound, 0) for bound in ("minimum", "maximum")]
    if any(np.isnan(bound).any() for bound in bounds):
        return [f"the bounds of spec.{name} must be numbers, got NaN"]
    return []


def _action_problems(action: specs.Array) -> list[str]:
    if isinstance(action, specs.DiscreteArray) or action.dtype.kind == "f":
        return []
    return [f"spec.action must be a dm_env DiscreteArray or of floats, got {action}"]
