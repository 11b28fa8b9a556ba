"""IQN and M-IQN: their limits are QR-DQN and Munchausen DQN; fractions, networks, refusals."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import UserError, losses
from bellmax.agents import ActInput, Batch
from bellmax.agents.iqn import draw_fractions, make_iqn
from bellmax.agents.munchausen_dqn import MunchausenDQNConfig, make_munchausen_dqn
from bellmax.agents.qr_dqn_retrace import make_qr_dqn_retrace
from bellmax.networks import NetworkConfig
from helpers.jitted import compile_agent, quick_jit
from helpers.linear_agents import (
    IQN,
    QR,
    N,
    gradient_of,
    make_iqn_at,
    make_iqn_at_midpoints,
    network,
    random_params,
)
from helpers.windows import KEY, NUM_ACTIONS, SPEC, random_steps

SOFT = {"munchausen": True, "temperature": 0.3, "clip": -0.7}


def step_of(make, config, steps, seed=0):
    """Loss, priorities and gradient [4, N, A] of one step from random parameters."""
    agent = make(config, SPEC)
    params = random_params(agent, seed + 1), random_params(agent, seed + 2)
    gradient, _, output = gradient_of(make, config, steps, *params)
    kernel = np.asarray(gradient["Dense_0"]["kernel"]).reshape(4, -1, NUM_ACTIONS)
    return output.metrics, output.priorities, kernel


@pytest.mark.parametrize("changed", [{}, {"huber_delta": 0.0}, SOFT, {"n_step": 3}])
def test_at_midpoints_of_a_table_it_is_qr_dqn(changed):
    """Also with several steps, where QR-DQN's uncorrected trace is the n-step return."""
    steps = random_steps(changed.get("n_step", 1) + 1)
    ours = step_of(make_iqn_at_midpoints, replace(IQN, **changed), steps)
    qr = replace(QR, trace="uncorrected" if "n_step" in changed else "one_step", **changed)
    theirs = step_of(make_qr_dqn_retrace, qr, steps)
    assert np.abs(ours[2]).max() > 0.01
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_the_loss_is_divided_by_kappa():
    steps = random_steps(2)
    ours = step_of(make_iqn_at_midpoints, replace(IQN, huber_delta=0.2), steps)
    theirs = step_of(make_qr_dqn_retrace, replace(QR, trace="one_step", huber_delta=0.2), steps)
    np.testing.assert_allclose(0.2 * ours[2], theirs[2], rtol=1e-5, atol=1e-7)


def first_window():
    """One window, inside an episode."""
    steps = jax.tree.map(lambda x: x[:1], random_steps(2))
    return steps._replace(discount=jnp.ones((1, 2)), is_last=jnp.zeros((1, 2), bool))


def mean_gradient(make, config, draws=4000):
    """The mean over keys of one transition's gradient, with one fraction in each network."""
    config = replace(config, num_quantiles=1, num_target_quantiles=1, batch_size=1)
    agent = make(config, SPEC)
    params, target_params = random_params(agent, 1), random_params(agent, 2)
    batch = Batch(first_window(), jnp.ones(1))

    def gradient(key):
        state = agent.init(KEY)._replace(params=params, target_params=target_params)
        state, _ = agent.learn(state, batch, key)
        return 10 * state.opt_state[0].mu["params"]["Dense_0"]["kernel"]

    each = quick_jit(jax.vmap(gradient))(jax.random.split(KEY, draws))
    return np.asarray(N * each.mean(axis=0)), np.asarray(N * each.std(axis=0) / np.sqrt(draws))


def draw_once():
    """A drawing function whose second call returns what the first returned."""
    drawn = []

    def draw(key, batch, count):
        if drawn:
            return drawn.pop()
        drawn.append(draw_fractions(key, batch, count))
        return drawn[0]

    return draw


def test_random_fractions_have_the_gradient_of_qr_dqn_in_expectation():
    """The slope is linear in the fraction, so its mean over a bin is that at the midpoint."""
    steps = first_window()
    wanted = step_of(make_qr_dqn_retrace, replace(QR, trace="one_step"), steps)[2].reshape(4, -1)
    found, error = mean_gradient(make_iqn, IQN)
    assert np.abs(wanted).max() > 0.1
    np.testing.assert_array_less(np.abs(found - wanted), 5 * error + 1e-6)
    # Negative control: with the same fraction in both networks it is another gradient.
    same, error = mean_gradient(make_iqn_at(draw_once()), IQN)
    assert (np.abs(same - wanted) > 10 * error + 0.01).any()


def point_masses(seed):
    """Parameters whose quantiles are all equal, and those of a table of their values."""
    values = np.random.default_rng(seed).normal(size=(4, 1, NUM_ACTIONS)).astype(np.float32)
    kernel = np.broadcast_to(values, (4, N, NUM_ACTIONS)).reshape(4, -1)
    return {"params": {"Dense_0": {"kernel": jnp.asarray(kernel)}}}, {
        "params": {"Dense_0": {"kernel": jnp.asarray(values[:, 0])}}
    }


@pytest.mark.parametrize("n_step", [1, 3])
def test_for_point_masses_m_iqn_is_munchausen_dqn(n_step):
    """N quantiles, each with a mean slope of 1/2: N / 2 times the loss."""
    steps, hyper = random_steps(n_step + 1), {"n_step": n_step, "temperature": 0.3, "clip": -0.7}
    config = replace(IQN, munchausen=True, **hyper)
    ours, table = zip(*(point_masses(seed) for seed in (1, 2)), strict=True)
    gradient, _, output = gradient_of(make_iqn_at_midpoints, config, steps, *ours)
    scalar = MunchausenDQNConfig(
        network=NetworkConfig(module="helpers.windows:Linear"), batch_size=16, **hyper
    )
    wanted, _, theirs = gradient_of(make_munchausen_dqn, scalar, steps, *table)
    found = gradient["Dense_0"]["kernel"].reshape(4, N, NUM_ACTIONS).sum(axis=1)
    np.testing.assert_allclose(found, N / 2 * wanted["Dense_0"]["kernel"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(output.metrics["loss"], N / 2 * theirs.metrics["loss"], rtol=1e-5)


def test_without_alpha_and_temperature_m_iqn_is_iqn():
    steps, cold = random_steps(2), {"munchausen": True, "alpha": 0.0, "temperature": 1e-5}
    ours = step_of(make_iqn_at_midpoints, replace(IQN, **cold), steps)
    theirs = step_of(make_iqn_at_midpoints, IQN, steps)
    np.testing.assert_allclose(ours[2], theirs[2], rtol=1e-3, atol=1e-4)


def test_the_mean_of_the_target_is_that_of_munchausen_dqn_on_the_means():
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=(2, 7, NUM_ACTIONS))
    rest = 1, 0.4, 0.9
    target = losses.munchausen_quantile_target(*rest, before, after, temperature=0.3)
    means = before.mean(0), after.mean(0)
    wanted = losses.munchausen_target(*rest, *means, temperature=0.3)
    np.testing.assert_allclose(target.mean(), wanted, rtol=1e-5)


def test_acting_is_deterministic_and_uses_the_midpoints():
    config = replace(IQN, network=NetworkConfig(hidden=(16, 8)), num_policy_quantiles=6)
    agent = compile_agent(make_iqn(replace(config, epsilon_start=0.0, epsilon_end=0.0), SPEC))
    params = agent.init(KEY).params
    x = jax.random.normal(KEY, (50, 4))
    inputs = [ActInput(x, (), jnp.zeros(50, bool), jax.random.key(i), jnp.int32(0)) for i in (1, 2)]
    actions = [agent.act(params, each, evaluate=e).action for each in inputs for e in (True, False)]
    values = quick_jit(agent.values)(params, x, (), None)
    assert values.quantiles.shape == (50, 6, NUM_ACTIONS)
    np.testing.assert_allclose(values.q_values, values.quantiles.mean(axis=1), rtol=1e-6)
    for action in actions:
        np.testing.assert_array_equal(action, values.q_values.argmax(axis=-1))


def test_fractions_differ_between_examples_networks_and_steps():
    seen = []

    def draw(key, batch, count):
        fractions = draw_fractions(key, batch, count)
        jax.debug.callback(seen.append, fractions)
        return fractions

    agent = compile_agent(make_iqn_at(draw)(replace(IQN, num_target_quantiles=3), SPEC))
    batch = Batch(random_steps(2), jnp.ones(16))
    for i in range(2):
        agent.learn(agent.init(KEY), batch, jax.random.key(i))
    jax.effects_barrier()
    assert {x.shape for x in seen} == {(16, N), (16, 3)}
    everything = np.concatenate([np.unique(x) for x in seen])
    assert len(np.unique(everything)) == sum(x.size for x in seen)


@pytest.mark.parametrize(
    "changed, sentence",
    [
        ({"network": NetworkConfig(dueling=True)}, "agent.network.dueling must be false"),
        ({"network": network("LinearQuantiles")}, r"and fractions of shape \(2, 5\): .*argument"),
    ],
)
def test_networks_that_do_not_fit_are_refused(changed, sentence):
    with pytest.raises(UserError, match=sentence):
        make_iqn(replace(IQN, **changed), SPEC)
