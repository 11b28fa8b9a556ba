"""Tabular quantile temporal-difference learning, of which QR-DQN-0 is the sampled form."""

import chex
import jax
import jax.numpy as jnp

from bellmax.losses._checks import Spec, check_arrays, check_scalars, promote


def quantile_td(
    dist_tm1: chex.Array,
    tau_tm1: chex.Array,
    target: chex.Array,
    *,
    step_size: chex.Numeric,
    weights: chex.Array | None = None,
) -> jax.Array:
    """One update of a state's quantiles: `dist_tm1 + step_size * (tau_tm1 - F(dist_tm1))`.

    F(x) is the mass of the target strictly below x, so the step of each value is bounded and does
    not depend on the size of its error. It is gradient descent on `quantile_regression` with
    `huber_kappa=0`. A sampled transition has the target `r_t + discount_t * dist_t`. Where F is
    flat at tau, every point of the flat interval is a fixed point.

    Args:
      dist_tm1: [N] float, quantile values of one state or action, in units of return.
      tau_tm1: [N] float in (0, 1), the fractions that they estimate.
      target: [M] float, target atoms, in units of return.
      step_size: in units of return, at least 0.
      weights: [M] float summing to 1, may be negative; None means 1/M each.

    Returns:
      [N] float32 or wider, the new quantile values, in the order of the old ones.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Rowland et al. 2023, arXiv:2301.04462. Deviation: weights.
    """
    check_arrays(dist_tm1=Spec(dist_tm1, "N"), tau_tm1=Spec(tau_tm1, "N"), target=Spec(target, "M"))
    if weights is not None:
        check_arrays(target=Spec(target, "M"), weights=Spec(weights, "M"))
    check_scalars(step_size=step_size, from_zero=("step_size",))
    w = 1.0 if weights is None else weights
    theta, tau, z, w = promote(dist_tm1, tau_tm1, target, w)
    w = jnp.full_like(z, 1.0 / z.size) if weights is None else w
    mass_below = jnp.sum(jnp.where(z[None, :] < theta[:, None], w[None, :], 0.0), axis=1)
    return theta + step_size * (tau - mass_below)
