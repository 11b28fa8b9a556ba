"""Uncorrected multi-step value learning: Peng's and Watkins' Q(lambda), and n-step Q-learning.

The actions of the behaviour policy `mu` are not corrected, so the fixed point depends on `mu`:

| method | call | fixed point of the expected target |
|---|---|---|
| Peng's Q(lambda) | `peng_q_lambda` | Q of lambda * mu + (1 - lambda) * pi, pi greedy |
| uncorrected n-step | `n_step_q_learning` | Q = (T^mu)^(n - 1) T^pi Q: mu, then pi |
| Watkins' Q(lambda) | `watkins_q_lambda` | Q*: cuts at the first action that is not greedy |

The fixed point of Peng's Q(lambda) holds for infinite windows. It is close to Q* if the behaviour
policy slowly follows the greedy policy (Kozuno et al. 2021, arXiv:2103.00107). Rows and the mask
are as in `multi_step.py`.
"""

import chex
import jax
import jax.numpy as jnp

from bellmax.losses._checks import Spec, check_arrays, widen
from bellmax.losses._rlax import rlax
from bellmax.losses.multi_step import error_of
from bellmax.losses.traces import check_lambda, watkins_coefficients


def _check_window(q_tm1, a_tm1, r_t, discount_t, q_t, trace_t) -> None:
    check_arrays(
        q_tm1=Spec(q_tm1, "TA"),
        a_tm1=Spec(a_tm1, "T", int),
        r_t=Spec(r_t, "T"),
        discount_t=Spec(discount_t, "T"),
        q_t=Spec(q_t, "TA"),
        trace_t=Spec(trace_t, "T"),
    )


def _check_values(**arrays: chex.Array) -> None:
    check_arrays(**{name: Spec(x, "T") for name, x in arrays.items()})


def lambda_returns(
    r_t: chex.Array,
    discount_t: chex.Array,
    v_t: chex.Array,
    trace_t: chex.Array,
    *,
    lambda_: chex.Numeric = 1.0,
) -> jax.Array:
    """Uncorrected target of every step of a window, as in Peng's Q(lambda).

    `G[i] = r[i] + discount[i] * ((1 - l[i]) * v[i] + l[i] * G[i + 1])`, `l = lambda * trace`.

    Args:
      r_t, discount_t, trace_t: as in `off_policy_returns`.
      v_t: [T] float, bootstrap values: max q, or q at another network's argmax.
      lambda_: in [0, 1]; 0 bootstraps after one step, 1 only at cuts and the window's end.

    Returns:
      [T] float32 or wider, in units of return. Gradients flow: the caller stops them.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Peng and Williams 1996. Calls rlax.lambda_returns.
    """
    _check_values(r_t=r_t, discount_t=discount_t, v_t=v_t, trace_t=trace_t)
    check_lambda(lambda_)
    r_t, discount_t, v_t, trace_t = map(widen, (r_t, discount_t, v_t, trace_t))
    return jnp.asarray(rlax.lambda_returns(r_t, discount_t, v_t, lambda_ * trace_t))


def n_step_returns(
    r_t: chex.Array, discount_t: chex.Array, v_t: chex.Array, trace_t: chex.Array, *, n: int
) -> jax.Array:
    """Uncorrected n-step target of every step: n rewards, then the bootstrap.

    It bootstraps earlier at a cut or at the end of the window.

    Args:
      r_t, discount_t, v_t, trace_t: as in `lambda_returns`.
      n: number of steps, at least 1; not traced.

    Returns:
      [T] float32 or wider, in units of return. Gradients flow: the caller stops them.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Sutton and Barto 2018, eq. 7.1. Calls rlax.n_step_bootstrapped_returns.
    """
    _check_values(r_t=r_t, discount_t=discount_t, v_t=v_t, trace_t=trace_t)
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"n is {n}, but must be an int of at least 1.")
    r_t, discount_t, v_t, trace_t = map(widen, (r_t, discount_t, v_t, trace_t))
    # rlax unrolls n steps in Python and pads by n; n beyond the window has no effect.
    n = min(n, r_t.shape[0])
    return jnp.asarray(rlax.n_step_bootstrapped_returns(r_t, discount_t, v_t, n, trace_t))


def peng_q_lambda(
    q_tm1: chex.Array,
    a_tm1: chex.Array,
    r_t: chex.Array,
    discount_t: chex.Array,
    q_t: chex.Array,
    trace_t: chex.Array,
    *,
    lambda_: chex.Numeric,
    stop_target_gradients: bool = True,
) -> jax.Array:
    """TD error of Peng's Q(lambda): `lambda_returns` of `max q_t`, minus `q_tm1[a_tm1]`.

    Args:
      q_tm1: [T, A] float, online values where the actions were taken.
      a_tm1: [T] int in [0, A), the actions.
      r_t: [T] float, rewards.
      discount_t: [T] float, gamma, or 0 where the environment terminated.
      q_t: [T, A] float, values at the next observations.
      trace_t: [T] float in [0, 1], 0 where the step that followed is the last of its episode.
      lambda_: in [0, 1]; 0 is Q-learning, 1 the uncorrected return of the whole window. The
        authors use 0.7.
      stop_target_gradients: whether the target is a constant to the gradient.

    Returns:
      [T] float32 or wider, target minus prediction.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Peng and Williams 1996; Kozuno et al. 2021, arXiv:2103.00107. Calls rlax.q_lambda.
    """
    _check_window(q_tm1, a_tm1, r_t, discount_t, q_t, trace_t)
    check_lambda(lambda_)
    q_tm1, r_t, discount_t, q_t, trace_t = map(widen, (q_tm1, r_t, discount_t, q_t, trace_t))
    lambda_t = lambda_ * trace_t
    return jnp.asarray(
        rlax.q_lambda(q_tm1, a_tm1, r_t, discount_t, q_t, lambda_t, stop_target_gradients)
    )


def watkins_q_lambda(
    q_tm1: chex.Array,
    a_tm1: chex.Array,
    r_t: chex.Array,
    discount_t: chex.Array,
    q_t: chex.Array,
    a_t: chex.Array,
    trace_t: chex.Array,
    *,
    lambda_: chex.Numeric,
    stop_target_gradients: bool = True,
) -> jax.Array:
    """TD error of Watkins' Q(lambda): Peng's, cut where the taken action is not greedy in q_t.

    It equals Retrace for the greedy policy and needs no `mu`.

    Args:
      q_tm1, a_tm1, r_t, discount_t, q_t, trace_t, stop_target_gradients: as in `peng_q_lambda`.
      a_t: [T] int in [0, A), the action taken at the observation of q_t; the last is not used.
      lambda_: in [0, 1].

    Returns:
      [T] float32 or wider, target minus prediction.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Watkins 1989; Sutton and Barto 2018, section 12.10. Calls rlax.q_lambda.
    """
    _check_window(q_tm1, a_tm1, r_t, discount_t, q_t, trace_t)
    check_arrays(a_tm1=Spec(a_tm1, "T", int), a_t=Spec(a_t, "T", int))
    lambda_t = watkins_coefficients(a_t, q_t, lambda_=lambda_) * widen(trace_t)
    q_tm1, r_t, discount_t, q_t = map(widen, (q_tm1, r_t, discount_t, q_t))
    return jnp.asarray(
        rlax.q_lambda(q_tm1, a_tm1, r_t, discount_t, q_t, lambda_t, stop_target_gradients)
    )


def n_step_q_learning(
    q_tm1: chex.Array,
    a_tm1: chex.Array,
    r_t: chex.Array,
    discount_t: chex.Array,
    q_t: chex.Array,
    trace_t: chex.Array,
    *,
    n: int,
    stop_target_gradients: bool = True,
) -> jax.Array:
    """TD error of uncorrected n-step Q-learning: `n_step_returns` of `max q_t`, minus prediction.

    Args:
      q_tm1, a_tm1, r_t, discount_t, q_t, trace_t, stop_target_gradients: as in `peng_q_lambda`.
      n: number of steps, at least 1; not traced. 1 is Q-learning.

    Returns:
      [T] float32 or wider, target minus prediction.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Hessel et al. 2017, arXiv:1710.02298.
    """
    _check_window(q_tm1, a_tm1, r_t, discount_t, q_t, trace_t)
    target = n_step_returns(r_t, discount_t, jnp.max(widen(q_t), axis=-1), trace_t, n=n)
    return error_of(q_tm1, a_tm1, target, stop_target_gradients)
