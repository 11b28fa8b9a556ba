"""Expectile losses: which side weighs more, the minimiser, worked numbers, gradients, controls."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bellmax import losses
from helpers.contract import Case, check_contract
from helpers.jitted import compiled, quick_jit
from helpers.peers import rlax

STEP = {
    "q_tm1": jnp.float32(0.4),
    "r_t": jnp.float32(0.3),
    "discount_t": jnp.float32(0.9),
    "q_t": jnp.float32(-0.6),
}
LEVEL = {"alpha": 0.3}
CASES = [
    Case(losses.expectile_loss, {"td_error": jnp.float32(-0.7)}, ("td_error",), LEVEL),
    Case(losses.expectile_td_loss, STEP, ("q_tm1",), LEVEL, values=("q_tm1", "q_t")),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_contract(case):
    check_contract(case)


def loop_loss(prediction, targets, alpha):
    total = 0.0
    for target in targets:
        error = float(target) - float(prediction)
        total += 2.0 * (alpha if error >= 0.0 else 1.0 - alpha) * error * error
    return total / len(targets)


def test_alpha_below_half_is_pessimistic():
    # Target above the prediction: 2 * 0.2 * 3^2. Target below: 2 * 0.8 * 3^2.
    np.testing.assert_allclose(losses.expectile_loss(3.0, alpha=0.2), 3.6, rtol=1e-6)
    np.testing.assert_allclose(losses.expectile_loss(-3.0, alpha=0.2), 14.4, rtol=1e-6)
    # Prediction 2: the target 1 + 0.9 * 4 = 4.6 is above it, 1 + 0 = 1 below it.
    above = losses.expectile_td_loss(2.0, 1.0, 0.9, 4.0, alpha=0.2)
    np.testing.assert_allclose(above, 2 * 0.2 * 2.6**2, rtol=1e-6)
    below = losses.expectile_td_loss(2.0, 1.0, 0.0, 4.0, alpha=0.2)
    np.testing.assert_allclose(below, 2 * 0.8 * 1.0, rtol=1e-6)


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.7])
def test_gradient_in_the_prediction(alpha):
    # The plain form has -2 * alpha where the error is +1 and 2 * (1 - alpha) where it is -1.
    gradient = quick_jit(jax.grad(losses.expectile_td_loss))
    up, down = (gradient(0.0, sign, 0.0, 0.0, alpha=alpha) for sign in (1.0, -1.0))
    np.testing.assert_allclose(up / 2, -2 * alpha, rtol=1e-6)
    np.testing.assert_allclose(down / 2, 2 * (1 - alpha), rtol=1e-6)


def test_half_is_the_squared_error_exactly():
    errors = jnp.asarray(np.random.default_rng(0).normal(size=200) * 10, jnp.float32)
    loss = lambda error: losses.expectile_loss(error, alpha=0.5)  # noqa: E731
    values, gradients = quick_jit(jax.vmap(jax.value_and_grad(loss)))(errors)
    np.testing.assert_array_equal(values, errors**2)
    np.testing.assert_array_equal(gradients, 2 * errors)


@pytest.mark.parametrize("alpha", [0.1, 0.4, 0.9])
def test_equals_the_loop(alpha):
    targets = np.random.default_rng(2).normal(size=100)
    loss = lambda t: losses.expectile_td_loss(0.3, t, 0.0, 0.0, alpha=alpha)  # noqa: E731
    got = quick_jit(jax.vmap(loss))(targets)
    np.testing.assert_allclose(np.mean(got), loop_loss(0.3, targets, alpha), rtol=1e-5)


@quick_jit
def slopes_at_the_expectile(targets, probs, alpha):
    """Of the mean loss, and of the mean loss with the sign of the error flipped."""
    best = losses.expectile(targets, probs, alpha=alpha)

    def mean_loss(prediction, sign):
        one = lambda target: losses.expectile_loss(sign * (target - prediction), alpha=alpha)  # noqa: E731
        return jnp.vdot(probs, jax.vmap(one)(targets))

    return jax.grad(mean_loss)(best, 1.0), jax.grad(mean_loss)(best, -1.0)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.integers(0, 10**6), st.floats(0.05, 0.95))
def test_minimised_by_the_expectile(seed, alpha):
    with jax.enable_x64(True):
        generator = np.random.default_rng(seed)
        targets, probs = generator.normal(size=7), generator.dirichlet(np.ones(7))
        right, flipped = map(float, slopes_at_the_expectile(targets, probs, alpha))
    assert abs(right) < 1e-12
    # Control: with the sign flipped only alpha = 1/2 has this minimum.
    assert abs(flipped) > 1e-3 or abs(alpha - 0.5) < 0.1


def test_gradient_goes_through_the_target_when_asked():
    gradient = compiled(jax.grad(losses.expectile_td_loss, (0, 1, 2, 3)), alpha=0.2)
    opened = functools.partial(losses.expectile_td_loss, stop_target_gradients=False)
    at = 2.0, 1.0, 0.9, 4.0
    np.testing.assert_array_equal(gradient(*at)[1:], (0.0, 0.0, 0.0))
    got = compiled(jax.grad(opened, (0, 1, 2, 3)), alpha=0.2)(*at)
    slope = 4 * 0.2 * 2.6
    np.testing.assert_allclose(got, np.array([-1.0, 1.0, 4.0, 0.9]) * slope, rtol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.2, 1.3])
def test_level_is_checked(alpha):
    words = "above 0" if alpha <= 0 else "below 1"
    with pytest.raises(ValueError, match=f"^alpha must be {words}, got {alpha}"):
        losses.expectile_loss(1.0, alpha=alpha)
    with pytest.raises(ValueError, match=f"^alpha must .* got {alpha}"):
        losses.expectile(jnp.ones(2), jnp.ones(2), alpha=alpha)


@pytest.mark.peer
@pytest.mark.parametrize("alpha", [0.2, 0.8])
def test_is_twice_rlax(alpha):
    targets = jnp.linspace(-2.0, 2.0, 9)
    expected = 2 * np.asarray(compiled(rlax.expectile_loss)(jnp.full(9, 0.25), targets, alpha))
    loss = lambda t: losses.expectile_td_loss(0.25, t, 0.0, 0.0, alpha=alpha)  # noqa: E731
    got = quick_jit(jax.vmap(loss))(targets)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
