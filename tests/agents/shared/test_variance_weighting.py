"""Deep Variance Weighting in DQN and Munchausen DQN: parts by hand, and its limit without it."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import UserError
from bellmax.agents.dqn import DQNConfig, make_dqn
from bellmax.agents.munchausen_dqn import MunchausenDQNConfig, make_munchausen_dqn
from bellmax.agents.shared.base import Batch
from helpers.jitted import compile_agent, random_like
from helpers.windows import KEY, NUM_ACTIONS, SMALL, SPEC, random_steps

SETTINGS = SMALL | {"huber_delta": 0.0, "target_period": 3}
AGENTS = {
    "dqn": (make_dqn, DQNConfig(**SETTINGS)),
    "double": (make_dqn, DQNConfig(**SETTINGS, double=True, n_step=2)),
    "munchausen": (make_munchausen_dqn, MunchausenDQNConfig(**SETTINGS, temperature=0.3)),
}
every_agent = pytest.mark.parametrize("make, config", AGENTS.values(), ids=AGENTS)


def on(config):
    return replace(config, variance_weighting=True)


def random_state(agent, seed=3):
    """A state whose four networks differ."""
    state = agent.init(KEY)
    params, targets = random_like((state.params, state.target_params), seed, scale=0.5)
    return state._replace(params=params, target_params=targets)


def kernel(params):
    return np.asarray(params["params"]["Dense_0"]["kernel"], np.float64)


def plain_errors(make, config, params, target_params, steps):
    """TD errors by the agent without weighting: its priorities."""
    agent = compile_agent(make(replace(config, max_gradient_norm=None), SPEC))
    state = agent.init(KEY)._replace(params=params, target_params=target_params)
    return np.asarray(agent.learn(state, Batch(steps, jnp.ones(16)), KEY)[1].priorities, float)


def parts_of(make, config):
    """State before and after a step, its metrics, and what it must be by hand."""
    agent = compile_agent(make(on(config), SPEC))
    steps, state = random_steps(config.n_step + 1), random_state(agent)
    after, output = agent.learn(state, Batch(steps, jnp.ones(16)), KEY)
    mask = 1.0 - np.asarray(steps.is_last)[:, 0].astype(float)
    return steps, state, after, output, mask


def log_variances(params, steps):
    x, action = np.asarray(steps.observation)[:, 0], np.asarray(steps.action)[:, 0]
    return (x @ kernel(params))[np.arange(16), action]


@every_agent
def test_each_part_is_the_formula(make, config):
    steps, state, after, output, mask = parts_of(make, config)
    copies, count = state.target_params["q"], mask.sum()
    # The variance network regresses the squared error of the target networks.
    target = plain_errors(make, config, copies.current, copies.previous, steps) ** 2
    exponent = np.exp(log_variances(state.params["variance"], steps))
    error = np.clip(target - (exponent + 0.1), -1, 1)
    x, action = np.asarray(steps.observation)[:, 0], np.asarray(steps.action)[:, 0]
    wanted = np.zeros((4, NUM_ACTIONS))
    for b in range(16):
        wanted[:, action[b]] -= mask[b] * error[b] * exponent[b] * x[b] / 16
    moments = after.opt_state[0].mu
    np.testing.assert_allclose(10 * kernel(moments["variance"]), wanted, rtol=1e-4, atol=1e-5)
    # Adam's first step has the size of the learning rate and the sign of the gradient.
    frozen = np.exp(log_variances(state.target_params["variance"], steps)) + 0.1
    mean = np.sum(mask / frozen) / count
    log_scale = 1.0 - 1e-3 * np.sign(np.e * mean - 1)
    np.testing.assert_allclose(after.aux.log_scale, log_scale, rtol=1e-5)
    # The weights are those after that step; priorities are not weighted.
    weights = np.maximum(np.exp(log_scale) / frozen, 0.1)
    np.testing.assert_allclose(output.metrics["weight"], weights @ mask / count, rtol=1e-4)
    errors = plain_errors(make, config, state.params["q"], copies.current, steps)
    np.testing.assert_allclose(output.priorities, errors, rtol=1e-4, atol=1e-5)
    loss = np.sum(mask * weights * errors**2 / 2) / count
    whole = output.metrics["loss"] - output.metrics["auxiliary_loss"]
    np.testing.assert_allclose(whole, loss, rtol=1e-4)
    gradient = gradient_with(make, config, state, steps, weights)
    np.testing.assert_allclose(10 * kernel(moments["q"]), gradient, rtol=1e-3, atol=1e-5)


def gradient_with(make, config, state, steps, weights):
    """That of the agent without weighting, with the weights as importance weights."""
    agent = compile_agent(make(config, SPEC))
    copies = state.target_params["q"]
    plain = agent.init(KEY)._replace(params=state.params["q"], target_params=copies.current)
    batch = Batch(steps, jnp.asarray(weights, jnp.float32))
    return 10 * kernel(agent.learn(plain, batch, KEY)[0].opt_state[0].mu)


@every_agent
def test_with_constant_variance_and_its_scale_it_is_the_agent_without(make, config):
    """Weights of 1: the variance is 1.1 everywhere, and eta 1.1. Other weights are not the same."""
    agent, plain = (compile_agent(make(c, SPEC)) for c in (on(config), config))
    state, batch = random_state(agent), Batch(random_steps(config.n_step + 1), jnp.ones(16))
    variance = jax.tree.map(jnp.zeros_like, state.target_params["variance"])
    state = state._replace(target_params=state.target_params | {"variance": variance})
    same = plain.init(KEY)._replace(
        params=state.params["q"], target_params=state.target_params["q"].current
    )
    wanted = 10 * kernel(plain.learn(same, batch, KEY)[0].opt_state[0].mu)
    for scale, factor in ((1.1, 1.0), (2.2, 2.0)):
        aux = state.aux._replace(log_scale=jnp.log(jnp.float32(scale)))
        after, output = agent.learn(state._replace(aux=aux), batch, KEY)
        found = 10 * kernel(after.opt_state[0].mu["q"])
        # eta moves by a thousandth first.
        np.testing.assert_allclose(found, factor * wanted, rtol=3e-3, atol=1e-6)
        np.testing.assert_allclose(output.metrics["weight"], factor, rtol=2e-3)


def test_a_converged_scale_makes_the_weights_of_a_constant_variance_one():
    agent = compile_agent(make_dqn(on(replace(AGENTS["dqn"][1], scale_learning_rate=0.05)), SPEC))
    state, batch = agent.init(KEY), Batch(random_steps(2), jnp.ones(16))
    zero = jax.tree.map(jnp.zeros_like, state.target_params["variance"])
    for _ in range(200):
        targets = state.target_params | {"variance": zero}
        state, output = agent.learn(state._replace(target_params=targets), batch, KEY)
    np.testing.assert_allclose(output.metrics["weight"], 1.0, atol=1e-3)


def test_the_initial_weight_is_that_of_eta_and_an_output_of_zero():
    agent = compile_agent(make_dqn(on(AGENTS["dqn"][1]), SPEC))
    state, batch = agent.init(KEY), Batch(random_steps(2), jnp.ones(16))
    assert state.aux.log_scale == 1.0
    zero = jax.tree.map(jnp.zeros_like, state.target_params["variance"])
    state = state._replace(target_params=state.target_params | {"variance": zero})
    _, output = agent.learn(state, batch, KEY)
    np.testing.assert_allclose(output.metrics["weight"], 2.4711653, rtol=2e-3)
    np.testing.assert_allclose(output.metrics["variance"], 1.1, rtol=1e-6)


def test_all_copies_move_at_the_same_steps_and_in_order():
    """previous <- target <- online, and the frozen variance network with them."""
    agent = compile_agent(make_dqn(on(AGENTS["dqn"][1]), SPEC))
    state, batch = agent.init(KEY), Batch(random_steps(2), jnp.ones(16))
    same = np.testing.assert_array_equal
    first = kernel(state.params["q"])
    same(kernel(state.target_params["q"].previous), first)
    online, frozen = [first], [kernel(state.params["variance"])]
    for step in range(1, 8):
        state, _ = agent.learn(state, batch, KEY)
        online.append(kernel(state.params["q"]))
        frozen.append(kernel(state.params["variance"]))
        due = step // 3 * 3  # of the last update
        same(kernel(state.target_params["q"].current), online[due])
        same(kernel(state.target_params["q"].previous), online[max(due - 3, 0)])
        same(kernel(state.target_params["variance"]), frozen[due])
        assert (online[-1] != online[-2]).any() and (frozen[-1] != frozen[-2]).any()


@every_agent
def test_no_other_part_has_a_gradient_of_the_loss(make, config):
    """The networks do not move where only another one learns: no gradient crosses."""
    agent = compile_agent(make(on(config), SPEC))
    steps, state = random_steps(config.n_step + 1), random_state(agent)
    batch = Batch(steps, jnp.ones(16))
    after, _ = agent.learn(state, batch, KEY)
    moved = state._replace(
        params=state.params | {"variance": random_like(state.params["variance"], 9)}
    )
    other, _ = agent.learn(moved, batch, KEY)
    np.testing.assert_array_equal(
        kernel(other.opt_state[0].mu["q"]), kernel(after.opt_state[0].mu["q"])
    )
    moved = state._replace(params=state.params | {"q": random_like(state.params["q"], 9)})
    other, _ = agent.learn(moved, batch, KEY)
    np.testing.assert_array_equal(
        kernel(other.opt_state[0].mu["variance"]), kernel(after.opt_state[0].mu["variance"])
    )


def test_a_polyak_target_is_refused():
    config = on(replace(AGENTS["dqn"][1], target_rate=0.1))
    sentence = "agent.target_rate must be 1 for agent.variance_weighting, got 0.1"
    with pytest.raises(UserError, match=sentence):
        make_dqn(config, SPEC)
