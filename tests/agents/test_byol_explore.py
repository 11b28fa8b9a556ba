"""The world model of BYOL-Explore: a loop from the equations, causality, targets, memory."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from bellmax.agents.base import Batch
from bellmax.agents.byol_explore import BYOLExploreConfig, byol_bonus, make_byol_explore
from bellmax.agents.intrinsic import Chunk, IntrinsicConfig
from bellmax.envs import DeepSea, EnvSpec, Step, vectorise
from bellmax.launch.learning import with_next
from bellmax.networks import (
    GRU,
    RecurrentMemory,
    RecurrentNetworkConfig,
    make_recurrent_network,
)

SMALL = RecurrentNetworkConfig(hidden=(8,), latent_size=5, memory_size=4, head_hidden=())
CONFIG = BYOLExploreConfig(network=SMALL, horizon=3, predictor_hidden=(6,), batch_size=2)
SPEC = EnvSpec("test/Any", specs.Array((2, 2), np.float32), specs.DiscreteArray(3))
NET = make_recurrent_network(SMALL, SPEC.observation, 3)
T, B = 6, 2


def random_like(tree, seed=0):
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return structure.unflatten(
        [jax.random.normal(k, x.shape) * 0.6 for k, x in zip(keys, leaves, strict=True)]
    )


NETWORK = random_like(NET.init(jax.random.key(0)), 1)
OTHER = random_like(NETWORK.encoder, 2)


def make_steps(seed=3, ends=((3, 1),)):
    """Steps [T + 1, B]; stream 1 ends an episode at step 3."""
    keys = jax.random.split(jax.random.key(seed), 2)
    shape = (T + 1, B)
    is_last = np.zeros(shape, bool)
    for end in ends:
        is_last[end] = True
    is_first = np.zeros(shape, bool)
    is_first[1:] = is_last[:-1]
    zeros = jnp.zeros(shape)
    return Step(
        jax.random.normal(keys[0], (*shape, 2, 2)),
        jax.random.randint(keys[1], shape, 0, 3),
        *(zeros, zeros + 1.0, jnp.asarray(is_first), jnp.asarray(is_last), ()),
    )


def make_chunk(steps, network=NETWORK):
    memory = RecurrentMemory(jnp.full((B, 4), 0.3), jnp.array([1, 2]))
    latents = NET.encode(network.encoder, steps.observation)
    beliefs = NET.unroll(network.cell, latents, steps.action, steps.is_first, memory)
    return Chunk(steps, (), latents, beliefs)


def bonus_and_params(config=CONFIG):
    bonus = byol_bonus(config, SPEC)
    params, state = bonus.init(jax.random.key(5), NETWORK.encoder)
    return bonus, random_like(params, 6), state


def predictor(params, x):
    layers, x = jax.tree.map(np.asarray, (params["params"], x))
    hidden = np.maximum(x @ layers["Dense_0"]["kernel"] + layers["Dense_0"]["bias"], 0.0)
    return hidden @ layers["Dense_1"]["kernel"] + layers["Dense_1"]["bias"]


def errors_by_loop(params, target, chunk, horizon):
    """{(t, k, stream): L(t, k)} for what may be predicted, one prediction at a time."""
    steps, cell = chunk.steps, GRU(4)
    targets = np.asarray(NET.encode(target, steps.observation))
    found = {}
    for i in range(B):
        for t in range(T):
            belief = chunk.beliefs[t, i][None]
            for k in range(1, min(horizon, T - t) + 1):
                if steps.is_last[t + k - 1, i]:
                    break
                action = jax.nn.one_hot(steps.action[t + k - 1, i], 3)[None]
                belief = cell.apply(params.open_loop, belief, action, method="both")
                x, y = np.asarray(predictor(params.predictor, belief))[0], targets[t + k, i]
                distance = x / np.linalg.norm(x) - y / np.linalg.norm(y)
                found[t, k, i] = np.square(distance).sum()
    return found


@pytest.mark.parametrize("horizon", [1, 3, 8])
def test_loss_and_reward_are_those_of_a_loop(horizon):
    bonus, params, _ = bonus_and_params(replace(CONFIG, horizon=horizon, world_model_cost=2.0))
    chunk = make_chunk(make_steps())
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
    loss = bonus.loss(params, OTHER, chunk)
    np.testing.assert_allclose(loss, 2.0 * np.mean(starts), rtol=1e-5)
    _, memory, raw = bonus.reward(params, OTHER, NETWORK.encoder, chunk)
    np.testing.assert_allclose(raw, rewards, rtol=1e-4, atol=1e-6)
    assert memory == () and rewards[3, 1] == 0.0


def test_a_prediction_knows_the_actions_before_it_and_no_later_observation():
    """Changing one thing at a time, which rows change."""
    bonus, params, _ = bonus_and_params()
    steps = make_steps(ends=())
    # Its latents are the same whatever it sees.
    blind = jax.tree.map(lambda x: x if x.ndim == 1 else jnp.zeros_like(x), OTHER)

    def rows(changed, target=OTHER):
        """[T, B] whether the raw reward is another."""
        rewards = (
            bonus.reward(params, target, NETWORK.encoder, make_chunk(x))[2]
            for x in (steps, changed)
        )
        return np.abs(np.subtract(*map(np.asarray, rewards))) > 1e-7

    changed = steps._replace(action=steps.action.at[2, 0].set((steps.action[2, 0] + 1) % 3))
    # Action 2 is first part of the prediction of observation 3, which is row 2, and of later ones.
    assert rows(changed)[:, 0].tolist() == [False, False, True, True, True, True]
    assert not rows(changed)[:, 1].any()
    changed = steps._replace(observation=steps.observation.at[4, 0].add(1.0))
    # Observation 4 is the target of row 3 and known to what starts from it, so to no row before 4.
    assert rows(changed)[:, 0].tolist() == [False, False, False, True, True, True]
    assert rows(changed, blind)[:, 0].tolist() == [False, False, False, False, True, True]


def test_gradients_reach_the_representation_and_no_target():
    bonus, params, _ = bonus_and_params()
    steps = make_steps()

    def loss(network, params, target):
        return bonus.loss(params, target, make_chunk(steps, network))

    to_network, to_params, to_target = jax.grad(loss, argnums=(0, 1, 2))(NETWORK, params, OTHER)
    for tree in (to_network.encoder, to_network.cell, to_params.open_loop, to_params.predictor):
        assert all(jnp.any(x != 0) for x in jax.tree.leaves(tree))
    assert not any(jnp.any(x != 0) for x in jax.tree.leaves((to_target, to_network.heads)))


def test_without_sharing_the_agent_is_left_alone():
    bonus, params, state = bonus_and_params(replace(CONFIG, shared=False))
    steps = make_steps()
    memory = RecurrentMemory(jnp.full((B, 4), 0.3), jnp.array([1, 2]))

    def loss(network, params):
        return bonus.loss(params, state, make_chunk(steps, network)._replace(memory=memory))

    to_network, to_params = jax.grad(loss, argnums=(0, 1))(NETWORK, params)
    assert not any(jnp.any(x != 0) for x in jax.tree.leaves(to_network))
    assert all(jnp.any(x != 0) for x in jax.tree.leaves(to_params))


def test_without_sharing_the_memory_goes_on_from_chunk_to_chunk():
    bonus, params, state = bonus_and_params(replace(CONFIG, shared=False, horizon=1))
    steps, memory = make_steps(), bonus.initial_memory(B)

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
    start = state
    for _ in range(100):
        state = bonus.update(params, state, OTHER)
    followed = OTHER if shared else params.encoder

    def check(found, old, new):
        np.testing.assert_allclose(found, new + left * (old - new), rtol=1e-4, atol=1e-5)

    jax.tree.map(check, state, start, followed)


def test_novelty_fades_and_the_unseen_is_above_the_mean():
    """Reward-free: after learning one path down a DeepSea, the path not taken pays more."""
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

    def rollout(actions):
        """Steps [4, 15] and a batch of fresh memory: two episodes that take these actions."""
        state, seen = env.reset(jax.random.key(0))
        records = []
        for t in range(14):
            action = jnp.broadcast_to(actions[t % 7], (4,)).astype(jnp.int32)
            state, after = env.step(state, action, jax.random.key(t))
            logits = jnp.full((4, 2), np.log(0.5))
            flags = seen.is_first, seen.is_last
            records.append(
                Step(seen.observation, action, after.reward, after.discount, *flags, logits)
            )
            seen = after
        records = jax.tree.map(lambda *x: jnp.stack(x), *records)
        return Batch(with_next(records, seen), jnp.ones(4), agent.initial_memory(4))

    left, right = rollout([0] * 7), rollout([1] * 7)
    state = agent.init(jax.random.key(2))
    learn, prepare = jax.jit(agent.learn), jax.jit(agent.prepare)

    def raw(state, batch):
        chunk_reward = byol_bonus(config, env.spec).reward
        steps = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), batch.steps)
        net = make_recurrent_network(config.network, env.spec.observation, 2)
        params = state.params.network
        latents = net.encode(params.encoder, steps.observation)
        beliefs = net.unroll(params.cell, latents, steps.action, steps.is_first, batch.memory.actor)
        chunk = Chunk(steps, (), latents, beliefs)
        return float(chunk_reward(state.params.intrinsic, state.extra.bonus, (), chunk)[2].mean())

    novelty = [raw(state, left)]
    for _ in range(3):
        for _ in range(60):
            state, prepared, _ = prepare(state, left, left.memory)
            state, _ = learn(state, prepared, jax.random.key(0))
        novelty.append(raw(state, left))
    assert novelty[0] > novelty[1] > novelty[3]
    assert raw(state, right) > 3 * novelty[3]
    both = jax.tree.map(lambda x, y: jnp.concatenate([x[:2], y[:2]]), left, right)
    _, prepared, _ = prepare(state, both, both.memory)
    familiar, new = np.asarray(prepared.extra.reward).reshape(2, -1)
    assert new.mean() > 5 * familiar.mean()
