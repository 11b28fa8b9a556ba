"""Small errors and gradients of large values keep their digits: nothing is lost by cancellation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import losses
from helpers.jitted import quick_jit


@pytest.mark.parametrize("slope", [1e-30, 1e-6, 0.3, 1e6, 1e25])
@pytest.mark.parametrize("action", [0.0, 1.0, -1e4])
def test_the_actor_gets_the_critics_gradient_exactly(slope, action):
    a_t, dqda_t = jnp.array([action, -action]), jnp.array([slope, -0.5 * slope])
    got = jax.grad(losses.deterministic_policy_gradient)(a_t, dqda_t)
    np.testing.assert_array_equal(got, -dqda_t)
    bound = 0.5 * slope
    clipped = jax.grad(losses.deterministic_policy_gradient)
    got = clipped(a_t, dqda_t, dqda_clipping=bound)
    wanted = -np.float64([slope, -0.5 * slope]) * (0.5 / np.sqrt(1.25))
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1e3, -1e6])
def test_small_advantages_of_large_values(value):
    """The error of a constant value is its reward, not a multiple of the value's rounding."""
    values, small = jnp.full(3, value), jnp.array([1e-7, -3e-6, 2e-5])
    # Rewards that the values cancel exactly leave the small ones: a value of 0 next.
    zeros, ones = jnp.zeros(3), jnp.ones(3)
    rules = {
        "v_trace": lambda v: losses.v_trace(v, small, ones, v, ones, zeros),
        "generalised_advantages": lambda v: losses.generalised_advantages(v, small, ones, v, zeros),
    }
    for rule in rules.values():
        error, pull = jax.vjp(rule, values)
        wanted = (small + values) - values  # the rounding of the target itself
        np.testing.assert_allclose(error, wanted, rtol=1e-6)
        np.testing.assert_array_equal(pull(ones)[0], -ones)


def test_small_errors_next_to_a_large_baseline():
    # With no next value the error is r - v, which is exact for near numbers: not (r - v + v) - v.
    v, r = jnp.full(2, 1e-3), jnp.array([1e-3 + 1e-9, 5e-4])
    rule = quick_jit(lambda v: losses.v_trace(v, r, jnp.zeros(2), v, jnp.ones(2), jnp.ones(2)))
    np.testing.assert_array_equal(rule(v), r - v)
