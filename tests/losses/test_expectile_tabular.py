"""Exact expectiles: closed forms, the worst case that they are, and its Bellman operator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bellmax import losses
from helpers.contract import Case, check_contract
from helpers.jitted import quick_jit

KEYS = jax.random.split(jax.random.key(3), 6)
LAW = {
    "values": jax.random.normal(KEYS[0], (5,)),
    "probs": jax.nn.softmax(jax.random.normal(KEYS[1], (5,))),
}
P = jax.nn.softmax(2 * jax.random.normal(KEYS[2], (3, 2, 3)))
MDP = {"r": jax.random.normal(KEYS[3], (3, 2, 3)), "p": P}
Q, PI = jax.random.normal(KEYS[4], (3, 2)), jax.nn.softmax(jax.random.normal(KEYS[5], (3, 2)))
HYPER = {"gamma": 0.9, "alpha": 0.3}
TERMINAL = {"terminal": jnp.array([False, True, False])}


@jax.jit
def _expectile(values, probs, alpha):
    return losses.expectile(values, probs, alpha=alpha)


@jax.jit
def _kernel(values, probs, alpha):
    return losses.worst_case_kernel(values, probs, alpha=alpha)


@jax.jit
def _control(q, r, p, gamma, alpha):
    return losses.expectile_bellman_operator(q, r, p, gamma=gamma, alpha=alpha, **TERMINAL)


@jax.jit
def _evaluation(q, r, p, pi, gamma, alpha):
    return losses.expectile_bellman_operator(q, r, p, gamma=gamma, alpha=alpha, pi=pi)


@jax.jit
def _of_values(v, r, p, pi, gamma, alpha):
    return losses.expectile_value_operator(v, r, p, pi, gamma=gamma, alpha=alpha)


def expectile(values, probs, *, alpha):
    return _expectile(values, probs, alpha)


def worst_case_kernel(values, probs, *, alpha):
    return _kernel(values, probs, alpha)


def expectile_bellman_operator(q, r, p, *, gamma, alpha):
    return _control(q, r, p, gamma, alpha)


def expectile_policy_operator(q, r, p, pi, *, gamma, alpha):
    return _evaluation(q, r, p, pi, gamma, alpha)


def expectile_value_operator(v, r, p, pi, *, gamma, alpha):
    return _of_values(v, r, p, pi, gamma, alpha)


VALUE_AND_POLICY = {"v": Q[:, 0]} | MDP | {"pi": PI}
CASES = [
    Case(expectile, LAW, tuple(LAW), {"alpha": 0.3}, values=("values",)),
    Case(worst_case_kernel, LAW, ("probs",), {"alpha": 0.3}, values=("values",)),
    *(
        Case(function, arrays, tuple(arrays), HYPER, {}, tuple(arrays)[:2], optional=optional)
        for function, arrays, *optional in (
            (expectile_bellman_operator, {"q": Q} | MDP),
            (expectile_policy_operator, {"q": Q} | MDP | {"pi": PI}, "pi"),
            (expectile_value_operator, VALUE_AND_POLICY),
        )
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_contract(case):
    check_contract(case)


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def exact(values, probs, alpha):
    return float(_expectile(np.asarray(values, float), np.asarray(probs, float), alpha))


def loop_expectile(values, probs, alpha):
    """The root of the first-order condition, by bisection."""
    low, high = float(min(values)), float(max(values))
    for _ in range(200):
        m = 0.5 * (low + high)
        slope = 0.0
        for x, p in zip(values, probs, strict=True):
            slope += p * (alpha if x > m else 1.0 - alpha) * (x - m)
        low, high = (m, high) if slope > 0 else (low, m)
    return m


def test_two_points(float64):
    for alpha in (0.1, 0.2, 0.5, 0.8):
        np.testing.assert_allclose(exact([0, 1], [0.5, 0.5], alpha), alpha, atol=1e-12)
        p = 0.3
        expected = alpha * p / (alpha * p + (1 - alpha) * (1 - p))
        np.testing.assert_allclose(exact([1, 0], [p, 1 - p], alpha), expected, atol=1e-12)
    for alpha, expected in ((0.2, 0.2702703), (0.3, 0.4545455), (0.4, 0.6896552), (0.5, 1.0)):
        np.testing.assert_allclose(exact([0, 10], [0.9, 0.1], alpha), expected, atol=1e-7)


def test_three_points(float64):
    wanted = {0.1: 0.2727273, 0.2: 0.5, 0.25: 0.6, 0.3: 0.6923077, 0.4: 0.8571429, 0.8: 1.5}
    for alpha, expected in wanted.items():
        got = exact([1, 2, 0], np.ones(3) / 3, alpha)
        np.testing.assert_allclose(got, expected, atol=1e-7)
        if alpha <= 0.5:
            np.testing.assert_allclose(got, 3 * alpha / (1 + alpha), atol=1e-12)


def test_uniform_and_normal(float64):
    grid = (np.arange(40_000) + 0.5) / 40_000
    probs = np.full(40_000, 1 / 40_000)
    for alpha, expected in ((0.2, 1 / 3), (0.25, 0.3660254), (0.3, 0.3956439), (0.4, 0.4494897)):
        np.testing.assert_allclose(exact(grid, probs, alpha), expected, atol=1e-7)
    # The normal by the trapezoidal rule, which is accurate far beyond the digits.
    x = np.linspace(-10, 10, 40_001)
    probs = np.exp(-0.5 * x**2)
    wanted = {0.1: -0.861592, 0.2: -0.549156, 0.25: -0.436327}
    wanted |= {0.3: -0.337120, 0.4: -0.161658, 0.45: -0.080044}
    for alpha, expected in wanted.items():
        np.testing.assert_allclose(exact(x, probs, alpha), expected, atol=1e-6)


def test_worked_worst_case(float64):
    x, p = jnp.array([0.0, 1.0, 4.0]), jnp.array([0.2, 0.5, 0.3])
    wanted = {
        0.2: (1.0322581, [0.258065, 0.645161, 0.096774], 4.0),
        0.3: (1.2241379, [0.241379, 0.603448, 0.155172], 7 / 3),
    }
    for alpha, (value, kernel, ratio) in wanted.items():
        q = _kernel(x, p, alpha)
        np.testing.assert_allclose(exact(x, p, alpha), value, atol=1e-7)
        np.testing.assert_allclose(q, kernel, atol=1e-6)
        np.testing.assert_allclose(jnp.max(q / p) / jnp.min(q / p), ratio, rtol=1e-12)
        np.testing.assert_allclose(jnp.vdot(q, x), value, atol=1e-7)


LAWS = st.tuples(st.integers(0, 10**6), st.floats(0.02, 0.98))


def random_law(seed, size=6):
    generator = np.random.default_rng(seed)
    values = generator.choice([generator.normal(size=size), generator.integers(-2, 3, size)])
    return generator, values, generator.dirichlet(np.ones(size))


@settings(deadline=None, max_examples=50, derandomize=True)
@given(LAWS)
def test_defining_properties(drawn):
    seed, alpha = drawn
    with jax.enable_x64(True):
        generator, x, p = random_law(seed)
        got = exact(x, p, alpha)
        np.testing.assert_allclose(got, loop_expectile(x, p, alpha), atol=1e-12)
        np.testing.assert_allclose(exact(-x, p, 1 - alpha), -got, atol=1e-12)
        np.testing.assert_allclose(exact(3 * x + 7, p, alpha), 3 * got + 7, atol=1e-12)
        np.testing.assert_allclose(exact(np.full(6, x[0]), p, alpha), x[0], atol=1e-12)
        assert exact(x + generator.uniform(size=6), p, alpha) >= got
        assert exact(x, p, min(alpha + 0.01, 0.99)) >= got - 1e-12


@settings(deadline=None, max_examples=50, derandomize=True)
@given(LAWS)
def test_dual(drawn):
    seed, alpha = drawn
    with jax.enable_x64(True):
        generator, x, p = random_law(seed)
        x = np.asarray(x, np.float64)
        got, q = exact(x, p, alpha), np.asarray(_kernel(x, p, alpha))
        np.testing.assert_allclose(np.sum(q), 1.0, atol=1e-12)
        np.testing.assert_allclose(np.vdot(q, x), got, atol=1e-12)
        bound = max(alpha, 1 - alpha) / min(alpha, 1 - alpha)
        assert np.max(q / p) <= bound * np.min(q / p) * (1 + 1e-12)
        # No other density within the bound does worse (better, where alpha > 1/2).
        others = p * generator.uniform(1.0, bound, size=(300, 6))
        means = (others @ x) / others.sum(axis=1)
        assert np.all(means >= got - 1e-12) if alpha <= 0.5 else np.all(means <= got + 1e-12)


def test_gradient_in_the_values_is_the_worst_kernel(float64):
    x, p = (np.asarray(array, float) for array in LAW.values())
    gradients = quick_jit(jax.grad(_expectile, (0, 2)))
    for alpha in (0.2, 0.5, 0.7):
        gradient, slope = gradients(x, p, alpha)
        np.testing.assert_allclose(gradient, _kernel(x, p, alpha))
        # At alpha = 1/2 too, where every split gives the same mean.
        step = 1e-6
        ends = [loop_expectile(x, p, alpha + h) for h in (-step, step)]
        np.testing.assert_allclose(slope, (ends[1] - ends[0]) / (2 * step), rtol=1e-6)


def test_a_large_common_offset_does_not_round_differences_away():
    x, p, m = jnp.array([0.0, 1.0, 4.0]), jnp.array([0.2, 0.5, 0.3]), 1.0322581
    slope = quick_jit(jax.grad(lambda p, offset: losses.expectile(x + offset, p, alpha=0.2)))
    # d m / d p[i] = w[i] * (x[i] - m) / sum(w * p), with w = (0.8, 0.8, 0.2).
    expected = np.array([0.8, 0.8, 0.2]) * (x - m) / 0.62
    for offset in (0.0, 1e6):
        np.testing.assert_allclose(slope(p, offset), expected, atol=1e-5)
