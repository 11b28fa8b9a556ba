"""One-step value learning: Q-learning, double Q-learning, expected SARSA, soft Q-learning.

The first two call rlax. They are wrapped because bellmax's conventions differ: errors name the
argument, sizes must agree (rlax accepts a `q_t` of a different length), bfloat16 input is widened
before the target is computed, and hyper-parameters are keyword-only. rlax has no soft Q-learning.
Expected SARSA under a softmax policy needs no separate function, as `probs_a_t` may be any
distribution; soft Q-learning is that plus the policy's entropy.
"""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from bellmax.losses._checks import NUMBER, Spec, check_arrays, check_scalars, promote
from bellmax.losses._masking import finite_where, weighted_sum
from bellmax.losses._rlax import rlax


def _check_transition(q_tm1, a_tm1, r_t, discount_t, **vectors_t: chex.Array) -> None:
    check_arrays(
        q_tm1=Spec(q_tm1, "A"),
        a_tm1=Spec(a_tm1, "", int),
        r_t=Spec(r_t, "", NUMBER),
        discount_t=Spec(discount_t, "", NUMBER),
        **{name: Spec(vector, "A") for name, vector in vectors_t.items()},
    )


def q_learning(
    q_tm1: chex.Array,
    a_tm1: chex.Numeric,
    r_t: chex.Numeric,
    discount_t: chex.Numeric,
    q_t: chex.Array,
    *,
    stop_target_gradients: bool = True,
) -> jax.Array:
    """TD error of Q-learning: `r_t + discount_t * max q_t - q_tm1[a_tm1]`.

    Args:
      q_tm1: [A] float, action values at t-1, in units of return.
      a_tm1: [] int in [0, A), the action taken at t-1.
      r_t: [] float, the reward that it earned.
      discount_t: [] float, gamma, or 0 where the environment terminated.
      q_t: [A] float, action values at t, usually of the target network.
      stop_target_gradients: whether the target is a constant to the gradient.

    Returns:
      [] float32 or wider, target minus prediction.

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: Watkins and Dayan 1992; Mnih et al. 2013, arXiv:1312.5602. Calls rlax.q_learning.
    """
    _check_transition(q_tm1, a_tm1, r_t, discount_t, q_t=q_t)
    q_tm1, r_t, discount_t, q_t = promote(q_tm1, r_t, discount_t, q_t)
    q_t = finite_where(discount_t == 0, q_t)
    error = rlax.q_learning(q_tm1, a_tm1, r_t, discount_t, q_t, stop_target_gradients)
    return jnp.asarray(error)


def double_q_learning(
    q_tm1: chex.Array,
    a_tm1: chex.Numeric,
    r_t: chex.Numeric,
    discount_t: chex.Numeric,
    q_t_value: chex.Array,
    q_t_selector: chex.Array,
    *,
    stop_target_gradients: bool = True,
) -> jax.Array:
    """TD error of double Q-learning: one network selects the action, another evaluates it.

    Args:
      q_tm1: [A] float, action values at t-1, in units of return.
      a_tm1: [] int in [0, A), the action taken at t-1.
      r_t: [] float, the reward that it earned.
      discount_t: [] float, gamma, or 0 where the environment terminated.
      q_t_value: [A] float, bootstrap values at t (the target network's).
      q_t_selector: [A] float, values at t whose argmax selects the action (the online network's).
      stop_target_gradients: whether the target is a constant to the gradient.

    Returns:
      [] float32 or wider, target minus prediction.

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: van Hasselt et al. 2015, arXiv:1509.06461. Calls rlax.double_q_learning.
    """
    _check_transition(q_tm1, a_tm1, r_t, discount_t, q_t_value=q_t_value, q_t_selector=q_t_selector)
    q_tm1, r_t, discount_t, q_t_value = promote(q_tm1, r_t, discount_t, q_t_value)
    q_t_value = finite_where(discount_t == 0, q_t_value)
    error = rlax.double_q_learning(
        q_tm1, a_tm1, r_t, discount_t, q_t_value, jnp.asarray(q_t_selector), stop_target_gradients
    )
    return jnp.asarray(error)


def expected_sarsa(
    q_tm1: chex.Array,
    a_tm1: chex.Numeric,
    r_t: chex.Numeric,
    discount_t: chex.Numeric,
    q_t: chex.Array,
    probs_a_t: chex.Array,
    *,
    stop_target_gradients: bool = True,
) -> jax.Array:
    """TD error of expected SARSA: `r_t + discount_t * <probs_a_t, q_t> - q_tm1[a_tm1]`.

    Args:
      q_tm1: [A] float, action values at t-1, in units of return.
      a_tm1: [] int in [0, A), the action taken at t-1.
      r_t: [] float, the reward that it earned.
      discount_t: [] float, gamma, or 0 where the environment terminated.
      q_t: [A] float, action values at t, usually of the target network.
      probs_a_t: [A] float, the policy's probabilities at t, summing to 1.
      stop_target_gradients: whether the target is a constant to the gradient.

    Returns:
      [] float32 or wider, target minus prediction.

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: van Seijen et al. 2009. rlax.expected_sarsa gives NaN for values of -inf.
    """
    _check_transition(q_tm1, a_tm1, r_t, discount_t, q_t=q_t, probs_a_t=probs_a_t)
    q_tm1, r_t, discount_t, q_t, probs = promote(q_tm1, r_t, discount_t, q_t, probs_a_t)
    q_t, probs = finite_where(discount_t == 0, q_t), finite_where(discount_t == 0, probs)
    target = r_t + discount_t * weighted_sum(probs, q_t)
    return _td_error(q_tm1, a_tm1, target, stop_target_gradients)


def _td_error(
    q_tm1: jax.Array, a_tm1: chex.Numeric, target: jax.Array, stop_target_gradients: bool
) -> jax.Array:
    """Target minus prediction."""
    if stop_target_gradients:
        target = jax.lax.stop_gradient(target)
    return target - q_tm1[a_tm1]


@jax.custom_jvp
def _at_most_zero(x: jax.Array) -> jax.Array:
    """`x`, which is at most 0 but for rounding; its derivative is 1."""
    return jnp.minimum(x, 0.0)


@_at_most_zero.defjvp
def _(primals, tangents):
    return _at_most_zero(*primals), tangents[0]


class SoftParts(NamedTuple):
    """Parts of a soft value, apart because sums would lose the smaller one to rounding.

    The soft value is `maximum + excess`, the scaled log-policy `offsets - excess`.

    Attributes:
      maximum: [...] float, `max q`, a constant to the gradient; -inf if no action is allowed.
      excess: [...] float, `soft_value(q) - max q`, at least 0.
      offsets: [..., A] float, `q - max q`, at most 0; -inf where q is.
    """

    maximum: jax.Array
    excess: jax.Array
    offsets: jax.Array


@functools.partial(jax.jit, inline=True)
def soft_parts(q: chex.Array, temperature: chex.Numeric) -> SoftParts:
    """The parts of a soft value over the last axis, without checks."""
    q, temperature = promote(q, temperature)
    # A constant shift changes neither the log-sum-exp nor its gradient.
    maximum = jax.lax.stop_gradient(jnp.max(q, axis=-1))
    shift = jnp.where(maximum == -jnp.inf, 0.0, maximum)
    # XLA may compute the values that it subtracts with another rounding than those whose maximum
    # it takes: over a small temperature their difference would overflow.
    offsets = _at_most_zero(q - jnp.expand_dims(shift, -1))
    allowed = offsets > -jnp.inf
    # Masked twice: 0 * inf would make the gradient in the temperature nan.
    exponents = jnp.where(allowed, offsets, 0.0) / temperature
    total = jnp.sum(jnp.where(allowed, jnp.exp(exponents), 0.0), axis=-1)
    return SoftParts(maximum, jnp.log(jnp.where(total > 0.0, total, 1.0)) * temperature, offsets)


@functools.partial(jax.jit, inline=True)
def _exponentials(logits: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Logits relative to the maximum over the last axis, their exponentials, and the sum of these.

    The sum is 1 if all logits are -inf.
    """
    maximum = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    offsets = _at_most_zero(logits - jnp.where(maximum == -jnp.inf, 0.0, maximum))
    each = jnp.exp(offsets)
    total = jnp.sum(each, axis=-1, keepdims=True)
    return offsets, each, jnp.where(total > 0.0, total, 1.0)


def log_softmax(logits: jax.Array) -> jax.Array:
    """Log-probabilities over the last axis, without checks; finite logits never overflow."""
    offsets, _, total = _exponentials(logits)
    return offsets - jnp.log(total)


def softmax(logits: jax.Array) -> jax.Array:
    """Probabilities over the last axis, without checks; 0 everywhere if all logits are -inf."""
    _, each, total = _exponentials(logits)
    return each / total


def soft_value(q: chex.Array, *, temperature: chex.Numeric) -> jax.Array:
    """Soft maximum of action values, `temperature * logsumexp(q / temperature)`.

    Equals `<pi, q> + temperature * entropy(pi)` for `pi = softmax(q / temperature)`; lies between
    `max q`, its limit as the temperature falls to 0, and `max q + temperature * log A`.

    Args:
      q: [A] float, action values; -inf marks an action that is not allowed.
      temperature: above 0, in units of q.

    Returns:
      [] float32 or wider, in units of q.

    Raises:
      ValueError: a rank, dtype or range differs from the above; names the argument.

    Source: Haarnoja et al. 2017, arXiv:1702.08165.
    """
    check_arrays(q=Spec(q, "A"))
    check_scalars(temperature=temperature, above_zero=("temperature",))
    parts = soft_parts(q, temperature)
    return parts.maximum + parts.excess


def soft_q_learning(
    q_tm1: chex.Array,
    a_tm1: chex.Numeric,
    r_t: chex.Numeric,
    discount_t: chex.Numeric,
    q_t: chex.Array,
    *,
    temperature: chex.Numeric,
    stop_target_gradients: bool = True,
) -> jax.Array:
    """TD error of soft Q-learning: `r_t + discount_t * soft_value(q_t) - q_tm1[a_tm1]`.

    Args:
      q_tm1: [A] float, action values at t-1, in units of return.
      a_tm1: [] int in [0, A), the action taken at t-1.
      r_t: [] float, the reward that it earned.
      discount_t: [] float, gamma, or 0 where the environment terminated.
      q_t: [A] float, action values at t, usually of the target network.
      temperature: above 0, in units of q; falling to 0 it gives `q_learning`.
      stop_target_gradients: whether the target is a constant to the gradient.

    Returns:
      [] float32 or wider, target minus prediction.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Haarnoja et al. 2017, arXiv:1702.08165, here for discrete actions.
    """
    _check_transition(q_tm1, a_tm1, r_t, discount_t, q_t=q_t)
    q_tm1, r_t, discount_t, q_t = promote(q_tm1, r_t, discount_t, q_t)
    q_t = finite_where(discount_t == 0, q_t)
    target = r_t + discount_t * soft_value(q_t, temperature=temperature)
    return _td_error(q_tm1, a_tm1, target, stop_target_gradients)
