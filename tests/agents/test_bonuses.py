"""RND, ICM and count bonuses: known rewards, and the parameters that their gradients reach."""

import functools
from collections import Counter
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from bellmax.agents.count_bonus import CountBonusConfig, count_bonus, make_count_bonus
from bellmax.agents.icm import ICMConfig, icm_bonus, make_icm
from bellmax.agents.rnd import RNDConfig, make_rnd, rnd_bonus
from bellmax.agents.shared.intrinsic import Chunk
from bellmax.envs import DeepSea, EnvSpec, Step, vectorise
from bellmax.launch.runners.device_runner import make_runner
from bellmax.networks import RecurrentNetworkConfig
from helpers.jitted import compile_bonus, quick_jit

SPEC = EnvSpec("test/Any", specs.Array((2, 2), np.float32), specs.DiscreteArray(3))
T, B = 6, 2


def make_chunk(observation, is_last=None, action=None):
    zeros = np.zeros(observation.shape[:2], np.float32)
    is_last = zeros > 0 if is_last is None else is_last
    action = zeros.astype(np.int32) if action is None else action
    return Chunk(Step(observation, action, zeros, zeros + 1.0, zeros > 0, is_last, ()))


def random_chunk(seed=0):
    generator = np.random.default_rng(seed)
    is_last = np.zeros((T + 1, B), bool)
    is_last[2, 1] = True
    observation = generator.normal(1.0, 3.0, size=(T + 1, B, 2, 2)).astype(np.float32)
    action = generator.integers(3, size=(T + 1, B)).astype(np.int32)
    return make_chunk(observation, is_last, action)


def test_counts_are_those_of_a_table():
    spec = EnvSpec("x", specs.Array((2,), np.int32), SPEC.action)
    bonus = compile_bonus(count_bonus(CountBonusConfig(), spec))
    params, state = bonus.init(jax.random.key(0), ())
    counter = Counter()
    for seed in range(4):
        rng = np.random.default_rng(seed)
        observation = rng.integers(-1, 2, (T + 1, B, 2)).astype(np.int32)
        is_last = rng.random((T + 1, B)) < 0.2
        reached = [
            (tuple(observation[t + 1, i].tolist()), t, i)
            for t in range(T)
            for i in range(B)
            if not is_last[t, i]
        ]
        counter.update(o for o, _, _ in reached)
        chunk = make_chunk(observation, is_last)
        state, _, raw = jax.tree.map(np.asarray, bonus.reward(params, state, (), chunk))
        for o, t, i in reached:
            np.testing.assert_allclose(raw[t, i], counter[o] ** -0.5, rtol=1e-5)
    assert state.sum() == counter.total() and np.sum(state > 0) == len(counter)


def test_cells_of_a_deep_sea_share_counters_as_rarely_as_random_hashes():
    """1600^2 / 2 pairs, equal with odds 2^-20: 1.2 expected; more than 4 have odds below 1 %."""
    size = 40
    spec = DeepSea(size=size).spec
    bonus = compile_bonus(count_bonus(CountBonusConfig(), spec))
    _, state = bonus.init(jax.random.key(0), ())
    cells = np.eye(size * size, dtype=np.float32).reshape(size, size, size, size)
    # Step 0 is not reached by an action.
    chunk = make_chunk(np.concatenate([cells[:1], cells]))
    state = np.asarray(bonus.reward((), state, (), chunk)[0])
    assert state.sum() == size * size and state.max() <= 2
    assert np.sum(state == 2) <= 4


@functools.cache
def small_rnd():
    return compile_bonus(rnd_bonus(RNDConfig(rnd_hidden=(8,), rnd_features=4), SPEC))


@functools.cache
def small_icm(**changes):
    config = ICMConfig(icm_hidden=(8,), icm_latent_size=4, icm_model_hidden=6)
    return compile_bonus(icm_bonus(replace(config, **changes), SPEC))


def test_rnd_pays_nothing_where_the_predictor_is_the_target():
    bonus = small_rnd()
    params, state = bonus.init(jax.random.key(0), ())
    layers, random = jax.tree.map(np.asarray, (params["params"], state.target["params"]))
    # The predictor has one more hidden layer: an identity, and its input is made positive.
    layers = {
        "MLP_0": random["MLP_0"],
        "Dense_0": jax.tree.map(lambda x: x * 1.0, random["Dense_0"]),
        "Dense_1": {"kernel": np.eye(4, dtype=np.float32), "bias": np.full(4, -50.0, np.float32)},
    }
    layers["Dense_0"]["bias"] = layers["Dense_0"]["bias"] + 50.0
    _, _, raw = bonus.reward({"params": layers}, state, (), random_chunk())
    np.testing.assert_allclose(raw, 0.0, atol=1e-8)
    _, _, raw = bonus.reward(params, state, (), random_chunk())
    assert raw.min() > 1e-3


def test_rnd_sees_observations_in_deviations_of_all_so_far():
    bonus = small_rnd()
    params, state = bonus.init(jax.random.key(0), ())
    reached = []
    for seed in range(3):
        chunk = random_chunk(seed)
        state, _, raw = bonus.reward(params, state, (), chunk)
        on = ~np.asarray(chunk.steps.is_last)[:-1]
        reached.append(np.asarray(chunk.steps.observation)[1:][on])
    seen = np.concatenate(reached)
    np.testing.assert_allclose(state.moments.mean, seen.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(state.moments.variance, seen.var(axis=0), rtol=1e-4)
    # A different unit and origin of the observations give the same result.
    other = state._replace(moments=bonus.init(jax.random.key(0), ())[1].moments)
    for seed in range(3):
        chunk = random_chunk(seed)
        steps = chunk.steps._replace(observation=chunk.steps.observation * 10.0 - 7.0)
        other, _, shifted = bonus.reward(params, other, (), chunk._replace(steps=steps))
    np.testing.assert_allclose(shifted, raw, rtol=1e-3)


def test_only_the_predictor_of_rnd_learns():
    bonus = small_rnd()
    params, state = bonus.init(jax.random.key(0), ())
    state, _, raw = bonus.reward(params, state, (), random_chunk())
    loss = bonus.loss(params, state, random_chunk())
    on = ~np.asarray(random_chunk().steps.is_last)[:-1]
    np.testing.assert_allclose(loss, np.asarray(raw)[on].mean(), rtol=1e-5)
    raw_bonus = rnd_bonus(RNDConfig(rnd_hidden=(8,), rnd_features=4), SPEC)
    gradients = quick_jit(jax.grad(raw_bonus.loss, argnums=(0, 1)))
    to_params, to_state = gradients(params, state, random_chunk())
    assert all(np.any(x) for x in jax.tree.leaves(to_params))
    assert not any(np.any(x) for x in jax.tree.leaves(to_state.target))
    assert raw_bonus.update(params, state, ()) is state


def test_icm_by_hand():
    bonus = small_icm(forward_weight=0.3)
    params, state = bonus.init(jax.random.key(0), ())
    chunk = random_chunk()
    layers, steps = jax.tree.map(np.asarray, (params["params"], chunk.steps))

    def layer(x, name, inner=layers):
        return x @ inner[name]["kernel"] + inner[name]["bias"]

    def encode(o):
        hidden = np.maximum(layer(o.reshape(-1), "Dense_0", layers["MLP_0"]), 0.0)
        return layer(hidden, "Dense_0")

    _, _, raw = bonus.reward(params, state, (), chunk)
    totals = []
    for t in range(T):
        for i in range(B):
            z, z_next = (encode(steps.observation[t + k, i]) for k in (0, 1))
            logits = np.concatenate([z, z_next])
            logits = layer(np.maximum(layer(logits, "Dense_1"), 0.0), "Dense_2")
            action = steps.action[t, i]
            inverse = np.log(np.exp(logits).sum()) - logits[action]
            joined = np.concatenate([z, np.eye(3)[action]])
            predicted = layer(np.maximum(layer(joined, "Dense_3"), 0.0), "Dense_4")
            forward = 0.5 * np.square(predicted - z_next).sum()
            np.testing.assert_allclose(raw[t, i], forward, rtol=1e-4)
            if not steps.is_last[t, i]:
                totals.append(0.7 * inverse + 0.3 * forward)
    np.testing.assert_allclose(bonus.loss(params, state, chunk), np.mean(totals), rtol=1e-4)


def test_the_forward_loss_of_icm_leaves_the_encoder_alone():
    config = ICMConfig(icm_hidden=(8,), icm_latent_size=4, icm_model_hidden=6)

    def encoder_gradient(weight):
        bonus = icm_bonus(replace(config, forward_weight=weight), SPEC)
        params, state = small_icm().init(jax.random.key(0), ())
        gradient = quick_jit(jax.grad(bonus.loss))(params, state, random_chunk())["params"]
        return max(np.abs(x).max() for x in jax.tree.leaves(gradient["MLP_0"]))

    assert encoder_gradient(1.0) == 0.0 and encoder_gradient(0.0) > 0.0


def test_icm_sees_bytes_as_shares_of_255():
    bonus = small_icm()
    params, state = bonus.init(jax.random.key(0), ())
    pixels = np.random.default_rng(1).integers(256, size=(T + 1, B, 2, 2)).astype(np.uint8)
    loss = bonus.loss(params, state, make_chunk(pixels))
    shares = make_chunk(np.float32(pixels / 255))
    np.testing.assert_allclose(loss, bonus.loss(params, state, shares), rtol=1e-5)


NETWORK = RecurrentNetworkConfig(hidden=(16,), latent_size=8, memory_size=8, head_hidden=())
CURIOUS = [
    (make_rnd, RNDConfig(rnd_hidden=(16,), rnd_features=8)),
    (make_icm, ICMConfig(icm_hidden=(16,), icm_latent_size=4, icm_model_hidden=16)),
    (make_count_bonus, CountBonusConfig(hash_bits=12)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("make", "config"), CURIOUS)
def test_each_bonus_fades_on_cells_that_are_visited_often(make, config):
    """The raw bonus in a 3 x 3 DeepSea, all of whose 6 cells are visited often."""
    env = vectorise(DeepSea(size=3), 4)
    fixed = replace(config.intrinsic, normaliser="none", scale=0.0)
    settings = {"network": NETWORK, "batch_size": 4, "learning_rate": 3e-3}
    agent = make(replace(config, **settings, intrinsic=fixed), env.spec)
    runner = make_runner(agent, env, None, rollout_length=8, updates_per_rollout=4, num_seeds=2)
    state, interval = runner.advance(runner.init(jnp.arange(2)), 0, 5)
    early = interval.learn["intrinsic_reward"] / interval.updates
    state, _ = runner.advance(state, 0, 150)
    _, interval = runner.advance(state, 0, 5)
    late = interval.learn["intrinsic_reward"] / interval.updates
    assert (late < 0.3 * early).all() and (early > 0).all()
