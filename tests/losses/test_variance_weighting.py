"""Deep Variance Weighting: worked numbers, what has gradients, and the contract."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import losses
from helpers.contract import Case, check_contract
from helpers.jitted import quick_jit

VARIANCE = np.array([0.2, 0.7, 2.5, 10.0], np.float32)
ONES = np.ones(4, np.float32)


def test_worked_weights():
    """1 / variance: 5, 10/7, 0.4, 0.1, of mean 1.7321428571."""
    log_scale = np.float32(-np.log(1.7321428571))
    free = losses.variance_weights(VARIANCE, log_scale, floor=0.0)
    np.testing.assert_allclose(free, [2.88660, 0.82474, 0.23093, 0.05773], atol=1e-5)
    np.testing.assert_allclose(free.mean(), 1.0, rtol=1e-6)
    weights = losses.variance_weights(VARIANCE, log_scale)
    np.testing.assert_allclose(weights, [2.88660, 0.82474, 0.23093, 0.1], atol=1e-5)
    np.testing.assert_allclose(weights.mean(), 1.0105670103, rtol=1e-6)
    np.testing.assert_allclose(losses.variance_scale_loss(log_scale, VARIANCE, ONES), 0, atol=1e-6)


def test_worked_gradient_of_the_scale():
    """2 (e m - 1) e m at log_scale 1, m the mean of the inverse variances."""
    both = quick_jit(jax.grad(losses.variance_scale_loss, argnums=(0, 1)))
    scale, variance = both(np.float32(1.0), VARIANCE, ONES)
    np.testing.assert_allclose(scale, 34.9221440961, rtol=1e-6)
    np.testing.assert_array_equal(variance, np.zeros(4))
    alone = both(np.float32(1.0), VARIANCE[:2], ONES[:2])[0]
    masked = both(np.float32(1.0), VARIANCE * [1, 1, np.nan, np.inf], ONES * [1, 1, 0, 0])[0]
    np.testing.assert_allclose(masked, alone, rtol=1e-6)


def test_worked_variance_target():
    target, gradient = jax.value_and_grad(losses.variance_target)(1.3 - 1.0)
    np.testing.assert_allclose(target, 0.09, rtol=1e-5)
    assert gradient == 0.0
    # 1.01 - 1/2 against a variance of 1.1, and 0.51^2 / 2 against 0.6.
    np.testing.assert_allclose(losses.huber_loss(target - 1.1), 0.51, rtol=1e-5)
    np.testing.assert_allclose(losses.huber_loss(target - 0.6), 0.13005, rtol=1e-5)
    # A next state of soft value 0 or 2 with equal probability: gamma^2.
    returns = 0.99 * np.array([0.0, 2.0])
    each = [losses.variance_target(y - returns.mean()) for y in returns.tolist()]
    np.testing.assert_allclose(np.mean(each), 0.9801, rtol=1e-5)


CASES = [
    Case(losses.variance_target, {"td_error": jnp.float32(0.7)}, values=("td_error",)),
    Case(
        losses.variance_weights,
        {"variance": jnp.asarray(VARIANCE), "log_scale": jnp.float32(0.3)},
        values=(),
        free=("variance",),
    ),
    Case(
        losses.variance_scale_loss,
        {
            "log_scale": jnp.float32(0.3),
            "variance": jnp.asarray(VARIANCE),
            "mask": jnp.array([1.0, 0.5, 1.0, 1.0]),
        },
        ("log_scale",),
        values=(),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_contract(case):
    check_contract(case)
