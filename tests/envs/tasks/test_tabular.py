"""Exact values, and the tabular tasks that come with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import UserError
from bellmax.envs import (
    TabularMDP,
    TwoStateChain,
    policy_evaluation,
    random_mdp,
    value_iteration,
    vectorise,
)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("terminal", [None, np.arange(7) == 6])
def test_value_iteration_equals_a_linear_solve(seed, terminal):
    mdp = random_mdp(jax.random.key(seed), 7, 3)
    q = value_iteration(mdp.p, mdp.r, 0.95, 1e-10, terminal=terminal)
    # The greedy policy's own values are the optimal ones.
    greedy = np.eye(3)[q.argmax(-1)]
    exact = policy_evaluation(mdp.p, mdp.r, greedy, 0.95, terminal=terminal)
    np.testing.assert_allclose(q, exact, atol=1e-9)


def test_policy_evaluation_by_hand():
    # One state, two actions, rewards 1 and 3, halves: v = 2 / (1 - 0.5) = 4, q = r + 0.5 * 4.
    q = policy_evaluation(np.ones((1, 2, 1)), np.array([[1.0, 3.0]]), np.full((1, 2), 0.5), 0.5)
    np.testing.assert_allclose(q, [[3, 5]])


def test_terminal_states_are_worth_nothing():
    # 0 -> 1 (terminal) pays 1; whatever state 1 would pay does not count.
    p = np.zeros((2, 1, 2))
    p[:, 0, 1] = 1
    q = value_iteration(p, np.array([[1.0], [5.0]]), 0.9, terminal=np.array([False, True]))
    assert q[0, 0] == 1


@pytest.mark.parametrize("gamma", [0.75, 0.9, 0.99])
def test_chain_closed_form(gamma):
    chain = TwoStateChain()
    exact = value_iteration(chain.mdp.p, chain.mdp.r, gamma, 1e-12)
    np.testing.assert_allclose(chain.true_q(gamma), exact, atol=1e-9)


def test_chain_tells_cuts_from_deaths():
    chain = TwoStateChain(time_limit=3)
    right, wrong = chain.true_q(0.9), chain.truncation_as_death_q(0.9)
    np.testing.assert_allclose(right, [[7.7, 8], [10, 7.2]])
    np.testing.assert_allclose(wrong, [[1.25, 0.5], [2.5, 0.75]], atol=1e-8)
    np.testing.assert_array_equal(right.argmax(-1), [1, 0])
    np.testing.assert_array_equal(wrong.argmax(-1), [0, 0])


def _learn(stream, gamma, *, truncation_is_death):
    """Fitted Q iteration of a table on the stream of `TwoStateChain`s."""
    s_tm1, s_t = (np.argmax(x, -1) for x in (stream.observation[:-1], stream.observation[1:]))
    real = ~stream.is_last[:-1]
    discount = stream.discount[1:] * (1 - stream.truncated[1:] * truncation_is_death)
    q = np.zeros((2, 2))
    for _ in range(300):
        target = stream.reward[1:] + gamma * discount * q.max(-1)[s_t]
        q = np.array(
            [
                [target[real & (s_tm1 == s) & (stream.action == a)].mean() for a in (0, 1)]
                for s in (0, 1)
            ]
        )
    return q


def test_chain_stream_teaches_the_true_values():
    from helpers import scripted

    chain = TwoStateChain(time_limit=3)
    actions = np.random.default_rng(0).integers(0, 2, (2000, 8)).astype(np.int32)
    stream, _ = scripted.rollout(vectorise(chain, 8), actions)
    assert np.all(stream.discount == 1) and stream.truncated.mean() > 0.2

    class Played:
        action = actions

        def __getattr__(self, name):
            return getattr(stream, name)

    right = _learn(Played(), 0.9, truncation_is_death=False)
    np.testing.assert_allclose(right, chain.true_q(0.9), atol=1e-3)
    wrong = _learn(Played(), 0.9, truncation_is_death=True)
    np.testing.assert_allclose(wrong, chain.truncation_as_death_q(0.9), atol=0.1)


def test_environment_follows_its_tables():
    mdp = random_mdp(jax.random.key(0), 4, 2)
    keys = jax.random.split(jax.random.key(1), 4000)
    for s, a in ((0, 1), (3, 0)):
        state = jax.tree.map(lambda x: x, mdp.reset(keys[0])[0])._replace(state=jnp.int32(s))
        _, ts = jax.vmap(lambda k, state=state, a=a: mdp.step(state, a, k))(keys)
        np.testing.assert_allclose(ts.observation.mean(0), mdp.p[s, a], atol=0.04)
        assert np.all(ts.observation[:, mdp.p[s, a] == 0] == 0)
        np.testing.assert_allclose(ts.reward, mdp.r[s, a], rtol=1e-6)


def test_terminal_states_terminate():
    p = np.zeros((2, 1, 2))
    p[:, 0, 1] = 1
    mdp = TabularMDP(p, np.ones((2, 1)), terminal=np.array([False, True]), time_limit=1)
    state, first = mdp.reset(jax.random.key(0))
    np.testing.assert_array_equal(first.observation, [1, 0])  # never starts in a terminal state
    _, ts = mdp.step(state, jnp.int32(0), jax.random.key(1))
    assert ts.terminated and not ts.truncated


def test_random_mdp_repeats_and_differs():
    one, same, other = (random_mdp(jax.random.key(k), 6, 2, branching=2) for k in (0, 0, 1))
    np.testing.assert_array_equal(one.p, same.p)
    assert np.any(one.p != other.p)
    np.testing.assert_array_equal((one.p > 0).sum(-1), 2)


def test_bad_tables_are_named():
    with pytest.raises(UserError, match=r"\[S, A, S\]"):
        TabularMDP(np.ones((2, 2)), np.ones((2, 2)))
    with pytest.raises(UserError, match=r"every row p\[s, a\] must be 1 in sum, got 2.0"):
        TabularMDP(np.ones((2, 2, 2)), np.ones((2, 2)))
    with pytest.raises(UserError, match="p must be at least 0 everywhere, got -1.0"):
        TabularMDP(-np.ones((2, 2, 2)), np.ones((2, 2)))
    with pytest.raises(ValueError, match="gamma"):
        value_iteration(np.ones((1, 1, 1)), np.ones((1, 1)), 1.0)
