"""The part of `check_env` for host environments."""

from typing import Any

import numpy as np
from dm_env import specs

from bellmax.envs.base import EnvSpec
from bellmax.envs.checks.rollout import NO_ACTION, at_entry, widened_bounds
from bellmax.envs.errors import described
from bellmax.envs.host.base import HostBatch, HostTimeStep

NUM_ENVS = 3
_NUM_STEPS, _REPEATED_STEPS = 256, 32
_MAX_LIMIT_STEPS = 1_000  # longer time limits are not verified


def check_batch(batch: HostBatch, *, seed: int) -> list[str]:
    """Steps a batch with random actions and lists violations of the contract, one sentence each.

    Args:
      batch: a batch whose spec was checked before.
      seed: seeds the actions and the tasks.
    """
    limit = batch.spec.time_limit
    limit = limit if limit is not None and limit <= _MAX_LIMIT_STEPS else None
    steps = max(_NUM_STEPS, 0 if limit is None else limit + 2)
    rng = np.random.default_rng(seed)
    actions = [sample_actions(batch.spec.action, batch.num_envs, rng) for _ in range(steps)]
    problems: dict[str, None] = {}  # an ordered set
    where, shown = "reset", []
    try:
        first = batch.reset(seed)
        shown.append((first, _copy(first)))
        problems.update(dict.fromkeys(_check_first(first, batch)))
        where = "step"
        length, over = np.zeros(batch.num_envs, int), np.zeros(batch.num_envs, bool)
        ts = first
        for i, action in enumerate(actions):
            if batch.spec.action_mask:
                action = actions[i] = _legal_actions(ts.action_mask, rng).astype(action.dtype)
            faults = sum(batch.faults.values())
            ts, is_first = batch.step(action)
            faulted = sum(batch.faults.values()) > faults
            found = _check_leaves("step", ts, batch) + _check_flags(is_first, over, faulted)
            problems.update(dict.fromkeys(found or _check_values("step", ts, batch.spec)))
            if found:
                return list(problems)
            if len(shown) < _REPEATED_STEPS:
                shown.append((ts, _copy(ts)))
            length = np.where(is_first, 0, length + 1)
            over = np.asarray(ts.terminated) | np.asarray(ts.truncated)
            if limit is not None and np.any(~over & (length >= limit)):
                return [*problems, _overdue(limit)]
        if not all(_same(ts, copy) for ts, copy in shown):
            problems["step writes to arrays that it returned before."] = None
        again = [batch.reset(seed), *(batch.step(a)[0] for a in actions[: len(shown) - 1])]
    except (Exception, SystemExit) as error:
        return [*problems, f"{where} raises {described(error)}"]
    if not all(_same(ts, copy) for ts, (_, copy) in zip(again, shown, strict=True)):
        problems["reset(seed): the same seed and actions give different steps."] = None
    return [*problems, *_check_faults(batch, steps)]


def sample_actions(spec: specs.Array, count: int, rng: np.random.Generator) -> np.ndarray:
    """Random actions as agents send them, [N, ...]: integers, or float32.

    Unbounded actions are drawn from [-1, 1]; of bounded ones, a fifth are equal to a bound.
    """
    if isinstance(spec, specs.DiscreteArray):
        return rng.integers(0, spec.num_values, count).astype(spec.dtype)
    low, high = -1.0, 1.0
    if isinstance(spec, specs.BoundedArray):
        low, high = np.maximum(spec.minimum, -1e6), np.minimum(spec.maximum, 1e6)
    beyond = (high - low) / 8
    drawn = rng.uniform(low - beyond, high + beyond, (count, *spec.shape))
    return np.clip(drawn, low, high).astype(np.float32)


def _legal_actions(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One random legal action for each row of a mask [N, A]."""
    return np.argmax(np.where(mask, rng.random(mask.shape), -1.0), axis=1)


def _check_first(ts: Any, batch: HostBatch) -> list[str]:
    if problems := _check_leaves("reset", ts, batch):
        return problems
    problems = _check_values("reset", ts, batch.spec)
    if np.any(ts.reward != 0):
        problems.append("reset: the reward must be 0, as no action was taken.")
    if np.any(ts.terminated | ts.truncated):
        problems.append("reset: terminated and truncated must both be False.")
    return problems


def _check_leaves(where: str, ts: Any, batch: HostBatch) -> list[str]:
    """Shapes and dtypes of a batch's time step."""
    if not isinstance(ts, HostTimeStep):
        return [f"{where} must return a HostTimeStep, got a {type(ts).__name__}."]
    observation = batch.spec.observation
    wanted = {
        "observation": (observation.shape, observation.dtype.kind, observation.dtype),
        "reward": ((), "f", "float32"),
        "terminated": ((), "b", "bool"),
        "truncated": ((), "b", "bool"),
    }
    if isinstance(batch.spec.action, specs.DiscreteArray) and batch.spec.action_mask:
        wanted["action_mask"] = ((batch.spec.action.num_values,), "b", "bool")
    problems = []
    for name, (shape, kind, dtype) in wanted.items():
        value = getattr(ts, name)
        shape = (batch.num_envs, *shape)
        if not isinstance(value, np.ndarray):
            problems.append(f"{where}: {name} must be a NumPy array, got a {type(value).__name__}.")
        elif value.shape != shape or value.dtype.kind != kind:
            problems.append(
                f"{where}: {name} must have shape {shape} and dtype {dtype}, got {value.shape} and "
                f"{value.dtype}."
            )
    return problems


def _check_values(where: str, ts: HostTimeStep, spec: EnvSpec) -> list[str]:
    problems = []
    finite = np.isfinite(np.asarray(ts.observation, np.float32))
    if not finite.all():
        entry = np.argmin(finite.all(axis=0))
        problems.append(f"{where}: an observation is not finite{at_entry(int(entry), spec)}.")
    elif isinstance(spec.observation, specs.BoundedArray):
        low, high = widened_bounds(spec.observation)
        value = np.asarray(ts.observation, np.float32)
        if np.any((value < low[None]) | (value > high[None])):
            problems.append(f"{where}: an observation is outside the bounds of spec.observation.")
    if np.any(ts.terminated & ts.truncated):
        problems.append(
            f"{where}: terminated and truncated are both True; a termination at the time limit is "
            "only a termination."
        )
    if spec.action_mask and not np.all(ts.terminated | ts.action_mask.any(axis=1)):
        problems.append(f"{where}: {NO_ACTION}")
    if not np.isfinite(ts.reward).all():
        problems.append(f"{where}: a reward is not finite.")
    elif spec.reward_range is not None and where == "step":
        low, high = spec.reward_range
        slack = 1e-5 * (1 + max(abs(low), abs(high)))
        if np.any((ts.reward < low - slack) | (ts.reward > high + slack)):
            problems.append(f"{where}: a reward is outside spec.reward_range {spec.reward_range}.")
    return problems


def _check_flags(is_first: Any, over: np.ndarray, faulted: bool) -> list[str]:
    """Checks that `is_first` is True after an end or a restart of the task, and only there."""
    if not isinstance(is_first, np.ndarray) or is_first.shape != over.shape:
        return ["step: is_first must be a NumPy array, [N] bool."]
    if np.any(over & ~is_first):
        return ["step: is_first must be True at the step after the end of an episode."]
    if np.any(is_first & ~over) and not faulted:
        return ["step: is_first is True although no episode ended at the step before."]
    return []


def _check_faults(batch: HostBatch, steps: int) -> list[str]:
    count = sum(batch.faults.values())
    if not count:
        return []
    reasons = ", ".join(f"{reason} {n}" for reason, n in batch.faults.items() if n)
    words = getattr(batch, "last_fault", "")
    last = f"; the last time because {words}" if words else ""
    return [f"Tasks were recreated {count} times in {steps} steps ({reasons}){last}."]


def _overdue(limit: int) -> str:
    return (
        f"spec.time_limit is {limit}, but an episode of {limit} steps ended neither terminated nor "
        "truncated."
    )


def _copy(ts: Any) -> Any:
    return tuple(np.array(leaf) for leaf in ts)


def _same(ts: Any, other: Any) -> bool:
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(ts, other, strict=True))
