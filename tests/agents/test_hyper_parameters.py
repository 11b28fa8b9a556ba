"""Hyper-parameters are leaves: agents made under vmap learn as agents made one by one."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax.agents.base import Batch
from bellmax.agents.dqn import DQNConfig, make_dqn
from bellmax.agents.munchausen_dqn import MunchausenDQNConfig, make_munchausen_dqn
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


def test_every_agent_of_a_sweep_learns_as_alone():
    """Row i changes the i-th hyper-parameter; all of them are traced."""
    rows = {name: np.full(len(CHANGES), getattr(BASE, name)) for name in CHANGES}
    for i, (name, value) in enumerate(CHANGES.items()):
        rows[name][i] = value
    together = jax.jit(jax.vmap(lambda row: kernel(**row)))(rows)
    unchanged = jax.jit(kernel)()
    for row, (name, value) in zip(together, CHANGES.items(), strict=True):
        assert np.abs(row - unchanged).max() > 1e-3, name
        if name in ("learning_rate", "temperature", "alpha", "discount", "target_rate"):
            alone = jax.jit(lambda name=name, value=value: kernel(**{name: value}))()
            np.testing.assert_allclose(row, alone, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", ["epsilon_start", "epsilon_end"])
def test_exploration_is_a_leaf(name):
    def run(value):
        agent = make_dqn(replace(DQNConfig(**SMALL, epsilon_steps=30), **{name: value}), SPEC)
        rest = jnp.zeros(512, bool), KEY, jnp.int32(15)
        return agent.act(agent.init(KEY).params, jnp.ones((512, 4)), (), *rest).action

    values = jnp.array([0.1, 0.9])
    together = jax.jit(jax.vmap(run))(values)
    for action, value in zip(together, values.tolist(), strict=True):
        np.testing.assert_array_equal(action, run(value))
    assert (together[0] != together[1]).any()
