"""Soft values of large numbers over small temperatures, in programs whose roundings XLA chooses.

XLA may compute the values whose maximum it takes with another rounding than those from which it
subtracts this maximum: their difference, over a small temperature, would overflow.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import losses
from helpers.jitted import full_jit

B, A = 16, 6
GENERATOR = np.random.default_rng(0)
X, Y, Z = np.float32(GENERATOR.uniform(1, 2, size=(3, B, A)))
STEP = jnp.zeros(B, int), jnp.ones(B), jnp.ones(B)
SCALES = [(1e6, 1e-4), (1e6, 1e-6), (3e7, 1e-2), (1e12, 1.0)]


def rows(q):
    """Two rows of each example."""
    return jnp.stack([q, q], axis=1)


# Of values [B, A] and a temperature.
RULES = {
    "soft_value": lambda q, tau: losses.batched(losses.soft_value, temperature=tau)(q),
    "scaled_log_policy": lambda q, tau: losses.batched(losses.scaled_log_policy, temperature=tau)(
        q
    ),
    "soft_q_learning": lambda q, tau: losses.batched(losses.soft_q_learning, temperature=tau)(
        q, *STEP, q
    ),
    "munchausen_target": lambda q, tau: losses.batched(losses.munchausen_target, temperature=tau)(
        *STEP, q, q
    ),
    "munchausen_lambda_returns": lambda q, tau: losses.batched(
        losses.munchausen_lambda_returns, temperature=tau
    )(*(rows(x) for x in (*STEP, q, q)), jnp.ones((B, 2))),
    "munchausen_quantile_target": lambda q, tau: losses.batched(
        losses.munchausen_quantile_target, temperature=tau
    )(*STEP, rows(q), rows(q)),
    "munchausen_value_iteration": lambda q, tau: losses.munchausen_value_iteration(
        q[:A], q[:A], jnp.ones((A, A, A)) / A, gamma=0.9, temperature=tau
    ),
    "categorical_entropy": lambda q, tau: losses.batched(losses.categorical_entropy)(q / tau),
    "behaviour_likelihood_loss": lambda q, tau: losses.batched(losses.behaviour_likelihood_loss)(
        q / tau, STEP[0]
    ),
    "vmpo_loss": lambda q, tau: losses.vmpo_loss(
        q[:, 0], q[:, 0], q[:, 1], jnp.asarray(tau), jnp.float32(1.0), jnp.ones(B)
    ),
}


@functools.cache
def compiled(name):
    def total(x, scale, tau):
        # A product and a sum: with or without the rounding of the product.
        output = RULES[name](scale * (x * Y + Z), tau)
        return sum(jnp.sum(leaf / scale) for leaf in jax.tree.leaves(output)), output

    return full_jit(jax.value_and_grad(total, (0, 2), has_aux=True))


@pytest.mark.parametrize("name", RULES)
def test_compiled_values_and_gradients_are_finite(name):
    for scale, tau in SCALES:
        (_, output), gradients = compiled(name)(X, np.float32(scale), np.float32(tau))
        for leaf in jax.tree.leaves((output, gradients)):
            assert np.all(np.isfinite(leaf)), (scale, tau)


def test_compiled_values_are_those_of_the_formula():
    for scale, tau in SCALES:
        (_, value), _ = compiled("soft_value")(X, np.float32(scale), np.float32(tau))
        (_, log_pi), _ = compiled("scaled_log_policy")(X, np.float32(scale), np.float32(tau))
        q = scale * (X.astype(np.float64) * Y + Z)
        np.testing.assert_allclose(value, np.max(q, axis=1), rtol=3e-7)
        assert np.all(log_pi <= 0)


def test_a_temperature_has_a_gradient_where_values_are_minus_infinity():
    q = jnp.array([0.3, -jnp.inf, 0.1])
    finite = q[jnp.array([0, 2])]
    for rule in (losses.soft_value, lambda q, **h: losses.scaled_log_policy(q, **h)[0]):
        slope = jax.grad(lambda tau, q, rule=rule: rule(q, temperature=tau))
        np.testing.assert_allclose(slope(0.5, q), slope(0.5, finite), rtol=1e-6)


def test_a_state_without_actions_is_worth_minus_infinity_and_nothing_at_discount_0():
    none = jnp.full(3, -jnp.inf)
    assert losses.soft_value(none, temperature=0.1) == -jnp.inf
    q = jnp.array([1.0, 2.0, 0.0])
    rule = functools.partial(losses.munchausen_loss, temperature=0.5)
    value, gradient = jax.value_and_grad(rule)(q, 1, 0.5, 0.0, q, none)
    wanted = jax.value_and_grad(rule)(q, 1, 0.5, 0.0, q, q)
    np.testing.assert_array_equal(value, wanted[0])
    np.testing.assert_array_equal(gradient, wanted[1])


def test_the_action_of_the_maximum_is_greedy_in_a_compiled_program():
    @full_jit
    def coefficients(x):
        q = 1e6 * (x * Y + Z)
        return losses.watkins_coefficients(jnp.argmax(jax.lax.optimization_barrier(q), axis=-1), q)

    np.testing.assert_array_equal(coefficients(X), np.ones(B))
