"""Advantage Learning: value learning that increases the action gap."""

import chex
import jax
import jax.numpy as jnp

from bellmax.losses._checks import NUMBER, Spec, check_arrays, check_scalars, promote
from bellmax.losses._masking import finite_where
from bellmax.losses._rlax import rlax


def advantage_learning(
    q_tm1: chex.Array,
    a_tm1: chex.Numeric,
    r_t: chex.Numeric,
    discount_t: chex.Numeric,
    target_q_tm1: chex.Array,
    target_q_t: chex.Array,
    *,
    alpha: chex.Numeric = 0.9,
    stop_target_gradients: bool = True,
) -> jax.Array:
    """TD error of Advantage Learning: Q-learning with the action's advantage added to the reward.

    The target is `r_t + alpha * (target_q_tm1[a_tm1] - max target_q_tm1) + discount_t * max
    target_q_t`. It is the limit of `munchausen_q_learning` without a clip as the temperature goes
    to 0, so it has no entropy and no KL regularisation; `alpha=0` is Q-learning. On a table the
    greedy policy stays optimal for alpha below 1, and action gaps grow by `1 / (1 - alpha)`.
    `rlax.persistent_q_learning` is a different operator: its second term is evaluated at t.

    Args:
      q_tm1: [A] float, online network's action values at t-1, in units of return.
      a_tm1: [] int in [0, A), the action taken at t-1.
      r_t: [] float, the reward that it earned.
      discount_t: [] float, gamma, or 0 where the environment terminated; it masks only the
        bootstrap, never the advantage.
      target_q_tm1: [A] float, target network's action values at t-1.
      target_q_t: [A] float, target network's action values at t.
      alpha: weight of the advantage, in [0, 1); the default is `munchausen_target`'s.
      stop_target_gradients: whether the target is a constant to the gradient.

    Returns:
      [] float32 or wider, target minus prediction.

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: Bellemare et al. 2016, arXiv:1512.04860. Calls rlax.q_learning. Deviation: the
      advantage uses the target network, as in Munchausen learning.
    """
    check_arrays(
        q_tm1=Spec(q_tm1, "A"),
        a_tm1=Spec(a_tm1, "", int),
        r_t=Spec(r_t, "", NUMBER),
        discount_t=Spec(discount_t, "", NUMBER),
        target_q_tm1=Spec(target_q_tm1, "A"),
        target_q_t=Spec(target_q_t, "A"),
    )
    check_scalars(alpha=alpha, from_zero=("alpha",), below_one=("alpha",))
    arrays = promote(q_tm1, r_t, discount_t, target_q_tm1, target_q_t)
    q_tm1, r_t, discount_t, target_q_tm1, target_q_t = arrays
    target_q_t = finite_where(discount_t == 0, target_q_t)
    # Added to the reward, so that rlax stops its gradient with that of the target.
    r_t = r_t + alpha * (target_q_tm1[a_tm1] - jnp.max(target_q_tm1))
    error = rlax.q_learning(q_tm1, a_tm1, r_t, discount_t, target_q_t, stop_target_gradients)
    return jnp.asarray(error)
