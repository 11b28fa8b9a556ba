"""Expectile regression: squared errors that weigh over- and under-estimation differently.

An expectile bootstraps from a pessimistic mean where alpha < 1/2: one critic trained so replaces
the smaller of two. `expectile_tabular.py` has expectiles and their Bellman operator exactly.
"""

import chex
import jax
import jax.numpy as jnp

from bellmax.losses._checks import Spec, check_arrays, check_scalars, widen
from bellmax.losses._rlax import rlax


def check_alpha(alpha: chex.Numeric) -> None:
    """Checks the level of an expectile: a scalar above 0 and below 1."""
    check_scalars(alpha=alpha, above_zero=("alpha",), below_one=("alpha",))


def expectile_loss(td_error: chex.Numeric, *, alpha: chex.Numeric) -> jax.Array:
    """`2 * weight * td_error ** 2`; the weight is alpha where td_error >= 0, else 1 - alpha.

    The TD error is target minus prediction, so alpha < 1/2 is pessimistic: a target *below* the
    prediction pulls harder, by (1 - alpha) / alpha, than one above. A prediction minus target
    swaps the two. The minimiser over targets is their alpha-expectile.

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

    The expectile is taken over everything that is random in the target: next state, reward, and
    the noise of the next action too. Average q_t over several next actions to be pessimistic
    about the environment only. Sums of several rewards in r_t are another operator: keep one.

    Args:
      q_tm1: [] float, the critic's value of the action taken at t-1, in units of return.
      r_t: [] float, the reward that it earned.
      discount_t: [] float, gamma, or 0 where the environment terminated.
      q_t: [] float, the target critic's value at t of the target policy's action.
      alpha: as in `expectile_loss`; the paper tries several values below 1/2.
      stop_target_gradients: whether the target is a constant to the gradient.

    Returns:
      [] float32 or wider, scaled as `expectile_loss`.

    Raises:
      ValueError: a rank, dtype or range differs from the above; names the argument.

    Source: Clavier et al. 2024, arXiv:2406.04081. Calls rlax.td_learning.
    """
    check_arrays(
        q_tm1=Spec(q_tm1, ""),
        r_t=Spec(r_t, ""),
        discount_t=Spec(discount_t, ""),
        q_t=Spec(q_t, ""),
    )
    arrays = map(widen, (q_tm1, r_t, discount_t, q_t))
    td_error = rlax.td_learning(*arrays, stop_target_gradients=stop_target_gradients)
    return expectile_loss(td_error, alpha=alpha)
