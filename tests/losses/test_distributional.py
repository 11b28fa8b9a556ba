"""Distributional Retrace on windows: masses, means, loops in float64, and what it collapses to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.jitted import compiled, jitted
from helpers.peers import rlax
from helpers.window_loops import (
    as_measure,
    backward_target,
    cdf_gap,
    loop_target,
    mean,
    random_window,
    telescoped_target,
)

TAU = (np.arange(7) + 0.5) / 7


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def with_coefficients(window, name="retrace", lambda_=0.9):
    """The window as arguments of `distributional_retrace_target`."""
    a_t, pi_t, mu_t = window["a_t"], window["pi_t"], window["mu_t"]
    c_t = {
        "retrace": lambda: jitted.retrace_coefficients(a_t, pi_t, mu_t, lambda_=lambda_),
        "q-lambda": lambda: jitted.q_lambda_coefficients(a_t, lambda_=lambda_),
    }[name]()
    arrays = {name: x for name, x in window.items() if name != "mu_t"}
    return arrays | {"c_t": np.asarray(c_t)}


def target(window, **options):
    names = ("r_t", "discount_t", "dist_q_t", "a_t", "pi_t", "c_t", "trace_t")
    arrays = [window[name] for name in names]
    got = jitted.distributional_retrace_target(*arrays, **options)
    return jax.tree.map(np.asarray, got)


def scalar_returns(w):
    q_t = w["dist_q_t"].mean(axis=1)
    arrays = (w["r_t"], w["discount_t"], q_t, w["a_t"], w["pi_t"], w["c_t"], w["trace_t"])
    return jitted.off_policy_returns(*arrays)


@pytest.mark.parametrize("name", ["retrace", "q-lambda"])
@pytest.mark.parametrize("seed", range(3))
def test_mass_is_one_and_the_mean_is_the_scalar_target(seed, name):
    w = with_coefficients(random_window(seed), name)
    atoms, weights = target(w, anchor="every")
    assert atoms.shape == weights.shape == (5, 5 * 7 * 3)
    np.testing.assert_allclose(np.sum(weights, axis=-1), 1.0, atol=1e-12)
    assert np.min(weights) < 0.0
    np.testing.assert_allclose(np.sum(atoms * weights, axis=-1), scalar_returns(w), atol=1e-12)
    q_t = w["dist_q_t"].mean(axis=1)
    theirs = compiled(rlax.general_off_policy_returns_from_action_values)(
        *map(jnp.asarray, (q_t, w["a_t"], w["r_t"], w["discount_t"], w["c_t"], w["pi_t"]))
    )
    np.testing.assert_allclose(np.sum(atoms * weights, axis=-1), theirs, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_loops(seed):
    """Forwards and by recursion, at every anchor, with an end or a soft trace in the window."""
    w = with_coefficients(random_window(seed))
    w["trace_t"][3], w["trace_t"][1] = [(1.0, 1.0), (0.0, 1.0), (1.0, 0.5)][seed]
    w["discount_t"][2] *= seed != 2
    every = target(w, anchor="every")
    for anchor in range(5):
        row = jax.tree.map(lambda x, anchor=anchor: x[anchor], every)
        got = as_measure(row)
        np.testing.assert_allclose(sum(x for _, x in got), 1.0, atol=1e-12)
        assert cdf_gap(got, loop_target(**w, anchor=anchor)) < 1e-12
        assert cdf_gap(got, backward_target(**w, anchor=anchor)) < 1e-12
    jax.tree.map(
        np.testing.assert_array_equal, target(w, anchor=3), jax.tree.map(lambda x: x[3], every)
    )


def test_telescoped_errors_are_the_same_measure_whatever_they_start_from():
    w = with_coefficients(random_window(4))
    got = as_measure(target(w))
    for first in ([(0.0, 1.0)], [(-3.0, 0.25), (1.5, 0.75)]):
        assert cdf_gap(got, telescoped_target(first, **w)) < 1e-12


def test_one_step_limits():
    """Lambda 0 is the one-step target, whatever comes later."""
    w, other = with_coefficients(random_window(), lambda_=0.0), random_window(9)
    one = as_measure(target({name: x[:1] for name, x in w.items()}))
    assert cdf_gap(as_measure(target(w)), one) < 1e-14
    changed = {n: np.concatenate([x[:1], other[n][1:]]) if n in other else x for n, x in w.items()}
    np.testing.assert_array_equal(target(changed).weights, target(w).weights)
    assert cdf_gap(as_measure(target(changed)), one) < 1e-14


def test_on_policy_a_deterministic_policy_has_one_bootstrap():
    w = random_window(5)
    w["pi_t"] = np.eye(3)[w["a_t"]]
    w["mu_t"] = np.ones(5)
    got = target(with_coefficients(w, lambda_=1.0))
    blocks = np.asarray(got.weights).reshape(5, 7, 3)
    np.testing.assert_array_equal(blocks[:4], 0.0)
    n_step = jitted.distributional_n_step_target(
        *map(jnp.asarray, (w["r_t"], w["discount_t"], w["dist_q_t"][np.arange(5), :, w["a_t"]])),
        jnp.asarray(w["trace_t"]),
    )
    assert cdf_gap(as_measure(got), as_measure(n_step)) < 1e-12


def test_on_policy_inner_blocks_vanish_in_expectation_over_actions():
    """For a stochastic policy they are `pi(b) - 1{b = a}`: not 0, but 0 on average."""
    w = random_window(6, t=2)
    total = np.zeros((7, 3))
    for a in range(3):
        w["a_t"] = np.array([a, 0])
        w["mu_t"] = w["pi_t"][[0, 1], w["a_t"]]
        blocks = np.asarray(target(with_coefficients(w, lambda_=1.0)).weights).reshape(2, 7, 3)
        assert np.max(np.abs(blocks[0])) > 0.01
        total += w["pi_t"][0, a] * blocks[0]
    np.testing.assert_allclose(total, 0.0, atol=1e-15)


@pytest.mark.parametrize("lambda_", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_greedy_form_is_the_dense_one_without_its_zeros(seed, lambda_):
    w = random_window(seed)
    best = w["dist_q_t"].mean(axis=1).argmax(axis=-1)
    w["a_t"] = np.where([True, True, seed == 0, False, True], best, w["a_t"])
    w["pi_t"] = np.eye(3)[best]
    w["trace_t"][3] = 0.0
    dense = target(with_coefficients(w, lambda_=lambda_), anchor="every")
    arrays = [jnp.asarray(w[n]) for n in ("r_t", "discount_t", "dist_q_t", "a_t", "trace_t")]
    greedy = jitted.greedy_distributional_retrace_target(*arrays, lambda_=lambda_, anchor="every")
    assert greedy.atoms.shape == (5, 5 * 7)
    assert np.min(dense.weights) >= 0.0 and np.min(greedy.weights) >= 0.0
    for anchor in range(5):
        rows = [as_measure(jax.tree.map(lambda x, i=anchor: x[i], t)) for t in (dense, greedy)]
        assert cdf_gap(*rows) < 1e-12
    if lambda_ in (0.0, 1.0):  # a single bootstrap
        np.testing.assert_array_equal(np.sum(dense.weights != 0.0, axis=-1), 7)
        np.testing.assert_array_equal(np.sum(greedy.weights != 0.0, axis=-1), 7)


def test_greedy_retrace_in_full_is_n_step_up_to_the_first_other_action():
    w = random_window(1)
    w["a_t"] = w["dist_q_t"].mean(axis=1).argmax(axis=-1)
    w["a_t"][2] = (w["a_t"][2] + 1) % 3
    arrays = [jnp.asarray(w[n]) for n in ("r_t", "discount_t", "dist_q_t", "a_t", "trace_t")]
    greedy = as_measure(jitted.greedy_distributional_retrace_target(*arrays))
    best = w["dist_q_t"][np.arange(5), :, w["dist_q_t"].mean(axis=1).argmax(axis=-1)]
    cut = jnp.asarray(w["trace_t"] * (np.arange(5) != 2))
    n_step = jitted.distributional_n_step_target(*arrays[:2], jnp.asarray(best), cut)
    assert cdf_gap(greedy, as_measure(n_step)) < 1e-12
    shift = w["r_t"][0] + np.prod(w["discount_t"][:1]) * w["r_t"][1]
    shift += np.prod(w["discount_t"][:2]) * w["r_t"][2]
    atoms = shift + np.prod(w["discount_t"][:3]) * best[2]
    np.testing.assert_allclose(n_step.atoms, atoms, atol=1e-12)


def test_a_selector_chooses_the_action():
    w = random_window(2)
    arrays = [jnp.asarray(w[n]) for n in ("r_t", "discount_t", "dist_q_t", "a_t", "trace_t")]
    selector = jnp.asarray(np.eye(3)[w["a_t"]])
    got = jitted.greedy_distributional_retrace_target(*arrays, q_t_selector=selector)
    taken = jnp.asarray(w["dist_q_t"][np.arange(5), :, w["a_t"]])
    n_step = jitted.distributional_n_step_target(*arrays[:2], taken, arrays[-1])
    assert cdf_gap(as_measure(got), as_measure(n_step)) < 1e-12


def test_the_mixture_has_the_mean_of_lambda_returns():
    w = random_window(3)
    dist_v = w["dist_q_t"][:, :, 0]
    lambda_t = np.array([0.3, 1.0, 0.0, 0.9, 0.5])
    w["trace_t"][3] = 0.5
    arrays = map(jnp.asarray, (w["r_t"], w["discount_t"], dist_v, lambda_t, w["trace_t"]))
    atoms, weights = jitted.distributional_lambda_target(*arrays, anchor="every")
    assert np.min(weights) >= 0.0
    np.testing.assert_allclose(np.sum(weights, axis=-1), 1.0, atol=1e-12)
    arrays = map(jnp.asarray, (w["r_t"], w["discount_t"], dist_v.mean(axis=1)))
    returns = jitted.lambda_returns(*arrays, jnp.asarray(w["trace_t"] * lambda_t))
    np.testing.assert_allclose(np.sum(atoms * weights, axis=-1), returns, atol=1e-12)


def test_worked_means():
    """Any spread around 0 leaves the scalar numbers: [2.76256, 1.44, 2]."""
    q = np.array([[1.0, 2.0], [0.0, 0.5], [3.0, -1.0]])
    spread = np.random.default_rng(0).normal(size=(3, 4, 2))
    spread -= spread.mean(axis=1, keepdims=True)
    w = {
        "r_t": np.array([1.0, 0.0, 2.0]),
        "discount_t": np.array([0.9, 0.9, 0.0]),
        "dist_q_t": q[:, None] + spread,
        "a_t": np.array([0, 1, 0]),
        "pi_t": np.array([[0.2, 0.8], [0.5, 0.5], [1.0, 0.0]]),
        "mu_t": np.array([0.5, 0.25, 0.8]),
        "trace_t": np.ones(3),
    }
    every = target(with_coefficients(w), anchor="every")
    for anchor, expected in enumerate([2.76256, 1.44, 2.0]):
        row = jax.tree.map(lambda x, i=anchor: x[i], every)
        np.testing.assert_allclose(mean(as_measure(row)), expected, atol=1e-12)


@pytest.mark.parametrize("anchor", [-1, 5, "first"])
def test_an_anchor_outside_the_window_is_named(anchor):
    w = with_coefficients(random_window())
    with pytest.raises(ValueError, match=r'^anchor must be in \[0, 5\) or "every", got '):
        target(w, anchor=anchor)
