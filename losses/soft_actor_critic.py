"""Losses of SAC for continuous actions and a Gaussian policy: target, density, temperature."""

import chex
import jax
import jax.numpy as jnp

from bellmax.losses._checks import Spec, check_arrays, check_scalars, promote, widen
from bellmax.losses._masking import finite_where
from bellmax.losses.deterministic_policy import clipped_double_q_target, per_entry


def soft_actor_critic_target(
    r_t: chex.Numeric,
    discount_t: chex.Numeric,
    q_t: chex.Array,
    log_prob_t: chex.Numeric,
    *,
    temperature: chex.Numeric,
    reduce: str = "min",
) -> jax.Array:
    """`r_t + discount_t * (min q_t - temperature * log_prob_t)`.

    Args:
      r_t: [] float, the reward that the action earned.
      discount_t: [] float, gamma, or 0 where the environment terminated.
      q_t: [C] float, target critics' values at t of an action drawn from the current policy.
      log_prob_t: [] float, its log-density, from `tanh_gaussian_log_prob`.
      temperature: at least 0, in units of return; 0 gives `clipped_double_q_target`.
      reduce: "min", or "mean" for the ablation without pessimism.

    Returns:
      [] float32 or wider, in units of return. Gradients flow: the caller stops them.

    Raises:
      ValueError: a rank, dtype or range differs from the above, or reduce is unknown; names the
        argument.

    Source: Haarnoja et al. 2018, arXiv:1812.05905.
    """
    check_arrays(log_prob_t=Spec(log_prob_t, ""))
    check_scalars(temperature=temperature, from_zero=("temperature",))
    target = clipped_double_q_target(r_t, discount_t, q_t, reduce=reduce)
    target, discount_t, log_prob_t = promote(target, discount_t, log_prob_t)
    log_prob_t = finite_where(discount_t == 0, log_prob_t)
    return target - discount_t * temperature * log_prob_t


def tanh_gaussian_log_prob(
    u: chex.Array,
    mean: chex.Array,
    std: chex.Array,
    *,
    scale: chex.Numeric | chex.Array = 1.0,
) -> jax.Array:
    """Log-density of the action `scale * tanh(u) + shift`, where u is drawn from a Gaussian.

    It takes u instead of the action, and uses `log(1 - tanh(u)^2) = 2 (log 2 - u -
    softplus(-2u))`, which is exact and finite where tanh rounds to 1, without a constant inside a
    logarithm.

    Args:
      u: [D] float, the sample before tanh.
      mean, std: [D] float, of the Gaussian; std above 0.
      scale: [] or [D] float above 0, half the action range. It shifts the result, so the target
        entropy `-D` for actions in [-1, 1] becomes `-D + sum(log(scale))`.

    Returns:
      [] float32 or wider, summed over D.

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: Haarnoja et al. 2018, arXiv:1812.05905, appendix C.
    """
    check_arrays(u=Spec(u, "D"), mean=Spec(mean, "D"), std=Spec(std, "D"))
    u, mean, std = promote(u, mean, std)
    normal = jax.scipy.stats.norm.logpdf(u, mean, std)
    log_slope = 2.0 * (jnp.log(2.0) - u - jax.nn.softplus(-2.0 * u))
    return jnp.sum(normal - log_slope - jnp.log(per_entry("scale", scale, "u", u)))


def temperature_loss(
    log_temperature: chex.Numeric, log_prob: chex.Numeric, *, target_entropy: chex.Numeric
) -> jax.Array:
    """`-exp(log_temperature) * (log_prob + target_entropy)`, with a constant second factor.

    Minimising raises the temperature while the policy's entropy, the mean of `-log_prob`, is below
    its target.

    Args:
      log_temperature: [] float, the learned parameter.
      log_prob: [] float, log-density of an action of the current policy. Constant.
      target_entropy: often minus the number of action dimensions, for actions in [-1, 1].

    Returns:
      [] float32 or wider.

    Raises:
      ValueError: a rank or dtype differs from the above; names the argument.

    Source: Haarnoja et al. 2018, arXiv:1812.05905. Some code multiplies by log_temperature.
    """
    check_arrays(log_temperature=Spec(log_temperature, ""), log_prob=Spec(log_prob, ""))
    check_scalars(target_entropy=target_entropy)
    shortfall = jax.lax.stop_gradient(widen(log_prob) + target_entropy)
    return -jnp.exp(widen(log_temperature)) * shortfall
