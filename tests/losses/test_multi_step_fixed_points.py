"""Fixed points of multi-step targets on random problems: expectations over all windows, in float64.

An expected target is the average over every window of a behaviour, weighed by its odds: no
sampling. The windows of 2 or 3 steps hold every index convention.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import losses
from helpers.random_mdp import backup, q_of, q_star, random_mdp, random_policy, windows

STATES, ACTIONS, STEPS = 3, 2, 3
MDP = random_mdp(0, STATES, ACTIONS, 0.9)
PI, MU = random_policy(1, STATES, ACTIONS), random_policy(2, STATES, ACTIONS)
WINDOWS = windows(MDP, MU, STEPS)
Q_PI = q_of(MDP, PI)
SHAPE = WINDOWS.s_t.shape
A_T = WINDOWS.a_t


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def expected(target):
    """Average over windows of the first row of `target` [S A, P, T]."""
    first = np.asarray(target)[:, :, 0]
    return np.sum(WINDOWS.odds * first, axis=1).reshape(STATES, ACTIONS)


def on_windows(function, *arrays):
    """`function` on every window: it maps over arrays [S A, P, T, ...]."""
    return _compiled(function)(*map(jnp.asarray, arrays))


@functools.cache
def _compiled(function):
    return jax.jit(jax.vmap(jax.vmap(function)))


def coefficients(name, pi=PI, lambda_=0.9):
    mu_t = MU[WINDOWS.s_t, A_T]
    arrays = {"importance": (A_T, pi[WINDOWS.s_t], mu_t), "retrace": (A_T, pi[WINDOWS.s_t], mu_t)}
    arrays |= {"tree": (A_T, pi[WINDOWS.s_t]), "q_lambda": (A_T,)}
    rule = {
        "importance": losses.importance_sampling_coefficients,
        "retrace": losses.retrace_coefficients,
        "tree": losses.tree_backup_coefficients,
        "q_lambda": losses.q_lambda_coefficients,
    }[name]
    return on_windows(lambda *rows: rule(*rows, lambda_=lambda_), *arrays[name])


def apply(q, c_t, pi=PI, trace=(1.0, 1.0, 1.0), discount=(0.9, 0.9, 0.9)):
    """The expected corrected target of `q`."""
    r_t = MDP.r[WINDOWS.s_tm1, WINDOWS.a_tm1]
    d_t, trace_t = (np.broadcast_to(np.array(x), SHAPE) for x in (discount, trace))
    arrays = (r_t, d_t, q[WINDOWS.s_t], A_T, pi[WINDOWS.s_t], c_t, trace_t)
    return expected(on_windows(losses.off_policy_returns, *arrays))


@pytest.mark.parametrize("trace", [(1, 1, 1), (1, 0, 1), (0, 1, 1)], ids=str)
@pytest.mark.parametrize("name", ["importance", "retrace", "tree", "q_lambda"])
def test_corrected_targets_have_the_policys_value(name, trace):
    """Q^pi is a fixed point for every behaviour and every time limit."""
    trace = tuple(map(float, trace))
    np.testing.assert_allclose(apply(Q_PI, coefficients(name), trace=trace), Q_PI, atol=1e-12)


def test_controls_move_the_value():
    c_t = coefficients("retrace")
    death = apply(Q_PI, c_t, discount=(0.9, 0.0, 0.9))  # a time limit read as a death
    assert np.max(np.abs(death - Q_PI)) > 0.1
    other = apply(Q_PI, c_t, pi=MU)  # the wrong policy's expectation
    assert np.max(np.abs(other - Q_PI)) > 0.01
    # Corrected by values of the next step's row, as an index shifted by one does.
    rolled = np.roll(A_T, 1, axis=-1)
    r_t, ones = MDP.r[WINDOWS.s_tm1, WINDOWS.a_tm1], np.ones(SHAPE)
    arrays = (r_t, 0.9 * ones, Q_PI[WINDOWS.s_t], rolled, PI[WINDOWS.s_t], c_t, ones)
    shifted = expected(on_windows(losses.off_policy_returns, *arrays))
    assert np.max(np.abs(shifted - Q_PI)) > 0.01


@pytest.mark.parametrize("name", ["importance", "retrace", "tree"])
def test_safe_traces_contract_to_the_policys_value(name):
    c_t, q = coefficients(name), np.zeros_like(Q_PI)
    for _ in range(12):
        new = apply(q, c_t)
        assert np.max(np.abs(new - Q_PI)) <= 0.9 * np.max(np.abs(q - Q_PI)) + 1e-12
        q = new
    # Traces look further than one step does.
    one_step = np.zeros_like(q)
    for _ in range(12):
        one_step = backup(MDP, PI, one_step)
    assert np.max(np.abs(q - Q_PI)) < np.max(np.abs(one_step - Q_PI))


def test_full_importance_sampling_equals_steps_of_the_exact_backup():
    q = random_policy(7, STATES, ACTIONS)
    exact = backup(MDP, PI, backup(MDP, PI, backup(MDP, PI, q)))
    np.testing.assert_allclose(apply(q, coefficients("importance", lambda_=1.0)), exact, atol=1e-12)


def test_watkins_keeps_the_optimal_value():
    q = q_star(MDP)
    arrays = (np.zeros((*SHAPE, ACTIONS)), A_T, MDP.r[WINDOWS.s_tm1, WINDOWS.a_tm1])
    arrays += (np.full(SHAPE, 0.9), q[WINDOWS.s_t], A_T, np.ones(SHAPE))
    error = on_windows(lambda *rows: losses.watkins_q_lambda(*rows, lambda_=0.9), *arrays)
    np.testing.assert_allclose(expected(error), q, atol=1e-12)
    peng = on_windows(
        lambda *rows: losses.peng_q_lambda(*rows, lambda_=0.9), *arrays[:5], arrays[-1]
    )
    assert np.max(np.abs(expected(peng) - q)) > 0.05  # it does not cut


def test_uncorrected_n_step_has_the_fixed_point_of_its_composition():
    """Q = (T^mu)^2 T^pi Q, which is not Q^pi."""
    q = np.zeros_like(Q_PI)
    for _ in range(200):
        q = backup(MDP, MU, backup(MDP, MU, backup(MDP, PI, q)))
    v = np.sum(PI * q, axis=-1)
    arrays = (MDP.r[WINDOWS.s_tm1, WINDOWS.a_tm1], np.full(SHAPE, 0.9), v[WINDOWS.s_t])
    returns = on_windows(
        lambda *rows: losses.n_step_returns(*rows, n=STEPS), *arrays, np.ones(SHAPE)
    )
    np.testing.assert_allclose(expected(returns), q, atol=1e-12)
    assert np.max(np.abs(q - Q_PI)) > 0.1


def test_peng_has_the_value_of_the_mixed_policy():
    """Its target is linear in rewards and values, so one endless window of expectations does."""
    mdp, mu, pi = random_mdp(3, 5, 3, 0.9), random_policy(4, 5, 3), random_policy(5, 5, 3)
    q = q_of(mdp, 0.6 * mu + 0.4 * pi)
    state, r_t, v_t = np.eye(15).reshape(15, 5, 3), [], []  # odds of (s, a), by start
    for _ in range(80):
        r_t.append(np.einsum("isa,sa->i", state, mdp.r))
        state = np.einsum("isa,sat->it", state, mdp.p)
        v_t.append(state @ np.sum(pi * q, axis=-1))
        state = state[:, :, None] * mu[None]
    rows = np.stack(r_t, axis=1), np.full((15, 80), 0.9), np.stack(v_t, axis=1), np.ones((15, 80))
    returns = jax.vmap(lambda *row: losses.lambda_returns(*row, lambda_=0.6))(*rows)
    np.testing.assert_allclose(returns[:, 0], q.ravel(), atol=1e-12)
    assert np.max(np.abs(q - q_of(mdp, pi))) > 0.05


@pytest.mark.parametrize("clip_rho", [0.8, 1.0, np.inf])
def test_v_trace_has_the_value_of_the_clipped_policy(clip_rho):
    clipped = np.minimum(clip_rho * MU, PI)
    clipped /= clipped.sum(axis=-1, keepdims=True)
    v = np.sum(clipped * q_of(MDP, clipped), axis=-1)
    rho = (PI / MU)[WINDOWS.s_tm1, WINDOWS.a_tm1]
    arrays = (v[WINDOWS.s_tm1], MDP.r[WINDOWS.s_tm1, WINDOWS.a_tm1], np.full(SHAPE, 0.9))
    arrays += (v[WINDOWS.s_t], rho, np.broadcast_to([1.0, 0.0, 1.0], SHAPE))
    error = on_windows(lambda *rows: losses.v_trace(*rows, lambda_=0.9, clip_rho=clip_rho), *arrays)
    # Of a state: the first action is mu's too.
    np.testing.assert_allclose(np.sum(MU * expected(error), axis=-1), 0.0, atol=1e-12)
    if np.isinf(clip_rho):
        np.testing.assert_allclose(v, np.sum(PI * Q_PI, axis=-1), atol=1e-12)


@pytest.mark.parametrize(("lambda_", "rate"), [(0.5, 0.818182), (0.9, 0.473684)])
def test_rates_on_policy(lambda_, rate):
    """An error of 1 everywhere shrinks by gamma (1 - lambda) / (1 - gamma lambda) per target."""
    t = 400
    zeros, ones, a_t = np.zeros(t), np.ones(t), np.zeros(t, int)
    window = (zeros, np.full(t, 0.9), np.ones((t, 2)), a_t, np.full((t, 2), 0.5))
    pi_t, mu_t = window[-1], np.full(t, 0.5)

    def first(c_t):
        return losses.off_policy_returns(*window, c_t, ones)[0]

    retrace = first(losses.retrace_coefficients(a_t, pi_t, mu_t, lambda_=lambda_))
    q_lambda = first(losses.q_lambda_coefficients(a_t, lambda_=lambda_))
    peng = losses.lambda_returns(zeros, window[1], ones, ones, lambda_=lambda_)[0]
    np.testing.assert_allclose([retrace, q_lambda, peng], rate, atol=1e-6)
    assert first(losses.tree_backup_coefficients(a_t, pi_t, lambda_=lambda_)) > rate + 0.02
