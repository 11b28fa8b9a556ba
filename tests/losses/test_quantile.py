"""Quantile regression: worked numbers, a loop, rlax, gradients, invariances, controls."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bellmax import losses
from bellmax.losses import quantile_regression
from helpers.contract import Case, check_contract
from helpers.jitted import jitted, quick_jit
from helpers.peers import rlax

SOURCE, TAU, TARGET = jnp.array([0.0, 1.0]), jnp.array([0.25, 0.75]), jnp.array([-1.0, 0.5, 3.0])
METHOD = pytest.mark.parametrize("method", ["pairwise", "sorted"])
N, M = 6, 9
GENERATOR = np.random.default_rng(0)
DIST, ATOMS = GENERATOR.normal(size=N), GENERATOR.normal(size=M)
MIDPOINTS = losses.quantile_midpoints(N)
REGRESSION = {
    "dist_tm1": jnp.asarray(DIST, jnp.float32),
    "tau_tm1": MIDPOINTS,
    "target": jnp.asarray(ATOMS, jnp.float32),
}
CASES = [
    Case(
        quantile_regression,
        REGRESSION,
        ("dist_tm1", "tau_tm1"),
        {"huber_kappa": 0.7},
        {"method": method, "divide_by_kappa": method == "sorted"},
        values=("dist_tm1", "target"),
        free=("target",),
    )
    for method in ("pairwise", "sorted")
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_contract(case):
    check_contract(case)


def loop_loss(theta, tau, z, w, kappa, divide):
    total = 0.0
    for value, fraction in zip(theta, tau, strict=True):
        for atom, weight in zip(z, w, strict=True):
            u = float(atom) - float(value)
            size = abs(u)
            if kappa > 0.0:
                size = 0.5 * u * u if size <= kappa else kappa * (size - 0.5 * kappa)
                size = size / kappa if divide else size
            total += float(weight) * abs(float(fraction) - (u < 0.0)) * size
    return total


def loop_gradient(theta, tau, z, w, kappa):
    """For kappa = 0 this is `F(theta) - tau`, with F the mass strictly below."""
    gradient = np.zeros(len(theta))
    for i, (value, fraction) in enumerate(zip(theta, tau, strict=True)):
        for atom, weight in zip(z, w, strict=True):
            u = float(atom) - float(value)
            slope = float(fraction) - (u < 0.0)
            gradient[i] -= weight * (
                slope if kappa == 0.0 else abs(slope) * np.clip(u, -kappa, kappa)
            )
    return gradient


@METHOD
@pytest.mark.parametrize(("kappa", "loss"), [(0.0, 1.25), (1.0, 0.8541666667), (2.0, 1.1458333333)])
def test_worked_loss(method, kappa, loss):
    # kappa = 0, u of theta = 0: -1, .5, 3 weigh .75, .25, .25: (.75 + .125 + .75) / 3 = 13 / 24;
    # u of theta = 1: -2, -.5, 2 weigh .25, .25, .75: (.5 + .125 + 1.5) / 3 = 17 / 24.
    with jax.enable_x64(True):
        arrays = (np.asarray(x, np.float64) for x in (SOURCE, TAU, TARGET))
        got = jitted.quantile_regression(*arrays, huber_kappa=kappa, method=method)
    np.testing.assert_allclose(got, loss, atol=1e-10)


@METHOD
@pytest.mark.parametrize(
    ("kappa", "gradient"), [(1.0, [0.125, -0.125]), (0.0, [0.0833333, -0.0833333])]
)
def test_worked_gradient(method, kappa, gradient):
    # kappa = 0: F is 1/3 at 0 and 2/3 at 1, less tau.
    loss = functools.partial(quantile_regression, huber_kappa=kappa, method=method)
    got = quick_jit(jax.grad(loss))(SOURCE, TAU, TARGET)
    np.testing.assert_allclose(got, gradient, atol=1e-7)


@METHOD
def test_one_quantile_is_half_the_distance_or_a_quarter_of_its_square(method):
    value, half, atom = jnp.array([0.4]), jnp.array([0.5]), jnp.array([2.9])
    loss = functools.partial(jitted.quantile_regression, value, half, atom, method=method)
    np.testing.assert_allclose(loss(huber_kappa=0.0), 0.5 * 2.5, rtol=1e-6)
    np.testing.assert_allclose(loss(huber_kappa=1e3), 0.25 * 2.5**2, rtol=1e-6)


@METHOD
def test_signed_target_is_bounded_below(method):
    # Mass 1 makes both outer slopes restoring, although the loss has two minima at tau = .5.
    def loss(theta, tau):
        arrays = np.array([theta]), np.array([tau]), np.array([-1.0, 0.0, 2.0])
        weights = np.array([0.8, -0.4, 0.6])
        return jitted.quantile_regression(*arrays, weights=weights, huber_kappa=0.0, method=method)

    for theta, expected in [(-6.0, 1.6), (-1.0, 0.35), (0.0, 0.9), (2.0, 1.2), (6.0, 4.2)]:
        np.testing.assert_allclose(loss(theta, 0.25), expected, rtol=1e-5)
    for theta, expected in [(-1.0, 0.7), (0.0, 1.0), (2.0, 0.8)]:
        np.testing.assert_allclose(loss(theta, 0.5), expected, rtol=1e-5)


@METHOD
@pytest.mark.parametrize("divide", [False, True])
@pytest.mark.parametrize("kappa", [0.0, 0.3, 1.0, 20.0])
def test_equals_the_loop(method, divide, kappa):
    generator = np.random.default_rng(1)
    theta, tau, z, w = DIST, generator.uniform(size=N), ATOMS, generator.normal(size=M)
    w /= w.sum()
    with jax.enable_x64(True):
        arrays = theta, tau, z, w, np.float64(kappa)
        value, gradient = value_and_gradient(*arrays, divide=divide, method=method)
    np.testing.assert_allclose(value, loop_loss(theta, tau, z, w, kappa, divide), rtol=1e-12)
    expected = loop_gradient(theta, tau, z, w, kappa) / (kappa if divide and kappa else 1.0)
    np.testing.assert_allclose(gradient, expected, atol=1e-12)


@functools.partial(quick_jit, static_argnames=("divide", "method"))
def value_and_gradient(dist, tau, target, weights, kappa, divide, method):
    options = {"weights": weights, "huber_kappa": kappa, "divide_by_kappa": divide}
    loss = functools.partial(quantile_regression, **options, method=method)
    return jax.value_and_grad(loss)(dist, tau, target)


@METHOD
@pytest.mark.parametrize("kappa", [0.0, 0.7])
def test_target_gradients_flow_when_asked(method, kappa):
    def loss(target, weights, stop):
        options = {"weights": weights, "huber_kappa": kappa, "method": method}
        return quantile_regression(dist, tau, target, stop_target_gradients=stop, **options)

    with jax.enable_x64(True):
        dist, tau = DIST, np.asarray(MIDPOINTS, np.float64)
        at = ATOMS, np.linspace(-0.4, 0.6, M)
        opened = quick_jit(jax.value_and_grad(functools.partial(loss, stop=False), (0, 1)))
        for i, gradient in enumerate(opened(*at)[1]):
            step = [np.zeros(M), np.zeros(M)]
            step[i] = 1e-4 * np.random.default_rng(2).normal(size=M)
            up, down = (opened(at[0] + s * step[0], at[1] + s * step[1])[0] for s in (1, -1))
            slope = float(up - down) / 2
            np.testing.assert_allclose(np.vdot(gradient, step[i]), slope, rtol=1e-6, atol=1e-10)
        for gradient in quick_jit(jax.grad(functools.partial(loss, stop=True), (0, 1)))(*at):
            np.testing.assert_array_equal(gradient, np.zeros(M))


@METHOD
def test_a_traced_threshold_has_finite_gradients_at_zero(method):
    def loss(dist, kappa):
        return quantile_regression(dist, TAU, TARGET, huber_kappa=kappa, method=method)

    traced = quick_jit(jax.grad(loss, (0, 1)))
    known = quick_jit(jax.grad(lambda dist: loss(dist, 0.0)))
    for dist in (SOURCE, TARGET[:2]):
        d_dist, d_kappa = traced(dist, 0.0)
        assert np.all(np.isfinite(d_dist)) and d_kappa == 0.0
        np.testing.assert_allclose(d_dist, known(dist), atol=1e-7)


def test_dividing_makes_the_loss_continuous_at_zero():
    loss = functools.partial(jitted.quantile_regression, SOURCE, TAU, TARGET)
    small = loss(huber_kappa=1e-4, divide_by_kappa=True)
    np.testing.assert_allclose(small, loss(huber_kappa=0.0), atol=1e-4)
    assert loss(huber_kappa=1e-4) < 1e-3  # and without the division it vanishes


@METHOD
def test_the_loss_is_linear_in_the_target_measure(method):
    options = {"huber_kappa": 0.7, "method": method}
    first, second = np.random.default_rng(3).dirichlet(np.ones(M), size=2)
    args = tuple(REGRESSION.values())
    loss = lambda w: jitted.quantile_regression(*args, weights=w.astype(np.float32), **options)  # noqa: E731
    mixed = loss(1.7 * first - 0.7 * second)
    np.testing.assert_allclose(mixed, 1.7 * loss(first) - 0.7 * loss(second), rtol=1e-5)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.permutations(range(M)), st.permutations(range(N)), st.floats(-50, 50), st.booleans())
def test_permutations_and_shifts_change_nothing(atoms, values, shift, by_sorting):
    dist, tau, target = REGRESSION.values()
    dist, tau, target = map(np.asarray, (dist, tau, target))
    shift, loss = np.float32(shift), INVARIANT[by_sorting]
    changed = loss(dist[values] + shift, tau[values], target[atoms] + shift)
    np.testing.assert_allclose(changed, loss(dist, tau, target), rtol=1e-4)


INVARIANT = [
    quick_jit(functools.partial(quantile_regression, method=method))
    for method in ("pairwise", "sorted")
]


@pytest.mark.peer
@METHOD
@pytest.mark.parametrize("kappa", [0.0, 0.7])
def test_equals_rlax(method, kappa):
    args = tuple(REGRESSION.values())
    loss = functools.partial(quantile_regression, huber_kappa=kappa, method=method)
    peer = functools.partial(rlax.quantile_regression_loss, huber_param=kappa)
    both = (quick_jit(jax.value_and_grad(function))(*args) for function in (loss, peer))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), *both)


def test_midpoints():
    np.testing.assert_allclose(losses.quantile_midpoints(4), [0.125, 0.375, 0.625, 0.875])
    with pytest.raises(ValueError, match="^n must be an integer of at least 1, got 0"):
        losses.quantile_midpoints(0)


def test_bad_arguments_get_a_sentence():
    with pytest.raises(ValueError, match="^huber_kappa must .* got -1"):
        quantile_regression(SOURCE, TAU, TARGET, huber_kappa=-1.0)
    with pytest.raises(ValueError, match="^method must be one of .*sorted, got 'fast'"):
        quantile_regression(SOURCE, TAU, TARGET, method="fast")
    with pytest.raises(ValueError, match="^weights must have .* entries .*, got 2"):
        quantile_regression(SOURCE, TAU, TARGET, weights=TAU)
    with pytest.raises(ValueError, match="^tau_tm1 must have .* got 3"):
        quantile_regression(SOURCE, TARGET, TARGET)
