"""Learning phases after each rollout, on samples of a replay or on the rollout itself."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bellmax.agents import Agent, Batch, LearnerState
from bellmax.envs import Step, VectorTimeStep
from bellmax.launch.replay import ring as replay_lib
from bellmax.launch.runners.sharding import Split
from bellmax.launch.runners.train_state import IntervalMetrics, Rollout, TrainState, count


class Learning(NamedTuple):
    """Functions of a learning phase.

    keep(state, rollout) -> state: add a rollout to replay; called in the warm-up too.
    learn(state, rollout, interval) -> (state, interval): one learning phase.
    """

    keep: Callable[[TrainState, Rollout], TrainState]
    learn: Callable[[TrainState, Rollout, IntervalMetrics], tuple[TrainState, IntervalMetrics]]


def from_replay(
    agent: Agent, replay: replay_lib.Replay, updates: int, split: Split = lambda batch: batch
) -> Learning:
    """Make phases that add rollouts to replay and take gradient steps on samples of it.

    Args:
      agent: the agent. replay: what it samples.
      updates: gradient steps in a learning phase.
      split: gives each device a part of a batch.
    """

    def keep(state: TrainState, rollout: Rollout) -> TrainState:
        return state._replace(replay=replay.add(state.replay, rollout.records))

    def learn(
        state: TrainState, rollout: Rollout, interval: IntervalMetrics
    ) -> tuple[TrainState, IntervalMetrics]:
        del rollout
        keys = state.keys

        def update(carry: tuple[LearnerState, replay_lib.ReplayState, IntervalMetrics], _: None):
            learner, buffer, interval = carry
            sample = replay.sample(buffer, jax.random.fold_in(keys.replay, learner.steps))
            key = jax.random.fold_in(keys.learn, learner.steps)
            learner, output = agent.learn(learner, split(sample.batch), key)
            buffer = replay.update_priorities(buffer, sample.indices, output.priorities)
            return (learner, buffer, count(interval, output)), None

        carry = state.learner, state.replay, interval
        if updates == 1:
            carry, _ = update(carry, None)
        else:
            carry, _ = jax.lax.scan(update, carry, length=updates)
        learner, buffer, interval = carry
        return state._replace(learner=learner, replay=buffer), interval

    return Learning(keep, learn)


def from_rollout(
    agent: Agent, num_envs: int, updates: int, split: Split = lambda batch: batch
) -> Learning:
    """Make phases without replay: gradient steps on minibatches of the rollout.

    Args:
      agent: on-policy; its batch size divides the rows that `prepare` returns, which are the
        environments or their transitions.
      num_envs: N.
      updates: gradient steps, a multiple of the number of minibatches; each is used equally often.
      split: gives each device a part of a batch.
    """
    size = agent.replay.batch_size
    assert agent.prepare is not None
    prepare = agent.prepare

    def learn(
        state: TrainState, rollout: Rollout, interval: IntervalMetrics
    ) -> tuple[TrainState, IntervalMetrics]:
        keys, actor = state.keys, state.actor
        whole = Batch(with_next(rollout.records, rollout.after), jnp.ones(num_envs), rollout.memory)
        learner, whole, memory = prepare(state.learner, whole, actor.memory)
        num_rows = whole.weights.shape[0]
        parts = num_rows // size

        def update(carry: tuple[LearnerState, IntervalMetrics], rows: jax.Array):
            learner, interval = carry
            # A single part is the whole batch.
            batch = whole if parts == 1 else jax.tree.map(lambda x: x[rows], whole)
            key = jax.random.fold_in(keys.learn, learner.steps)
            learner, output = agent.learn(learner, split(batch), key)
            return (learner, count(interval, output)), None

        def epoch(carry: tuple[LearnerState, IntervalMetrics], _: None):
            key = jax.random.fold_in(keys.replay, carry[0].steps)
            order = jnp.arange(num_rows) if parts == 1 else jax.random.permutation(key, num_rows)
            return jax.lax.scan(update, carry, order.reshape(parts, size))

        (learner, interval), _ = jax.lax.scan(epoch, (learner, interval), length=updates // parts)
        return state._replace(learner=learner, actor=actor._replace(memory=memory)), interval

    return Learning(lambda state, rollout: state, learn)


def with_next(records: Step, after: VectorTimeStep) -> Step:
    """Join steps [L, N, ...] and the next time step into sequences [N, L + 1, ...].

    Of the last step only observation, flags and action mask are set; its other leaves are zeros.
    """
    zeros = jax.tree.map(lambda x: jnp.zeros_like(x[0]), records)
    last = zeros._replace(
        observation=after.observation,
        is_first=after.is_first,
        is_last=after.is_last,
        action_mask=after.action_mask,
    )

    def join(before: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.swapaxes(jnp.concatenate([before, new[None]], axis=0), 0, 1)

    return jax.tree.map(join, records, last)
