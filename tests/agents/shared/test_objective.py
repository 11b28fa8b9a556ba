"""Objectives by stock: exact laws of the gamble, the recursion, and agents that keep a stock."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from bellmax import UserError
from bellmax.agents import ActInput
from bellmax.agents.qr_dqn_retrace import QRDQNRetraceConfig, make_qr_dqn_retrace
from bellmax.agents.shared.base import Batch
from bellmax.agents.shared.objective import expected_utility, join, next_stock, read_objective
from bellmax.envs import EnvSpec, Gamble
from bellmax.networks import NetworkConfig
from helpers.jitted import compile_agent, quick_jit
from helpers.windows import KEY, random_steps

SPEC = EnvSpec("test/Any", specs.Array((2, 2), np.float32), specs.DiscreteArray(3))
CONFIG = QRDQNRetraceConfig(
    num_quantiles=4,
    objective="cvar:0.5",
    return_range=(-2.0, 4.0),
    discount=0.9,
    batch_size=8,
    network=NetworkConfig(hidden=(5,)),
)
POLICIES = {"SS": (0, 0), "SR": (0, 1), "RS": (1, 0), "RR": (1, 1)}
# Atoms of the second step's laws, one in ten: 1 for sure, or -1 and 3 with 0.4 and 0.6.
SECOND = np.stack([np.ones(10), np.repeat([-1.0, 3.0], [4, 6])], axis=1)


def exact(policy, start, objective):
    """E f(c_0 + G) of a policy, by enumeration."""
    returns, probabilities = Gamble.law(*POLICIES[policy])
    return probabilities @ np.asarray(objective.utility(jnp.asarray(returns + start)))


def plan(objective, start):
    """Exact distributional dynamic programming by stock: the policy, and E f(c_0 + G)."""
    choices, atoms = [], []
    for first in (0.0, 2.0):
        stock = next_stock(jnp.array([start]), first, 1.0, objective.scale)
        utility = expected_utility(objective, stock[:, None], jnp.asarray(SECOND)[None])
        choices.append(int(jnp.argmax(utility[0])))
        atoms.append(first + SECOND[:, choices[-1]])
    law = jnp.asarray(np.concatenate(atoms))
    utility = expected_utility(objective, jnp.array([[start]]), law[None, :, None])
    return "".join("SR"[c] for c in choices), float(utility[0, 0])


def test_the_stock_finds_the_policy_of_the_worst_half_that_observations_cannot():
    objective = read_objective("cvar:0.5", (-1.0, 5.0))
    assert objective is not None and objective.start is None
    starts = np.linspace(-5.0, 1.0, 25)
    scores, means = {}, {}
    for policy, actions in POLICIES.items():
        returns, probabilities = Gamble.law(*actions)
        scores[policy] = max(exact(policy, c, objective) - c for c in starts)
        means[policy] = returns @ probabilities
        # The score of equally likely returns is the same number.
        many = np.repeat(returns, np.round(probabilities * 10).astype(int))
        np.testing.assert_allclose(objective.score(jnp.asarray(many)), scores[policy], rtol=1e-5)
    expected = {"SS": 1.0, "SR": 1.0, "RS": 1.4, "RR": 0.6}
    assert scores == pytest.approx(expected, abs=1e-5)
    assert means == pytest.approx({"SS": 2.0, "SR": 2.2, "RS": 2.2, "RR": 2.4})
    found = {c: plan(objective, c) for c in starts}
    best = max(starts, key=lambda c: found[c][1] - c)
    assert (best, found[best][0]) == (-3.0, "RS")
    assert found[best][1] - best == pytest.approx(1.4, abs=1e-5)
    # A policy of the observation takes one action after both rewards.
    assert max(scores["SS"], scores["RR"]) == pytest.approx(1.0, abs=1e-5)


def test_the_stock_finds_the_policies_of_other_objectives():
    for text, order in (
        ("homeostasis:2", {"SS": -1.0, "RS": -1.4, "SR": -1.6, "RR": -2.0}),
        ("homeostasis:4", {"RS": -1.8, "SS": -2.0, "RR": -2.2, "SR": -2.4}),
        ("below:3", {"SS": -0.5, "SR": -0.7, "RS": -0.2, "RR": -0.4}),
        ("below:0.5", {"SS": 0.0, "SR": 0.0, "RS": -0.2, "RR": -0.2}),
    ):
        objective = read_objective(text, None)
        assert objective is not None and objective.start is not None
        scores = {policy: exact(policy, objective.start, objective) for policy in POLICIES}
        assert scores == pytest.approx(order, abs=1e-5)
        policy, value = plan(objective, objective.start)
        assert value == pytest.approx(max(order.values()), abs=1e-5)
        assert scores[policy] == pytest.approx(value, abs=1e-5)


def test_the_recursion_of_the_stock():
    stock = jnp.float32(-1.0)
    for reward, expected in ((0.5, -0.5555556), (2.0, 1.6049383)):
        stock = next_stock(stock, reward, 0.9, 1.0)
        assert stock == pytest.approx(expected, abs=1e-6)
    assert 0.81 * stock == pytest.approx(1.3, abs=1e-6)
    assert next_stock(jnp.float32(1e8), 0.0, 0.9, 2.0) == 2e4  # bounded


def test_a_score_of_returns_counts_the_last_in_part():
    returns = jnp.array([5.0, 1.0, 3.0, 2.0])
    for share, expected in ((0.25, 1.0), (0.5, 1.5), (0.6, (1 + 2 + 0.4 * 3) / 2.4), (1.0, 2.75)):
        objective = read_objective(f"cvar:{share}", (0.0, 1.0))
        assert objective is not None
        assert objective.score(returns) == pytest.approx(expected, rel=1e-6)
    for text, expected in (("below:2.5", -0.5), ("homeostasis:2", -(3 + 1 + 1 + 0) / 4)):
        objective = read_objective(text, None)
        assert objective is not None
        assert objective.score(returns) == pytest.approx(expected)


def test_acting_keeps_the_stock_and_stores_it():
    agent = compile_agent(make_qr_dqn_retrace(CONFIG, SPEC))
    assert agent.sees == ("reward",) and agent.score is not None
    params, memory = agent.actor_params(agent.init(KEY)), agent.initial_memory(400)
    rng, stocks = np.random.default_rng(0), []
    reward = rng.normal(size=(5, 400)).astype(np.float32)
    first = np.zeros((5, 400), bool)
    first[0], first[3, ::2] = True, True
    for t in range(5):
        seen = rng.normal(size=(400, 2, 2)).astype(np.float32)
        inputs = ActInput(seen, memory, first[t], jax.random.key(t), np.int32(0), reward[t])
        output = agent.act(params, inputs)
        np.testing.assert_array_equal(output.behaviour.stock, output.memory.stock)
        stocks.append(np.asarray(output.memory.stock))
        memory = output.memory
    for t in range(1, 5):
        expected = (stocks[t - 1] + reward[t]) / 0.9
        np.testing.assert_allclose(stocks[t][~first[t]], expected[~first[t]], rtol=1e-5)
        assert not np.isclose(stocks[t][first[t]], expected[first[t]]).any() or not first[t].any()
    # In training episodes start anywhere between minus the highest and minus the lowest return.
    assert stocks[0].min() == pytest.approx(-4.0, abs=0.1)
    assert stocks[0].max() == pytest.approx(2.0, abs=0.1)
    assert stocks[0].mean() == pytest.approx(-1.0, abs=0.3)


def test_an_evaluation_starts_at_the_best_stock():
    agent = compile_agent(make_qr_dqn_retrace(CONFIG, SPEC))
    objective = read_objective(CONFIG.objective, CONFIG.return_range)
    assert objective is not None and agent.values is not None
    params, memory = agent.actor_params(agent.init(KEY)), agent.initial_memory(3)
    seen, first = (
        np.random.default_rng(0).normal(size=(3, 2, 2)).astype(np.float32),
        np.ones(3, bool),
    )
    inputs = ActInput(seen, memory, first, KEY, np.int32(0), np.zeros(3, np.float32))
    output = agent.act(params, inputs, evaluate=True)
    starts = np.linspace(2.0, -4.0, 129)
    read = quick_jit(agent.values)
    gains = []
    for start in starts:
        at = memory._replace(stock=jnp.full(3, start, jnp.float32))
        found = read(params, seen, at, first)
        utility = np.minimum(start + np.asarray(found.quantiles), 0.0).mean(axis=1) / 0.5
        np.testing.assert_allclose(found.q_values, utility, rtol=1e-4, atol=1e-5)
        gains.append(utility.max(axis=1) - start)
    best = np.max(gains, axis=0)
    chosen = [np.argmin(np.abs(starts - s)) for s in np.asarray(output.memory.stock)]
    np.testing.assert_allclose(np.array(gains)[chosen, range(3)], best, rtol=1e-5)
    at = memory._replace(stock=output.memory.stock)
    np.testing.assert_array_equal(
        output.action, np.argmax(read(params, seen, at, first).q_values, axis=1)
    )


def test_the_target_is_that_of_the_action_with_the_largest_utility():
    """One step, by hand: atoms r + gamma theta(x', c', argmax E f(c' + theta))."""
    config = replace(CONFIG, trace="one_step", huber_delta=0)
    agent = make_qr_dqn_retrace(config, SPEC)
    steps, rng = random_steps(2, batch=8, seed=3), np.random.default_rng(1)
    stock = jnp.asarray(rng.normal(size=(8, 2)), jnp.float32)
    state = agent.init(KEY)
    example = agent.act(
        agent.actor_params(state),
        ActInput(
            jnp.zeros((8, 2, 2)), agent.initial_memory(8), jnp.ones(8, bool), KEY, 0, jnp.ones(8)
        ),
    )
    steps = steps._replace(
        observation=steps.observation.reshape(8, 2, 2, 2),
        behaviour=example.behaviour._replace(stock=stock),
    )

    @quick_jit
    def run(steps):
        output = agent.learn(state, Batch(steps, jnp.ones(8)), KEY)[1]
        memory = agent.initial_memory(8)
        read = [
            agent.values(
                state.params, steps.observation[:, t], memory._replace(stock=stock[:, t]), None
            )
            for t in (0, 1)
        ]
        return output, read

    output, (before, after) = jax.tree.map(np.asarray, run(steps))
    greedy = np.minimum(np.asarray(stock)[:, 1, None, None] + after.quantiles, 0).mean(1).argmax(1)
    assert (greedy != after.quantiles.mean(axis=1).argmax(axis=1)).any()
    tau, losses = (np.arange(4) + 0.5) / 4, []
    s = jax.tree.map(np.asarray, steps._replace(behaviour=()))
    for b in range(8):
        predicted = before.quantiles[b, :, s.action[b, 0]]
        atoms = s.reward[b, 0] + 0.9 * s.discount[b, 0] * after.quantiles[b, :, greedy[b]]
        error = atoms[None] - predicted[:, None]
        pinball = np.where(error < 0, 1 - tau[:, None], tau[:, None]) * np.abs(error)
        losses.append(0.0 if s.is_last[b, 0] else pinball.mean(axis=1).sum())
    np.testing.assert_allclose(output.priorities, losses, rtol=1e-4, atol=1e-5)


def test_joined_observations_are_vectors_in_the_unit_of_the_network():
    joined = join(jnp.full((2, 3, 4, 4, 1), 255, jnp.uint8), jnp.ones((2, 3)) * 7)
    assert joined.shape == (2, 3, 17)
    np.testing.assert_array_equal(joined[0, 0], [1.0] * 16 + [7.0])


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"objective": "median"}, "agent.objective must be mean, cvar:SHARE .* got median"),
        ({"objective": "cvar:2"}, "agent.objective must be mean, .* got cvar:2"),
        ({"objective": "below:nan"}, "agent.objective must be mean, .* got below:nan"),
        ({"return_range": None}, "agent.return_range must be the lowest and the highest return"),
        ({"return_range": (2.0, 2.0)}, "agent.return_range must be .* got \\(2.0, 2.0\\)"),
        (
            {"network": NetworkConfig(memory="gru")},
            "agent.network.memory must be none for agent.objective cvar:0.5, got gru",
        ),
        ({"network": NetworkConfig(torso="minatar")}, "agent.network.torso must be mlp for agent"),
        (
            {"munchausen": True, "trace": "one_step"},
            "agent.munchausen must be false for agent.objective cvar:0.5, got True",
        ),
        ({"discount": 0.0}, "agent.discount must be above 0 for agent.objective"),
    ],
)
def test_what_does_not_fit_is_refused(changes, words):
    with pytest.raises(UserError, match=words):
        make_qr_dqn_retrace(replace(CONFIG, **changes), SPEC)


def test_a_number_as_observation_is_refused():
    with pytest.raises(UserError, match="agents with agent.objective must be arrays"):
        make_qr_dqn_retrace(CONFIG, SPEC._replace(observation=specs.DiscreteArray(5)))
