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

from bellmax.losses._checks import NUMBER, Spec, check_arrays, promote, whole_number, widen
from bellmax.losses._masking import backward_sums, ends_of, finite_where, guarded, recursion
from bellmax.losses.multi_step import error_of
from bellmax.losses.traces import check_lambda, watkins_coefficients


def _check_window(q_tm1, a_tm1, r_t, discount_t, q_t, trace_t) -> None:
    check_arrays(
        q_tm1=Spec(q_tm1, "TA"),
        a_tm1=Spec(a_tm1, "T", int),
        r_t=Spec(r_t, "T", NUMBER),
        discount_t=Spec(discount_t, "T", NUMBER),
        q_t=Spec(q_t, "TA"),
        trace_t=Spec(trace_t, "T", NUMBER),
    )


def _check_values(r_t, discount_t, v_t, trace_t) -> None:
    check_arrays(
        r_t=Spec(r_t, "T", NUMBER),
        discount_t=Spec(discount_t, "T", NUMBER),
        v_t=Spec(v_t, "T"),
        trace_t=Spec(trace_t, "T", NUMBER),
    )


def _parts(r_t, discount_t, v_t, trace_t, lambda_) -> list[jax.Array]:
    """Terms and factors of the lambda-return of every row, for `backward_sums`, and [T] values."""
    r_t, discount_t, v_t, trace_t, lambda_ = promote(r_t, discount_t, v_t, trace_t, lambda_)
    trace_t = jnp.where(ends_of(discount_t, trace_t), 0.0, trace_t)
    v_t = finite_where(discount_t == 0, v_t)

    def parts(r_t, discount_t, v_t, trace_t):
        mix_t = lambda_ * trace_t
        v_t = finite_where(mix_t == 1, v_t)
        return r_t + discount_t * (1.0 - mix_t) * v_t, discount_t * mix_t

    return [*recursion(parts, r_t, discount_t, v_t, trace_t), v_t]


def _max(discount_t: jax.Array, q_t: jax.Array) -> jax.Array:
    """[T] values of the greedy policy."""
    (v_t,) = guarded(lambda q: (jnp.max(q, axis=-1),), finite_where(discount_t == 0, q_t))
    return v_t


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
      r_t: [T] float, rewards.
      discount_t: [T] float, gamma, or 0 where the environment terminated.
      v_t: [T] float, bootstrap values: max q, or q at another network's argmax.
      trace_t: [T] float in [0, 1], 0 where the step that followed is the last of its episode.
      lambda_: in [0, 1]; 0 bootstraps after one step, 1 only at cuts and the window's end.

    Returns:
      [T] float32 or wider, in units of return. Gradients flow: the caller stops them.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Peng and Williams 1996.
    """
    _check_values(r_t, discount_t, v_t, trace_t)
    check_lambda(lambda_)
    term, factor, _ = _parts(r_t, discount_t, v_t, trace_t, lambda_)
    return backward_sums(term, factor)


def n_step_returns(
    r_t: chex.Array, discount_t: chex.Array, v_t: chex.Array, trace_t: chex.Array, *, n: int
) -> jax.Array:
    """Uncorrected n-step target of every step: n rewards, then the bootstrap.

    It bootstraps earlier at a cut or at the end of the window.

    Args:
      r_t: [T] float, rewards.
      discount_t: [T] float, gamma, or 0 where the environment terminated.
      v_t: [T] float, bootstrap values: max q, or q at another network's argmax.
      trace_t: [T] float in [0, 1], 0 where the step that followed is the last of its episode.
      n: number of steps, at least 1; not traced.

    Returns:
      [T] float32 or wider, in units of return. Gradients flow: the caller stops them.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Sutton and Barto 2018, eq. 7.1.
    """
    _check_values(r_t, discount_t, v_t, trace_t)
    n = whole_number("n", n)
    term, factor, v_t = _parts(r_t, discount_t, v_t, trace_t, 1.0)
    length = term.shape[0]
    n = min(n, length)  # beyond the window n has no effect
    # Past the window anything: the last row ends.
    term, factor, v_t = (jnp.pad(x, (0, n - 1)) for x in (term, factor, v_t))
    returns = v_t[n - 1 :]
    for i in reversed(range(n)):
        rows = slice(i, i + length)
        returns = term[rows] + factor[rows] * finite_where(factor[rows] == 0, returns)
    return returns


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

    Source: Peng and Williams 1996; Kozuno et al. 2021, arXiv:2103.00107.
    """
    _check_window(q_tm1, a_tm1, r_t, discount_t, q_t, trace_t)
    check_lambda(lambda_)
    arrays = promote(q_tm1, r_t, discount_t, q_t, trace_t, lambda_)
    q_tm1, r_t, discount_t, q_t, trace_t, lambda_ = arrays
    v_t = _max(discount_t, q_t)
    target = lambda_returns(r_t, discount_t, v_t, trace_t, lambda_=lambda_)
    return error_of(q_tm1, a_tm1, target, stop_target_gradients)


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
      q_tm1: [T, A] float, online values where the actions were taken.
      a_tm1: [T] int in [0, A), the actions.
      r_t: [T] float, rewards.
      discount_t: [T] float, gamma, or 0 where the environment terminated.
      q_t: [T, A] float, values at the next observations.
      a_t: [T] int in [0, A), the action taken at the observation of q_t; the last is not used.
      trace_t: [T] float in [0, 1], 0 where the step that followed is the last of its episode.
      lambda_: in [0, 1].
      stop_target_gradients: whether the target is a constant to the gradient.

    Returns:
      [T] float32 or wider, target minus prediction.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Watkins 1989; Sutton and Barto 2018, section 12.10.
    """
    _check_window(q_tm1, a_tm1, r_t, discount_t, q_t, trace_t)
    check_arrays(a_tm1=Spec(a_tm1, "T", int), a_t=Spec(a_t, "T", int))
    arrays = promote(q_tm1, r_t, discount_t, q_t, trace_t, lambda_)
    q_tm1, r_t, discount_t, q_t, trace_t, lambda_ = arrays
    greedy = watkins_coefficients(a_t, q_t)
    target = lambda_returns(
        r_t, discount_t, _max(discount_t, q_t), greedy * trace_t, lambda_=lambda_
    )
    return error_of(q_tm1, a_tm1, target, stop_target_gradients)


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
      q_tm1: [T, A] float, online values where the actions were taken.
      a_tm1: [T] int in [0, A), the actions.
      r_t: [T] float, rewards.
      discount_t: [T] float, gamma, or 0 where the environment terminated.
      q_t: [T, A] float, values at the next observations.
      trace_t: [T] float in [0, 1], 0 where the step that followed is the last of its episode.
      n: number of steps, at least 1; not traced. 1 is Q-learning.
      stop_target_gradients: whether the target is a constant to the gradient.

    Returns:
      [T] float32 or wider, target minus prediction.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Hessel et al. 2017, arXiv:1710.02298.
    """
    _check_window(q_tm1, a_tm1, r_t, discount_t, q_t, trace_t)
    discount_t, q_t = jnp.asarray(discount_t), widen(q_t)
    target = n_step_returns(r_t, discount_t, _max(discount_t, q_t), trace_t, n=n)
    return error_of(q_tm1, a_tm1, target, stop_target_gradients)
