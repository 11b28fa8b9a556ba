"""Trace coefficients: worked numbers, and what a behaviour probability of 0 gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import losses
from helpers.jitted import jitted, quick_jit
from helpers.sequences import A_T, MU, ONES, PI, Q


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def test_worked_coefficients():
    def check(got, expected):
        np.testing.assert_allclose(got, expected, rtol=1e-15)

    check(jitted.retrace_coefficients(A_T, PI, MU), [0.4, 1.0, 1.0])
    check(jitted.retrace_coefficients(A_T, PI, MU, cap=1.5, lambda_=0.5), [0.2, 0.75, 0.625])
    check(jitted.importance_sampling_coefficients(A_T, PI, MU), [0.4, 2.0, 1.25])
    check(jitted.tree_backup_coefficients(A_T, PI, lambda_=0.5), [0.1, 0.25, 0.5])
    check(jitted.q_lambda_coefficients(A_T, lambda_=0.5), [0.5, 0.5, 0.5])
    check(jitted.watkins_coefficients(A_T, Q, lambda_=0.5), [0.0, 0.5, 0.5])
    ties = np.zeros_like(Q)
    check(jitted.watkins_coefficients(A_T, ties), ONES)
    # On-policy the trace is exactly lambda: nothing is added to mu.
    on_policy = np.take_along_axis(PI, A_T[:, None], axis=-1)[:, 0]
    np.testing.assert_array_equal(jitted.retrace_coefficients(A_T, PI, on_policy), ONES)


def test_a_behaviour_probability_of_zero_gives_finite_coefficients():
    a_t, pi_t, mu_t = np.array([0, 1]), np.array([[0.5, 0.5], [1.0, 0.0]]), np.zeros(2)
    np.testing.assert_array_equal(jitted.retrace_coefficients(a_t, pi_t, mu_t), [1.0, 0.0])
    np.testing.assert_array_equal(
        jitted.importance_sampling_coefficients(a_t, pi_t, mu_t), [0.0, 0.0]
    )
    for rule in (losses.retrace_coefficients, losses.importance_sampling_coefficients):
        gradients = jax.grad(lambda pi, mu, rule=rule: jnp.sum(rule(a_t, pi, mu)), (0, 1))
        for gradient in quick_jit(gradients)(pi_t, mu_t):
            assert np.all(np.isfinite(gradient))


def test_harutyunyans_trace_has_no_array_of_floats_and_keeps_the_contract():
    rule = losses.q_lambda_coefficients
    with pytest.raises(ValueError, match="^a_t must .* got rank 2"):
        rule(A_T[None])
    with pytest.raises(ValueError, match="^a_t must .* got dtype"):
        rule(MU)
    assert rule(A_T).dtype == jnp.float32  # a Python number does not widen
    mapped = quick_jit(jax.vmap(lambda a, x: rule(a, lambda_=x), (None, 0)))(
        A_T, jnp.array([0.2, 1])
    )
    np.testing.assert_array_equal(mapped, [[0.2] * 3, [1.0] * 3])
    slope = quick_jit(jax.grad(lambda x: jnp.sum(rule(A_T, lambda_=x))))(0.5)
    np.testing.assert_array_equal(slope, 3.0)
    with jax.enable_x64(False):
        assert rule(A_T.astype(np.int32), lambda_=1).dtype == jnp.float32
