"""ExpectRL: exact fixed points on finite chains, and the bandit of AutoExpectRL."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs
from scipy import special

from bellmax import losses
from bellmax.agents import ActInput
from bellmax.agents.expectrl import ExpectRLConfig, make_expectrl
from bellmax.agents.shared.base import Batch, Outcome
from bellmax.agents.td3 import TD3Config, make_td3
from bellmax.envs import EnvSpec, Step
from bellmax.networks import ContinuousNetworkConfig
from helpers.jitted import jitted, quick_jit
from helpers.planes import (
    AUTO,
    KEY,
    SMALL,
    act,
    actor_by_hand,
    assert_close,
    compiled,
    random_batch,
    random_state,
)


@pytest.mark.parametrize("delay", [1, 2])
def test_expectrl_at_one_half_is_td3_with_one_critic(delay):
    """Each update is equal, from the same parameters on the same batches."""
    shared = {**SMALL, "policy_delay": delay, "target_rate": 0.05}
    ours = compiled(make_expectrl, ExpectRLConfig(**shared, alpha=0.5))
    theirs = compiled(make_td3, TD3Config(**shared, num_critics=1))
    start = a = ours.init(KEY)
    b = theirs.init(KEY)
    for i in range(30):
        batch, key = random_batch(seed=i), jax.random.key(i)
        (a, out_a), (b, out_b) = ours.learn(a, batch, key), theirs.learn(b, batch, key)
        assert_close((a.params, a.target_params), (b.params, b.target_params), 1e-5, 1e-6)
        np.testing.assert_allclose(out_a.priorities, out_b.priorities, rtol=1e-4, atol=1e-6)
    moved = jax.tree.map(lambda x, y: np.abs(np.subtract(x, y)).max(), start.params, a.params)
    assert min(jax.tree.leaves(moved)) > 0.01


LINEAR = ContinuousNetworkConfig(hidden=())


def fixed_point(alpha, p, r, terminal=(), gamma=0.9):
    """[S, K] what an ExpectRL critic, linear in one-hot states, learns of a Markov chain.

    Every transition (s, s') is in the batch, its weight p(s'|s): the loss is the exact expectation.
    The actor stays at the middle of the action's range, which is the only action in the batch.
    """
    count = len(p)
    config = ExpectRLConfig(
        network=LINEAR,
        batch_size=count * count,
        learning_rate=0.02,
        discount=gamma,
        alpha="auto" if isinstance(alpha, tuple) else alpha,
        alphas=alpha if isinstance(alpha, tuple) else (0.5,),
        target_noise=0.0,
        target_rate=1.0,
        policy_delay=1,
    )
    action = specs.BoundedArray((1,), np.float32, -1.0, 1.0)
    spec = EnvSpec("test/Chain", specs.Array((count,), np.float32), action)
    agent = make_expectrl(config, spec)
    s, t = (x.ravel() for x in np.indices((count, count)))
    eye = np.eye(count, dtype=np.float32)
    observation = jnp.asarray(np.stack([eye[s], eye[t]], 1))
    reward = jnp.asarray(np.stack([r[s, t]] * 2, 1), jnp.float32)
    discount = jnp.asarray(np.stack([~np.isin(t, terminal)] * 2, 1), jnp.float32)
    no = jnp.zeros((count * count, 2), bool)
    steps = Step(observation, jnp.zeros((*no.shape, 1)), reward, discount, no, no)
    batch = Batch(steps, jnp.asarray(p[s, t] * count, jnp.float32))
    state = quick_jit(agent.init)(KEY)
    still = jax.tree.map(np.zeros_like, state.params.actor)

    def learn(state, _):
        params = state.params._replace(actor=still)
        target = state.target_params._replace(actor=still)
        return agent.learn(state._replace(params=params, target_params=target), batch, KEY)[0], ()

    state = jax.jit(lambda s: jax.lax.scan(learn, s, length=6000)[0])(state)
    layer = state.params.critics["params"]["Dense_0"]
    return np.asarray(layer["kernel"][0, :count] + layer["bias"])


def test_learns_the_expectile_of_a_fair_coin():
    """Oracle 7: V = alpha / (1 - gamma) for rewards 0 or 1; each head has its own alpha."""
    # Two states that lead to each other; the reward depends on the outcome of the coin.
    p = np.full((2, 2), 0.5)
    r = np.array([[0.0, 1.0], [0.0, 1.0]])
    values = fixed_point((0.2, 0.3, 0.5), p, r)
    np.testing.assert_allclose(values, np.tile([2.0, 3.0, 5.0], (2, 1)), rtol=2e-3)


def test_learns_the_expectile_of_an_ending():
    """Oracle 8: 1 / (1 - gamma alpha) if each step pays 1 and ends the episode with odds 1/2."""
    p, r = np.array([[0.5, 0.5], [0.0, 1.0]]), np.array([[1.0, 1.0], [0.0, 0.0]])
    values = fixed_point(0.3, p, r, terminal=(1,))
    np.testing.assert_allclose(values[0], 1 / (1 - 0.9 * 0.3), rtol=2e-3)


def test_alpha_is_inert_when_nothing_is_random():
    p = np.roll(np.eye(3), 1, axis=1)
    r = np.tile(np.array([1.0, -2.0, 3.0])[:, None], (1, 3))
    values = fixed_point((0.1, 0.5, 0.9), p, r, gamma=0.5)
    exact = np.linalg.solve(np.eye(3) - 0.5 * p, r[:, 0])
    np.testing.assert_allclose(values, np.tile(exact[:, None], (1, 3)), atol=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.1, 0.4, 0.7])
def test_learns_the_fixed_point_of_the_expectile_operator(alpha):
    rng = np.random.default_rng(int(10 * alpha))
    p, r = rng.dirichlet(np.ones(5), 5), rng.normal(size=(5, 5))
    values = fixed_point(alpha, p, r, gamma=0.8)
    v, task = np.zeros(5), (r[:, None], p[:, None], np.ones((5, 1)))
    for _ in range(200):
        v = np.asarray(jitted.expectile_value_operator(v, *task, gamma=0.8, alpha=alpha))
    np.testing.assert_allclose(values[:, 0], v, atol=5e-3)
    mean = np.linalg.solve(np.eye(5) - 0.8 * p, (p * r).sum(axis=1))
    assert np.abs(values[:, 0] - mean).max() > 0.1  # differs from the values of alpha = 1/2


def test_a_bandit_draws_the_head_that_acts_through_an_episode():
    agent = compiled(make_expectrl, replace(AUTO, random_steps=0, exploration_noise=0.0))
    state = random_state(agent)
    weights = jnp.array([0.0, 1.0, -1.0])
    chooser = state.aux._replace(bandit=state.aux.bandit._replace(weights=weights))
    state = state._replace(aux=chooser)
    seen = np.random.default_rng(0).normal(size=(6000, 3)).astype(np.float32)
    output = act(agent, state, seen)
    arms = np.asarray(output.memory)
    counts = np.bincount(arms, minlength=3) / 6000
    np.testing.assert_allclose(counts, special.softmax(weights), atol=0.02)
    by_hand = quick_jit(jax.vmap(actor_by_hand, (None, 0)))(state.params.actor, seen)
    own = np.asarray(by_hand)[np.arange(6000), arms]
    np.testing.assert_allclose(output.action, own, rtol=1e-5, atol=1e-5)
    params, first = agent.actor_params(state), np.arange(6000) % 2 == 0
    later = agent.act(params, ActInput(seen, output.memory, first, jax.random.key(9), np.int32(5)))
    kept = np.asarray(later.memory) == arms
    assert kept[1::2].all() and 0.3 < kept[::2].mean() < 0.7
    best = act(agent, state, seen, evaluate=True)
    assert (np.asarray(best.memory) == 1).all()


@pytest.mark.parametrize("rule", ["windowed", "exponential"])
def test_the_bandit_gets_differences_of_returns_in_order(rule):
    numbers = {"bandit_scale": 50.0, "bandit_step_size": 0.2, "bandit_decay": 0.8}
    config = replace(AUTO, bandit=rule, **numbers, bandit_floor=0.2)
    agent = compiled(make_expectrl, config)
    rng = np.random.default_rng(0)
    arms, returns = rng.integers(0, 3, (6, 4)), rng.normal(size=(6, 4)) * 100
    ended = rng.random((6, 4)) < 0.4
    outcome = Outcome(*map(jnp.asarray, (arms, returns.astype(np.float32), ended)))
    state = agent.init(KEY)
    for part in (slice(0, 1), slice(1, 4), slice(4, 6)):
        state = agent.observe(state, Outcome(*(np.asarray(x)[part] for x in outcome)))
    fed, before, episodes = losses.bandit_init(3), None, 0
    for time, env in zip(*np.nonzero(ended), strict=True):
        if before is not None:
            rise, arm = returns[time, env] - before, arms[time, env]
            if rule == "windowed":
                fed = jitted.bandit_update_windowed(fed, arm, rise, step_size=0.2, decay=0.8)
            else:
                fed = jitted.bandit_update(fed, arm, rise / 50, step_size=0.2, floor=0.2)
        before, episodes = returns[time, env], episodes + 1
    assert episodes > 6 and np.abs(fed.weights).max() > 0.1
    assert_close(state.aux.bandit, fed, 1e-3, 1e-4)
    np.testing.assert_allclose(state.aux.last_return, before, rtol=1e-6)
    assert state.aux.episodes == episodes
    # Learning does not change the bandit, and its updates do not change the parameters.
    after, _ = agent.learn(state, random_batch(), KEY)
    jax.tree.map(np.testing.assert_array_equal, after.aux, state.aux)
    jax.tree.map(np.testing.assert_array_equal, state.params, agent.init(KEY).params)
