"""The world model of BYOL-Explore: a loop from the equations, causality, targets, memory."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from bellmax.agents.byol_explore import BYOLExploreConfig, byol_bonus, make_byol_explore
from bellmax.agents.shared.base import Batch
from bellmax.agents.shared.intrinsic import Chunk, IntrinsicConfig
from bellmax.envs import DeepSea, EnvSpec, Step, vectorise
from bellmax.launch.runners.learning import with_next
from bellmax.networks import (
    GRU,
    RecurrentMemory,
    RecurrentNetworkConfig,
    make_recurrent_network,
)
from helpers.jitted import quick_jit, random_like

SMALL = RecurrentNetworkConfig(hidden=(8,), latent_size=5, memory_size=4, head_hidden=())
CONFIG = BYOLExploreConfig(network=SMALL, horizon=3, predictor_hidden=(6,), batch_size=2)
SPEC = EnvSpec("test/Any", specs.Array((2, 2), np.float32), specs.DiscreteArray(3))
NET = make_recurrent_network(SMALL, SPEC.observation, 3)
T, B = 6, 2


NETWORK = random_like(jax.eval_shape(NET.init, jax.random.key(0)), 1, 0.6)
OTHER = random_like(NETWORK.encoder, 2, 0.6)


def make_steps(seed=3, ends=((3, 1),)):
    """Steps [T + 1, B]; stream 1 ends an episode at step 3."""
    generator, shape = np.random.default_rng(seed), (T + 1, B)
    is_last = np.zeros(shape, bool)
    for end in ends:
        is_last[end] = True
    is_first = np.zeros(shape, bool)
    is_first[1:] = is_last[:-1]
    zeros = np.zeros(shape, np.float32)
    return Step(
        generator.normal(size=(*shape, 2, 2)).astype(np.float32),
        generator.integers(3, size=shape).astype(np.int32),
        *(zeros, zeros + 1.0, is_first, is_last, ()),
    )


def make_chunk(steps, network=NETWORK):
    memory = RecurrentMemory(jnp.full((B, 4), 0.3), np.array([1, 2], np.int32))
    latents = NET.encode(network.encoder, steps.observation)
    beliefs = NET.unroll(network.cell, latents, steps.action, steps.is_first, memory)
    return Chunk(steps, (), latents, beliefs)


chunk_of = quick_jit(make_chunk)


def bonus_and_params(config=CONFIG):
    bonus = byol_bonus(config, SPEC)
    params, state = quick_jit(bonus.init)(jax.random.key(5), NETWORK.encoder)
    return bonus, random_like(params, 6, 0.6), state


def predictor(params, x):
    layers, x = jax.tree.map(np.asarray, (params["params"], x))
    hidden = np.maximum(x @ layers["Dense_0"]["kernel"] + layers["Dense_0"]["bias"], 0.0)
    return hidden @ layers["Dense_1"]["kernel"] + layers["Dense_1"]["bias"]


def errors_by_loop(params, target, chunk, horizon):
    """{(t, k, stream): L(t, k)} for each valid prediction, computed one at a time."""
    steps, cell = chunk.steps, GRU(4)
    targets = np.asarray(quick_jit(NET.encode)(target, steps.observation))
    step = quick_jit(functools.partial(cell.apply, params.open_loop, method="both"))
    found, beliefs = {}, np.asarray(chunk.beliefs)
    for i in range(B):
        for t in range(T):
            belief = beliefs[t, i][None]
            for k in range(1, min(horizon, T - t) + 1):
                if steps.is_last[t + k - 1, i]:
                    break
                action = np.eye(3, dtype=np.float32)[steps.action[t + k - 1, i]][None]
                belief = step(belief, action)
                x, y = np.asarray(predictor(params.predictor, belief))[0], targets[t + k, i]
                distance = x / np.linalg.norm(x) - y / np.linalg.norm(y)
                found[t, k, i] = np.square(distance).sum()
    return found


@pytest.mark.parametrize("horizon", [1, 3, 8])
def test_loss_and_reward_are_those_of_a_loop(horizon):
    bonus, params, _ = bonus_and_params(replace(CONFIG, horizon=horizon, world_model_cost=2.0))
    chunk = chunk_of(make_steps())
    found = errors_by_loop(params, OTHER, chunk, horizon)
    starts, rewards = [], np.zeros((T, B))
    for i in range(B):
        for t in range(T):
            own = [found[t, k, i] for k in range(1, horizon + 1) if (t, k, i) in found]
            starts += [np.mean(own)] if own else []
            rewards[t, i] = sum(
                found[t + 1 - k, k, i] for k in range(1, horizon + 1) if (t + 1 - k, k, i) in found
            )
    assert len(starts) == T * B - 1
    loss = quick_jit(bonus.loss)(params, OTHER, chunk)
    np.testing.assert_allclose(loss, 2.0 * np.mean(starts), rtol=1e-5)
    _, memory, raw = quick_jit(bonus.reward)(params, OTHER, NETWORK.encoder, chunk)
    np.testing.assert_allclose(raw, rewards, rtol=1e-4, atol=1e-6)
    assert memory == () and rewards[3, 1] == 0.0


@pytest.mark.slow
def test_a_prediction_knows_the_actions_before_it_and_no_later_observation():
    """Change one input at a time, and check which rows change."""
    bonus, params, _ = bonus_and_params()
    steps = make_steps(ends=())
    # Its latents do not depend on the observation.
    blind = jax.tree.map(lambda x: x if x.ndim == 1 else np.zeros_like(x), OTHER)
    reward = quick_jit(bonus.reward)

    def rows(changed, target=OTHER):
        """Return [T, B], whether the raw reward differs."""
        chunks = map(chunk_of, (steps, changed))
        rewards = (reward(params, target, NETWORK.encoder, chunk)[2] for chunk in chunks)
        return np.abs(np.subtract(*map(np.asarray, rewards))) > 1e-7

    action, observation = steps.action.copy(), steps.observation.copy()
    action[2, 0] = (action[2, 0] + 1) % 3
    observation[4, 0] += 1.0
    changed = steps._replace(action=action)
    # Action 2 is an input of the prediction of observation 3 (row 2) and of later observations.
    assert rows(changed)[:, 0].tolist() == [False, False, True, True, True, True]
    assert not rows(changed)[:, 1].any()
    changed = steps._replace(observation=observation)
    # Observation 4 is the target of row 3, and an input only of predictions from row 4 on.
    assert rows(changed)[:, 0].tolist() == [False, False, False, True, True, True]
    assert rows(changed, blind)[:, 0].tolist() == [False, False, False, False, True, True]


def test_gradients_reach_the_representation_and_no_target():
    bonus, params, _ = bonus_and_params()
    steps = make_steps()

    def loss(network, params, target):
        return bonus.loss(params, target, make_chunk(steps, network))

    gradients = quick_jit(jax.grad(loss, argnums=(0, 1, 2)))
    to_network, to_params, to_target = gradients(NETWORK, params, OTHER)
    for tree in (to_network.encoder, to_network.cell, to_params.open_loop, to_params.predictor):
        assert all(np.any(x) for x in jax.tree.leaves(tree))
    assert not any(np.any(x) for x in jax.tree.leaves((to_target, to_network.heads)))


def test_without_sharing_the_agent_is_left_alone():
    bonus, params, state = bonus_and_params(replace(CONFIG, shared=False))
    steps = make_steps()
    memory = RecurrentMemory(jnp.full((B, 4), 0.3), jnp.array([1, 2]))

    def loss(network, params):
        return bonus.loss(params, state, make_chunk(steps, network)._replace(memory=memory))

    to_network, to_params = quick_jit(jax.grad(loss, argnums=(0, 1)))(NETWORK, params)
    assert not any(np.any(x) for x in jax.tree.leaves(to_network))
    assert all(np.any(x) for x in jax.tree.leaves(to_params))


def test_without_sharing_the_memory_continues_from_chunk_to_chunk():
    bonus, params, state = bonus_and_params(replace(CONFIG, shared=False, horizon=1))
    steps, memory = make_steps(), bonus.initial_memory(B)

    @quick_jit
    def reward(steps, memory):
        _, memory, raw = bonus.reward(params, state, (), Chunk(steps, memory))
        return memory, raw

    _, whole = reward(steps, memory)
    memory, first = reward(jax.tree.map(lambda x: x[:4], steps), memory)
    _, second = reward(jax.tree.map(lambda x: x[3:], steps), memory)
    np.testing.assert_allclose(jnp.concatenate([first, second]), whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("decay", "left"), [(0.99, 0.36603), (1.0, 1.0), (0.0, 0.0)])
def test_the_target_follows_the_encoder(shared, decay, left):
    bonus, params, state = bonus_and_params(replace(CONFIG, shared=shared, target_decay=decay))
    start, update = state, quick_jit(bonus.update)
    for _ in range(100):
        state = update(params, state, OTHER)
    followed = OTHER if shared else params.encoder

    def check(found, old, new):
        wanted = np.asarray(new) + left * (np.asarray(old) - np.asarray(new))
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)

    jax.tree.map(check, state, start, followed)


@pytest.mark.slow
def test_novelty_fades_and_the_unseen_is_above_the_mean():
    """After learning one path through DeepSea without rewards, the other has a larger bonus."""
    config = replace(
        CONFIG,
        network=RecurrentNetworkConfig(hidden=(32,), latent_size=16, memory_size=16),
        horizon=2,
        predictor_hidden=(32,),
        learning_rate=3e-3,
        extrinsic_scale=0.0,
        batch_size=4,
        intrinsic=IntrinsicConfig(scale=1.0),
    )
    env = vectorise(DeepSea(size=6, randomise_actions=False), 4)
    agent = make_byol_explore(config, env.spec)

    @quick_jit
    def rollout(action):
        """Steps [4, 15] and a batch of fresh memory: two episodes that take this action."""

        def step(carry, key):
            state, seen = carry
            state, after = env.step(state, action, key)
            logits = jnp.full((4, 2), np.log(0.5))
            flags = seen.is_first, seen.is_last
            record = seen.observation, action, after.reward, after.discount, *flags, logits
            return (state, after), Step(*record)

        keys = jax.random.split(jax.random.key(1), 14)
        (_, seen), records = jax.lax.scan(step, env.reset(jax.random.key(0)), keys)
        return Batch(with_next(records, seen), jnp.ones(4), agent.initial_memory(4))

    left, right = rollout(np.zeros(4, np.int32)), rollout(np.ones(4, np.int32))
    state = quick_jit(agent.init)(jax.random.key(2))
    learn, prepare = jax.jit(agent.learn), jax.jit(agent.prepare)

    @quick_jit
    def raw(state, batch):
        chunk_reward = byol_bonus(config, env.spec).reward
        steps = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), batch.steps)
        net = make_recurrent_network(config.network, env.spec.observation, 2)
        params = state.params.network
        latents = net.encode(params.encoder, steps.observation)
        beliefs = net.unroll(params.cell, latents, steps.action, steps.is_first, batch.memory.actor)
        chunk = Chunk(steps, (), latents, beliefs)
        return chunk_reward(state.params.intrinsic, state.aux.bonus, (), chunk)[2].mean()

    novelty = [raw(state, left)]
    for _ in range(3):
        for _ in range(60):
            state, prepared, _ = prepare(state, left, left.memory)
            state, _ = learn(state, prepared, jax.random.key(0))
        novelty.append(raw(state, left))
    assert novelty[0] > novelty[1] > novelty[3]
    assert raw(state, right) > 3 * novelty[3]
    pick = lambda x, y: np.concatenate([np.asarray(x)[:2], np.asarray(y)[:2]])  # noqa: E731
    both = jax.tree.map(pick, left, right)
    _, prepared, _ = prepare(state, both, both.memory)
    familiar, new = np.asarray(prepared.aux.reward).reshape(2, -1)
    assert new.mean() > 5 * familiar.mean()
