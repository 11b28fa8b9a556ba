"""With one-hot observations, a step of a linear agent equals the tabular rule of the library.

The gradient of a learning step, read from Adam's first moment, equals the update of the same tables
by the tabular functions of `bellmax.losses`, episode ends included.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs
from scipy import special

from bellmax import losses
from bellmax.agents.qr_dqn_retrace import QRDQNRetraceConfig, make_qr_dqn_retrace
from bellmax.agents.shared.base import Batch
from bellmax.agents.va_learning import VALearningConfig, make_va_learning
from bellmax.envs import EnvSpec, Step
from bellmax.networks import NetworkConfig, QuantileOutput, VAOutput
from helpers.jitted import compile_agent, jitted, quick_jit

S, A, N, GAMMA, STEP_SIZE, LAMBDA = 6, 3, 8, 0.9, 0.25, 0.8
SPEC = EnvSpec("test/Table", specs.Array((S,), np.float32), specs.DiscreteArray(A))
KEY = jax.random.key(0)


class QuantileTable(nn.Module):
    """The parameter theta [S, N, A]."""

    num_actions: int
    num_quantiles: int

    @nn.compact
    def __call__(self, x):
        shape = S, self.num_quantiles, self.num_actions
        theta = self.param("theta", nn.initializers.normal(2.0), shape)
        quantiles = jnp.einsum("bs,sna->bna", x, theta, precision="highest")
        return QuantileOutput(quantiles.mean(1), quantiles)


class VATable(nn.Module):
    """Parameters v [S], f [S, A] and the logits of mu [S, A]; f is centred unless `plain`."""

    num_actions: int
    plain: bool = False

    @nn.compact
    def __call__(self, x):
        normal, shape = nn.initializers.normal(2.0), (S, self.num_actions)
        v = x @ self.param("v", normal, (S,))
        f = x @ self.param("f", normal, shape)
        logits = x @ self.param("logits", nn.initializers.normal(1.0), shape)
        mu = jax.lax.stop_gradient(jax.nn.softmax(logits))
        advantage = f if self.plain else f - jnp.sum(mu * f, -1, keepdims=True)
        return VAOutput(v[:, None] + advantage, v, advantage, logits)


def plain_va_table(num_actions):
    return VATable(num_actions, plain=True)


def network(name):
    return NetworkConfig(module=f"{__name__}:{name}")


QR = QRDQNRetraceConfig(
    network=network("QuantileTable"), num_quantiles=N, discount=GAMMA, huber_delta=0.0
)
VA = VALearningConfig(discount=GAMMA, huber_delta=0.0)


def windows(k, batch=10, seed=0):
    """Walks over random states [batch, k + 1]: some end early, some of these by termination."""
    rng = np.random.default_rng(seed)
    shape = batch, k + 1
    state = rng.integers(S, size=shape)
    last = rng.random(shape) < 0.25
    last[:, 0] = np.arange(batch) == 3  # one window starts where an episode closes
    terminated = np.roll(last, -1, 1) & (rng.random(shape) < 0.5)
    steps = Step(
        observation=np.eye(S, dtype=np.float32)[state],
        action=rng.integers(A, size=shape).astype(np.int32),
        reward=rng.normal(size=shape).astype(np.float32),
        discount=np.float32(1.0 - terminated),
        is_first=np.roll(last, 1, 1),
        is_last=last,
        behaviour=np.log(rng.uniform(0.2, 0.9, shape)).astype(np.float32),
    )
    return state, steps


def step_of(make, config, steps, same_target=False):
    """Parameters, target parameters and `params - STEP_SIZE * gradient`, as float64 tables."""
    agent = compile_agent(make(config, SPEC))
    state = agent.init(KEY)
    target = state.params if same_target else agent.init(jax.random.key(1)).params
    before = state._replace(target_params=target)
    weights = np.ones(len(steps.reward), np.float32)
    after, _ = agent.learn(before, Batch(steps, weights), KEY)
    trees = jax.tree.map(np.asarray, (state.params, target, after.opt_state[0].mu))
    params, target, moment = (tree["params"] for tree in trees)
    # Adam's first moment after one step is a tenth of the gradient.
    moved = jax.tree.map(lambda x, m: x - STEP_SIZE * 10 * m, params, moment)
    return params, target, moved


def tabular_target(config, s, dist_q_t):
    """The library's target of one window, its policy, coefficients and cuts written out."""
    greedy = dist_q_t.mean(1).argmax(-1)
    pi_t = (1 - config.target_epsilon) * jax.nn.one_hot(greedy, A) + config.target_epsilon / A
    r_t, discount_t = s.reward[:-1], GAMMA * s.discount[:-1]
    a_t, trace_t = s.action[1:], 1.0 - s.is_last[1:]
    if config.trace in ("uncorrected", "one_step"):
        dist_v_t = dist_q_t[jnp.arange(len(greedy)), :, greedy]
        return losses.distributional_n_step_target(r_t, discount_t, dist_v_t, trace_t)
    decay = config.trace_decay
    if config.trace == "q_lambda":
        c_t = losses.q_lambda_coefficients(a_t, lambda_=decay)
    else:
        c_t = losses.retrace_coefficients(a_t, pi_t, jnp.exp(s.behaviour[1:]), lambda_=decay)
    return losses.distributional_retrace_target(
        r_t, discount_t, dist_q_t, a_t, pi_t, c_t, trace_t, anchor=0
    )


RULES = {
    "one_step": {"trace": "one_step"},
    "uncorrected": {"trace": "uncorrected", "n_step": 3},
    "retrace_greedy": {"trace": "retrace", "n_step": 4},
    "retrace_greedy_decay": {"trace": "retrace", "n_step": 4, "trace_decay": LAMBDA},
    "retrace": {"trace": "retrace", "n_step": 4, "target_epsilon": 0.4},
    "q_lambda": {"trace": "q_lambda", "n_step": 3, "trace_decay": LAMBDA, "target_epsilon": 0.4},
}


@functools.cache
def quantile_steps(config):
    """Tables before, after the agent's step, and after the mean of the tabular rule's steps."""
    state, steps = windows(config.n_step)
    if not (config.trace == "retrace" and config.target_epsilon):
        agent_steps = steps._replace(behaviour=())
    else:
        agent_steps = steps
    before, target, moved = step_of(make_qr_dqn_retrace, config, agent_steps)
    tau, theta = losses.quantile_midpoints(N), before["theta"]

    @quick_jit
    def tabular_rule(theta, window, dist_q_t):
        z, w = tabular_target(config, window, dist_q_t)
        return losses.quantile_td(theta, tau, z, step_size=STEP_SIZE, weights=w)

    open_windows = np.flatnonzero(~steps.is_last[:, 0])
    change = np.zeros(theta.shape)
    for b in open_windows:
        here = state[b, 0], slice(None), int(steps.action[b, 0])
        window = jax.tree.map(lambda x, b=b: x[b], steps)
        new = tabular_rule(theta[here], window, target["theta"][state[b, 1:]])
        change[here] += (np.asarray(new, np.float64) - theta[here]) / len(open_windows)
    return theta, moved["theta"], theta + change


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_step_of_retrace_is_quantile_td(rule):
    before, agent, table = quantile_steps(dataclasses.replace(QR, **rule))
    np.testing.assert_allclose(agent, table, rtol=0, atol=2e-6)
    assert np.abs(table - before).max() > 1e-3


def test_control_the_rules_differ_by_more_than_the_tolerance():
    changed = [quantile_steps(dataclasses.replace(QR, **rule))[2] for rule in RULES.values()]
    gaps = [np.abs(x - y).max() for i, x in enumerate(changed) for y in changed[:i]]
    assert min(gaps) > 1e-3


def test_control_a_huber_loss_is_not_quantile_td():
    config = dataclasses.replace(QR, trace="one_step", huber_delta=1.0)
    _, agent, table = quantile_steps(config)
    assert np.abs(agent - table).max() > 1e-4


def test_a_step_of_va_is_va_update():
    """With f as the advantage itself, and the target's tables equal to the online ones."""
    config = dataclasses.replace(VA, network=network("plain_va_table"))
    state, steps = windows(1)
    before, _, moved = step_of(make_va_learning, config, steps, same_target=True)
    tables = losses.VATables(before["v"], before["f"])
    sizes: Any = {"step_size_v": STEP_SIZE, "step_size_advantage": STEP_SIZE}
    open_windows = np.flatnonzero(~steps.is_last[:, 0])
    change = [np.zeros(np.shape(x)) for x in tables]
    for b in open_windows:
        discount = GAMMA * steps.discount[b, 0]
        transition = int(state[b, 0]), steps.action[b, 0], steps.reward[b, 0], discount
        new = jitted.va_update(tables, *transition, int(state[b, 1]), **sizes)
        for total, x, y in zip(change, new, tables, strict=True):
            total += (np.asarray(x, np.float64) - np.asarray(y)) / len(open_windows)
    np.testing.assert_allclose(moved["v"], before["v"] + change[0], rtol=0, atol=5e-6)
    np.testing.assert_allclose(moved["f"], before["f"] + change[1], rtol=0, atol=5e-6)
    assert min(np.abs(x).max() for x in change) > 1e-2


@pytest.mark.parametrize("behaviour", ["learned", "uniform"])
def test_a_step_of_behaviour_dueling_moves_all_values_by_the_closed_form(behaviour):
    """dQ(b) = step size * error * (1 + 1{b = a} - mu(b) - mu(a) + sum_c mu(c)^2), mu held."""
    config = dataclasses.replace(
        VA, network=network("VATable"), loss="behaviour_dueling", behaviour=behaviour
    )
    state, steps = windows(1, batch=1, seed=5)
    agent = compile_agent(make_va_learning(config, SPEC))
    start = agent.init(KEY).params
    if behaviour == "uniform":
        start["params"]["logits"] = np.zeros((S, A), np.float32)
    other = agent.init(jax.random.key(1))
    before = agent.init(KEY)._replace(params=start, target_params=other.params)
    after, _ = agent.learn(before, Batch(steps, np.ones(1, np.float32)), KEY)
    table = jax.tree.map(np.asarray, start["params"])
    gradient = jax.tree.map(lambda m: 10 * np.asarray(m), after.opt_state[0].mu["params"])

    def q_values(params):
        mu = special.softmax(np.float64(table["logits"]), axis=-1)
        return params["v"][:, None] + params["f"] - np.sum(mu * params["f"], -1, keepdims=True)

    moved = {name: table[name] - STEP_SIZE * gradient[name] for name in ("v", "f")}
    s, a = state[0, 0], int(steps.action[0, 0])
    mu = special.softmax(np.float64(table["logits"][s]))
    output: Any = quick_jit(VATable(A).apply)(other.params, steps.observation[:, 1])
    there = np.max(output.q_values)
    target = float(steps.reward[0, 0] + GAMMA * steps.discount[0, 0] * there)
    error = target - q_values(table)[s, a]
    expected = np.zeros((S, A))
    expected[s] = STEP_SIZE * error * (1 + np.eye(A)[a] - mu - mu[a] + np.sum(mu**2))
    if behaviour == "uniform":
        np.testing.assert_allclose(expected[s] / (STEP_SIZE * error), 1 + np.eye(A)[a] - 1 / A)
    np.testing.assert_allclose(q_values(moved) - q_values(table), expected, rtol=0, atol=5e-6)
    assert abs(error) > 0.1 and not steps.is_last[0, 0]
