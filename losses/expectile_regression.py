"""Expectile regression: squared errors with different weights for over- and underestimation.

For alpha < 1/2 the expectile of the target is a pessimistic mean: one critic trained on it replaces
the minimum of two critics. `expectile_tabular.py` has exact expectiles and their Bellman operator.
"""

import chex
import jax
import jax.numpy as jnp

from bellmax.losses._checks import NUMBER, Spec, check_arrays, check_scalars, promote, widen
from bellmax.losses._masking import finite_where
from bellmax.losses._rlax import rlax


def check_alpha(alpha: chex.Numeric) -> None:
    """Checks the level of an expectile: a scalar above 0 and below 1."""
    check_scalars(alpha=alpha, above_zero=("alpha",), below_one=("alpha",))


def expectile_loss(td_error: chex.Numeric, *, alpha: chex.Numeric) -> jax.Array:
    """`2 * weight * td_error ** 2`; the weight is alpha where td_error >= 0, else 1 - alpha.

    The TD error is target minus prediction, so alpha < 1/2 is pessimistic: targets *below* the
    prediction have a weight that is larger by (1 - alpha) / alpha than targets above it. With
    prediction minus target the two are swapped. The minimiser of the mean loss is the
    alpha-expectile of the targets.

    Args:
      td_error: [] float, target minus prediction, in units of return.
      alpha: above 0 and below 1; 1/2 is the squared error, small values the worst case.

    Returns:
      [] float32 or wider. Twice the plain form, so that alpha = 1/2 is the squared error exactly;
      its gradient in the prediction is `-4 * weight * td_error`.

    Raises:
      ValueError: a rank, dtype or range differs from the above; names the argument.

    Source: Newey and Powell 1987; Clavier et al. 2024, arXiv:2406.04081. Deviation: the factor 2.
    Calls rlax.expectile_loss.
    """
    check_arrays(td_error=Spec(td_error, ""))
    check_alpha(alpha)
    td_error = widen(td_error)
    # rlax annotates alpha as a float; traced values work as well.
    plain = rlax.expectile_loss(jnp.zeros_like(td_error), td_error, alpha)  # pyright: ignore[reportArgumentType]
    return 2.0 * plain


def expectile_td_loss(
    q_tm1: chex.Numeric,
    r_t: chex.Numeric,
    discount_t: chex.Numeric,
    q_t: chex.Numeric,
    *,
    alpha: chex.Numeric,
    stop_target_gradients: bool = True,
) -> jax.Array:
    """Critic loss of ExpectRL: `expectile_loss(r_t + discount_t * q_t - q_tm1)`.

    The expectile is over all randomness of the target: next state, reward and also the noise of the
    next action. Average q_t over several next actions to be pessimistic only about the environment.
    n-step sums in r_t give a different operator: use one-step rewards.

    Args:
      q_tm1: [] float, the critic's value of the action taken at t-1, in units of return.
      r_t: [] float, the reward that it earned.
      discount_t: [] float, gamma, or 0 where the environment terminated.
      q_t: [] float, the target critic's value at t of the target policy's action.
      alpha: above 0 and below 1; 1/2 is the squared error, small values the worst case; the paper
        uses several values below 1/2.
      stop_target_gradients: whether the target is a constant to the gradient.

    Returns:
      [] float32 or wider, scaled as `expectile_loss`.

    Raises:
      ValueError: a rank, dtype or range differs from the above; names the argument.

    Source: Clavier et al. 2024, arXiv:2406.04081. Calls rlax.td_learning.
    """
    check_arrays(
        q_tm1=Spec(q_tm1, ""),
        r_t=Spec(r_t, "", NUMBER),
        discount_t=Spec(discount_t, "", NUMBER),
        q_t=Spec(q_t, ""),
    )
    q_tm1, r_t, discount_t, q_t = promote(q_tm1, r_t, discount_t, q_t)
    q_t = finite_where(discount_t == 0, q_t)
    td_error = rlax.td_learning(
        q_tm1, r_t, discount_t, q_t, stop_target_gradients=stop_target_gradients
    )
    return expectile_loss(td_error, alpha=alpha)
