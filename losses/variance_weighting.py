"""Deep Variance Weighting: TD losses weighted by the inverse variance of their targets.

A network learns `variance_target`, the squared error between a target and its expectation. The
weights are the inverse of its output times a scale that makes their mean 1 (`variance_scale_loss`),
with a lower bound. The expectation of a target of the *previous* target network is the current
target network, which was fitted to such targets.
"""

import chex
import jax
import jax.numpy as jnp

from bellmax.losses._checks import NUMBER, Spec, check_arrays, check_scalars, promote, widen
from bellmax.losses.batches import masked_mean


def variance_target(td_error: chex.Numeric) -> jax.Array:
    """One-sample estimate of a target's variance: `td_error ** 2`, without gradient.

    Args:
      td_error: [] float, the target that bootstraps from the previous target network, minus the
        action value of the current target network, in units of return.

    Returns:
      [] float32 or wider, at least 0, in squared units of return.

    Raises:
      ValueError: a rank or dtype differs from the above; names the argument.

    Source: Kitamura et al. 2023, arXiv:2305.13185, and the authors' training code.
    """
    check_arrays(td_error=Spec(td_error, ""))
    return jax.lax.stop_gradient(jnp.square(widen(td_error)))


def variance_weights(
    variance: chex.Array, log_scale: chex.Numeric, *, floor: chex.Numeric = 0.1
) -> jax.Array:
    """Weights of a batch's TD losses, `max(exp(log_scale) / variance, floor)`, without gradient.

    Args:
      variance: [B] float above 0, in squared units of return.
      log_scale: [] float, logarithm of the scale.
      floor: smallest weight, at least 0.

    Returns:
      [B] float32 or wider, at least `floor`.

    Raises:
      ValueError: a rank, dtype or range differs from the above; names the argument.

    Source: Kitamura et al. 2023, arXiv:2305.13185, and the authors' training code.
    """
    check_arrays(variance=Spec(variance, "B"), log_scale=Spec(log_scale, ""))
    check_scalars(floor=floor, from_zero=("floor",))
    variance, log_scale, floor = promote(variance, log_scale, floor)
    return jax.lax.stop_gradient(jnp.maximum(jnp.exp(log_scale) / variance, floor))


def variance_scale_loss(
    log_scale: chex.Numeric, variance: chex.Array, mask: chex.Array
) -> jax.Array:
    """Squared distance from 1 of the weights' mean over a batch, before their lower bound.

    Args:
      log_scale: [] float, logarithm of the scale: what is learned.
      variance: [B] float above 0, in squared units of return; treated as constant.
      mask: [B] float, int or bool, at least 0: weight of each example in the mean, a constant.

    Returns:
      [] float32 or wider, a loss.

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: Kitamura et al. 2023, arXiv:2305.13185, and the authors' training code. Deviation: mask.
    """
    check_arrays(
        log_scale=Spec(log_scale, ""), variance=Spec(variance, "B"), mask=Spec(mask, "B", NUMBER)
    )
    log_scale, variance = promote(log_scale, variance)
    variance, mask = jax.lax.stop_gradient((variance, jnp.asarray(mask)))
    inverse = masked_mean(1.0 / jnp.where(mask == 0, 1.0, variance), mask)
    return jnp.square(jnp.exp(log_scale) * inverse - 1.0)
