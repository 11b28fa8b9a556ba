"""Agents made under vmap over hyper-parameters learn like agents made one by one."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax.agents import ActInput
from bellmax.agents.dqn import DQNConfig, make_dqn
from bellmax.agents.munchausen_dqn import MunchausenDQNConfig, make_munchausen_dqn
from bellmax.agents.shared.base import Batch
from helpers.jitted import quick_jit
from helpers.sweeps import check_sweep
from helpers.windows import KEY, SMALL, SPEC, random_steps

BASE = MunchausenDQNConfig(
    **SMALL,
    n_step=2,
    target_period=2,
    final_learning_rate=0.02,
    learning_rate_steps=4,
    max_gradient_norm=1.0,
    target_rate=0.9,
    temperature=0.2,
)
CHANGES = {
    "learning_rate": 0.05,
    "final_learning_rate": 0.08,
    "adam_epsilon": 0.1,
    "max_gradient_norm": 0.01,
    "discount": 0.5,
    "target_rate": 0.3,
    "huber_delta": 0.2,
    "temperature": 1.0,
    "alpha": 0.1,
    "clip": -0.1,
}


def kernel(**changes):
    """The linear network after five gradient steps on one batch."""
    agent = make_munchausen_dqn(replace(BASE, **changes), SPEC)
    batch = Batch(random_steps(3), jnp.ones(16))

    def step(state, _):
        return agent.learn(state, batch, KEY)

    state, _ = jax.lax.scan(step, agent.init(KEY), length=5)
    return state.params["params"]["Dense_0"]["kernel"]


@pytest.mark.slow
def test_every_agent_of_a_sweep_learns_as_alone():
    check_sweep(kernel, BASE, CHANGES, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["epsilon_start", "epsilon_end"])
def test_exploration_is_a_leaf(name):
    def run(value):
        agent = make_dqn(replace(DQNConfig(**SMALL, epsilon_steps=30), **{name: value}), SPEC)
        rest = jnp.zeros(512, bool), KEY, jnp.int32(15)
        inputs = ActInput(jnp.ones((512, 4)), (), *rest)
        return agent.act(agent.init(KEY).params, inputs).action

    values = jnp.array([0.1, 0.9])
    together = np.asarray(quick_jit(jax.vmap(run))(values))
    for action, value in zip(together, values.tolist(), strict=True):
        np.testing.assert_array_equal(action, quick_jit(run, static_argnums=0)(value))
    assert (together[0] != together[1]).any()
