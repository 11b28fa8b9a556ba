"""Defaults of `bellmax train AGENT`: intervals and warm-up in proportion to the steps, losses."""

import math
from typing import Any

from bellmax.agents import DQNConfig, MunchausenDQNConfig, PQNConfig, VALearningConfig

# Agents that regress a scalar TD error. Nothing is known of the scale of rewards here, and the
# papers' threshold of 1 goes with clipped rewards; presets name their own.
SCALAR_ERRORS = DQNConfig, MunchausenDQNConfig, VALearningConfig
LOGS, EVALUATIONS, CHECKPOINTS = 20, 5, 2  # per run


def fitted(config: Any, given: set[str]) -> dict[str, Any]:
    """Return defaults by dotted key for the keys that were not given.

    Warm-up and exploration take about the same share of the steps as in the presets.

    Args:
      config: the RunConfig with the given values and, for all other keys, the dataclass defaults.
      given: dotted keys that were given.
    """
    agent, steps = config.agent, config.steps
    found: dict[str, Any] = {
        "log_every": max(1, steps // LOGS),
        "evaluate_every": max(1, steps // EVALUATIONS),
        "checkpoint_every": max(1, steps // CHECKPOINTS),
    }
    envs = config.env.num_envs
    if hasattr(agent, "policy_loss"):  # on-policy
        envs = envs if "env.num_envs" in given else 16
        size = agent.batch_size if "agent.batch_size" in given else math.gcd(envs, 16)
        found |= {"env.num_envs": envs, "agent.batch_size": size, "warmup_steps": 0}
        least = getattr(agent, "horizon", 1) + 1
        length = max(least, min(max(32, least), steps // (8 * envs)))
        found |= {"rollout_length": length, "updates_per_rollout": 4 * envs // size}
    elif isinstance(agent, PQNConfig):
        envs = envs if "env.num_envs" in given else 32
        length = config.rollout_length
        if "rollout_length" not in given:
            length = max(1, min(32, steps // (8 * envs)))
        recurrent = agent.network.memory != "none"  # a row is an environment, else a transition
        rows = envs if recurrent else envs * length
        least = 4 if recurrent else 128
        size = agent.batch_size if "agent.batch_size" in given else math.gcd(rows, least)
        updates = 4 * max(1, rows // size)
        found |= {"env.num_envs": envs, "warmup_steps": 0, "rollout_length": length}
        found |= {"agent.batch_size": size, "updates_per_rollout": updates}
        found["agent.learning_rate_steps"] = max(1, steps // (envs * length)) * updates
        found["agent.epsilon_steps"] = max(1, steps // 5)
    elif hasattr(agent, "random_steps"):  # continuous actions: a gradient step per step
        envs = envs if "env.num_envs" in given else 1
        if "env.name" not in given:
            found["env.name"] = "bellmax/Pendulum"
        warmup = _warmup(steps // 20, agent, envs)
        found |= {"env.num_envs": envs, "warmup_steps": warmup, "agent.random_steps": warmup}
    else:
        found["warmup_steps"] = _warmup(steps // 20, agent, envs)
        if hasattr(agent, "epsilon_steps"):
            found["agent.epsilon_steps"] = max(1, steps // 4)
        if isinstance(agent, SCALAR_ERRORS):
            found["agent.huber_delta"] = 0.0
    found["replay.capacity"] = max(100 * envs, min(100_000, steps))
    return {key: value for key, value in found.items() if key not in given}


def _warmup(steps: int, agent: Any, envs: int) -> int:
    """Return `steps`, but at most 10,000, and at least the steps of a batch of sequences."""
    sequence, batch = getattr(agent, "n_step", 1) + 1, getattr(agent, "batch_size", 1)
    if getattr(getattr(agent, "network", None), "memory", "none") != "none":
        sequence = agent.sequence_length
    return max(min(steps, 10_000), sequence * envs, batch)
