"""gymnax's tasks under the environment contract. gymnax is imported when a task is made."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from bellmax import UserError
from bellmax.envs.adapters.shared.discrete import MAX_ONE_HOT
from bellmax.envs.adapters.shared.dtypes import default_promotion, own_dtypes, same_dtypes
from bellmax.envs.base import EnvSpec, EnvState, TimeStep
from bellmax.envs.options import (
    check_options,
    check_parameters,
    check_types,
    check_unwrapped,
    defaults_of,
    import_extra,
    unknown,
)

# gymnax returns these as float32; as bool they take a quarter of the replay buffer's memory.
_BINARY = ("Catch-bsuite", "DeepSea-bsuite")
_BINARY_SUFFIX = "-MinAtar"
# Their observations exceed the bounds that gymnax 1.0.1 declares, so the spec has no bounds.
_WRONG_BOUNDS = ("GaussianBandit-misc", "MemoryChain-bsuite", "MetaMaze-misc")


def make(task: str, **options: Any) -> "GymnaxEnv":
    """Makes a gymnax task, such as `CartPole-v1` or `Breakout-MinAtar`.

    Args:
      task: one of `list_tasks()`.
      **options: fields of the task's `EnvParams`, such as max_steps_in_episode, or arguments of its
        constructor, such as DeepSea-bsuite's size.

    Raises:
      UserError: gymnax is not installed, or it has no such task or option.
    """
    tasks = list_tasks()
    if task not in tasks:
        raise unknown("task", task, tasks, of="gymnax")
    env, params = _construct(task)
    fields = [field.name for field in dataclasses.fields(params)]
    arguments = [name for name in inspect.signature(type(env)).parameters if name not in fields]
    check_options(f"gymnax/{task}", options, fields + arguments)
    check_types(options, defaults_of(type(env)) | {name: getattr(params, name) for name in fields})
    if constructor := {name: options[name] for name in arguments if name in options}:
        env, params = _construct(task, **constructor)
    given = {name: options[name] for name in fields if name in options}
    # YAML reads `m: 2` as an int; a float field must stay a float to count as a parameter.
    given |= {n: float(v) for n, v in given.items() if isinstance(getattr(params, n), float)}
    params = params.replace(**given)
    return GymnaxEnv(task, env, params)


def from_gymnax(env: Any, params: Any = None) -> "GymnaxEnv":
    """Takes a gymnax environment object, such as one of your own class.

    Args:
      env: a `gymnax.environments.environment.Environment`.
      params: its `EnvParams`; None takes its default_params.

    Raises:
      UserError: it is in a wrapper of gymnax.
    """
    check_unwrapped(env, "gymnax.wrappers", "a gymnax environment")
    return GymnaxEnv(env.name, env, env.default_params if params is None else params)


def list_tasks() -> list[str]:
    """gymnax's tasks, without the prefix `gymnax/`."""
    return list(_gymnax().registered_envs)


@dataclasses.dataclass(frozen=True, eq=False)
class GymnaxEnv:
    """One gymnax task with its parameters.

    Binary observations (MinAtar's) are bool, discrete ones a float32 one-hot, all others float32.
    A termination at the time limit is only a termination.

    task: gymnax's name of the task. env: gymnax's object. params: its nominal `EnvParams`.
    changed: [] float32 by name, values that override fields of `params`.
    """

    task: str
    env: Any
    params: Any
    changed: Mapping[str, jax.Array] = dataclasses.field(default_factory=dict)

    @property
    def spec(self) -> EnvSpec:
        return EnvSpec(
            name=f"gymnax/{self.task}",
            observation=self._observation_spec(),
            action=_action_spec(self.env.action_space(self.params)),
            time_limit=int(self.params.max_steps_in_episode),
        )

    @property
    def parameters(self) -> dict[str, float]:
        """The float fields of gymnax's `EnvParams`."""
        return {name: v for name, v in vars(self.params).items() if isinstance(v, float)}

    def with_parameters(self, values: Mapping[str, jax.Array | float]) -> "GymnaxEnv":
        """See `Parametric`. Fields that gymnax derives from other fields are not recomputed."""
        check_parameters(f"gymnax/{self.task}", values, self.parameters)
        changed = {name: jnp.asarray(value, jnp.float32) for name, value in values.items()}
        return dataclasses.replace(self, changed=changed)

    def reset(self, key: jax.Array) -> tuple[EnvState, TimeStep]:
        with default_promotion():
            observation, state = self.env.reset_env(key, self._current)
        no = jnp.zeros((), bool)
        ts = TimeStep(self._observe(observation), jnp.float32(0), terminated=no, truncated=no)
        return own_dtypes(state), ts

    def step(self, state: EnvState, action: jax.Array, key: jax.Array) -> tuple[EnvState, TimeStep]:
        # `step` would reset automatically and hide the final observation.
        with default_promotion():
            out = self.env.step_env(key, state, action, self._current)
            observation, new_state, reward, terminated, _ = out
            late = self.env.is_truncated(new_state, self._current)
        terminated = jnp.asarray(terminated, bool).reshape(())
        ts = TimeStep(
            observation=self._observe(observation),
            reward=jnp.asarray(reward, jnp.float32).reshape(()),
            terminated=terminated,
            truncated=jnp.asarray(late, bool).reshape(()) & ~terminated,
        )
        return same_dtypes(state, new_state), ts

    def _observe(self, observation: jax.Array) -> jax.Array:
        space = self.env.observation_space(self.params)
        if hasattr(space, "n"):
            if space.n > MAX_ONE_HOT:
                return jnp.asarray(observation, jnp.int32)
            return (jnp.arange(space.n) == observation).astype(jnp.float32)
        return jnp.asarray(observation).astype(bool if self._binary else jnp.float32)

    def _observation_spec(self) -> specs.Array:
        space = self.env.observation_space(self.params)
        if hasattr(space, "n"):
            if space.n > MAX_ONE_HOT:
                return specs.DiscreteArray(int(space.n), np.int32, "observation")
            return specs.BoundedArray((space.n,), np.float32, 0.0, 1.0, "observation")
        if self._binary:
            return specs.BoundedArray(space.shape, np.bool_, False, True, "observation")
        if self.task in _WRONG_BOUNDS:
            return specs.Array(space.shape, np.float32, "observation")
        low, high = (np.asarray(bound, np.float32) for bound in (space.low, space.high))
        return specs.BoundedArray(space.shape, np.float32, low, high, "observation")

    @property
    def _current(self) -> Any:
        return self.params.replace(**self.changed)

    @property
    def _binary(self) -> bool:
        return self.task in _BINARY or self.task.endswith(_BINARY_SUFFIX)


def _gymnax() -> Any:
    return import_extra("gymnax", "gymnax")


def _construct(task: str, **arguments: Any) -> tuple[Any, Any]:
    try:
        return _gymnax().make(task, **arguments)
    except UserError:
        raise
    except Exception as error:  # a failed download or a wrong argument raises many kinds
        download = " (it downloads its data)" if task.startswith("MNIST") else ""
        raise UserError(f"gymnax could not make {task}{download}: {error}") from error


def _action_spec(space: Any) -> specs.Array:
    if hasattr(space, "n"):
        return specs.DiscreteArray(int(space.n), np.int32, "action")
    low, high = (np.full(space.shape, bound, np.float32) for bound in (space.low, space.high))
    return specs.BoundedArray(space.shape, np.float32, low, high, "action")
