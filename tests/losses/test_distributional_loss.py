"""Losses of distributional Retrace: one-step limits, ends that hide the rest, signed weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bellmax import losses
from helpers.jitted import compiled, jitted
from helpers.peers import rlax
from helpers.window_loops import random_window

N, T = 7, 5
TAU = (np.arange(N) + 0.5) / N
DENSE = ("r_t", "discount_t", "dist_q_t", "a_t", "pi_t", "c_t", "trace_t")
GREEDY = ("r_t", "discount_t", "dist_q_t", "a_t", "trace_t")


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def window(seed=0, t=T):
    w = random_window(seed, t=t)
    best = w["dist_q_t"].mean(axis=1).argmax(axis=-1)
    w["a_t"] = np.where(np.arange(t) == 3, w["a_t"], best)  # so that greedy traces continue
    c_t = jitted.retrace_coefficients(w["a_t"], w["pi_t"], w["mu_t"], lambda_=0.9)
    generator = np.random.default_rng(seed + 100)
    return w | {
        "c_t": np.asarray(c_t),
        "dist_q_tm1": generator.normal(size=(t, N, 3)),
        "tau_tm1": np.tile(TAU, (t, 1)),
        "a_tm1": generator.integers(3, size=t),
    }


def call(function, w, names, row=None, **options):
    first = [
        w[name] if row is None else w[name][row] for name in ("dist_q_tm1", "tau_tm1", "a_tm1")
    ]
    rest = [w[name] if row is None else w[name][row:] for name in names]
    return compiled(function, **options)(*map(jnp.asarray, (*first, *rest)))


LOSSES = {
    "dense": lambda w: call(losses.distributional_retrace, w | _first(w), DENSE),
    "dense-every": lambda w: call(losses.distributional_retrace_every, w, DENSE)[:3],
    "greedy": lambda w: call(losses.greedy_distributional_retrace, w | _first(w), GREEDY),
    "greedy-every": lambda w: call(losses.greedy_distributional_retrace_every, w, GREEDY)[:3],
    "n-step": lambda w: call(
        losses.n_step_quantile_q_learning,
        w | _first(w),
        ("r_t", "discount_t", "dist_q_t", "trace_t"),
    ),
}


def _first(w):
    return {name: w[name][0] for name in ("dist_q_tm1", "tau_tm1", "a_tm1")}


@pytest.mark.peer
@pytest.mark.parametrize("kappa", [0.0, 1.0])
def test_one_step_equals_rlax(kappa):
    w = window(1, t=1)
    first = [jnp.asarray(w[name][0]) for name in ("dist_q_tm1", "tau_tm1", "a_tm1")]
    last = [jnp.asarray(w[name][0]) for name in ("r_t", "discount_t", "dist_q_t")]
    theirs = compiled(rlax.quantile_expected_sarsa, huber_param=kappa)
    sarsa = theirs(*first, *last, jnp.asarray(w["pi_t"][0]))
    got = call(losses.distributional_retrace, w | _first(w), DENSE, huber_kappa=kappa)
    np.testing.assert_allclose(got, sarsa, rtol=1e-14)
    q_learning = compiled(rlax.quantile_q_learning, huber_param=kappa)(*first, *last, last[-1])
    for function, names in (
        (losses.greedy_distributional_retrace, GREEDY),
        (losses.n_step_quantile_q_learning, ("r_t", "discount_t", "dist_q_t", "trace_t")),
    ):
        got = call(function, w | _first(w), names, huber_kappa=kappa)
        np.testing.assert_allclose(got, q_learning, rtol=1e-14)


@pytest.mark.parametrize(
    ("every", "one", "names"),
    [
        (losses.distributional_retrace_every, losses.distributional_retrace, DENSE),
        (losses.greedy_distributional_retrace_every, losses.greedy_distributional_retrace, GREEDY),
    ],
    ids=["dense", "greedy"],
)
def test_every_step_is_the_first_of_its_own_window(every, one, names):
    w = window()
    w["trace_t"][3] = 0.0
    options = {"huber_kappa": 0.7, "divide_by_kappa": True}
    got = call(every, w, names, **options)
    for row in range(T):
        np.testing.assert_allclose(got[row], call(one, w, names, row, **options), rtol=1e-12)


@pytest.mark.parametrize("ends", ["trace_t", "discount_t"])
@pytest.mark.parametrize("name", LOSSES)
def test_steps_past_an_end_have_no_influence(name, ends):
    """Bit for bit, for any size; negative control: without an end they matter."""
    w, other = window(), window(1)
    ended = {**w, ends: np.where(np.arange(T) == 2, 0.0, w[ends])}
    huge = {"r_t": 1e30, "dist_q_t": 1e30, "c_t": 3.0}

    def replaced(w):
        mixed = dict(w)
        for key in DENSE:
            if key != ends:
                mixed[key] = np.concatenate([w[key][:3], other[key][3:] * huge.get(key, 1)])
        return mixed

    loss = LOSSES[name]
    np.testing.assert_array_equal(loss(ended), loss(replaced(ended)))
    assert np.all(loss(w) != loss(replaced(w)))


def test_a_time_limit_is_not_a_death():
    w = window()
    limit = {**w, "trace_t": np.where(np.arange(T) == 2, 0.0, w["trace_t"])}
    death = {**w, "discount_t": np.where(np.arange(T) == 2, 0.0, w["discount_t"])}
    for loss in LOSSES.values():
        assert np.all(np.abs(loss(limit) - loss(death)) > 1e-3)


def test_a_signed_loss_is_bounded_with_several_minima():
    z, weights = jnp.array([-1.0, 0.0, 2.0]), jnp.array([0.8, -0.4, 0.6])

    def loss(theta, tau):
        arrays = jnp.array([theta]), jnp.array([tau]), z
        return jitted.quantile_regression(*arrays, weights=weights, huber_kappa=0.0)

    # At -6: 0.25 * (0.8 * 5 - 0.4 * 6 + 0.6 * 8) = 1.6. At 6: 0.75 * (0.8 * 7 - 0.4 * 6 + 0.6 * 4).
    for theta, expected in {-6: 1.6, -1: 0.35, 0: 0.9, 2: 1.2, 6: 4.2}.items():
        np.testing.assert_allclose(loss(float(theta), 0.25), expected, atol=1e-12)
    np.testing.assert_allclose([loss(x, 0.5) for x in (-1.0, 0.0, 2.0)], [0.7, 1.0, 0.8])


def test_the_gradient_is_the_signed_distribution_function_less_tau():
    w = window(2)
    target = jitted.distributional_retrace_target(*(w[name] for name in DENSE))
    theta, a = jnp.asarray(w["dist_q_tm1"][0]), int(w["a_tm1"][0])

    def loss(theta):
        first = (theta, jnp.asarray(TAU), a)
        return losses.distributional_retrace(
            *first, *(jnp.asarray(w[name]) for name in DENSE), huber_kappa=0.0
        )

    expected = np.zeros((N, 3))
    for i in range(N):
        below = np.asarray(target.atoms) < float(theta[i, a])
        expected[i, a] = np.sum(np.asarray(target.weights)[below]) - TAU[i]
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(theta), expected, atol=1e-12)


TARGET = jax.jit(
    lambda *arrays: losses.distributional_retrace_target(*arrays, anchor="every"),
)
RETURNS = jax.jit(losses.off_policy_returns)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    trace=st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=T, max_size=T),
    ended=st.integers(0, T),
    scale=st.floats(0.0, 2.0),
)
def test_mass_and_mean_hold_for_all_windows(seed, trace, ended, scale):
    w = random_window(seed, t=T, n=3)
    w["discount_t"] = np.where(np.arange(T) == ended, 0.0, w["discount_t"])
    w |= {"trace_t": np.array(trace), "c_t": scale * w["mu_t"]}
    arrays = {name: jnp.asarray(w[name]) for name in DENSE}
    atoms, weights = TARGET(*arrays.values())
    np.testing.assert_allclose(np.sum(weights, axis=-1), 1.0, atol=1e-12)
    arrays["dist_q_t"] = jnp.mean(arrays["dist_q_t"], axis=1)
    np.testing.assert_allclose(
        np.sum(atoms * weights, axis=-1), RETURNS(*arrays.values()), atol=1e-10
    )
