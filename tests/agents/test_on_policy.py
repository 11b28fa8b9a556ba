"""The on-policy actor-critic: advantages and losses by hand, and tasks with known answers."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs
from scipy import special

from bellmax import UserError
from bellmax.agents.on_policy import (
    OnPolicyConfig,
    make_on_policy,
    make_on_policy_agent,
)
from bellmax.agents.shared.base import Batch
from bellmax.agents.shared.intrinsic import NO_BONUS, IntrinsicConfig
from bellmax.envs import EnvSpec, Pendulum, Step, TimeStep, vectorise
from bellmax.launch.runners.device_runner import make_runner
from bellmax.networks import RecurrentNetworkConfig, make_recurrent_network
from helpers.jitted import compile_agent, quick_jit

SMALL = RecurrentNetworkConfig(hidden=(8,), latent_size=4, memory_size=4, head_hidden=())
SPEC = EnvSpec("test/Any", specs.Array((3,), np.float32), specs.DiscreteArray(3))
T, B = 7, 4


def make_batch(agent, seed=0):
    """A rollout [B, T + 1] with a termination, a time limit and an end at its last step."""
    generator, shape = np.random.default_rng(seed), (B, T + 1)
    normal = lambda *shape: generator.normal(size=shape).astype(np.float32)  # noqa: E731
    is_last = np.zeros(shape, bool)
    is_last[0, 3] = is_last[1, 2] = is_last[2, T] = is_last[3, T - 1] = True
    is_first = np.zeros(shape, bool)
    is_first[:, 1:] = is_last[:, :-1]
    discount = np.ones(shape, np.float32)
    discount[0, 2] = 0.0  # terminated; the others are time limits
    steps = Step(
        normal(*shape, 3),
        generator.integers(3, size=shape).astype(np.int32),
        np.where(is_last, np.float32(0), normal(*shape)),
        discount,
        is_first,
        is_last,
        special.log_softmax(normal(*shape, 3), axis=-1),
    )
    memory = agent.initial_memory(B)
    belief = normal(*memory.actor.belief.shape)
    memory = memory._replace(actor=memory.actor._replace(belief=belief))
    return Batch(steps, np.ones(B, np.float32), memory)


def outputs(config, params, batch):
    """Logits [T + 1, B, A] and values [T + 1, B] one step at a time."""
    net = make_recurrent_network(config.network, SPEC.observation, 3)

    @quick_jit
    def one(observation, is_first, memory):
        belief = net.step(params.cell, net.encode(params.encoder, observation), is_first, memory)
        return belief, net.heads(params.heads, belief)

    memory, found, steps = batch.memory.actor, [], batch.steps
    for t in range(T + 1):
        belief, heads = one(steps.observation[:, t], steps.is_first[:, t], memory)
        memory = memory._replace(belief=belief, action=steps.action[:, t])
        found.append(heads)
    return [np.stack(x) for x in zip(*found, strict=True)]


def advantages_by_hand(config, batch, values, reward):
    """[B, T] in float64, from the end backwards; rows of closing steps are left at 0."""
    steps = jax.tree.map(np.asarray, batch.steps)
    found = np.zeros((B, T))
    for i in range(B):
        follows = 0.0
        for t in reversed(range(T)):
            if steps.is_last[i, t]:
                follows = 0.0
                continue
            gamma = config.discount * steps.discount[i, t]
            delta = reward[i, t] + gamma * values[t + 1, i] - values[t, i]
            continues = not steps.is_last[i, t + 1]
            follows = delta + gamma * config.advantage_decay * continues * follows
            found[i, t] = follows
    return found


def bonus_of(amount):
    """A bonus of `amount` for each step."""

    def reward(params, state, encoder, chunk):
        return state + 1, (), jnp.full(chunk.steps.reward[:-1].shape, amount)

    def loss(params, state, chunk):
        return jnp.square(params - 3.0)

    return NO_BONUS._replace(
        init=lambda key, encoder: (jnp.zeros(()), jnp.zeros(())),
        reward=reward,
        loss=loss,
        update=lambda params, state, encoder: state + 100,
    )


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("extrinsic", [1.0, 0.0])
def test_prepared_advantages_are_those_of_a_loop(extrinsic, center):
    config = OnPolicyConfig(
        network=SMALL, extrinsic_scale=extrinsic, batch_size=B, center_advantages=center
    )
    reward = IntrinsicConfig(scale=0.5, normaliser="none")
    agent = compile_agent(make_on_policy_agent(config, SPEC, bonus_of(2.0), reward))
    state, batch = agent.init(jax.random.key(1)), make_batch(agent)
    new, prepared, memory = agent.prepare(state, batch, batch.memory)
    values = outputs(config, state.params.network, batch)[1]
    open_steps = ~np.asarray(batch.steps.is_last)[:, :-1]
    total = extrinsic * np.asarray(batch.steps.reward)[:, :-1] + 0.5 * 2.0
    expected = advantages_by_hand(config, batch, values, total)
    middle = expected[open_steps].mean() if center else 0.0
    centered = np.where(open_steps, expected - middle, 0.0)
    unit = np.sqrt(np.square(centered[open_steps]).mean())  # of the first rollout: its own
    found = np.where(open_steps, prepared.aux.advantage, 0.0)
    np.testing.assert_allclose(found, centered / unit, rtol=1e-4, atol=1e-5)
    target = np.where(open_steps, prepared.aux.target - values[:-1].T, 0.0)
    np.testing.assert_allclose(target, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(prepared.aux.reward, np.where(open_steps, 2.0, 0.0))
    assert new.aux.bonus == 1
    jax.tree.map(np.testing.assert_array_equal, memory.actor, batch.memory.actor)
    np.testing.assert_array_equal(
        new.params.network.heads["params"]["Dense_0"]["kernel"],
        state.params.network.heads["params"]["Dense_0"]["kernel"],
    )


@pytest.mark.parametrize("policy_loss", ["ppo", "vmpo"])
def test_the_loss_is_that_of_the_equations(policy_loss):
    config = OnPolicyConfig(
        network=SMALL, policy_loss=policy_loss, entropy_cost=0.07, value_cost=0.3, batch_size=B
    )
    agent = compile_agent(make_on_policy(config, SPEC))
    state = agent.init(jax.random.key(1))
    state, batch, _ = agent.prepare(state, make_batch(agent), make_batch(agent).memory)
    logits, values = outputs(config, state.params.network, batch)
    _, output = agent.learn(state, batch, jax.random.key(0))
    on = ~np.asarray(batch.steps.is_last)[:, :-1].T
    new = special.log_softmax(logits[:-1], axis=-1)[on]
    old = np.asarray(batch.steps.behaviour[:, :-1]).swapaxes(0, 1)[on]
    action = np.asarray(batch.steps.action[:, :-1]).T[on]
    advantage = np.asarray(batch.aux.advantage).T[on]
    rows = np.arange(on.sum())
    kl = (np.exp(old) * (old - new)).sum(axis=1)
    if policy_loss == "ppo":
        ratio = np.exp(new[rows, action] - old[rows, action])
        policy = -np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage).mean()
    else:
        dual = np.log(2.0) + 1e-6  # softplus(0)
        best = np.argsort(-advantage)[
            : on.sum() // 2
        ]  # half of the rows that are not closing steps
        exponent = np.exp(advantage[best] / dual)
        weights = exponent / exponent.sum()
        policy = -(weights * new[rows, action][best]).sum()
        policy += dual * (0.1 + np.log(exponent.mean()))
        policy += (dual * (0.01 - kl) + dual * kl).mean()
    entropy = -(np.exp(new) * new).sum(axis=1).mean()
    target = np.asarray(batch.aux.target).T[on]
    value = 0.5 * np.square(values[:-1][on] - target).mean()
    expected = policy + 0.3 * value - 0.07 * entropy
    metrics = output.metrics
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-4)
    np.testing.assert_allclose(metrics["entropy"], entropy, rtol=1e-5)
    np.testing.assert_allclose(metrics["kl"], kl.mean(), rtol=1e-4)


def test_the_scale_of_advantages_moves_slowly():
    """Ten times the rewards in the second rollout give almost ten times the advantages."""
    config = OnPolicyConfig(network=SMALL, scale_decay=0.9, batch_size=B)
    agent = compile_agent(make_on_policy(config, SPEC))
    state, batch = agent.init(jax.random.key(1)), make_batch(agent)
    # Values of 0: rewards alone make the advantages.
    heads = jax.tree.map(np.zeros_like, state.params.network.heads)
    network = state.params.network._replace(heads=heads)
    state = state._replace(params=state.params._replace(network=network))
    more = batch._replace(steps=batch.steps._replace(reward=10.0 * batch.steps.reward))
    state, one, _ = agent.prepare(state, batch, batch.memory)
    state, ten, _ = agent.prepare(state, more, batch.memory)
    # Mean squares 1 and 100, weights 0.9 * 0.1 and 0.1.
    ratio = 10.0 / np.sqrt((0.09 * 1 + 0.1 * 100) / 0.19)
    on = ~np.asarray(batch.steps.is_last)[:, :-1]
    expected = np.asarray(one.aux.advantage)[on] * ratio
    np.testing.assert_allclose(np.asarray(ten.aux.advantage)[on], expected, rtol=1e-4)


def test_a_bonus_is_learned_with_the_agent_and_updated_after_each_step():
    config = OnPolicyConfig(network=SMALL, batch_size=B, learning_rate=0.1)
    reward = IntrinsicConfig(scale=0.5, normaliser="none")
    agent = compile_agent(make_on_policy_agent(config, SPEC, bonus_of(2.0), reward))
    state, batch = agent.init(jax.random.key(1)), make_batch(agent)
    state, batch, _ = agent.prepare(state, batch, batch.memory)
    new, output = agent.learn(state, batch, jax.random.key(0))
    np.testing.assert_allclose(output.metrics["intrinsic_loss"], 9.0)
    np.testing.assert_allclose(output.metrics["intrinsic_reward"], 2.0)
    np.testing.assert_allclose(new.params.intrinsic, 0.1, rtol=1e-3)  # Adam's first step
    assert new.aux.bonus == 101 and new.steps == 1


def test_the_size_of_a_bonus_gradient_does_not_decide_the_policys_step():
    """Clipped together, a bonus gradient a million times larger would stop the policy."""
    config = OnPolicyConfig(network=SMALL, batch_size=B, max_gradient_norm=0.01)

    def policy(bonus):
        unpaid = IntrinsicConfig(scale=0.0, normaliser="none")
        agent = compile_agent(make_on_policy_agent(config, SPEC, bonus, unpaid))
        state, batch = agent.init(jax.random.key(1)), make_batch(agent)
        state, batch, _ = agent.prepare(state, batch, batch.memory)
        return agent.learn(state, batch, jax.random.key(0))[0].params.network

    steep = bonus_of(0.0)._replace(loss=lambda params, state, chunk: 1e6 * (params - 3.0) ** 2)
    # Two programs differ in rounding; if clipped together, the step would be 0.
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-9)
    jax.tree.map(close, policy(steep), policy(NO_BONUS))


@pytest.mark.parametrize("name", ["return", "scaled", "clipped"])
def test_normalisers_skip_closing_steps_and_carry_on(name):
    config = OnPolicyConfig(network=SMALL, batch_size=B)

    def reward(params, state, encoder, chunk):
        return state, (), jnp.where(chunk.steps.is_last[:-1], jnp.nan, 2.0 + state)

    bonus = bonus_of(0.0)._replace(reward=reward)
    agent = compile_agent(
        make_on_policy_agent(config, SPEC, bonus, IntrinsicConfig(normaliser=name))
    )
    state, batch = agent.init(jax.random.key(1)), make_batch(agent)
    state, prepared, memory = agent.prepare(state, batch, batch.memory)
    found = np.asarray(prepared.aux.reward)
    assert np.isfinite(found).all() and (found[np.asarray(batch.steps.is_last)[:, :-1]] == 0).all()
    assert np.isfinite(np.asarray(prepared.aux.advantage)).all()
    if name == "return":
        steps = T - np.asarray(batch.steps.is_last)[:, :-1].sum(axis=1)
        expected = 2.0 * (1 - 0.99**steps) / (1 - 0.99)
        np.testing.assert_allclose(memory.returns, expected, rtol=1e-5)
        again = agent.prepare(state, batch._replace(memory=memory), memory)[2]
        np.testing.assert_allclose(again.returns, expected * (1 + 0.99**steps), rtol=1e-5)
    else:
        assert memory.returns == ()


class CueState(NamedTuple):
    cue: jax.Array
    time: jax.Array


@dataclasses.dataclass(frozen=True)
class Cue:
    """The first observation shows one of two cues; after two blank ones that action earns 1."""

    spec = EnvSpec("test/Cue", specs.Array((3,), np.float32), specs.DiscreteArray(2))

    def observe(self, state):
        shown = jax.nn.one_hot(state.cue, 2) * (state.time == 0)
        return jnp.append(shown, 1.0 * (state.time == 2))

    def reset(self, key):
        state = CueState(jax.random.bernoulli(key).astype(jnp.int32), jnp.zeros((), jnp.int32))
        no = jnp.zeros((), bool)
        return state, TimeStep(self.observe(state), jnp.zeros(()), no, no)

    def step(self, state, action, key):
        reward = 1.0 * (state.time == 2) * (action == state.cue)
        state = state._replace(time=state.time + 1)
        return state, TimeStep(self.observe(state), reward, state.time == 3, jnp.zeros((), bool))


@pytest.mark.slow
@pytest.mark.parametrize("policy_loss", ["ppo", "vmpo"])
def test_memory_solves_a_task_that_needs_it(policy_loss):
    """Without memory the best return is 0.5. Rollouts of 5 steps cut episodes of 3 anywhere."""
    network = RecurrentNetworkConfig(hidden=(16,), latent_size=16, memory_size=16, head_hidden=())
    config = OnPolicyConfig(
        policy_loss=policy_loss, learning_rate=5e-3, batch_size=8, network=network
    )
    env = vectorise(Cue(), 16)
    agent = make_on_policy(config, env.spec)
    runner = make_runner(agent, env, None, rollout_length=5, updates_per_rollout=4, num_seeds=3)
    state, _ = runner.advance(runner.init(jnp.arange(3)), 0, 400)
    state, interval = runner.advance(state, 0, 50)
    assert (interval.episode_return / interval.episodes > 0.9).all()
    # The value is 1 at the end of an episode, and 1 * 0.99^2 at its start.
    net = make_recurrent_network(network, env.spec.observation, 2)
    params = jax.tree.map(lambda x: x[0], state.learner.params.network)
    first = jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    latents = net.encode(params.encoder, first)
    belief = net.step(params.cell, latents, jnp.ones(2, bool), net.initial_memory(2))
    _, value = net.heads(params.heads, belief)
    np.testing.assert_allclose(value, 0.99**2, atol=0.1)


def test_continuous_actions_are_refused():
    with pytest.raises(UserError, match="must be a task with discrete actions"):
        make_on_policy(OnPolicyConfig(network=SMALL), Pendulum().spec)
