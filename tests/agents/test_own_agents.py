"""Agents of the user's own: found by name, and built from the shared parts."""

import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bellmax import UserError, agents
from bellmax.agents import registry
from bellmax.envs import CartPole, Step
from bellmax.networks import NetworkConfig

pytestmark = pytest.mark.usefixtures("quick_compilation")

FOLDER = Path(__file__).parents[2] / "examples/own_agent"
SMALL = {"network": NetworkConfig(hidden=(8,)), "batch_size": 4, "target_period": 2}


@pytest.fixture(autouse=True)
def there(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.delitem(sys.modules, "averaged_dqn", raising=False)


def batch(length=2, reward=1.0):
    shape, key = (4, length), jax.random.key(0)
    flags = jnp.zeros(shape, bool)
    steps = Step(
        jax.random.normal(key, (*shape, 4)),
        jnp.zeros(shape, jnp.int32),
        jnp.full(shape, reward),
        jnp.ones(shape),
        flags,
        flags,
        (),
    )
    return agents.Batch(steps, jnp.ones(4))


def test_the_average_is_over_the_newest_targets():
    config_class, make = registry.load("averaged_dqn:make_averaged_dqn")
    agent = make(config_class(**SMALL, num_targets=3), CartPole().spec)
    state = agent.init(jax.random.key(1))
    learn = jax.jit(agent.learn)
    copied = [state.params]
    for step in range(1, 9):
        state, _ = learn(state, batch(), jax.random.key(step))
        if step % 2 == 0:
            copied.append(state.params)
    kept = jax.tree.map(lambda *x: np.sort(np.stack(x), axis=0), *copied[-3:])
    found = jax.tree.map(lambda x: np.sort(np.asarray(x), axis=0), state.target_params)
    jax.tree.map(np.testing.assert_array_equal, kept, found)


def test_one_target_is_dqn():
    config_class, make = registry.load("averaged_dqn:make_averaged_dqn")
    spec = CartPole().spec
    states = []
    for agent in (
        make(config_class(**SMALL, num_targets=1), spec),
        agents.make_dqn(agents.DQNConfig(**SMALL), spec),
    ):
        state, learn = agent.init(jax.random.key(1)), jax.jit(agent.learn)
        for step in range(5):
            state, _ = learn(state, batch(), jax.random.key(step))
        states.append(state.params)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), *states)


def q_loss(network, params, target_params, steps):
    t = agents.transitions(steps, 0.5)
    q = network.apply(params, t.observation).q_values
    error = t.reward - agents.taken(q, t.action)
    return agents.td_loss(error, agents.taken(q, t.action), t.mask, 0.0)


def scale_auxiliary(bonus=0.0):
    """A parameter that is trained towards 3, and a count of batches as auxiliary state."""

    def init(key):
        del key
        return {"number": jnp.zeros(())}, jnp.int32(0)

    def loss(params, target_params, steps, aux, key):
        assert set(params) == set(target_params) == {"q", "number"}
        error = jnp.full(steps.reward.shape[0], params["number"] - 3.0)
        return agents.AuxiliaryLoss(error**2 / 2, bonus, aux + 1, {"number": params["number"]})

    return agents.Auxiliary(init, loss)


def value_agent(**parts):
    config = agents.ValueConfig(**SMALL)
    return agents.make_value_agent(config, CartPole().spec, q_loss, **parts)


def test_an_auxiliary_has_parameters_targets_state_and_metrics_of_its_own():
    agent = value_agent(optimizer=optax.sgd(0.5), auxiliary=scale_auxiliary())
    state, learn = agent.init(jax.random.key(0)), jax.jit(agent.learn)
    numbers, targets = [], []
    for step in range(4):
        state, output = learn(state, batch(), jax.random.key(step))
        numbers.append(float(state.params["number"]))
        targets.append(float(state.target_params["number"]))
    np.testing.assert_allclose(numbers, [1.5, 2.25, 2.625, 2.8125])
    np.testing.assert_allclose(targets, [0.0, 2.25, 2.25, 2.8125])
    assert int(state.aux) == 4
    assert float(output.metrics["number"]) == 2.625
    np.testing.assert_allclose(output.metrics["auxiliary_loss"], 0.375**2 / 2, rtol=1e-6)
    actor = agent.actor_params(state)
    assert jax.tree.structure(actor) == jax.tree.structure(state.params["q"])


def test_an_auxiliary_changes_the_q_network_only_by_its_bonus():
    states = []
    for parts, reward in (
        ({}, 1.0),
        ({"auxiliary": scale_auxiliary()}, 1.0),
        ({"auxiliary": scale_auxiliary(bonus=1.0)}, 0.0),
        ({"auxiliary": scale_auxiliary(bonus=1.0)}, 1.0),
    ):
        agent = value_agent(optimizer=optax.sgd(0.1), **parts)
        state, output = agent.learn(
            agent.init(jax.random.key(0)), batch(reward=reward), jax.random.key(1)
        )
        states.append(agent.actor_params(state))
    for other in states[1:3]:
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), states[0], other
        )
    leaves = zip(jax.tree.leaves(states[0]), jax.tree.leaves(states[3]), strict=True)
    assert any(not np.allclose(x, y) for x, y in leaves)


@pytest.mark.parametrize(
    ("source", "name", "message"),
    [
        ("", "mine:make", "unknown callable 'make' of module 'mine' in agent.name"),
        ("x = 1", "mine:x", "must be a function or class that makes an agent, got a int"),
        ("def make(config, spec): ...", "mine:make", "annotated with the dataclass"),
        ("def make(config: int, spec): ...", "mine:make", "annotated with the dataclass"),
        ("def make(config: 'Missing', spec): ...", "mine:make", "annotations of mine:make"),
        ("def make(): ...", "mine:make", "annotated with the dataclass"),
        ("1 / 0", "mine:make", "ZeroDivisionError"),
        ("import absent_package", "mine:make", "absent_package"),
        ("", "absent_module:make", "needs the module 'absent_module'"),
        ("", ":make", "must be of the form module.path:name"),
        ("", "mine:", "must be of the form module.path:name"),
    ],
)
def test_what_is_no_agent_is_one_sentence(tmp_path, monkeypatch, source, name, message):
    (tmp_path / "mine.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    with pytest.raises(UserError) as caught:
        registry.load(name)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_its_configuration_is_the_annotation():
    config_class, _ = registry.load("averaged_dqn:make_averaged_dqn")
    assert {field.name for field in dataclasses.fields(config_class)} > {"num_targets", "discount"}
    assert registry.config_class("averaged_dqn:make_averaged_dqn") is config_class
