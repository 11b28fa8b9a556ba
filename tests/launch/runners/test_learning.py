"""On-policy learning phases: rollouts join without gaps, and all environments have equal weight."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax.agents import Agent, Batch, LearnerState, LearnOutput
from bellmax.agents.shared.base import ActorOutput, ReplaySpec
from bellmax.envs import DeepSea, vectorise
from bellmax.launch.runners.device_runner import make_runner

NUM_ENVS, LENGTH = 6, 4


class Seen(NamedTuple):
    """used: [N] gradient steps that saw each environment. wrong: number of mismatches."""

    used: jax.Array
    wrong: jax.Array
    prepared: jax.Array


def make_witness(batch_size):
    """An agent whose memory counts the steps of an episode, and which checks each batch with it."""

    def init(key):
        seen = Seen(jnp.zeros(NUM_ENVS), jnp.zeros(()), jnp.zeros(()))
        return LearnerState(jax.random.normal(key), (), (), jnp.zeros((), jnp.int32), seen)

    def act(params, inputs, *, evaluate=False):
        time = jnp.where(inputs.is_first, 0, inputs.memory["time"] + 1)
        return ActorOutput(jnp.zeros(NUM_ENVS, jnp.int32), inputs.memory | {"time": time}, time)

    def prepare(state, batch, memory):
        steps, names = batch.steps, jnp.arange(NUM_ENVS)
        # The memory before the rollout, then one more each step, and from 0 at a first step.
        time = batch.memory["time"]
        wrong = jnp.zeros(())
        for t in range(LENGTH):
            time = jnp.where(steps.is_first[:, t], 0, time + 1)
            wrong += jnp.sum(steps.behaviour[:, t] != time)
        wrong += jnp.sum(memory["time"] != time)
        # Row r of a DeepSea is on row r, the step after the rollout included.
        row = jnp.argmax(steps.observation.max(axis=-1), axis=-1)
        closing = steps.is_last
        after = jnp.where(steps.is_first[:, -1], 0, time + 1)
        wrong += jnp.sum((row[:, :-1] != steps.behaviour[:, :-1]) & ~closing[:, :-1])
        wrong += jnp.sum((row[:, -1] != after) & ~closing[:, -1])
        # The agent's state of each environment is that of the previous batch.
        wrong += jnp.sum(batch.memory["rollouts"] != state.aux.prepared)
        memory = memory | {"rollouts": memory["rollouts"] + 1}
        seen = state.aux
        seen = seen._replace(wrong=seen.wrong + wrong, prepared=seen.prepared + 1)
        return state._replace(aux=seen), batch._replace(aux=names), memory

    def learn(state, batch, key):
        seen = state.aux
        used = seen.used.at[batch.aux].add(1.0)
        state = state._replace(steps=state.steps + 1, aux=seen._replace(used=used))
        return state, LearnOutput({"loss": jnp.zeros(())}, jnp.zeros(batch_size))

    def memory(n):
        return {"time": jnp.full(n, -1), "rollouts": jnp.zeros(n)}

    spec = ReplaySpec(LENGTH + 1, batch_size, on_policy=True)
    return Agent(init, lambda state: (), memory, act, learn, spec, prepare=prepare)


@pytest.mark.parametrize(("batch_size", "updates"), [(6, 1), (6, 3), (2, 3), (2, 9), (3, 4)])
def test_rollouts_join_and_environments_count_alike(batch_size, updates):
    env = vectorise(DeepSea(size=5), NUM_ENVS)
    agent = make_witness(batch_size)
    runner = make_runner(
        agent, env, None, rollout_length=LENGTH, updates_per_rollout=updates, num_seeds=2
    )
    state, interval = runner.advance(runner.init(jnp.arange(2)), 0, 10)
    seen = state.learner.aux
    np.testing.assert_array_equal(seen.wrong, 0)
    np.testing.assert_array_equal(seen.prepared, 10)
    np.testing.assert_array_equal(seen.used, 10 * updates * batch_size / NUM_ENVS)
    assert state.learner.steps == 10 * updates and (interval.updates == 10 * updates).all()
    assert state.replay == () and state.vector_steps == 40


def test_each_epoch_draws_new_parts():
    """With 3 of 6 environments per step, the pairs in a minibatch change."""
    together = []

    def learn(state, batch, key):
        jax.debug.callback(
            lambda x: together.append(tuple(sorted(np.ravel(x).tolist()))), batch.aux
        )
        return agent.learn(state, batch, key)

    env = vectorise(DeepSea(size=5), NUM_ENVS)
    agent = make_witness(3)
    runner = make_runner(
        agent._replace(learn=learn), env, None, rollout_length=LENGTH, updates_per_rollout=2
    )
    runner.advance(runner.init(jnp.arange(1)), 0, 8)
    jax.effects_barrier()
    assert len(together) == 16 and len(set(together)) > 8


def test_warm_up_collects_and_learns_nothing():
    env = vectorise(DeepSea(size=5), NUM_ENVS)
    agent = make_witness(6)
    runner = make_runner(agent, env, None, rollout_length=LENGTH, updates_per_rollout=1)
    state, interval = runner.advance(runner.init(jnp.arange(1)), 3, 0)
    assert state.vector_steps == 12 and state.learner.steps == 0 and interval.episodes[0] > 0
    assert state.learner.aux.prepared == 0


@pytest.mark.parametrize(("batch_size", "updates"), [(24, 2), (8, 3), (4, 12)])
def test_transitions_are_shuffled_over_environments_and_time_and_count_alike(batch_size, updates):
    together = []
    witness = make_witness(NUM_ENVS)

    def prepare(state, batch, memory):
        names = jnp.arange(NUM_ENVS * LENGTH)
        rows = jax.tree.map(lambda x: x[:, :-1].reshape(-1, 1, *x.shape[2:]), batch.steps)
        return state, Batch(rows, jnp.ones(names.shape), aux=names), memory

    def learn(state, batch, key):
        jax.debug.callback(lambda x: together.append(np.ravel(x).tolist()), batch.aux)
        state = state._replace(steps=state.steps + 1)
        return state, LearnOutput({"loss": jnp.zeros(())}, jnp.zeros(batch_size))

    spec = ReplaySpec(2, batch_size, on_policy=True, transitions=True)
    agent = witness._replace(prepare=prepare, learn=learn, replay=spec)
    env = vectorise(DeepSea(size=5), NUM_ENVS)
    phases = {"rollout_length": LENGTH, "updates_per_rollout": updates}
    runner = make_runner(agent, env, None, **phases)
    runner.advance(runner.init(jnp.arange(1)), 0, 2)
    jax.effects_barrier()
    assert len(together) == 2 * updates and {len(batch) for batch in together} == {batch_size}
    parts = NUM_ENVS * LENGTH // batch_size
    for epoch in range(2 * updates // parts):
        seen = sum(together[epoch * parts : (epoch + 1) * parts], [])
        assert sorted(seen) == list(range(NUM_ENVS * LENGTH))
    if parts > 1:  # a batch has several environments and several times
        for batch in together:
            environments, times = zip(*(divmod(row, LENGTH) for row in batch), strict=True)
            assert len(set(environments)) > 1 and len(set(times)) > 1
        assert len(set(map(tuple, together))) == len(together)
