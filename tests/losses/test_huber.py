"""The Huber loss and every rule that uses it: gradients are exact for every error and threshold."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import losses
from helpers.contract import Case, check_contract
from helpers.jitted import full_jit, quick_jit

ERRORS = np.float32([0.0, 1e-12, -1e-8, 3e-5, 0.3, -1.0, 7.0, -4e3, 2e6])
DELTAS = [1e-8, 1e-3, 1.0, 50.0, 1e6, 3e8, np.inf]


def test_contract():
    check_contract(
        Case(losses.huber_loss, {"td_error": jnp.float32(0.7)}, ("td_error",), {"delta": 0.5})
    )


def munchausen(error, delta):
    zero = jnp.zeros(2)
    return losses.munchausen_loss(
        zero.at[0].set(-error), 0, 0.0, 0.0, zero, zero, alpha=0.0, huber_delta=delta
    )


def quantile(error, delta, method):
    one = functools.partial(losses.quantile_regression, huber_kappa=delta, method=method)
    return 2.0 * one(-error[None], jnp.array([0.5]), jnp.zeros(1))


RULES = {
    "huber_loss": lambda error, delta: losses.huber_loss(error, delta=delta),
    "munchausen_loss": munchausen,
    "pairwise": functools.partial(quantile, method="pairwise"),
    "sorted": functools.partial(quantile, method="sorted"),
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_the_gradient_is_the_clipped_error(rule):
    """Of all errors at all thresholds, however small one of them: no digit is lost."""
    grid = [x.ravel() for x in np.meshgrid(ERRORS, np.float32(DELTAS))]
    got = full_jit(jax.vmap(jax.value_and_grad(rule)))(*grid)
    error, delta = (x.astype(np.float64) for x in grid)
    clipped = np.clip(error, -delta, delta)
    np.testing.assert_allclose(got[1], clipped, rtol=1e-6, atol=0)
    np.testing.assert_allclose(got[0], clipped * (error - 0.5 * clipped), rtol=1e-6, atol=1e-37)


def test_the_gradient_in_the_threshold():
    slope = quick_jit(jax.vmap(jax.grad(lambda d, x: losses.huber_loss(x, delta=d))))
    got = slope(np.float32([1.0, 2.0, np.inf]), np.float32([3.0, -0.5, 4.0]))
    np.testing.assert_allclose(got, [2.0, 0.0, 0.0], rtol=1e-6)


def test_errors_name_the_argument():
    for delta, words in [
        (0.0, "above 0, got 0.0"),
        (np.float32(-1), "above 0, got -1.0"),
        (None, "a number, got None"),
    ]:
        with pytest.raises(ValueError, match=f"^delta must be {words}"):
            losses.huber_loss(1.0, delta=delta)
