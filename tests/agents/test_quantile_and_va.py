"""QR-DQN-Retrace and VA-learning: gradients by hand, stored probabilities, errors."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import UserError, losses
from bellmax.agents import ActInput
from bellmax.agents.qr_dqn_retrace import make_qr_dqn_retrace
from bellmax.agents.va_learning import make_va_learning
from bellmax.networks import DuelingHead, NetworkConfig, VAHead
from helpers.jitted import compile_agent, quick_jit
from helpers.linear_agents import QR, VA, N, gradient_of, network, random_params
from helpers.windows import KEY, NUM_ACTIONS, SPEC, random_steps


def retrace_target_by_hand(config, s, b, dist, log_prob):
    """Atoms and weights for the first step of window b, action by action in float64."""
    shift, scale, trace, atoms, weights = 0.0, 1.0, 1.0, [], []
    for k in range(config.n_step):
        shift += scale * s.reward[b, k]
        scale *= config.discount * s.discount[b, k]
        ended = k + 1 == config.n_step or s.is_last[b, k + 1]
        greedy, action = dist[k].mean(0).argmax(), int(s.action[b, k + 1])
        pi = np.full(NUM_ACTIONS, config.target_epsilon / NUM_ACTIONS)
        pi[greedy] += 1 - config.target_epsilon
        ratio = (
            1.0 if config.trace == "q_lambda" else min(1, pi[action] / np.exp(log_prob[b, k + 1]))
        )
        c = 0.0 if ended else config.trace_decay * ratio
        for j in range(NUM_ACTIONS):
            atoms += list(shift + scale * dist[k][:, j])
            weights += [trace * (pi[j] - c * (j == action)) / N] * N
        trace *= c
        if ended:
            break
    assert abs(sum(weights) - 1) < 1e-9
    return np.array(atoms), np.array(weights)


@pytest.mark.parametrize("trace", ["retrace", "q_lambda"])
@pytest.mark.parametrize("decay, target_epsilon", [(1.0, 0.0), (0.7, 0.0), (0.9, 0.3)])
def test_a_gradient_step_of_retrace_is_the_tabular_rule(trace, decay, target_epsilon):
    config = dataclasses.replace(
        QR, n_step=3, trace=trace, trace_decay=decay, target_epsilon=target_epsilon
    )
    agent = make_qr_dqn_retrace(config, SPEC)
    params, target_params = random_params(agent, 1), random_params(agent, 2)
    steps = random_steps(4)
    log_prob = np.log(np.random.default_rng(0).uniform(0.2, 0.9, steps.reward.shape))
    if trace == "retrace" and target_epsilon:
        steps = steps._replace(behaviour=jnp.asarray(log_prob, jnp.float32))
    elif trace == "retrace":
        log_prob = np.zeros_like(log_prob)  # a greedy target needs none: pi is 0 or 1
    found, _, output = gradient_of(make_qr_dqn_retrace, config, steps, params, target_params)
    s = jax.tree.map(lambda x: np.asarray(x, float), steps)
    kernel, target = (
        np.asarray(p["params"]["Dense_0"]["kernel"], float).reshape(4, N, NUM_ACTIONS)
        for p in (params, target_params)
    )
    tau = (np.arange(N) + 0.5) / N
    gradient, loss = np.zeros_like(kernel), 0.0
    count = (1 - s.is_last[:, 0]).sum()
    for b in np.flatnonzero(s.is_last[:, 0] == 0):
        dist = np.einsum("kd,dna->kna", s.observation[b, 1:], target)
        z, w = retrace_target_by_hand(config, s, b, dist, log_prob)
        action = int(s.action[b, 0])
        theta = np.einsum("d,dn->n", s.observation[b, 0], kernel[:, :, action])
        for i, j in itertools.product(range(N), range(len(z))):
            u = z[j] - theta[i]
            slope = abs(tau[i] - (u < 0)) * w[j]
            loss += slope * (0.5 * u * u if abs(u) < 1 else abs(u) - 0.5) / count
            gradient[:, i, action] -= slope * np.clip(u, -1, 1) * s.observation[b, 0] / count
    np.testing.assert_allclose(output.metrics["loss"], loss, rtol=2e-5)
    np.testing.assert_allclose(
        found["Dense_0"]["kernel"].reshape(gradient.shape), gradient, atol=2e-5
    )


@pytest.mark.parametrize("loss", ["va", "behaviour_dueling"])
def test_a_gradient_step_of_va_is_the_tabular_rule(loss):
    """The negative gradient at one transition is the tabular update divided by the step size."""
    config = dataclasses.replace(VA, loss=loss, huber_delta=0.0)
    agent = make_va_learning(config, SPEC)
    params, target_params = random_params(agent, 1), random_params(agent, 2)
    one = jax.tree.map(lambda x: x[:1], random_steps(2))
    state, action = 2, 1
    eye = jnp.eye(4)
    one = one._replace(
        observation=eye[jnp.array([[state, 3]])],
        action=jnp.array([[action, 0]]),
        reward=jnp.array([[0.5, 0.0]]),
        discount=jnp.ones((1, 2)),
        is_last=jnp.zeros((1, 2), bool),
    )
    found, _, _ = gradient_of(make_va_learning, config, one, params, target_params)
    moved = -found["Dense_0"]["kernel"][state]
    tables = [
        [np.asarray(p["params"][f"Dense_{i}"]["kernel"], float) for i in range(3)]
        for p in (params, target_params)
    ]

    def parts(table, row):
        value, raw, logits = (x[row] for x in table)
        mu = np.exp(logits - logits.max())
        mu /= mu.sum()
        return value[0], raw - mu @ raw, mu

    value, advantage, mu = parts(tables[0], state)
    next_value, next_advantage, _ = parts(tables[1], 3)
    target = 0.5 + config.discount * (next_value + next_advantage.max())
    if loss == "va":
        delta_v = target - value
        delta_a = target - parts(tables[1], state)[0] - advantage[action]
    else:
        delta_v = delta_a = target - value - advantage[action]
    np.testing.assert_allclose(moved[0], delta_v, rtol=1e-5)
    chosen = np.eye(NUM_ACTIONS)[action]
    np.testing.assert_allclose(
        -found["Dense_1"]["kernel"][state], delta_a * (chosen - mu), rtol=1e-4
    )
    # The behaviour follows the likelihood of the action only.
    np.testing.assert_allclose(
        -found["Dense_2"]["kernel"][state], chosen - mu, rtol=1e-4, atol=1e-6
    )
    for name in ("Dense_0", "Dense_1", "Dense_2"):
        rows = np.arange(4) != state
        np.testing.assert_array_equal(found[name]["kernel"][rows], 0)


def test_uniform_behaviour_dueling_is_a_dueling_network():
    x = jax.random.normal(KEY, (6, 8))
    ours, dueling = VAHead(NUM_ACTIONS, uniform=True), DuelingHead(NUM_ACTIONS)
    params = quick_jit(ours.init)(KEY, x)
    q_values = (quick_jit(head.apply)(params, x).q_values for head in (ours, dueling))
    np.testing.assert_allclose(*q_values, atol=1e-6)


def test_the_actor_stores_what_it_did_with_which_probability():
    """If all values are equal, the first action is greedy, and a random draw may choose it too."""
    config = dataclasses.replace(QR, target_epsilon=0.1, epsilon_start=0.4, epsilon_end=0.4)
    agent = compile_agent(make_qr_dqn_retrace(config, SPEC))
    params, many = jax.tree.map(np.zeros_like, agent.init(KEY).params), 30_000
    seen = np.ones((many, 4), np.float32), (), np.zeros(many, bool)
    output = agent.act(params, ActInput(*seen, KEY, np.int32(0)))
    stored, action = np.exp(output.behaviour), np.asarray(output.action)
    wanted = np.array([0.6 + 0.4 / 3, 0.4 / 3, 0.4 / 3])
    np.testing.assert_allclose(stored, wanted[action], rtol=1e-5)
    frequency = np.bincount(action, minlength=3) / many
    np.testing.assert_allclose(frequency, wanted, atol=4 * np.sqrt(0.25 / many))


@pytest.mark.parametrize(
    "changed, sentence",
    [
        (
            {"trace": "one_step", "n_step": 3},
            "agent.n_step must be 1 for agent.trace one_step, got 3",
        ),
        ({"trace": "uncorrected", "target_epsilon": 0.1}, "agent.target_epsilon must be 0"),
        ({"munchausen": True}, "for agent.munchausen, got retrace"),
        ({"munchausen": True, "trace": "one_step", "selector": "online"}, "got one_step, online"),
        ({"network": NetworkConfig(dueling=True)}, "agent.network.dueling must be false"),
        ({"network": network("LinearVA")}, "cannot build .*num_quantiles=5"),
    ],
)
def test_options_that_contradict_are_refused(changed, sentence):
    with pytest.raises(UserError, match=sentence):
        make_qr_dqn_retrace(dataclasses.replace(QR, **changed), SPEC)


def test_a_network_without_what_the_agent_reads_is_refused():
    config = NetworkConfig(module="helpers.windows:Linear")
    with pytest.raises(UserError, match="has no 'value'"):
        make_va_learning(dataclasses.replace(VA, network=config), SPEC)


@pytest.mark.parametrize("munchausen", [False, True])
def test_the_loss_of_one_step_is_that_of_the_library(munchausen):
    config = dataclasses.replace(QR, trace="one_step", munchausen=munchausen, temperature=0.2)
    agent = make_qr_dqn_retrace(config, SPEC)
    params, target_params = random_params(agent, 1), random_params(agent, 2)
    steps = random_steps(2)
    _, _, output = gradient_of(make_qr_dqn_retrace, config, steps, params, target_params)

    def dist(p, i):
        kernel = np.asarray(p["params"]["Dense_0"]["kernel"]).reshape(4, N, NUM_ACTIONS)
        return np.einsum("bd,dna->bna", steps.observation[:, i], kernel)

    tau = losses.quantile_midpoints(N)
    taken = steps.action[:, 0], steps.reward[:, 0], config.discount * steps.discount[:, 0]
    if munchausen:
        hyper = {"temperature": 0.2, "alpha": config.alpha, "clip": config.clip}
        loss = functools.partial(losses.munchausen_quantile_q_learning, **hyper)
        arguments = dist(params, 0), tau, *taken, dist(target_params, 0), dist(target_params, 1)
    else:
        loss = losses.quantile_q_learning
        arguments = dist(params, 0), tau, *taken, dist(target_params, 1)
    axes = [0, None] + [0] * (len(arguments) - 2)
    each = np.asarray(quick_jit(jax.vmap(loss, axes))(*arguments))
    mask = 1.0 - np.asarray(steps.is_last)[:, 0]
    wanted = np.sum(each * mask) / np.sum(mask)
    np.testing.assert_allclose(output.metrics["loss"], wanted, rtol=1e-5)
