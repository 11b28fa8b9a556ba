"""One-step value learning: Q-learning, double Q-learning, expected SARSA, soft Q-learning.

The first three call rlax. They are wrapped because bellmax's conventions differ: errors name the
argument, sizes must agree (rlax accepts a `q_t` of a different length), bfloat16 input is widened
before the target is computed, and hyper-parameters are keyword-only. rlax has no soft Q-learning.
Expected SARSA under a softmax policy needs no separate function, as `probs_a_t` may be any
distribution; soft Q-learning is that plus the policy's entropy.
"""

import chex
import jax
import jax.numpy as jnp

from bellmax.losses._checks import Spec, check_arrays, check_scalars, widen
from bellmax.losses._rlax import rlax


def _check_transition(q_tm1, a_tm1, r_t, discount_t, **vectors_t: chex.Array) -> None:
    check_arrays(
        q_tm1=Spec(q_tm1, "A"),
        a_tm1=Spec(a_tm1, "", int),
        r_t=Spec(r_t, ""),
        discount_t=Spec(discount_t, ""),
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
    q_tm1, r_t, discount_t, q_t = map(widen, (q_tm1, r_t, discount_t, q_t))
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
      q_tm1, a_tm1, r_t, discount_t, stop_target_gradients: as in `q_learning`.
      q_t_value: [A] float, bootstrap values at t (the target network's).
      q_t_selector: [A] float, values at t whose argmax selects the action (the online network's).

    Returns:
      [] float32 or wider, target minus prediction.

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: van Hasselt et al. 2015, arXiv:1509.06461. Calls rlax.double_q_learning.
    """
    _check_transition(q_tm1, a_tm1, r_t, discount_t, q_t_value=q_t_value, q_t_selector=q_t_selector)
    q_tm1, r_t, discount_t, q_t_value = map(widen, (q_tm1, r_t, discount_t, q_t_value))
    error = rlax.double_q_learning(
        q_tm1, a_tm1, r_t, discount_t, q_t_value, q_t_selector, stop_target_gradients
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
      q_tm1, a_tm1, r_t, discount_t, q_t, stop_target_gradients: as in `q_learning`.
      probs_a_t: [A] float, the policy's probabilities at t, summing to 1.

    Returns:
      [] float32 or wider, target minus prediction.

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: van Seijen et al. 2009. Calls rlax.expected_sarsa.
    """
    _check_transition(q_tm1, a_tm1, r_t, discount_t, q_t=q_t, probs_a_t=probs_a_t)
    q_tm1, r_t, discount_t, q_t, probs = map(widen, (q_tm1, r_t, discount_t, q_t, probs_a_t))
    # rlax computes the expectation as a dot product, which accelerators may round to TF32 or
    # bfloat16.
    with jax.default_matmul_precision("highest"):
        error = rlax.expected_sarsa(
            q_tm1, a_tm1, r_t, discount_t, q_t, probs, stop_target_gradients
        )
    return jnp.asarray(error)


def max_and_soft_excess(q: chex.Array, temperature: chex.Numeric) -> tuple[jax.Array, jax.Array]:
    """`max q` and `soft_value(q) - max q` over the last axis, without checks.

    Returned separately because their sum would lose the second to rounding when q is large.
    """
    q = widen(q)
    # A constant shift changes neither the log-sum-exp nor its gradient.
    q_max = jax.lax.stop_gradient(jnp.max(q, axis=-1))
    exponents = (q - jnp.expand_dims(q_max, -1)) / temperature
    return q_max, jnp.log(jnp.sum(jnp.exp(exponents), axis=-1)) * temperature


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
    q_max, excess = max_and_soft_excess(q, temperature)
    return q_max + excess


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
      q_tm1, a_tm1, r_t, discount_t, q_t, stop_target_gradients: as in `q_learning`.
      temperature: above 0, in units of q; falling to 0 it gives `q_learning`.

    Returns:
      [] float32 or wider, target minus prediction.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Haarnoja et al. 2017, arXiv:1702.08165, here for discrete actions.
    """
    _check_transition(q_tm1, a_tm1, r_t, discount_t, q_t=q_t)
    q_tm1, r_t, discount_t = map(widen, (q_tm1, r_t, discount_t))
    target = r_t + discount_t * soft_value(q_t, temperature=temperature)
    if stop_target_gradients:
        target = jax.lax.stop_gradient(target)
    return target - q_tm1[a_tm1]
