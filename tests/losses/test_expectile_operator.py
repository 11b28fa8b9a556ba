"""The Bellman operator of expectiles on tables: worked fixed points, contraction, robustness."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bellmax import losses
from helpers.jitted import quick_jit

GAMMA = 0.9


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def control_once(q, r, p, alpha, **more):
    return losses.expectile_bellman_operator(q, r, p, gamma=GAMMA, alpha=alpha, **more)


def of_values_once(v, r, p, pi, alpha, **more):
    return losses.expectile_value_operator(v, r, p, pi, gamma=GAMMA, alpha=alpha, **more)


control, of_values = quick_jit(control_once), quick_jit(of_values_once)


@functools.partial(quick_jit, static_argnames="operator")
def fixed_point(operator, start, *args, **more):
    """500 applications; `args` are what the operator takes after its table."""
    body = lambda x, _: (operator(x, *args, **more), None)  # noqa: E731
    return jax.lax.scan(body, start, None, length=500)[0]


def random_mdp(seed, states=4, actions=3):
    generator = np.random.default_rng(seed)
    r = generator.normal(size=(states, actions, states))
    p = generator.dirichlet(np.full(states, 0.5), size=(states, actions))
    pi = generator.dirichlet(np.ones(actions), size=states)
    return generator, r, p, pi


def loop_expectile(values, probs, alpha):
    """Newton's steps on the first-order condition, from the mean."""
    values, m = np.asarray(values), float(np.dot(probs, values))
    for _ in range(50):
        weights = np.where(values > m, alpha, 1 - alpha) * probs
        m = float(np.dot(weights, values) / np.sum(weights))
    return m


def loop_operators(q, r, p, pi, alpha, terminal):
    """Control, evaluation with actions inside the expectile, and with actions outside of it."""
    control, inside, outside = np.zeros((3, *q.shape))
    for s, a in np.ndindex(*q.shape):
        greedy, joint, mean, joint_probs = [], [], [], []
        for s_next in range(len(q)):
            next_q = np.zeros(q.shape[1]) if terminal[s_next] else q[s_next]
            greedy.append(r[s, a, s_next] + GAMMA * max(next_q))
            mean.append(r[s, a, s_next] + GAMMA * sum(pi[s_next] * next_q))
            for a_next, value in enumerate(next_q):
                joint.append(r[s, a, s_next] + GAMMA * value)
                joint_probs.append(p[s, a, s_next] * pi[s_next, a_next])
        control[s, a] = loop_expectile(greedy, p[s, a], alpha)
        inside[s, a] = loop_expectile(joint, joint_probs, alpha)
        outside[s, a] = loop_expectile(mean, p[s, a], alpha)
    return control, inside, outside


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.9])
def test_equals_the_loop(alpha):
    generator, r, p, pi = random_mdp(0)
    q, terminal = generator.normal(size=(4, 3)), np.array([False, True, False, False])
    expected = loop_operators(q, r, p, pi, alpha, terminal)
    more = {"terminal": terminal}
    np.testing.assert_allclose(control(q, r, p, alpha, **more), expected[0], atol=1e-12)
    np.testing.assert_allclose(control(q, r, p, alpha, **more, pi=pi), expected[1], atol=1e-12)
    v = np.sum(pi * q, axis=1)
    got = of_values(v, r, p, pi, alpha, **more)
    np.testing.assert_allclose(got, np.sum(pi * expected[2], axis=1), atol=1e-12)
    if alpha < 0.5:  # distrusting the policy too is more pessimistic
        assert np.all(expected[1] <= expected[2] + 1e-12)
        assert np.any(expected[1] < expected[2] - 1e-3)


def test_random_reward_on_a_loop():
    # One state, as two copies that tell the reward 0 from the reward 1: V = alpha / (1 - gamma).
    p, r = np.full((2, 1, 2), 0.5), np.array([[[0.0, 1.0]]] * 2)
    for alpha, expected in ((0.3, 3.0), (0.5, 5.0)):
        q = fixed_point(control_once, np.zeros((2, 1)), r, p, alpha)
        np.testing.assert_allclose(q, np.full((2, 1), expected), atol=1e-12)
        v = fixed_point(of_values_once, np.zeros(2), r, p, np.ones((2, 1)), alpha)
        np.testing.assert_allclose(v, [expected] * 2, atol=1e-12)


@pytest.mark.parametrize("terminal", [None, np.array([False, True])])
def test_stay_or_end(terminal):
    # 1 + gamma * alpha * V(s0) = V(s0); s1 absorbs with 0, or terminates: both are worth 0.
    p = np.array([[[0.5, 0.5]], [[0.0, 1.0]]])
    r = np.array([[1.0], [0.0 if terminal is None else 99.0]])
    for alpha, expected in ((0.3, 1.3698630), (0.5, 1.8181818)):
        q = fixed_point(control_once, np.zeros((2, 1)), r, p, alpha, terminal=terminal)
        np.testing.assert_allclose(q[0, 0], expected, atol=1e-7)
        np.testing.assert_allclose(q[0, 0], 1 / (1 - GAMMA * alpha), atol=1e-12)


def test_one_backup():
    p, v = np.full((2, 1, 2), 0.5), np.array([0.0, 10.0])
    got = of_values(v, np.zeros((2, 1)), p, np.ones((2, 1)), 0.2)
    np.testing.assert_allclose(got, [1.8, 1.8], atol=1e-12)


def test_rewards_of_both_ranks_agree():
    generator, _, p, pi = random_mdp(1)
    q, r = generator.normal(size=(2, 4, 3))
    full = np.broadcast_to(r[:, :, None], p.shape)
    for more in ({}, {"pi": pi}):
        np.testing.assert_array_equal(
            control(q, r, p, 0.3, **more), control(q, full, p, 0.3, **more)
        )


def test_half_is_the_ordinary_operator():
    generator, r, p, pi = random_mdp(2)
    q = generator.normal(size=(4, 3))
    expected = np.einsum("saz,saz->sa", p, r + GAMMA * q.max(axis=1))
    np.testing.assert_allclose(control(q, r, p, 0.5), expected, atol=1e-12)
    expected = np.einsum("saz,saz->sa", p, r + GAMMA * np.sum(pi * q, axis=1))
    np.testing.assert_allclose(control(q, r, p, 0.5, pi=pi), expected, atol=1e-12)


def test_alpha_does_nothing_where_nothing_is_random():
    generator, r, _, _ = random_mdp(3)
    p, pi = np.eye(4)[generator.integers(4, size=(4, 3))], np.eye(3)[[0, 2, 1, 1]]
    q = generator.normal(size=(4, 3))
    for more in ({}, {"pi": pi}):
        got, mean = control(q, r, p, 0.1, **more), control(q, r, p, 0.5, **more)
        np.testing.assert_allclose(got, mean, atol=1e-12)


def test_deterministic_policies_make_both_operators_one():
    generator, r, p, _ = random_mdp(4)
    greedy = np.array([0, 2, 1, 1])
    pi, at = np.eye(3)[greedy], (np.arange(4), greedy)
    q = generator.normal(size=(4, 3))
    expected = of_values(q[at], r, p, pi, 0.2)
    np.testing.assert_allclose(control(q, r, p, 0.2, pi=pi)[at], expected, atol=1e-12)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.integers(0, 10**6), st.floats(0.02, 0.98), st.sampled_from([0.01, 1.0, 100.0]))
def test_contraction(seed, alpha, scale):
    with jax.enable_x64(True):
        generator, r, p, pi = random_mdp(seed)
        one, two = (scale * generator.normal(size=(4, 3)) for _ in range(2))
        gap = np.max(np.abs(one - two))
        operators = (
            lambda q: np.asarray(control(q, r, p, alpha)),
            lambda q: np.asarray(control(q, r, p, alpha, pi=pi)),
        )
        for operator in operators:
            backed_up = operator(one), operator(two)
            assert np.max(np.abs(backed_up[0] - backed_up[1])) <= GAMMA * gap + 1e-12
            raised = operator(np.maximum(one, two))  # monotone, and constants pass through gamma
            assert np.all(raised >= backed_up[0] - 1e-12)
            np.testing.assert_allclose(operator(one + 2.0), backed_up[0] + 2 * GAMMA, atol=1e-10)
        gap = np.max(np.abs(one[:, 0] - two[:, 0]))
        values = [np.asarray(of_values(q[:, 0], r, p, pi, alpha)) for q in (one, two)]
        assert np.max(np.abs(values[0] - values[1])) <= GAMMA * gap + 1e-12


def test_fixed_point_is_the_value_in_the_worst_kernels():
    _, r, p, _ = random_mdp(5)
    q = fixed_point(control_once, np.zeros((4, 3)), r, p, 0.25)
    outcomes = r + GAMMA * np.asarray(q).max(axis=1)
    worst = lambda x, p: losses.worst_case_kernel(x, p, alpha=0.25)  # noqa: E731
    kernel = np.asarray(quick_jit(jax.vmap(jax.vmap(worst)))(outcomes, p))
    robust = np.zeros((4, 3))
    for _ in range(500):
        robust = np.einsum("saz,saz->sa", kernel, r + GAMMA * robust.max(axis=1))
    np.testing.assert_allclose(q, robust, atol=1e-10)


def test_errors_name_the_argument():
    _, r, p, pi = random_mdp(6)
    q = np.zeros((4, 3))
    with pytest.raises(ValueError, match="^alpha must .* got 1.0"):
        losses.expectile_bellman_operator(q, r, p, gamma=0.9, alpha=1.0)
    with pytest.raises(ValueError, match="^gamma must .* got -1"):
        losses.expectile_bellman_operator(q, r, p, gamma=-1.0, alpha=0.5)
    with pytest.raises(ValueError, match="^terminal must .* got dtype"):
        control(q, r, p, 0.5, terminal=np.zeros(4))
    with pytest.raises(ValueError, match="^r must .* got rank 1"):
        control(q, r[0, 0], p, 0.5)
    with pytest.raises(ValueError, match="^pi must have .* entries .*, got 2"):
        control(q, r, p, 0.5, pi=pi[:2])
