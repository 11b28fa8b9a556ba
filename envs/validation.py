"""What a spec must be, told in sentences."""

from typing import Any, TypeGuard

import numpy as np
from dm_env import specs
from jax.core import Tracer

from bellmax import UserError, must
from bellmax.envs.base import EnvSpec


def check_spec(spec: Any) -> None:
    """Raises UserError with the first problem of a spec, if it has one."""
    for problem in spec_problems(spec):
        raise UserError(f"{getattr(spec, 'name', 'the environment')}: {problem}")


def spec_problems(spec: Any) -> list[str]:
    """What is wrong with a spec, one sentence each without a full stop."""
    if not isinstance(spec, EnvSpec):
        return [must("spec", "a bellmax.envs.EnvSpec", f"a {type(spec).__name__}")]
    problems = _array_problems("observation", spec.observation)
    problems += _array_problems("action", spec.action) or _action_problems(spec.action)
    if spec.action_mask and not isinstance(spec.action, specs.DiscreteArray):
        problems.append("spec.action_mask must be False unless spec.action is a DiscreteArray")
    limit, range_ = spec.time_limit, spec.reward_range
    if _is_known(limit) and limit < 1:
        problems.append(must("spec.time_limit", "at least 1", limit))
    if range_ is not None and all(map(_is_known, range_)) and not range_[0] <= range_[1]:
        problems.append(must("spec.reward_range", "(low, high)", range_))
    return problems


def _is_known(value: Any) -> TypeGuard[float]:
    """Whether a number is there and not traced, as under a vmap over tasks."""
    return value is not None and not isinstance(value, Tracer)


def _array_problems(name: str, array: Any) -> list[str]:
    if not isinstance(array, specs.Array):
        return [must(f"spec.{name}", "a dm_env spec", f"a {type(array).__name__}")]
    if array.dtype.kind not in "biuf":
        return [must(f"spec.{name}", "numeric", f"dtype {array.dtype}")]
    if 0 in array.shape:
        return [must(f"spec.{name}", "at least one entry", f"shape {array.shape}", verb="have")]
    bounds = [getattr(array, bound, 0) for bound in ("minimum", "maximum")]
    if any(np.isnan(bound).any() for bound in bounds):
        return [must(f"the bounds of spec.{name}", "numbers", "NaN")]
    return []


def _action_problems(action: specs.Array) -> list[str]:
    if isinstance(action, specs.DiscreteArray) or action.dtype.kind == "f":
        return []
    return [must("spec.action", "a dm_env DiscreteArray or of floats", action)]
