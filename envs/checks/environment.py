"""Checks an environment against the contract and reports problems as sentences."""

import contextlib
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from bellmax.envs.adapters.factory import close, from_suite, kind_of
from bellmax.envs.base import Environment, EnvSpec, TimeStep
from bellmax.envs.checks.host import NUM_ENVS, check_batch
from bellmax.envs.checks.rollout import check_rollout, sample_action
from bellmax.envs.errors import described
from bellmax.envs.host.base import HostBatch, HostEnvironment
from bellmax.envs.host.loop import LoopBatch
from bellmax.envs.joint import JointArray
from bellmax.envs.packed import PackedArray
from bellmax.envs.registry import is_host, make, make_batch
from bellmax.envs.validation import spec_problems


def check_env(
    env_or_name: Environment | HostEnvironment | str, *, seed: int = 0, **options: Any
) -> list[str]:
    """Steps an environment with random actions and lists violations of the contract.

    Args:
      env_or_name: an environment, perhaps an object of a JAX suite, or a name that `make` or
        `make_batch` takes. A host environment is closed afterwards.
      seed: seeds the actions and the environment.
      **options: of the task, if it is a name.

    Returns:
      One sentence per problem; an empty list if none was found. Random steps cannot prove that
      an environment has no problem.
    """
    env: Any
    try:
        if not isinstance(env_or_name, str):
            env_or_name = env = from_suite(env_or_name)
            if problems := _spec_problems(env.spec):
                return problems
        env, batched = _make(env_or_name, options)
        spec = env.spec
    except (Exception, SystemExit) as error:  # the user's code may raise any exception
        return [f"It cannot be made: {described(error)}"]
    if batched:
        with contextlib.closing(env):
            return _spec_problems(spec) or check_batch(env, seed=seed)
    if problems := _spec_problems(spec):
        return problems
    key = jax.random.key(seed)
    if problems := _check_traces(env, spec, key):
        return problems  # the rollout below would fail with the same problems
    try:
        return check_rollout(env, spec, key)
    except (Exception, SystemExit) as error:
        return [f"Under jit and vmap it raises {described(error)}"]


def describe_spaces(name: str, **options: Any) -> list[str]:
    """Return lines with what an agent sees and does in an environment, as `check_env` makes it."""
    env = _make(name, options)[0]
    spec = env.spec
    close(env)
    limit = "none" if spec.time_limit is None else f"{spec.time_limit:,} steps"
    words = {"observations": spec.observation, "actions": spec.action}
    return [f"{role}: {_in_words(one)}" for role, one in words.items()] + [f"time limit: {limit}"]


def _in_words(spec: Any) -> str:
    if isinstance(spec, JointArray):
        return str(spec)
    if isinstance(spec, specs.DiscreteArray):
        return f"one of {spec.num_values} numbers"
    if isinstance(spec, PackedArray):
        return f"{spec}, which a network of your own gets by name (agent.network.module)"
    text = f"{list(spec.shape)} {np.dtype(spec.dtype)}"
    if isinstance(spec, specs.BoundedArray):
        text += f" in [{np.min(spec.minimum):g}, {np.max(spec.maximum):g}]"
    return text


def _make(env_or_name: Any, options: dict[str, Any]) -> tuple[Environment | HostBatch, bool]:
    """The environment, and whether it is a batch of host environments."""
    if isinstance(env_or_name, str):
        if is_host(env_or_name, **options):
            return make_batch(env_or_name, NUM_ENVS, **options), True
        return make(env_or_name, **options), False
    if kind_of(env_or_name) == "host":
        return LoopBatch(lambda: env_or_name, 1), True
    return env_or_name, False


def _check_traces(env: Environment, spec: EnvSpec, key: jax.Array) -> list[str]:
    """Traces reset and step, twice each, without compiling them."""
    problems = []
    action = sample_action(spec.action, key)

    def reset(key):
        state, ts = env.reset(key)
        problems.extend(_check_step("reset", ts, spec))
        return state, ts

    def step(state, action, key):
        new_state, ts = env.step(state, action, key)
        problems.extend(_check_step("step", ts, spec) + _check_state(state, new_state))
        return new_state, ts

    where = "reset"
    try:
        state, _ = jax.eval_shape(reset, key)
        pure = {where: _same_traces(env.reset, key)}
        where = "step"
        jax.eval_shape(step, state, action, key)
        pure[where] = _same_traces(env.step, state, action, key)
    except (Exception, SystemExit) as error:
        return [*problems, f"{where} raises {described(error)}"]
    for where, same in pure.items():
        if not same:
            problems.append(f"{where} is not a pure function: two traces of it differ.")
    return problems


def _same_traces(function: Callable[..., Any], *args: Any) -> bool:
    """Whether two traces give the same jaxpr; host randomness and counters make them differ."""

    def trace():
        closed = jax.make_jaxpr(lambda *args: function(*args))(*args)
        return re.sub(r"0x[0-9a-f]+", "", str(closed.jaxpr)), closed.consts

    (text, consts), (other_text, other_consts) = trace(), trace()
    if text != other_text or len(consts) != len(other_consts):
        return False
    return all(np.array_equal(a, b) for a, b in zip(consts, other_consts, strict=True))


def _spec_problems(spec: Any) -> list[str]:
    return [f"{problem}." for problem in spec_problems(spec)]


def _check_step(where: str, ts: Any, spec: EnvSpec) -> list[str]:
    """Shapes and dtypes of one unbatched time step."""
    if not isinstance(ts, TimeStep):
        return [f"{where} must return (state, TimeStep), got a {type(ts).__name__} second."]
    wanted = {
        "observation": (spec.observation.shape, spec.observation.dtype),
        "reward": ((), np.dtype(np.float32)),
        "terminated": ((), np.dtype(bool)),
        "truncated": ((), np.dtype(bool)),
    }
    problems = []
    if isinstance(spec.action, specs.DiscreteArray) and spec.action_mask:
        wanted["action_mask"] = ((spec.action.num_values,), np.dtype(bool))
    elif not isinstance(ts.action_mask, tuple):
        problems.append(f"{where}: it has an action_mask, but the spec does not announce it.")
    for name, (shape, dtype) in wanted.items():
        value = getattr(ts, name)
        if not isinstance(value, jax.Array):
            problems.append(f"{where}: {name} must be a jax array, got a {type(value).__name__}.")
        elif (value.shape, value.dtype) != (shape, dtype):
            problems.append(
                f"{where}: {name} must have shape {shape} and dtype {dtype}, got "
                f"{value.shape} and {value.dtype}."
            )
    return problems


def _check_state(old: Any, new: Any) -> list[str]:
    """Checks that step keeps the state's structure, shapes and dtypes, as `lax.scan` requires."""
    if jax.tree.structure(old) != jax.tree.structure(new):
        return ["step and reset return states of different structure: scan cannot carry them."]
    problems = []
    for (path, a), b in zip(jax.tree.leaves_with_path(old), jax.tree.leaves(new), strict=True):
        a, b = (x if hasattr(x, "dtype") else jnp.asarray(x) for x in (a, b))
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            problems.append(
                f"state{jax.tree_util.keystr(path)} is {a.dtype}{list(a.shape)} after reset but "
                f"{b.dtype}{list(b.shape)} after step: scan cannot carry it."
            )
    return problems
