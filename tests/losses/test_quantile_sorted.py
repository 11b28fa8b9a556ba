"""The sorted form of quantile regression equals the pairwise one, ties and rounding included."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bellmax.losses import (
    quantile_expected_sarsa,
    quantile_midpoints,
    quantile_regression,
    quantile_sorted,
)
from bellmax.losses.quantile_sorted import sorting_pays
from helpers.jitted import full_jit, quick_jit

KAPPAS = pytest.mark.parametrize("kappa", [0.0, 1e-3, 0.5, 3.0, 1e4])


def _value_and_gradients(dist, tau, target, weights, kappa, method):
    """With respect to all arguments; a traced kappa takes both branches."""

    def loss(dist, tau, target, weights, kappa):
        return quantile_regression(
            dist,
            tau,
            target,
            weights=weights,
            huber_kappa=kappa,
            stop_target_gradients=False,
            method=method,
        )

    return jax.value_and_grad(loss, (0, 1, 2, 3, 4))(dist, tau, target, weights, kappa)


value_and_gradients = quick_jit(_value_and_gradients, static_argnames="method")
in_full = full_jit(_value_and_gradients, static_argnames="method")


def both(*args):
    return [value_and_gradients(*args, method=method) for method in ("pairwise", "sorted")]


def close(got, wanted, tolerance):
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * (1 + np.abs(y).max()))


def example(n, m, spread=1.0, offset=0.0, seed=0):
    generator = np.random.default_rng(seed)
    dist, target = (offset + spread * generator.normal(size=size) for size in (n, m))
    weights = generator.normal(size=m) + 0.5
    return dist, generator.uniform(0.01, 0.99, size=n), target, weights / weights.sum()


@KAPPAS
@pytest.mark.parametrize(("n", "m"), [(1, 50), (50, 1), (7, 201)])
def test_equals_pairwise_in_float64(kappa, n, m):
    with jax.enable_x64(True):
        arrays = example(n, m)
        pairwise, by_sorting = both(*arrays, jnp.float64(kappa))
        close(by_sorting, pairwise, 1e-10)


HALVES = st.integers(-6, 6).map(lambda i: i / 2)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    st.lists(HALVES, min_size=5, max_size=5),
    st.lists(HALVES, min_size=9, max_size=9),
    st.lists(HALVES, min_size=9, max_size=9),
    st.integers(0, 4).map(lambda i: i / 2),
)
def test_equals_pairwise_at_ties(dist, target, weights, kappa):
    """On a grid of halves: equal values, equal atoms, errors of exactly 0 and of exactly kappa."""
    lists = dist, [0.1, 0.3, 0.5, 0.7, 0.9], target, weights, kappa
    pairwise, by_sorting = both(*(np.asarray(x, np.float32) for x in lists))
    close(by_sorting[0], pairwise[0], 1e-5)
    # Dist, tau and weights. What is left has kinks at ties: each form picks a subgradient.
    for i in (0, 1, 3):
        close(by_sorting[1][i], pairwise[1][i], 1e-5)


@pytest.mark.parametrize("method", ["pairwise", "sorted"])
def test_an_atom_that_equals_a_value_counts_as_above(method):
    # F is strict, so F(1) = 0 and the gradient of kappa = 0 is -tau; at kappa > 0 it is 0.
    @quick_jit
    def gradient(kappa):
        loss = functools.partial(quantile_regression, huber_kappa=kappa, method=method)
        return jax.grad(loss)(jnp.ones(2), jnp.array([0.2, 0.7]), jnp.ones(3))

    np.testing.assert_allclose(gradient(0.0), [-0.2, -0.7], rtol=1e-6)
    np.testing.assert_allclose(gradient(1.0), [0.0, 0.0], atol=1e-6)


@KAPPAS
@pytest.mark.parametrize(("offset", "spread"), [(0.0, 1.0), (1e4, 1.0), (-1e4, 30.0)])
def test_float32_keeps_its_digits(kappa, offset, spread):
    """Errors relative to the largest entry, against pairwise in float64 on the same numbers."""
    rows = tuple(np.float32(x) for x in example(64, 300, spread, offset))
    got = in_full(*rows, np.float32(kappa), method="sorted")
    with jax.enable_x64(True):
        wide = (np.asarray(x, np.float64) for x in (*rows, np.float32(kappa)))
        exact = value_and_gradients(*wide, method="pairwise")
    for x, y in zip(
        jax.tree.leaves((got[0], got[1][:2])),
        jax.tree.leaves((exact[0], exact[1][:2])),
        strict=True,
    ):
        np.testing.assert_allclose(x, y, rtol=0, atol=2e-6 * np.abs(y).max())


OUTLIERS = {
    "none": lambda dist, target, weights: (dist, target, weights),
    # Where a policy never goes: the atoms of an action of probability 0.
    "weightless": lambda dist, target, weights: (
        dist, target.at[::4].set(-1e4), weights.at[::4].set(0.0)
    ),
    "weightless and huge": lambda dist, target, weights: (
        dist, target.at[::7].set(1e9), weights.at[::7].set(0.0)
    ),
    "weighty": lambda dist, target, weights: (dist, target.at[::40].add(1e4), weights),
    "values": lambda dist, target, weights: (dist.at[::40].add(-1e4), target, weights),
}  # fmt: skip


@functools.cache
def in_full_rows(method):
    def rule(dist, target, weights, kappa):
        options = {"weights": weights, "huber_kappa": kappa, "method": method}
        return quantile_regression(dist, quantile_midpoints(201), target, **options)

    return full_jit(jax.vmap(jax.value_and_grad(rule), (None, None, None, 0)))


@pytest.mark.parametrize("outliers", OUTLIERS)
@pytest.mark.parametrize(("offset", "spread"), [(0.0, 1.0), (1e4, 1.0), (-1e5, 30.0), (0.0, 1e4)])
def test_auto_never_changes_the_answer(outliers, offset, spread):
    """201 quantiles, the paper's number, at every threshold: within 1e-5 of loss and gradient."""
    dist, _, target, weights = example(201, 201, spread, offset)
    arrays = (jnp.asarray(x, jnp.float32) for x in (dist, target, np.abs(weights)))
    dist, target, weights = OUTLIERS[outliers](*arrays)
    kappas = np.float32([0.0, 1e-8, 1e-3, 0.3, 1.0, 5.0, 100.0, 1e6, np.inf])
    rows = dist, target, weights / jnp.sum(weights), kappas
    by_sorting, pairwise = (in_full_rows(method)(*rows) for method in ("sorted", "pairwise"))
    np.testing.assert_allclose(by_sorting[0], pairwise[0], rtol=1e-5)
    largest = np.abs(pairwise[1]).max(axis=1, keepdims=True)
    np.testing.assert_allclose(by_sorting[1] / largest, pairwise[1] / largest, rtol=0, atol=1e-5)


def test_a_policy_that_never_goes_where_values_are_far():
    dist = example(201, 603)[2].reshape(201, 3).astype(np.float32)
    dist[:, 2] = -1e4
    step = quantile_midpoints(201), 1, 0.3, 0.9, dist, np.float32([0.4, 0.6, 0.0])
    by_sorting, pairwise = (
        full_jit(functools.partial(quantile_expected_sarsa, method=method))(dist, *step)
        for method in ("sorted", "pairwise")
    )
    np.testing.assert_allclose(by_sorting, pairwise, rtol=1e-5)


def test_far_values_and_a_wide_threshold_do_not_amplify_rounding():
    """Empty windows are exact zeros: their rounding would be multiplied by t**2 or kappa**2."""
    dist, tau, target, weights = (np.float32(x) for x in example(9, 40))
    near = dist, tau, target, weights
    far = np.concatenate([dist + 1e6, dist - 1e6]), np.tile(tau, 2), target, weights
    pairwise, by_sorting = both(*far, np.float32(0.5))
    close((by_sorting[0], by_sorting[1][0]), (pairwise[0], pairwise[1][0]), 1e-5)
    got = value_and_gradients(*near, np.float32(1e6), method="sorted")
    with jax.enable_x64(True):
        near = (np.asarray(x, np.float64) for x in near)
        exact = value_and_gradients(*near, np.float64(1e6), method="pairwise")
    close((got[0], got[1][0]), (exact[0], exact[1][0]), 1e-5)


def test_second_and_forward_derivatives():
    with jax.enable_x64(True):
        dist, tau, target, weights = map(jnp.asarray, example(6, 20))

        @functools.partial(quick_jit, static_argnames="method")
        def second(dist, kappa, method):
            def loss(dist, kappa):
                options = {"weights": weights, "huber_kappa": kappa, "method": method}
                return quantile_regression(dist, tau, target, **options)

            return jax.jacfwd(jax.grad(loss, (0, 1)), (0, 1))(dist, kappa)

        wanted = jax.tree.leaves(second(dist, 0.8, "pairwise"))
        assert len(wanted) == 4 and all(bool(jnp.any(x != 0.0)) for x in wanted)
        close(second(dist, 0.8, "sorted"), wanted, 1e-12)


def test_batches_and_bfloat16():
    rows = [np.stack(arrays) for arrays in zip(*(example(8, 30, seed=i) for i in range(3)))]  # noqa: B905
    half = [x.astype(jnp.bfloat16) for x in rows]
    one = functools.partial(_value_and_gradients, kappa=0.5)
    pairwise, by_sorting = (
        quick_jit(jax.vmap(functools.partial(one, method=method)))(*half)
        for method in ("pairwise", "sorted")
    )
    assert by_sorting[0].dtype == jnp.float32 and by_sorting[1][0].dtype == jnp.bfloat16
    close(by_sorting[0], pairwise[0], 1e-5)
    close(*(np.asarray(x[1][0], np.float32) for x in (by_sorting, pairwise)), 1e-2)


def test_auto_takes_the_form_that_pays(monkeypatch):
    assert not sorting_pays(160, 160, cpu=True) and sorting_pays(201, 201, cpu=True)
    assert not sorting_pays(8, 100_000, cpu=True)  # few values: the pairwise table is small
    assert not sorting_pays(201, 2010, cpu=False) and sorting_pays(4000, 4000, cpu=False)

    def has_sort(platform="cpu", **options):
        args = jnp.zeros(201), quantile_midpoints(201), jnp.zeros(402)
        program = jax.jit(functools.partial(quantile_regression, **options)).trace(*args)
        return "stablehlo.sort" in program.lower(lowering_platforms=(platform,)).as_text()

    assert has_sort() and has_sort(method="sorted") and not has_sort(method="pairwise")
    assert not has_sort("cuda") and not has_sort("tpu") and has_sort("tpu", method="sorted")
    monkeypatch.setattr(quantile_sorted, "CPU_DIFFERENCES", 10**9)
    assert not has_sort()
