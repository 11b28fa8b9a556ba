"""The whole of a run as one pytree, and what one call of the runner reports."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bellmax.agents import Agent, Memory
from bellmax.agents.shared.base import LearnerState, LearnOutput
from bellmax.envs import Step, VectorState, VectorTimeStep
from bellmax.launch.replay import ring as replay_lib
from bellmax.launch.runners.random import stream


class ActorState(NamedTuple):
    """What acting carries on: the last time step, recurrent memory and true counts [] int32.

    The time step is () where Python steps the environments: their episodes are not carried on.
    """

    timestep: Any
    memory: Memory
    env_steps: jax.Array
    episodes: jax.Array


class Keys(NamedTuple):
    """Named streams of randomness; each use folds in the step's number, so keys never change."""

    act: jax.Array
    env: jax.Array
    replay: jax.Array
    learn: jax.Array


class TrainState(NamedTuple):
    """The whole run as one pytree: what a checkpoint holds.

    Every leaf has a leading axis [S] of seeds except what all seeds share: the replay's ring
    position, the learner's `steps` and `vector_steps` ([] int32, vector steps taken). `replay` is
    a ReplayState, or () for an on-policy agent.
    """

    learner: LearnerState
    actor: ActorState
    env: VectorState
    replay: Any
    keys: Keys
    vector_steps: jax.Array


def initial_state(
    agent: Agent, seed: jax.Array, num_envs: int, *, timestep: Any, env: VectorState, replay: Any
) -> TrainState:
    """Return the state of one seed [] at the start; the last three are its parts of these names."""
    root, zero = jax.random.key(seed), jnp.zeros((), jnp.int32)
    actor = ActorState(timestep, agent.initial_memory(num_envs), zero, zero)
    keys = Keys(*(stream(root, name) for name in Keys._fields))
    return TrainState(agent.init(stream(root, "parameters")), actor, env, replay, keys, zero)


class IntervalMetrics(NamedTuple):
    """Sums over one call of `advance`, leaves [S].

    learn: name -> sum over gradient steps of what the agent reports.
    updates: gradient steps, up to and with the first whose loss was not finite.
    episodes: episodes that ended. episode_return, episode_length: their sums.
    finite: True while every loss was finite.
    """

    learn: dict[str, jax.Array]
    updates: jax.Array
    episodes: jax.Array
    episode_return: jax.Array
    episode_length: jax.Array
    finite: jax.Array


class Rollout(NamedTuple):
    """What L vector steps left.

    records: leaves [L, N, ...]. memory: of the actor before them. after: the next time step.
    """

    records: Step
    memory: Memory
    after: VectorTimeStep


def seed_axes(on_policy: bool) -> TrainState:
    """Which axis of each part of the state is that of seeds; None where all seeds share it.

    What they share stays a scalar under `vmap`, so that a `lax.cond` on it is not a select.
    """
    own: Any = 0
    shared: Any = None
    learner = LearnerState(own, own, own, steps=shared, aux=own)
    replay = () if on_policy else replay_lib.seed_axes
    return TrainState(learner, own, own, replay, own, vector_steps=shared)


def count(interval: IntervalMetrics, output: LearnOutput) -> IntervalMetrics:
    """The interval with one more gradient step."""
    return interval._replace(
        learn={name: interval.learn[name] + value for name, value in output.metrics.items()},
        updates=interval.updates + interval.finite,
        finite=interval.finite & jnp.isfinite(output.metrics["loss"]),
    )
