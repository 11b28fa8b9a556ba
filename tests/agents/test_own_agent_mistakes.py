"""Mistakes in an agent of the user's own are one sentence with a line of the user's code."""

import functools
import sys

import jax
import jax.numpy as jnp
import pytest

from bellmax import UserError, agents
from bellmax.agents import registry
from bellmax.agents.shared.actor_critic import CriticLoss
from bellmax.agents.shared.own import check_array, describe
from bellmax.envs import CartPole, Pendulum, Step
from bellmax.envs.errors import place

AGENT = """
from bellmax.agents import *
import jax.numpy as jnp

def make(config: ValueConfig, spec):
    def loss_function(network, params, target_params, steps):
        t = transitions(steps, 0.9)
        q = taken(network.apply(params, t.observation).q_values, t.action)
        whole = td_loss(t.reward - q, q, t.mask, 0.0)
        return {loss}

    def auxiliary_loss(params, target_params, steps, aux, key):
        loss = jnp.square(params["scale"] - steps.reward[:, 0])
        return {auxiliary}

    auxiliary = Auxiliary(lambda key: ({{"scale": jnp.zeros(())}}, ()), auxiliary_loss)
    agent = make_value_agent(config, spec, loss_function, auxiliary=auxiliary)
    return {agent}
"""
LOSS, AUXILIARY, MAKE = " (mine.py, line 6)", " (mine.py, line 12)", " (mine.py, line 5)"


def own_agent(folder, monkeypatch, **parts):
    whole = {"loss": "whole", "auxiliary": "AuxiliaryLoss(loss)", "agent": "agent"}
    (folder / "mine.py").write_text(AGENT.format(**whole | parts))
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    config_class, make = registry.load("mine:make")
    return make(config_class(), CartPole().spec)


def trace(agent, size=4):
    """Trace one call of `act` and of `learn`; nothing is computed."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(agent.init, key)
    flags = jnp.zeros((size, 2), bool)
    reward, action = jnp.zeros((size, 2)), jnp.zeros((size, 2), jnp.int32)
    steps = Step(jnp.zeros((size, 2, 4)), action, reward, reward, flags, flags, ())
    first = agents.ActInput(steps.observation[:, 0], (), flags[:, 0], key, jnp.int32(0))
    jax.eval_shape(agent.act, agent.actor_params(state), first)
    return jax.eval_shape(agent.learn, state, agents.Batch(steps, jnp.ones(size)), key)


MISTAKES = [
    ({"loss": "jnp.mean(q)"}, f"the function{LOSS} must return a ValueLoss with loss [4]"),
    ({"loss": "jnp.mean(q)"}, "mask [4], got float32 of shape []"),
    ({"loss": "None"}, "got None"),
    (
        {"loss": "whole._replace(loss=whole.loss.mean())"},
        f"ValueLoss.loss of the function{LOSS} must be of shape [4], got float32 of shape []; one "
        "value for each sequence",
    ),
    ({"loss": "whole._replace(mask=1.0)"}, "ValueLoss.mask"),
    ({"loss": "whole._replace(priority=q[:, None])"}, "ValueLoss.priority"),
    ({"loss": "whole._replace(q_value=None)"}, "ValueLoss.q_value"),
    ({"loss": "whole._replace(metrics={'each': q})"}, "the metric 'each'"),
    ({"loss": "1 / 0"}, "`learn` of mine:make failed: ZeroDivisionError: division by zero"),
    ({"loss": "1 / 0"}, " (mine.py, line 10)"),
    ({"loss": "jnp.ones(3) + jnp.ones(5)"}, " (mine.py, line 10)"),
    ({"auxiliary": "loss"}, f"the function{AUXILIARY} must return an AuxiliaryLoss with loss [4]"),
    ({"auxiliary": "AuxiliaryLoss(loss.mean())"}, f"AuxiliaryLoss.loss of the function{AUXILIARY}"),
    ({"auxiliary": "AuxiliaryLoss(loss, loss)"}, "AuxiliaryLoss.bonus"),
    ({"auxiliary": "AuxiliaryLoss(loss, metrics={'each': loss})"}, "the metric 'each'"),
    ({"auxiliary": "AuxiliaryLoss(loss, metrics=loss)"}, "must be a dict of numbers by name"),
    ({"auxiliary": "AuxiliaryLoss(loss, aux=loss)"}, "got another structure of aux"),
    ({"agent": "None"}, f"agent.name: mine:make{MAKE} must return an Agent, got None"),
    ({"agent": "agent.absent"}, "agent.name: mine:make cannot be made: AttributeError"),
    ({"agent": "agent._replace(act=lambda *_, **__: 0)"}, "an ActorOutput with action [4]"),
    ({"agent": "agent._replace(learn=lambda *_: 0)"}, "must return (LearnerState, LearnOutput)"),
    (
        {"agent": "agent._replace(learn=lambda s, b, k: (s, LearnOutput({}, b.weights)))"},
        "must be a dict of numbers by name, with 'loss', got a dict with nothing",
    ),
    (
        {"agent": "agent._replace(learn=lambda s, b, k: (s._replace(steps=0.0), 0))"},
        "got steps as float32 of shape [], which was int32 of shape []",
    ),
    ({"agent": "agent._replace(init=lambda key: 1 / 0)"}, "`init` of mine:make failed"),
]


@pytest.mark.parametrize(("parts", "message"), MISTAKES)
def test_a_mistake_is_one_sentence(tmp_path, monkeypatch, parts, message):
    with pytest.raises(UserError) as caught:
        trace(own_agent(tmp_path, monkeypatch, **parts))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_without_a_mistake_the_agent_is_traced(tmp_path, monkeypatch):
    _, output = trace(own_agent(tmp_path, monkeypatch))
    assert {"loss", "auxiliary_loss"} <= set(output.metrics) and output.priorities.shape == (4,)


def test_the_loss_of_critics_is_checked():
    def mean(q_tm1, r_t, discount_t, q_t):
        error = jnp.square(q_tm1 - q_t).mean(axis=(1, 2))
        return CriticLoss(error.mean(), error)

    agent = agents.make_actor_critic_agent(agents.TD3Config(), Pendulum().spec, mean)
    key = jax.random.key(0)
    flags = jnp.zeros((4, 2), bool)
    reward = jnp.zeros((4, 2))
    steps = Step(jnp.zeros((4, 2, 3)), jnp.zeros((4, 2, 1)), reward, reward, flags, flags, ())
    with pytest.raises(UserError, match=r"CriticLoss.loss .*mistakes.py, line \d+\) must be of"):
        state = jax.eval_shape(agent.init, key)
        jax.eval_shape(agent.learn, state, agents.Batch(steps, jnp.ones(4)), key)


def test_a_place_is_that_of_the_users_code():
    class Called:
        def __call__(self):
            return 0

    here = f"({__file__.rpartition('/')[2]}"
    for function in (trace, functools.partial(trace, size=2), jax.jit(trace), Called(), Called):
        assert here in place(function).replace("tests/agents/", "") or function is Called
    assert place(agents.td_loss) == place(jnp.sum) == place(len) == ""
    with pytest.raises(UserError, match=r"must be of shape \[2, 3\], got float32 of shape \[3\]"):
        check_array(jnp.zeros(3), (2, 3), trace)
    assert describe(object()) == "an object"
