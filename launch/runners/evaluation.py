"""Evaluation: complete episodes of the greedy policy, compiled separately from training."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from bellmax.agents import ActInput, Agent, Memory, Params
from bellmax.envs import JointArray, VectorEnv
from bellmax.envs.statistics import normalise
from bellmax.launch.runners.base import Episodes, PolicyInputs
from bellmax.launch.runners.random import stream

DEFAULT_MAX_STEPS = 27_000  # environment steps for tasks without a time limit: 30 minutes of Atari
NO_EXTRAS: Mapping[str, Any] = MappingProxyType({})

# greedy(policy, observation [N, ...], memory, is_first [N], key, step [], extras) -> (action,
# memory); extras are the `extras` of the agent.
Greedy = Callable[..., tuple[jax.Array, Memory]]


def make_greedy(agent: Agent) -> Greedy:
    """Return the agent's policy without exploration, for raw observations."""

    def greedy(
        policy: PolicyInputs,
        observation: Any,
        memory: Memory,
        is_first: Any,
        key: jax.Array,
        step: Any,
        extras: Mapping[str, Any] = NO_EXTRAS,
    ) -> tuple[jax.Array, Memory]:
        params, statistics = policy
        if statistics:
            observation = normalise(statistics, observation)
        inputs = ActInput(observation, memory, is_first, key, jnp.int32(step), **extras)
        output = agent.act(params, inputs, evaluate=True)
        return output.action, output.memory

    return greedy


def split_action(spec: specs.Array, action: jax.Array) -> jax.Array:
    """Return an agent's actions [N, ...] as the task's own numbers, if they are joint actions."""
    return spec.split(action) if isinstance(spec, JointArray) else action


def make_values(values: Callable[..., Any]) -> Callable[[PolicyInputs, Any, Memory, Any], Any]:
    """Return the agent's `values` as a function of raw observations."""

    def read_values(policy: PolicyInputs, observation: Any, memory: Memory, is_first: Any) -> Any:
        params, statistics = policy
        if statistics:
            observation = normalise(statistics, observation)
        return values(params, observation, memory, is_first)

    return read_values


class DeviceEvaluator(NamedTuple):
    """An `Evaluator` whose environments are part of the compiled program `evaluate`."""

    evaluate: Callable[..., Episodes]

    def __call__(
        self,
        params: Params,
        statistics: Any,
        seeds: jax.Array,
        step: jax.Array,
        values: Mapping[str, Any] = MappingProxyType({}),
    ) -> Episodes:
        """Return episodes [S, E]; arguments as of an `Evaluator`."""
        return self.evaluate(params, statistics, seeds, step, dict(values))

    def report(self) -> dict[str, int]:
        """Return no columns."""
        return {}

    def close(self) -> None:
        """Do nothing: its environments have no resources outside jax."""


def make_evaluator(
    agent: Agent,
    env: VectorEnv,
    max_steps: int | None,
    make: Callable[[Mapping[str, Any]], Agent] | None = None,
) -> DeviceEvaluator:
    """Compile the evaluation of S policies, one episode in each environment.

    Args:
      agent: the agent, which acts without exploration.
      env: E environments made for evaluation (rewards unclipped, statistics frozen).
      max_steps: vector steps after which unfinished episodes are cut; None takes the time limit of
        the task, or 27,000.
      make: as in `Varied`, if the policies differ in their values; None if they do not.
    """
    limit = max_steps or env.spec.time_limit or DEFAULT_MAX_STEPS
    agent_of = make or (lambda values: agent)

    def evaluate_one(
        params: Params, statistics: Any, seed: jax.Array, step: jax.Array, values: dict[str, Any]
    ) -> Episodes:
        agent = agent_of(values)
        key = jax.random.fold_in(stream(jax.random.key(seed), "evaluation"), step)
        state, timestep = env.reset(stream(key, "reset"), statistics=statistics)
        counts = jnp.zeros(env.num_envs, jnp.int32)
        empty = Episodes(jnp.zeros(env.num_envs), counts, counts == 0)
        memory = agent.initial_memory(env.num_envs)

        def unfinished(carry: tuple) -> jax.Array:
            return (carry[0] < limit) & jnp.any(carry[-1].cut)

        def advance(carry: tuple) -> tuple:
            now, state, timestep, memory, episodes = carry
            act_key, env_key = jax.random.split(jax.random.fold_in(key, now))
            seen = timestep.observation, memory, timestep.is_first, act_key, step
            inputs = ActInput(*seen, **agent.extras(timestep))
            output = agent.act(params, inputs, evaluate=True)
            state, timestep = env.step(state, output.action, env_key)
            episodes = Episodes(
                jnp.where(episodes.cut, timestep.episode_return, episodes.episode_return),
                jnp.where(episodes.cut, timestep.episode_length, episodes.episode_length),
                episodes.cut & ~timestep.is_last,
            )
            return now + 1, state, timestep, output.memory, episodes

        start = jnp.zeros((), jnp.int32), state, timestep, memory, empty
        return jax.lax.while_loop(unfinished, advance, start)[-1]

    return DeviceEvaluator(jax.jit(jax.vmap(evaluate_one, in_axes=(0, 0, 0, None, 0))))


def row_score(row: dict[str, Any]) -> float:
    """Return what the best evaluation is chosen by: the agent's objective, or the mean return."""
    return row.get("objective", row["episode_return"])


def evaluation_rows(
    episodes: Episodes, seeds: list[int], step: int, score: Callable[[Any], Any] | None = None
) -> list[dict[str, Any]]:
    """Return one row of metrics for each seed; with the agent's `score`, `objective` too."""
    returns, lengths, cut = (np.asarray(x) for x in episodes)
    return [
        {
            "kind": "evaluation",
            "step": step,
            "seed": seed,
            "episode_return": float(returns[i].mean()),
            "episode_return_min": float(returns[i].min()),
            "episode_return_max": float(returns[i].max()),
            "episode_length": float(lengths[i].mean()),
            "episodes": int(returns[i].size),
            "cut_episodes": int(cut[i].sum()),
        }
        | ({} if score is None else {"objective": float(score(jnp.asarray(returns[i])))})
        for i, seed in enumerate(seeds)
    ]
