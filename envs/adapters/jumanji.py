"""jumanji's tasks under the environment contract. Imported on first use."""

import copy
import dataclasses
import functools
import inspect
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from bellmax import UserError, must
from bellmax.envs.adapters.shared.dtypes import default_promotion, own_dtypes, same_dtypes
from bellmax.envs.base import EnvSpec, EnvState, TimeStep
from bellmax.envs.errors import making
from bellmax.envs.joint import JointArray, joint_spec
from bellmax.envs.options import check_options, check_types, check_unwrapped, import_extra, unknown

# Fields of observations that the agent does not observe: the mask, and the time.
_NOT_SEEN = ("action_mask", "step_count")
_NEVER = int(np.iinfo(np.int32).max)
_LAST = 2  # jumanji's StepType


def make(task: str, **options: Any) -> "JumanjiEnv":
    """Makes a jumanji task, such as `Snake-v1`.

    Args:
      task: one of `list_tasks()`.
      **options: time_limit in environment steps, for tasks that have one.

    Raises:
      UserError: jumanji is not installed, it has no such task or option, or the task is none for
        one agent with discrete actions.
    """
    jumanji = import_extra("jumanji", "jumanji")
    tasks = list_tasks()
    if task not in tasks:
        raise unknown("task", task, tasks, of="jumanji")
    name = f"jumanji/{task}"
    with making(name, options):
        env = jumanji.make(task)
        nominal = {} if _time_limit(env) is None else {"time_limit": _time_limit(env)}
        check_options(name, options, nominal)
        check_types(options, nominal)
        if options.get("time_limit", 1) < 1:
            allowed, got = "at least 1 environment step", options["time_limit"]
            raise UserError(must("time_limit", allowed, got))
        made = env if not options else jumanji.make(task, **options)
    return JumanjiEnv(task, made)


def from_jumanji(env: Any) -> "JumanjiEnv":
    """Takes a jumanji environment object.

    Args:
      env: a `jumanji.env.Environment`.

    Raises:
      UserError: it is in a wrapper of jumanji, or no task for one agent with discrete actions.
    """
    check_unwrapped(env, "jumanji.wrappers", "a jumanji environment")
    return JumanjiEnv(type(env).__name__, env)


def list_tasks() -> list[str]:
    """jumanji's tasks, without the prefix `jumanji/`; some of them are refused when made."""
    return sorted(import_extra("jumanji", "jumanji").registered_environments())


class JumanjiState(NamedTuple):
    """inner: jumanji's own state. time: [] int32, steps since the reset."""

    inner: Any
    time: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class JumanjiEnv:
    """One jumanji task for one agent with discrete actions.

    The observation is what jumanji's has besides `action_mask` and `step_count`: if that is one
    array [H, W, C], this array; else all fields joined to one float32 vector, in jumanji's order.
    A MultiDiscrete action is a joint one (`JointArray`). If jumanji has a mask, `action_mask`
    shows it; where no action is legal in an episode that has not ended, all are.

    jumanji ends an episode at its `time_limit` as if the task were over; here that is a truncation,
    unless the step terminates.

    task: jumanji's name of the task. env: jumanji's object.
    """

    task: str
    env: Any

    def __post_init__(self) -> None:
        if math.prod(self.env.reward_spec.shape) > 1:
            got = f"rewards of shape {self.env.reward_spec.shape}"
            raise UserError(must(self._name, "a task for one agent", got))
        _ = self._action

    @property
    def spec(self) -> EnvSpec:
        seen = [leaf for _, leaf in self._seen]
        observation: specs.Array
        if self._is_image:
            observation = specs.Array(seen[0].shape, _image_dtype(seen[0]), "observation")
        else:
            size = sum(math.prod(leaf.shape) for leaf in seen)
            observation = specs.Array((size,), np.float32, "observation")
        masked = hasattr(self._shapes, "action_mask")
        limit = _time_limit(self.env)
        return EnvSpec(self._name, observation, self._action, limit, action_mask=masked)

    def reset(self, key: jax.Array) -> tuple[EnvState, TimeStep]:
        with default_promotion():
            inner, theirs = self._unlimited.reset(key)
            state = JumanjiState(own_dtypes(inner), jnp.zeros((), jnp.int32))
            no = jnp.zeros((), bool)
            return state, self._show(theirs, jnp.float32(0), no, no)

    def step(self, state: EnvState, action: jax.Array, key: jax.Array) -> tuple[EnvState, TimeStep]:
        del key  # jumanji's states have keys of their own
        numbers = self._action.split(action) if isinstance(self._action, JointArray) else action
        with default_promotion():
            inner, theirs = self._unlimited.step(state.inner, numbers)
            time = state.time + 1
            ended = jnp.asarray(theirs.step_type == _LAST).reshape(())
            terminated = ended & (jnp.asarray(theirs.discount) == 0).all()
            limit = _time_limit(self.env)
            late = jnp.zeros((), bool) if limit is None else time >= limit
            reward = jnp.asarray(theirs.reward, jnp.float32).reshape(())
            ts = self._show(theirs, reward, terminated, ~terminated & (ended | late))
        return JumanjiState(same_dtypes(state.inner, inner), time), ts

    @property
    def _name(self) -> str:
        return f"jumanji/{self.task}"

    @functools.cached_property
    def _unlimited(self) -> Any:
        """jumanji's object without its time limit, which hides whether a step terminates."""
        env = copy.copy(self.env)
        if _time_limit(env) is not None:
            env.time_limit = _NEVER
        return env

    @functools.cached_property
    def _shapes(self) -> Any:
        """Shapes and dtypes of jumanji's observation."""
        with default_promotion():
            return jax.eval_shape(self.env.reset, jax.random.key(0))[1].observation

    @property
    def _seen(self) -> list[tuple[Any, Any]]:
        return _observed(self._shapes)

    @property
    def _is_image(self) -> bool:
        return len(self._seen) == 1 and len(self._seen[0][1].shape) == 3

    @functools.cached_property
    def _action(self) -> specs.DiscreteArray:
        spec = self.env.action_spec
        counts = getattr(spec, "num_values", None)
        if counts is None:
            raise UserError(must(f"{self._name}'s actions", "discrete", spec))
        if spec.shape == ():
            return specs.DiscreteArray(int(counts), np.int32, "action")
        hint = "wrap it in an Environment of your own that has fewer"
        shown = f"numbers of {np.asarray(counts).tolist()}"
        return joint_spec(np.asarray(counts), None, f"{self._name}'s action", shown, hint)

    def _show(self, theirs: Any, reward: Any, terminated: Any, truncated: Any) -> TimeStep:
        seen = [jnp.asarray(leaf) for _, leaf in _observed(theirs.observation)]
        if self._is_image:
            observation = seen[0].astype(_image_dtype(seen[0]))
        else:
            observation = jnp.concatenate([leaf.astype(jnp.float32).ravel() for leaf in seen])
        mask = getattr(theirs.observation, "action_mask", None)
        mask = () if mask is None else _joint_mask(mask, self._action)
        return TimeStep(observation, reward, terminated, truncated, mask)


def _observed(observation: Any) -> list[tuple[Any, Any]]:
    """Paths and leaves of an observation that the agent observes."""
    leaves = jax.tree_util.tree_leaves_with_path(observation)
    return [(p, leaf) for p, leaf in leaves if getattr(p[0], "name", None) not in _NOT_SEEN]


def _joint_mask(mask: jax.Array, action: specs.DiscreteArray) -> jax.Array:
    """[A] bool, of a mask over all combinations, or of one for each number of an action."""
    if isinstance(action, JointArray) and mask.size != action.num_values:
        places = action.split(np.arange(action.num_values))
        mask = jnp.stack([mask[i][place] for i, place in enumerate(places.T)]).all(axis=0)
    mask = mask.reshape(-1)
    return mask | ~mask.any()


def _image_dtype(leaf: Any) -> np.dtype:
    return np.dtype(leaf.dtype) if leaf.dtype in (bool, np.uint8) else np.dtype(np.float32)


def _time_limit(env: Any) -> int | None:
    limit = getattr(env, "time_limit", None)
    return int(limit) if isinstance(limit, int) and "time_limit" in _arguments(env) else None


def _arguments(env: Any) -> Any:
    return inspect.signature(type(env)).parameters
