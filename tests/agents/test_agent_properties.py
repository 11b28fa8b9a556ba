"""Properties that all agents with action values share."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from bellmax import UserError
from bellmax.agents.c51 import make_c51
from bellmax.agents.qr_dqn_retrace import make_qr_dqn_retrace
from bellmax.agents.shared.base import Batch
from bellmax.agents.va_learning import make_va_learning
from helpers.jitted import quick_jit
from helpers.linear_agents import (
    C51,
    IQN,
    QR,
    VA,
    compiled,
    gradient_of,
    make_iqn_at_midpoints,
    random_params,
)
from helpers.sweeps import check_sweep
from helpers.windows import KEY, NUM_ACTIONS, SPEC, closing_windows, random_steps

EPSILON = {"n_step": 3, "target_epsilon": 0.2, "trace_decay": 0.9}
AGENTS = {
    "one_step": (make_qr_dqn_retrace, replace(QR, trace="one_step")),
    "retrace": (make_qr_dqn_retrace, replace(QR, n_step=3)),
    "retrace_online": (make_qr_dqn_retrace, replace(QR, n_step=2, selector="online")),
    "retrace_epsilon": (make_qr_dqn_retrace, replace(QR, **EPSILON)),
    "retrace_every": (make_qr_dqn_retrace, replace(QR, **EPSILON, anchor="every")),
    "q_lambda": (make_qr_dqn_retrace, replace(QR, n_step=3, trace="q_lambda", trace_decay=0.8)),
    "uncorrected": (make_qr_dqn_retrace, replace(QR, n_step=3, trace="uncorrected")),
    # At fixed fractions, as random ones differ between a window in a batch and alone.
    "iqn": (make_iqn_at_midpoints, replace(IQN, n_step=3)),
    "m_iqn": (make_iqn_at_midpoints, replace(IQN, n_step=3, munchausen=True)),
    "c51": (make_c51, replace(C51, n_step=3, trace="n_step", regression="cramer")),
    "c51_retrace": (make_c51, replace(C51, **EPSILON, trace="retrace", selector="online")),
    "c51_q_lambda": (make_c51, replace(C51, n_step=3, trace="q_lambda", target_mixing=0.2)),
    "va": (make_va_learning, replace(VA, n_step=2)),
    "va_retrace": (make_va_learning, replace(VA, n_step=3, trace="retrace", double=True)),
    "dueling": (make_va_learning, replace(VA, loss="behaviour_dueling")),
}
every_agent = pytest.mark.parametrize("make, config", AGENTS.values(), ids=AGENTS)


def window(config, garbage=0.0, seed=0):
    """Windows whose closing steps have garbage, also as action and probability."""
    steps = random_steps(config.n_step + 1, garbage=garbage)
    rng = np.random.default_rng(seed)
    other = (steps.action + 1) % NUM_ACTIONS
    steps = steps._replace(action=jnp.where(steps.is_last & (garbage > 0), other, steps.action))
    if getattr(config, "target_epsilon", 0) and config.trace == "retrace":
        log_prob = np.log(rng.uniform(0.2, 0.9, steps.reward.shape)).astype(np.float32)
        log_prob = np.where(steps.is_last, -garbage, log_prob)
        steps = steps._replace(behaviour=jnp.asarray(log_prob))
    return steps


def learn_once(make, config, steps, weights=None):
    """State, output and gradient of one step from random parameters and a random target network."""
    agent, _ = compiled(make, config)
    params = random_params(agent, 1), random_params(agent, 2)
    gradient, state, output = gradient_of(make, config, steps, *params, weights)
    return state, output, np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(gradient)])


@every_agent
def test_weights_scale_each_window_of_the_loss_and_not_the_priorities(make, config):
    """A batch is the weighted mean of its windows, each learned alone."""
    steps = window(config)
    rng = np.random.default_rng(1)
    _, plain, gradient = learn_once(make, config, steps)
    _, halved, half = learn_once(make, config, steps, np.full(16, 0.5))
    np.testing.assert_allclose(half, gradient / 2, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(halved.metrics["loss"], plain.metrics["loss"] / 2, rtol=1e-5)
    np.testing.assert_array_equal(plain.priorities, halved.priorities)
    (agent, learn), weights = compiled(make, config), rng.random(16)
    params = random_params(agent, 1), random_params(agent, 2)
    one = lambda window: learn.__wrapped__(*params, window, jnp.ones(1))[1]  # noqa: E731
    alone = quick_jit(jax.vmap(one))(jax.tree.map(lambda x: np.asarray(x)[:, None], steps))
    # The weight of each window: 0 if it has no transition to learn from.
    anchors = config.n_step if getattr(config, "anchor", "first") == "every" else 1
    share = 1 - np.asarray(steps.is_last)[:, :anchors].mean(axis=1)
    loss = np.asarray(alone.metrics["loss"], np.float64)
    _, output, _ = learn_once(make, config, steps, weights)
    # The mean divides by the weights, so a window learned alone has the same mean at any weight.
    expected = (loss * share * weights).sum() / share.sum()
    np.testing.assert_allclose(output.metrics["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(alone.priorities[:, 0], output.priorities, rtol=1e-5, atol=1e-7)
    if make is make_qr_dqn_retrace:
        np.testing.assert_allclose(output.priorities, loss * share, rtol=1e-5, atol=1e-7)


@every_agent
def test_steps_at_and_past_an_episode_end_have_no_influence(make, config):
    """Windows that start at a closing step have no influence, and its values are ignored."""
    clean, dirty = window(config), window(config, garbage=1e6)
    assert bool(clean.is_last[:, 0].any()) and bool((clean.action != dirty.action).any())
    _, ours, gradient = learn_once(make, config, clean)
    _, theirs, same = learn_once(make, config, dirty)
    np.testing.assert_array_equal(gradient, same)
    np.testing.assert_array_equal(ours.priorities, theirs.priorities)
    np.testing.assert_array_equal(ours.metrics["loss"], theirs.metrics["loss"])
    np.testing.assert_array_equal(ours.metrics["q_value"], theirs.metrics["q_value"])
    if getattr(config, "anchor", "first") == "every":
        return  # a window that starts at a closing step learns from its later steps
    kept = np.flatnonzero(~np.asarray(clean.is_last[:, 0]))
    _, fewer, alone = learn_once(make, config, jax.tree.map(lambda x: x[kept], clean))
    np.testing.assert_allclose(alone, gradient, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(fewer.metrics["q_value"], ours.metrics["q_value"], rtol=1e-4)
    state, output, gradient = learn_once(make, config, closing_windows(clean))
    assert not gradient.any() and not output.priorities.any() and output.metrics["loss"] == 0
    params = random_params(compiled(make, config)[0], 1)
    jax.tree.map(np.testing.assert_array_equal, state.params, params)


SWEEP = {
    "learning_rate": 0.05,
    "max_gradient_norm": 0.01,
    "discount": 0.5,
    "target_rate": 0.3,
    "huber_delta": 0.2,
    "trace_decay": 0.3,
}


@pytest.mark.parametrize("name", ["retrace_epsilon", "va_retrace"])
def test_every_agent_of_a_sweep_learns_as_alone(name):
    """`target_epsilon` is not swept, because whether it is 0 decides what replay stores."""
    make, config = AGENTS[name]
    config = replace(config, learning_rate=0.1, max_gradient_norm=1.0, target_rate=0.9)
    # Adam undoes a change of the gradient's size, unless its epsilon is large.
    config = replace(config, target_period=2, trace_decay=0.8, adam_epsilon=0.01)
    batch = Batch(window(config), jnp.ones(16))

    def learnt(**changes):
        agent = make(replace(config, **changes), SPEC)
        state = agent.init(KEY)._replace(params=random_params(agent, 1))
        state, _ = jax.lax.scan(lambda s, _: agent.learn(s, batch, KEY), state, length=5)
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(state.params)])

    check_sweep(learnt, config, SWEEP, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["retrace", "iqn", "va"])
def test_continuous_actions_are_refused(name):
    make, config = AGENTS[name]
    spec = SPEC._replace(action=specs.BoundedArray((2,), np.float32, -1, 1))
    with pytest.raises(UserError, match="must be a task with discrete actions, got test/Any"):
        make(config, spec)
