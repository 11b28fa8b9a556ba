"""Agents learn known values, with and without time limits.

Negative control: with a stream that reports truncations as terminations, the same agents learn the
fixed point of that mistake.
"""

import dataclasses

import jax
import numpy as np
import pytest

from bellmax.agents.dqn import DQNConfig, make_dqn
from bellmax.agents.munchausen_dqn import MunchausenDQNConfig, make_munchausen_dqn
from bellmax.envs import TabularMDP, random_mdp, value_iteration
from helpers.exact import CHAIN, GAMMA, Deaths, learnt, munchausen_q
from helpers.exact import SHARED as LINEAR
from helpers.windows import NETWORK, SPEC, learn_once, random_steps

pytestmark = pytest.mark.usefixtures("quick_compilation")
SHARED = LINEAR | {"network": NETWORK, "huber_delta": 0.0}
DQN = DQNConfig(**SHARED)
DOUBLE = DQNConfig(**SHARED, double=True)
MUNCHAUSEN = MunchausenDQNConfig(**SHARED, temperature=0.3)
COLD = MunchausenDQNConfig(**SHARED, temperature=0.01, alpha=0.0)


def learnt_q(config, env):
    """[S, A], what a linear agent on one-hot observations has learnt."""
    make = make_munchausen_dqn if isinstance(config, MunchausenDQNConfig) else make_dqn
    return np.asarray(learnt(make, config, env)["Dense_0"]["kernel"], np.float64)


def exact_chain(config, gamma, hard):
    if isinstance(config, MunchausenDQNConfig):
        return munchausen_q(CHAIN.mdp.p, CHAIN.mdp.r, config, gamma)
    return hard


CHAIN_AGENTS = pytest.mark.parametrize(
    "config", [DQN, DOUBLE, COLD, MUNCHAUSEN], ids=["dqn", "double", "cold", "munchausen"]
)


@CHAIN_AGENTS
def test_time_limits_are_not_deaths(config):
    exact = exact_chain(config, GAMMA, CHAIN.true_q(GAMMA))
    np.testing.assert_allclose(learnt_q(config, CHAIN), exact, atol=1e-2)
    if config is COLD:  # alpha 0 and almost no temperature: plain Q-learning
        np.testing.assert_allclose(exact, CHAIN.true_q(GAMMA), atol=1e-6)
    if config is MUNCHAUSEN:  # elsewhere, by more than the tolerance, and clipped
        assert np.abs(exact - CHAIN.true_q(GAMMA)).max() > 0.5
        free = munchausen_q(
            CHAIN.mdp.p, CHAIN.mdp.r, dataclasses.replace(config, clip=-99.0), GAMMA
        )
        assert np.abs(exact - free).max() > 0.5


@pytest.mark.parametrize("config", [DQN, MUNCHAUSEN], ids=["dqn", "munchausen"])
def test_control_truncation_as_termination_leads_elsewhere(config):
    wrong = exact_chain(config, GAMMA * (1 - 1 / 3), CHAIN.truncation_as_death_q(GAMMA))
    found = learnt_q(config, Deaths(CHAIN))
    np.testing.assert_allclose(found, wrong, atol=0.15)
    assert np.abs(found - exact_chain(config, GAMMA, CHAIN.true_q(GAMMA))).min() > 3


def indifferent_mdp():
    """Every action is optimal, with its own reward and next state: Q(s, a) = V(s).

    So n-step targets are right whatever the behaviour; V is arbitrary and r follows from it. State
    3 ends the episode, and a time limit cuts the rest.
    """
    value = np.array([4.0, -2.0, 7.0, 0.0])
    following = np.array([[1, 2], [2, 0], [1, 3], [3, 3]])
    r = value[:, None] - GAMMA * value[following]
    return TabularMDP(np.eye(4)[following], r, terminal=np.arange(4) == 3, time_limit=3), value


def test_n_step_targets_cross_neither_kind_of_end():
    mdp, value = indifferent_mdp()
    config = dataclasses.replace(DQN, n_step=3)
    exact = np.stack([value[:3]] * 2, 1)
    np.testing.assert_allclose(learnt_q(config, mdp)[:3], exact, atol=1e-2)
    assert np.abs(learnt_q(config, Deaths(mdp))[:3] - exact).max() > 0.5


def test_dqn_on_a_random_mdp_is_value_iteration():
    mdp = random_mdp(jax.random.key(3), 6, 3, branching=2, time_limit=10)
    config = dataclasses.replace(DQN, batch_size=1024)
    exact = value_iteration(mdp.p, mdp.r, GAMMA)
    found = learnt_q(config, mdp)
    # Transitions are sampled, so the remaining error is replay's sampling error.
    np.testing.assert_allclose(found, exact, atol=0.03 * np.abs(exact).max())
    np.testing.assert_array_equal(found.argmax(-1), exact.argmax(-1))


def numpy_gradient(config, steps, q, q_target):
    """d loss / d kernel of a linear network by hand, one example after the other."""
    s = jax.tree.map(lambda x: np.asarray(x).astype(float), steps)
    gradient, count = np.zeros(q.shape), (1 - s.is_last[:, 0]).sum()
    for b in np.flatnonzero(s.is_last[:, 0] == 0):
        o, a = s.observation[b], s.action[b].astype(int)
        values, factor = [], 1.0
        target = 0.0
        for i in range(config.n_step):
            row = o[i] @ q_target
            if isinstance(config, MunchausenDQNConfig):
                tau = config.temperature
                log_pi = row[a[i]] - tau * np.log(np.exp(row / tau).sum())
                target += (
                    factor * config.alpha * max(log_pi, config.clip) - (i > 0) * factor * log_pi
                )
            target += factor * s.reward[b, i]
            factor *= config.discount * s.discount[b, i]
            if s.is_last[b, i + 1]:
                break
        values = o[i + 1] @ q_target
        if isinstance(config, MunchausenDQNConfig):
            bootstrap = tau * np.log(np.exp(values / tau).sum())
        else:
            bootstrap = values[(o[i + 1] @ q).argmax()] if config.double else values.max()
        error = target + factor * bootstrap - o[0] @ q[:, a[0]]
        gradient[:, a[0]] -= np.clip(error, -1, 1) * o[0] / count
    return gradient


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("config", [DQN, DOUBLE, MUNCHAUSEN], ids=["dqn", "double", "munchausen"])
def test_one_step_follows_the_hand_written_gradient(config, n_step):
    """Gradients pass only through the online network, not through target or argmax."""
    config = dataclasses.replace(config, n_step=n_step, huber_delta=1.0)
    make = make_munchausen_dqn if isinstance(config, MunchausenDQNConfig) else make_dqn
    steps = random_steps(n_step + 1, batch=64)
    q = make(config, SPEC).init(jax.random.key(0)).params["params"]["Dense_0"]["kernel"]
    _, _, gradient = learn_once(make, config, steps)
    q_target = jax.random.normal(jax.random.key(7), q.shape)
    wanted = numpy_gradient(config, steps, np.asarray(q, float), np.asarray(q_target, float))
    np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-5)
