"""Multi-step value learning: worked numbers, loops in float64, limits, rlax."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bellmax import losses
from helpers.jitted import compiled, jitted, quick_jit
from helpers.peers import rlax
from helpers.sequences import A_T, METHODS, MU, ONES, PI, PREDICTION, D, Q, R, pick, random_sequence


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def coefficients(name):
    return {
        "importance": jitted.importance_sampling_coefficients(A_T, PI, MU),
        "retrace": jitted.retrace_coefficients(A_T, PI, MU, lambda_=0.9),
        "tree": jitted.tree_backup_coefficients(A_T, PI),
        "q-lambda": jitted.q_lambda_coefficients(A_T, lambda_=0.9),
        "one-step": jitted.q_lambda_coefficients(A_T, lambda_=0.0),
    }[name]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Last row: 2 + 0. Row 1: 0.9 * (0.25 + c * (2 - 0.5)). Row 0: 1 + 0.9 * (1.8 + c * (G - 1))
        pytest.param("importance", [3.313, 2.925, 2.0], id="importance"),  # c = 0.4, 2
        pytest.param("retrace", [2.76256, 1.44, 2.0], id="retrace"),  # c = 0.36, 0.9
        pytest.param("tree", [2.602, 0.9, 2.0], id="tree"),  # c = 0.2, 0.5
        pytest.param("q-lambda", [2.9764, 1.44, 2.0], id="q-lambda"),  # c = 0.9, 0.9
        pytest.param("one-step", [2.62, 0.225, 2.0], id="one-step"),
    ],
)
def test_worked_corrected_returns(name, expected):
    returns = jitted.off_policy_returns(R, D, Q, A_T, PI, coefficients(name), ONES)
    np.testing.assert_allclose(returns, expected, atol=1e-12)
    error = jitted.off_policy_td(Q, A_T, R, D, Q, A_T, PI, coefficients(name), ONES)
    np.testing.assert_allclose(error, np.array(expected) - [1.0, 0.5, 3.0], atol=1e-12)


def test_worked_uncorrected_returns():
    # Row 1 of Peng's: 0.9 * (0.1 * 0.5 + 0.9 * 2). Row 0: 1 + 0.9 * (0.1 * 2 + 0.9 * 1.665).
    zero = np.zeros_like(Q), A_T, R, D, Q, ONES
    peng = jitted.peng_q_lambda(*zero, lambda_=0.9)
    np.testing.assert_allclose(peng, [2.52865, 1.665, 2.0], atol=1e-12)
    returns = jitted.lambda_returns(R, D, Q.max(axis=-1), ONES, lambda_=0.9)
    np.testing.assert_allclose(returns, peng, atol=1e-12)
    for n, expected in {3: [2.62, 1.8, 2.0], 2: [1.405, 1.8, 2.0], 1: [2.8, 0.45, 2.0]}.items():
        np.testing.assert_allclose(jitted.n_step_q_learning(*zero, n=n), expected, atol=1e-12)
    np.testing.assert_array_equal(
        jitted.n_step_q_learning(*zero, n=99), jitted.n_step_q_learning(*zero, n=3)
    )
    # At row 0 the action is not greedy: 1 + 0.9 * 2. At row 1 it is: 0.9 * (0.1 * 0.5 + 0.9 * 2).
    watkins = jitted.watkins_q_lambda(*zero[:5], A_T, ONES, lambda_=0.9)
    np.testing.assert_allclose(watkins, [2.8, 1.665, 2.0], atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.q_lambda_coefficients(A_T, lambda_=1.1), "lambda_ must .* got 1.1"),
        (
            lambda: losses.retrace_coefficients(A_T, PI, MU, lambda_=-0.1),
            "lambda_ must .* got -0.1",
        ),
        (lambda: losses.retrace_coefficients(A_T, PI, MU, cap=0.0), "cap must .* got 0.0"),
        (
            lambda: losses.n_step_returns(R, D, R, ONES, n=0),
            "n must be an integer of at least 1, got 0",
        ),
        (lambda: losses.v_trace(R, R, D, R, R, ONES, clip_rho=0.0), "clip_rho must .* got 0.0"),
        (
            lambda: losses.retrace_coefficients(A_T, PI[:2], MU),
            "pi_t must have .* entries .*, got 2",
        ),
    ],
)
def test_a_value_out_of_range_is_named(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()


def loop_mixture(s, v, c, correct):
    """Forward sum over bootstraps, from each row; the losses recurse backwards instead."""
    t, returns = len(v), []
    for i in range(t):
        total, scale, trace = 0.0, 1.0, 1.0
        for k in range(i, t):
            total += trace * scale * s["r_t"][k]
            scale *= s["discount_t"][k]
            carry = c[k] * s["trace_t"][k] if k < t - 1 else 0.0
            taken = s["q_t"][k, s["a_t"][k]] if correct else v[k]
            total += trace * scale * (v[k] - carry * taken)
            trace *= carry
        returns.append(total)
    return np.array(returns) - s["q_tm1"][np.arange(t), s["a_tm1"]]


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_loop(seed):
    s = random_sequence(seed)
    s["trace_t"][seed + 1], s["discount_t"][4 - seed], s["trace_t"][3 - seed] = 0.0, 0.0, 0.5
    rows = np.arange(6)
    pi_a = s["pi_t"][rows, s["a_t"]]
    v, best = s["q_t"].max(axis=-1), s["q_t"].argmax(axis=-1)
    c = 0.9 * np.array([min(1.0, pi / mu) for pi, mu in zip(pi_a, s["mu_t"], strict=True)])
    expected = {
        "retrace": loop_mixture(s, np.sum(s["pi_t"] * s["q_t"], axis=-1), c, correct=True),
        "peng": loop_mixture(s, v, np.full(6, 0.8), correct=False),
        "watkins": loop_mixture(s, v, 0.8 * (best == s["a_t"]), correct=False),
    }
    for name, error in expected.items():
        np.testing.assert_allclose(METHODS[name](s), error, atol=1e-12)
    s["trace_t"] = np.ceil(s["trace_t"])
    n_step = []
    for i in range(6):
        total, scale = 0.0, 1.0
        for k in range(i, min(i + 4, 6)):
            total, scale = total + scale * s["r_t"][k], scale * s["discount_t"][k]
            if s["trace_t"][k] == 0.0:
                break
        n_step.append(total + scale * v[k] - s["q_tm1"][i, s["a_tm1"][i]])
    np.testing.assert_allclose(METHODS["n-step"](s), n_step, atol=1e-12)


def test_v_trace_equals_the_sum_in_the_paper():
    s = random_sequence(3)
    s["trace_t"][2] = 0.0
    s["mu_t"] *= 2.0  # read as ratios: some above the clips
    v, v_t = s["q_tm1"][:, 0], s["q_t"][:, 0]
    expected = []
    for i in range(6):
        total, factor = 0.0, 1.0
        for k in range(i, 6):
            rho = min(0.7, s["mu_t"][k])
            total += factor * rho * (s["r_t"][k] + s["discount_t"][k] * v_t[k] - v[k])
            factor *= s["discount_t"][k] * 0.9 * min(1.0, s["mu_t"][k]) * s["trace_t"][k]
        expected.append(total)
    np.testing.assert_allclose(METHODS["v-trace"](s), expected, atol=1e-12)


def test_limits():
    s = random_sequence()
    window = pick(s, *PREDICTION)
    one_step = quick_jit(jax.vmap(losses.q_learning))(*window)
    expected = quick_jit(jax.vmap(losses.expected_sarsa))(*window, s["pi_t"])
    tails = pick(s, "a_t", "trace_t")
    got = jitted.retrace(*window, *pick(s, "a_t", "pi_t", "mu_t", "trace_t"), lambda_=0.0)
    np.testing.assert_allclose(got, expected, atol=1e-14)
    for got in (
        jitted.peng_q_lambda(*window, tails[1], lambda_=0.0),
        jitted.watkins_q_lambda(*window, *tails, lambda_=0.0),
        jitted.n_step_q_learning(*window, tails[1], n=1),
        jitted.peng_q_lambda(*window, np.zeros(6), lambda_=1.0),
    ):
        np.testing.assert_allclose(got, one_step, atol=1e-14)
    np.testing.assert_allclose(
        jitted.peng_q_lambda(*window, tails[1], lambda_=1.0),
        jitted.n_step_q_learning(*window, tails[1], n=6),
        atol=1e-14,
    )
    # Watkins' is Retrace for the greedy policy, whatever acted.
    greedy = np.eye(4)[np.argmax(window[-1], axis=-1)]
    np.testing.assert_allclose(
        jitted.watkins_q_lambda(*window, *tails, lambda_=0.7),
        jitted.retrace(*window, tails[0], greedy, *pick(s, "mu_t", "trace_t"), lambda_=0.7),
        atol=1e-14,
    )


@settings(deadline=None, max_examples=40, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), ended=st.integers(0, 5), scale=st.floats(0.0, 3.0))
def test_consistent_values_have_no_error_for_any_trace(seed, ended, scale):
    """Where each taken value is its one-step target, corrections have nothing to correct."""
    s = random_sequence(seed)
    s["discount_t"][ended] = 0.0
    for k in reversed(range(6)):
        target = s["r_t"][k] + s["discount_t"][k] * np.sum(s["pi_t"][k] * s["q_t"][k])
        s["q_tm1"][k, s["a_tm1"][k]] = target
        if k:
            # The row before looks ahead to this value: set it before that row's target.
            s["q_t"][k - 1, s["a_t"][k - 1]] = target
    c_t = scale * s["mu_t"]
    window = pick(s, *PREDICTION, "a_t", "pi_t")
    error = jitted.off_policy_td(*window, c_t, s["trace_t"])
    np.testing.assert_allclose(error, 0.0, atol=1e-10)


@pytest.mark.peer
def test_equals_rlax():
    s = random_sequence(5)
    q_tm1, a_tm1, r_t, discount_t, q_t, a_t, pi_t, mu_t = pick(
        s, *PREDICTION, "a_t", "pi_t", "mu_t"
    )
    peer = compiled(rlax.retrace, eps=0.0)
    theirs = peer(q_tm1, q_t, a_tm1, a_t, r_t, discount_t, pi_t, mu_t, 0.9)
    np.testing.assert_allclose(METHODS["retrace"](s), theirs, atol=1e-14)
    row = compiled(rlax.retrace)(np.zeros_like(Q), Q, A_T, A_T, R, D, PI, MU, 0.9)
    np.testing.assert_allclose(row, [2.76256, 1.44, 2.0], atol=1e-7)
