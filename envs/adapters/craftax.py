"""craftax's symbolic tasks under the environment contract. Imported on first use."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from bellmax import UserError, must
from bellmax.envs.adapters.shared.dtypes import default_promotion, own_dtypes, same_dtypes
from bellmax.envs.base import EnvSpec, EnvState, TimeStep
from bellmax.envs.options import check_options, check_types, needs_extra, unknown

CLASSIC, FULL = "Craftax-Classic-Symbolic-v1", "Craftax-Symbolic-v1"
_NEVER = int(np.iinfo(np.int32).max)


def make(task: str, **options: Any) -> "CraftaxEnv":
    """Makes a craftax task, `Craftax-Classic-Symbolic-v1` or `Craftax-Symbolic-v1`.

    Args:
      task: one of `list_tasks()`.
      **options: numeric fields of craftax's `EnvParams`, such as max_timesteps, the time limit in
        environment steps.

    Raises:
      UserError: craftax is not installed, or it has no such task or option.
    """
    tasks = list_tasks()
    if task not in tasks:
        raise unknown("symbolic task", task, tasks, of="craftax")
    env = _construct(task)
    nominal = {name: v for name, v in vars(env.default_params).items() if np.isscalar(v)}
    check_options(f"craftax/{task}", options, nominal)
    check_types(options, nominal)
    params = env.default_params.replace(**options)
    if params.max_timesteps < 1:
        raise UserError(must("max_timesteps", "at least 1 environment step", params.max_timesteps))
    return CraftaxEnv(task, env, params)


def from_craftax(env: Any, params: Any = None) -> "CraftaxEnv":
    """Takes a craftax environment object.

    Args:
      env: one of craftax's symbolic environments, with or without automatic resets.
      params: its `EnvParams`; None takes its default_params.

    Raises:
      UserError: its observations are images.
    """
    params = env.default_params if params is None else params
    shape = env.observation_space(params).shape
    if len(shape) != 1:
        raise UserError(
            must("a craftax environment", "a symbolic one", f"observations of shape {shape}")
        )
    return CraftaxEnv(env.name.replace("-AutoReset", ""), env, params)


def list_tasks() -> list[str]:
    """The craftax tasks that this adapter supports, without the prefix `craftax/`."""
    return [CLASSIC, FULL]


@dataclasses.dataclass(frozen=True, eq=False)
class CraftaxEnv:
    """One symbolic craftax task, without craftax's automatic resets.

    Observations are flat float32, [1345] in the classic game and [8268] in the full one, with 17
    and 43 actions. Rewards are given for achievements, and 0.1 per point of health. Death, lava and
    defeating the boss terminate; max_timesteps truncates, unless that step terminates.

    task: craftax's name of it. env: craftax's object. params: its `EnvParams`.
    """

    task: str
    env: Any
    params: Any

    @property
    def spec(self) -> EnvSpec:
        shape = self.env.observation_space(self.params).shape
        observation = specs.Array(shape, np.float32, "observation")
        if self.task == CLASSIC:  # the full game exceeds the bounds that craftax 1.6.1 declares
            observation = specs.BoundedArray(shape, np.float32, 0.0, 1.0, "observation")
        return EnvSpec(
            name=f"craftax/{self.task}",
            observation=observation,
            action=specs.DiscreteArray(self.env.num_actions, np.int32, "action"),
            time_limit=int(self.params.max_timesteps),
        )

    def reset(self, key: jax.Array) -> tuple[EnvState, TimeStep]:
        with default_promotion():
            observation, state = self.env.reset_env(key, self.params)
        no = jnp.zeros((), bool)
        ts = TimeStep(observation.astype(jnp.float32), jnp.float32(0), terminated=no, truncated=no)
        return own_dtypes(_without_key(state)), ts

    def step(self, state: EnvState, action: jax.Array, key: jax.Array) -> tuple[EnvState, TimeStep]:
        with default_promotion():
            out = self.env.step_env(key, state, action, self.params)
            # The fourth value does not distinguish termination from truncation.
            observation, new_state, reward, _, _ = out
            unlimited = self.params.replace(max_timesteps=_NEVER)
            terminated = jnp.asarray(self.env.is_terminal(new_state, unlimited), bool).reshape(())
        ts = TimeStep(
            observation=observation.astype(jnp.float32),
            reward=jnp.asarray(reward, jnp.float32).reshape(()),
            terminated=terminated,
            truncated=~terminated & (new_state.timestep >= self.params.max_timesteps),
        )
        return same_dtypes(state, _without_key(new_state)), ts


def _without_key(state: Any) -> Any:
    """Drop the state's random key, which only the night noise of pixel observations uses."""
    return state.replace(state_rng=())


def _construct(task: str) -> Any:
    with needs_extra("craftax"):
        from craftax.craftax_env import make_craftax_env_from_name

        return make_craftax_env_from_name(task, auto_reset=False)
