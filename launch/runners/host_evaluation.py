"""Evaluation on host environments: complete episodes of the greedy policy."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from bellmax.agents import Agent, Params
from bellmax.envs import HostVector
from bellmax.launch.runners.base import Episodes, PolicyInputs
from bellmax.launch.runners.evaluation import DEFAULT_MAX_STEPS, make_greedy
from bellmax.launch.runners.random import numpy_seeds, stream


class HostEvaluator:
    """An `Evaluator` with E host environments, made at its first call.

    Args:
      agent: the agent, which acts without exploration.
      make_env: makes environments for evaluation (rewards unclipped).
      max_steps: vector steps after which unfinished episodes are cut; None takes the time limit of
        the task, or 27,000.
      stopping: called between steps; True ends the evaluation.
    """

    def __init__(
        self,
        agent: Agent,
        make_env: Callable[[], HostVector],
        max_steps: int | None = None,
        *,
        stopping: Callable[[], bool] = lambda: False,
    ):
        self._restarts, self._stopping = 0, stopping
        self._agent, self._make_env, self._max_steps = agent, make_env, max_steps
        self._env: HostVector | None = None
        self._act = jax.jit(make_greedy(agent))

    def __call__(
        self,
        params: Params,
        statistics: Any,
        seeds: jax.Array,
        step: jax.Array,
        values: Mapping[str, Any] = MappingProxyType({}),
    ) -> Episodes | None:
        """Return episodes [1, E] of the first policy; arguments as in `Evaluator`.

        None if the run was asked to stop before the episodes ended.
        """
        del values  # there are none: the run has one learner
        env = self._env = self._env or self._make_env()
        limit = self._max_steps or env.spec.time_limit or DEFAULT_MAX_STEPS
        policy = jax.tree.map(lambda x: x[0], PolicyInputs(params, statistics))
        key = jax.random.fold_in(stream(jax.random.key(seeds[0]), "evaluation"), step)
        before = sum(env.faults.values())
        seen = env.reset(numpy_seeds(stream(key, "reset"), 1)[0])
        memory = self._agent.initial_memory(env.num_envs)
        returns, lengths = np.zeros(env.num_envs, np.float32), np.zeros(env.num_envs, np.int32)
        cut = np.ones(env.num_envs, bool)
        for now in range(limit):
            if self._stopping():
                return None
            shown, extras = (seen.observation, memory, seen.is_first), self._agent.extras(seen)
            now_key = jax.random.fold_in(key, now)
            action, memory = self._act(policy, *shown, now_key, step, extras)
            seen = env.step(np.asarray(action))
            returns = np.where(cut, seen.episode_return, returns)
            lengths = np.where(cut, seen.episode_length, lengths)
            cut = cut & ~np.asarray(seen.is_last)
            if not cut.any():
                break
        self._restarts = sum(env.faults.values()) - before
        each: Any = returns[None], lengths[None], cut[None]
        return Episodes(*each)

    def report(self) -> dict[str, int]:
        """Return the restarts in the last evaluation. A restart resets the return to 0."""
        return {"restarts": self._restarts}

    def close(self) -> None:
        """Free the environments."""
        if self._env is not None:
            self._env.close()
            self._env = None
