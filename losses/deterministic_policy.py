"""Losses of TD3: targets, critics and actor for a deterministic policy and continuous actions.

An ensemble of critics is an axis [C]; a single critic is C = 1. All critics share one target.
Actions are in the environment's units, with finite bounds.
"""

import chex
import jax
import jax.numpy as jnp

from bellmax.losses._checks import (
    NUMBER,
    Spec,
    check_arrays,
    check_scalars,
    one_of,
    promote,
    widen,
)
from bellmax.losses._masking import finite_where

REDUCTIONS = {"min": jnp.min, "mean": jnp.mean}


def _reduced(q_t: chex.Array, reduce: str) -> jax.Array:
    one_of("reduce", reduce, REDUCTIONS)
    return REDUCTIONS[reduce](q_t)


def per_entry(name: str, value: chex.Numeric, of: str, array: jax.Array) -> jax.Array:
    """Broadcasts a scalar, or a checked array, to the shape of the array."""
    if jnp.shape(value):
        check_arrays(**{of: Spec(array, "D"), name: Spec(value, "D")})
    return jnp.broadcast_to(promote(value, array)[0], array.shape)


def smoothed_target_action(
    action: chex.Array,
    noise: chex.Array,
    *,
    noise_clip: chex.Numeric = 0.5,
    minimum: chex.Numeric | chex.Array = -1.0,
    maximum: chex.Numeric | chex.Array = 1.0,
) -> jax.Array:
    """The target policy's action plus clipped noise, within bounds: TD3's smoothing.

    `clip(action + scale * clip(noise, -noise_clip, noise_clip), minimum, maximum)`, where scale is
    half of `maximum - minimum`: noise and its clip do not depend on the action's units.

    Args:
      action: [D] float, the target policy's action, in the environment's units.
      noise: [D] float, in units of half the action's range; TD3 draws `0.2 * normal` independently
        for every example and shares it between critics.
      noise_clip: at least 0, in units of half the action's range.
      minimum, maximum: [] or [D] float, the action's bounds, finite.

    Returns:
      [D] float32 or wider, in the environment's units.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Fujimoto et al. 2018, arXiv:1802.09477; scaled to the action's range as in CleanRL.
    """
    check_arrays(action=Spec(action, "D"), noise=Spec(noise, "D"))
    check_scalars(noise_clip=noise_clip, from_zero=("noise_clip",))
    action, noise, clip = promote(action, noise, noise_clip)
    low = per_entry("minimum", minimum, "action", action)
    high = per_entry("maximum", maximum, "action", action)
    scaled = 0.5 * (high - low) * jnp.clip(noise, -clip, clip)
    return jnp.clip(action + scaled, low, high)


def clipped_double_q_target(
    r_t: chex.Numeric, discount_t: chex.Numeric, q_t: chex.Array, *, reduce: str = "min"
) -> jax.Array:
    """`r_t + discount_t * min q_t` over an ensemble of target critics.

    Args:
      r_t: [] float, the reward that the action earned.
      discount_t: [] float, gamma, or 0 where the environment terminated.
      q_t: [C] float, target critics' values at t of the same action, which is
        `smoothed_target_action` in TD3. C = 1 is a single critic.
      reduce: "min", or "mean" for the ablation without pessimism.

    Returns:
      [] float32 or wider, in units of return. Gradients flow: the caller stops them.

    Raises:
      ValueError: a rank or dtype differs from the above, or reduce is unknown; names the argument.

    Source: Fujimoto et al. 2018, arXiv:1802.09477, clipped double Q-learning.
    """
    check_arrays(
        r_t=Spec(r_t, "", NUMBER), discount_t=Spec(discount_t, "", NUMBER), q_t=Spec(q_t, "C")
    )
    r_t, discount_t, q_t = promote(r_t, discount_t, q_t)
    return r_t + discount_t * _reduced(finite_where(discount_t == 0, q_t), reduce)


def clipped_double_q_learning(
    q_tm1: chex.Array,
    r_t: chex.Numeric,
    discount_t: chex.Numeric,
    q_t: chex.Array,
    *,
    reduce: str = "min",
    stop_target_gradients: bool = True,
) -> jax.Array:
    """TD error of every critic against the shared target.

    Args:
      q_tm1: [C] float, critics' values of the action taken at t-1.
      r_t: [] float, the reward that the action earned.
      discount_t: [] float, gamma, or 0 where the environment terminated.
      q_t: [C] float, target critics' values at t of the same action, which is
        `smoothed_target_action` in TD3. C = 1 is a single critic.
      reduce: "min", or "mean" for the ablation without pessimism.
      stop_target_gradients: whether the target is a constant to the gradient.

    Returns:
      [C] float32 or wider, target minus prediction. TD3's loss is the sum of squares over C.

    Raises:
      ValueError: a rank, dtype or size differs from the above, or reduce is unknown; names the
        argument.

    Source: Fujimoto et al. 2018, arXiv:1802.09477.
    """
    check_arrays(q_tm1=Spec(q_tm1, "C"), q_t=Spec(q_t, "C"))
    target = clipped_double_q_target(r_t, discount_t, q_t, reduce=reduce)
    if stop_target_gradients:
        target = jax.lax.stop_gradient(target)
    return target - widen(q_tm1)


def deterministic_policy_gradient(
    a_t: chex.Array, dqda_t: chex.Array, *, dqda_clipping: chex.Numeric | None = None
) -> jax.Array:
    """Actor loss whose gradient in the action is `-dqda_t`, that of `-q(a_t)`.

    The critic is constant by construction: only its gradient in the action is an input, from
    `jax.grad(critic, argnums)(..., a_t)`. TD3 differentiates its first critic.

    Args:
      a_t: [D] float, the actor's action.
      dqda_t: [D] float, gradient of the critic in the action at a_t. Constant to the gradient.
      dqda_clipping: above 0, bound on the Euclidean norm of dqda_t; None for no bound.

    Returns:
      [] float32 or wider, `0.5 * sum(dqda_t ** 2)`. This is not the critic's value; log that
      separately.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Silver et al. 2014, "Deterministic Policy Gradient Algorithms".
    """
    check_arrays(a_t=Spec(a_t, "D"), dqda_t=Spec(dqda_t, "D"))
    if dqda_clipping is not None:
        check_scalars(dqda_clipping=dqda_clipping, above_zero=("dqda_clipping",))
    a_t, dqda_t = promote(a_t, dqda_t)
    dqda_t = jax.lax.stop_gradient(dqda_t)
    if dqda_clipping is not None:
        dqda_t = dqda_t * jnp.minimum(1.0, dqda_clipping / _norm(dqda_t))
    # Not `target - a_t` with the target `dqda_t + a_t`, which would round a small gradient to 0.
    towards = jnp.sum(dqda_t * (a_t - jax.lax.stop_gradient(a_t)))
    return 0.5 * jnp.sum(jnp.square(dqda_t)) - towards


def _norm(x: jax.Array) -> jax.Array:
    """The Euclidean norm, of which no square overflows; not 0."""
    largest = jnp.max(jnp.abs(x))
    largest = jnp.where(largest > 0, largest, 1.0)
    return largest * jnp.maximum(jnp.sqrt(jnp.sum(jnp.square(x / largest))), 1.0)
