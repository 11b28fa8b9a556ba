"""The state of a run as one pytree, and the metrics of one interval."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bellmax.agents import Agent, LearnerState, LearnOutput, Memory
from bellmax.envs import Step, VectorState, VectorTimeStep
from bellmax.launch.replay import ring as replay_lib
from bellmax.launch.runners.random import stream


class ActorState(NamedTuple):
    """State of acting: the last time step, recurrent memory, and counts [] int32.

    The time step is () for host environments, whose unfinished episodes are not saved.
    """

    timestep: Any
    memory: Memory
    env_steps: jax.Array
    episodes: jax.Array


class Keys(NamedTuple):
    """Keys of the random streams. They never change; each use folds in the step's number."""

    act: jax.Array
    env: jax.Array
    replay: jax.Array
    learn: jax.Array


class TrainState(NamedTuple):
    """The state of a run as one pytree, which checkpoints save.

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
    """Return the initial state of one seed []; the last three arguments are parts of it."""
    root, zero = jax.random.key(seed), jnp.zeros((), jnp.int32)
    actor = ActorState(timestep, agent.initial_memory(num_envs), zero, zero)
    keys = Keys(*(stream(root, name) for name in Keys._fields))
    return TrainState(agent.init(stream(root, "parameters")), actor, env, replay, keys, zero)


class IntervalMetrics(NamedTuple):
    """Sums over one call of `advance`, leaves [S].

    learn: name -> sum of the agent's metric over gradient steps.
    updates: gradient steps, up to and including the first whose loss was not finite.
    episodes: number of ended episodes. episode_return, episode_length: sums over them.
    finite: True while every loss was finite.
    """

    learn: dict[str, jax.Array]
    updates: jax.Array
    episodes: jax.Array
    episode_return: jax.Array
    episode_length: jax.Array
    finite: jax.Array


class Rollout(NamedTuple):
    """L vector steps.

    records: leaves [L, N, ...]. memory: the agent's memory before the first of them.
    after: the time step after the last of them.
    """

    records: Step
    memory: Memory
    after: VectorTimeStep


def seed_axes(on_policy: bool) -> TrainState:
    """Return the axis of seeds of each part of the state; None if all seeds share the part.

    Shared parts stay scalars under `vmap`, so that a `lax.cond` on them does not become a select.
    """
    own: Any = 0
    shared: Any = None
    learner = LearnerState(own, own, own, steps=shared, aux=own)
    replay = () if on_policy else replay_lib.seed_axes
    return TrainState(learner, own, own, replay, own, vector_steps=shared)


def over_seeds(
    function: Callable[..., Any], in_axes: Any, out_axes: Any, *, single: bool
) -> Callable[..., Any]:
    """Return `jax.vmap(function, in_axes, out_axes)` for axes that are 0 or None.

    Args:
      function: of one seed.
      in_axes, out_axes: trees of axes.
      single: whether there is one seed and `function` is called without an axis of seeds. On a CPU
        PQN takes twice as long with an axis of size 1; DQN, with replay, is faster with it.
    """
    if not single:
        return jax.vmap(function, in_axes, out_axes)

    def of_one(*arguments: Any) -> Any:
        rows = _at_axes(lambda x: x[0], in_axes, arguments)
        return _at_axes(lambda x: x[None], out_axes, function(*rows))

    return of_one


def _at_axes(change: Callable[[jax.Array], jax.Array], axes: Any, tree: Any) -> Any:
    """Change the leaves of a tree whose axis is not None."""

    def changed(axis: int | None, part: Any) -> Any:
        return part if axis is None else jax.tree.map(change, part)

    return jax.tree.map(changed, axes, tree, is_leaf=lambda x: x is None)


def count(interval: IntervalMetrics, output: LearnOutput) -> IntervalMetrics:
    """Add a gradient step to the interval's metrics."""
    return interval._replace(
        learn={name: interval.learn[name] + value for name, value in output.metrics.items()},
        updates=interval.updates + interval.finite,
        finite=interval.finite & jnp.isfinite(output.metrics["loss"]),
    )
