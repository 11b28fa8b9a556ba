"""QR-DQN-Retrace, IQN, C51 and VA-learning learn known values, with and without time limits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax.agents.c51 import make_c51
from bellmax.agents.configs.value_based import C51Config
from bellmax.agents.iqn import make_iqn
from bellmax.agents.qr_dqn_retrace import make_qr_dqn_retrace
from bellmax.agents.va_learning import VALearningConfig, make_va_learning
from bellmax.envs import random_mdp, value_iteration
from helpers.exact import CHAIN, GAMMA, SHARED, Deaths, learnt, munchausen_q
from helpers.linear_agents import C51, IQN, QR, VA, N
from helpers.marked import some_slow

pytestmark = pytest.mark.usefixtures("quick_compilation")


def q_table(params, config):
    if isinstance(config, C51Config):
        kernel = params["Dense_0"]["kernel"]
        atoms = np.linspace(config.v_min, config.v_max, config.num_atoms)
        logits = kernel.reshape(len(kernel), -1, config.num_atoms)
        return np.asarray(jax.nn.softmax(logits), np.float64) @ atoms
    if not isinstance(config, VALearningConfig):
        kernel = params["Dense_0"]["kernel"]
        return np.asarray(kernel.reshape(len(kernel), N, -1).mean(1), np.float64)
    value, raw, logits = (params[f"Dense_{i}"]["kernel"] for i in range(3))
    mu = jax.nn.softmax(logits)
    return np.asarray(value + raw - jnp.sum(mu * raw, -1, keepdims=True), np.float64)


def chain_config(config, **changed):
    return dataclasses.replace(config, **SHARED, **changed)


def on_the_chain(config, **changed):
    """With small batches, because the chain's returns are certain."""
    return dataclasses.replace(chain_config(config, **changed), batch_size=64)


# All returns lie inside the grid.
GRID = {"num_atoms": 13, "v_min": 0.0, "v_max": 12.0}
# The chain's returns are certain, so the distribution is a point and kappa does not move its mean.
ON_THE_CHAIN = {
    "qr_dqn": (make_qr_dqn_retrace, on_the_chain(QR, trace="one_step")),
    "retrace": (make_qr_dqn_retrace, on_the_chain(QR, n_step=3)),
    "retrace_every": (make_qr_dqn_retrace, on_the_chain(QR, n_step=3, anchor="every")),
    "iqn": (make_iqn, on_the_chain(IQN)),
    "c51": (make_c51, on_the_chain(C51, **GRID)),
    "c51_retrace": (make_c51, on_the_chain(C51, n_step=3, trace="retrace", **GRID)),
    "va": (make_va_learning, on_the_chain(VA, huber_delta=0.0)),
    "behaviour_dueling": (
        make_va_learning,
        # Longer, because its target depends on the behaviour, which is learned too.
        dataclasses.replace(
            on_the_chain(VA, huber_delta=0.0, loss="behaviour_dueling"), learning_rate_steps=6000
        ),
    ),
}


@pytest.mark.parametrize("case", some_slow(ON_THE_CHAIN, ("qr_dqn", "c51", "behaviour_dueling")))
def test_time_limits_are_not_deaths(case):
    make, config = case
    found = q_table(learnt(make, config, CHAIN), config)
    np.testing.assert_allclose(found, CHAIN.true_q(GAMMA), atol=1e-2)


@pytest.mark.parametrize("name", some_slow(["retrace", "iqn", "c51", "va"], ("iqn", "c51", "va")))
def test_control_truncation_as_termination_leads_elsewhere(name):
    make, config = ON_THE_CHAIN[name]
    config = dataclasses.replace(config, batch_size=256)  # its returns are random
    found = q_table(learnt(make, config, Deaths(CHAIN)), config)
    assert np.abs(found - CHAIN.true_q(GAMMA)).min() > 1


ON_A_RANDOM_MDP = {
    "retrace": (make_qr_dqn_retrace, chain_config(QR, n_step=3, target_epsilon=0.0)),
    "one_step": (make_qr_dqn_retrace, chain_config(QR, n_step=1, trace="one_step")),
    "iqn": (make_iqn, chain_config(IQN)),
    "c51": (make_c51, chain_config(C51, **GRID)),
    "c51_cramer": (
        make_c51,
        chain_config(C51, **GRID, regression="cramer", n_step=3, trace="retrace"),
    ),
}


@pytest.mark.parametrize("case", some_slow(ON_A_RANDOM_MDP, ("one_step", "iqn", "c51_cramer")))
def test_the_optimal_policy_of_a_random_mdp_is_found(case):
    make, config = case
    mdp = random_mdp(jax.random.key(3), 6, 3, branching=2, time_limit=10)
    found = q_table(learnt(make, config, mdp), config)
    exact = value_iteration(mdp.p, mdp.r, GAMMA)
    # The Huber loss biases the quantiles, so the means are only near the values.
    np.testing.assert_allclose(found, exact, atol=0.1 * np.abs(exact).max())
    np.testing.assert_array_equal(found.argmax(-1), exact.argmax(-1))


@pytest.mark.parametrize(
    "make, config",
    [
        (make_qr_dqn_retrace, on_the_chain(QR, trace="one_step", munchausen=True, temperature=0.3)),
        (make_iqn, on_the_chain(IQN, munchausen=True, temperature=0.3)),
    ],
    ids=["qr_dqn", "iqn"],
)
def test_munchausen_quantiles_find_the_soft_values_of_the_chain(make, config):
    found = q_table(learnt(make, config, CHAIN), config)
    exact = munchausen_q(CHAIN.mdp.p, CHAIN.mdp.r, config, GAMMA)
    np.testing.assert_allclose(found, exact, atol=1e-2)
    assert np.abs(exact - CHAIN.true_q(GAMMA)).max() > 0.5
