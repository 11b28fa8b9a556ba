"""The part of `check_env` that runs several copies for a few hundred compiled steps."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from bellmax.envs.base import Environment, EnvSpec, TimeStep

_NUM_ENVS, _NUM_STEPS = 4, 256
_MAX_LIMIT_STEPS = 5_000  # longer time limits are not verified
NO_ACTION = "action_mask allows no action although the episode has not terminated."
_TOLERANCE = 1e-5  # relative, for bounds: a float32 cosine may round to slightly above 1


def sample_action(spec: specs.Array, key: jax.Array, mask: Any = ()) -> jax.Array:
    """A random action, legal by the mask, as `sample_actions` of host environments draws them."""
    if not isinstance(mask, tuple):
        drawn = jnp.where(mask, jax.random.uniform(key, mask.shape, jnp.float32), -1.0)
        return jnp.argmax(drawn).astype(spec.dtype)
    if isinstance(spec, specs.DiscreteArray):
        return jax.random.randint(key, (), 0, spec.num_values, spec.dtype)
    low, high = -1.0, 1.0
    if isinstance(spec, specs.BoundedArray):
        low = np.maximum(spec.minimum, -1e6)
        high = np.minimum(spec.maximum, 1e6)
    low, high = (jnp.broadcast_to(jnp.asarray(b, jnp.float32), spec.shape) for b in (low, high))
    beyond = (high - low) / 8
    drawn = jax.random.uniform(key, spec.shape, jnp.float32, low - beyond, high + beyond)
    return jnp.clip(drawn, low, high).astype(spec.dtype)


def check_rollout(env: Environment, spec: EnvSpec, key: jax.Array) -> list[str]:
    """Problems found in a few hundred random steps of several copies, under jit, vmap and scan."""
    limit = spec.time_limit if (spec.time_limit or 0) <= _MAX_LIMIT_STEPS else None
    steps = max(_NUM_STEPS, (limit or 0) + 2)

    def body(carry, key):
        state, time, mask = carry
        action_key, step_key = jax.random.split(key)
        stepped, ts = env.step(state, sample_action(spec.action, action_key, mask), step_key)
        fresh, opening = env.reset(step_key)
        over = ts.terminated | ts.truncated
        overdue = jnp.zeros((), bool) if limit is None else ~over & (time + 1 >= limit)
        resets = over | overdue
        after = (fresh, opening.action_mask), (stepped, ts.action_mask)
        new, mask = jax.tree.map(lambda f, s: jnp.where(resets, f, s), *after)
        seen = {**_summary(ts, spec), "overdue": overdue}
        return (new, jnp.where(resets, 0, time + 1), mask), seen

    @jax.jit
    @jax.vmap
    def rollout(key):
        reset_key, steps_key = jax.random.split(key)
        state, first = env.reset(reset_key)
        carry = (state, jnp.zeros((), jnp.int32), first.action_mask)
        _, seen = jax.lax.scan(body, carry, jax.random.split(steps_key, steps))
        return _summary(first, spec), seen

    keys = jax.random.split(key, _NUM_ENVS)
    # Compiling takes longer than running, so compiler optimisations are switched off.
    compiled = rollout.lower(keys).compile({"xla_backend_optimization_level": "0"})
    first, later = jax.device_get(compiled(keys))
    problems = _in_words("reset", first, spec) + _in_words("step", later, spec)
    if np.any(first["terminated"] | first["truncated"]):
        problems.append("reset: terminated and truncated must both be False.")
    if np.any(later["overdue"]):
        problems.append(
            f"spec.time_limit is {limit}, but an episode of {limit} steps ended neither terminated "
            "nor truncated."
        )
    return problems


def _summary(ts: TimeStep, spec: EnvSpec) -> dict[str, jax.Array]:
    """Scalars from which `_in_words` reports the problems of one step."""
    observation, inside = ts.observation, jnp.ones((), bool)
    if isinstance(spec.observation, specs.BoundedArray):
        low, high = widened_bounds(spec.observation)
        value = observation.astype(jnp.float32)
        inside = jnp.all((value >= low) & (value <= high))
    entries = jnp.isfinite(observation.astype(jnp.float32)).ravel()
    finite = jnp.all(entries)
    return {
        "finite": finite,
        "entry": jnp.argmin(entries),
        "inside": inside | ~finite,
        "reward": ts.reward,
        "terminated": ts.terminated,
        "truncated": ts.truncated,
        "stuck": ~ts.terminated & ~jnp.any(ts.action_mask) if spec.action_mask else ~finite & False,
    }


def widened_bounds(spec: specs.BoundedArray) -> tuple[np.ndarray, np.ndarray]:
    """The bounds with a tolerance for rounding, float32, in the observation's shape."""
    low, high = (np.asarray(bound, np.float64) for bound in (spec.minimum, spec.maximum))
    low, high = low - _TOLERANCE * (1 + np.abs(low)), high + _TOLERANCE * (1 + np.abs(high))
    largest = np.finfo(np.float32).max
    low = np.where(low < -largest, -np.inf, low).astype(np.float32)
    high = np.where(high > largest, np.inf, high).astype(np.float32)
    return np.broadcast_to(low, spec.shape), np.broadcast_to(high, spec.shape)


def at_entry(entry: int, spec: EnvSpec) -> str:
    """` at [i, j, ...]`, the place of a flat index in an observation; empty for a scalar."""
    place = np.unravel_index(entry, spec.observation.shape)
    return f" at {[int(i) for i in place]}" if place else ""


def _in_words(where: str, seen: dict[str, Any], spec: EnvSpec) -> list[str]:
    problems = []
    if not np.all(seen["finite"]):
        entry = seen["entry"][~seen["finite"]].flat[0]
        problems.append(f"{where}: an observation is not finite{at_entry(entry, spec)}.")
    if not np.all(seen["inside"]):
        problems.append(f"{where}: an observation is outside the bounds of spec.observation.")
    if np.any(seen["terminated"] & seen["truncated"]):
        problems.append(
            f"{where}: terminated and truncated are both True; a termination at the time limit is "
            "only a termination."
        )
    if np.any(seen["stuck"]):
        problems.append(f"{where}: {NO_ACTION}")
    reward = seen["reward"]
    if not np.all(np.isfinite(reward)):
        problems.append(f"{where}: a reward is not finite.")
    elif where == "reset" and np.any(reward != 0):
        problems.append("reset: the reward must be 0, as no action was taken.")
    elif spec.reward_range is not None:
        low, high = spec.reward_range
        slack = _TOLERANCE * (1 + max(abs(low), abs(high)))
        if np.min(reward) < low - slack or np.max(reward) > high + slack:
            problems.append(
                f"{where}: rewards range from {np.min(reward):g} to {np.max(reward):g}, outside "
                f"spec.reward_range {spec.reward_range}."
            )
    return problems
