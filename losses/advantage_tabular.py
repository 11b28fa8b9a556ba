"""Tabular VA-learning: updates from single transitions, and exact dynamic programming."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from bellmax.losses._checks import NUMBER, Spec, check_arrays, check_scalars, promote, widen
from bellmax.losses._masking import finite_where, weighted_sum


class VATables(NamedTuple):
    """Tables of VA-learning; action values are `v[:, None] + advantage`.

    Attributes:
      v: [S] float, in units of return.
      advantage: [S, A] float, in units of return.
    """

    v: jax.Array
    advantage: jax.Array


def _next_value(tables: VATables, pi: chex.Array | None) -> jax.Array:
    """[S], bootstrap values: of the greedy policy, or the mean over a given policy."""
    v, advantage = map(widen, tables)
    if pi is None:
        return v + jnp.max(advantage, axis=-1)
    return v + weighted_sum(widen(pi), advantage)


def _check_tables(tables: VATables, pi: chex.Array | None, **arguments: Spec) -> None:
    policy = {} if pi is None else {"pi": Spec(pi, "SA")}
    advantage = Spec(tables.advantage, "SA")
    check_arrays(v=Spec(tables.v, "S"), advantage=advantage, **arguments, **policy)


def va_update(
    tables: VATables,
    s_tm1: chex.Numeric,
    a_tm1: chex.Numeric,
    r_t: chex.Numeric,
    discount_t: chex.Numeric,
    s_t: chex.Numeric,
    *,
    step_size_v: chex.Numeric,
    step_size_advantage: chex.Numeric,
    pi: chex.Array | None = None,
) -> VATables:
    """Updates both tables from one transition; both errors use the value *before* the update.

    With `target = r_t + discount_t * (v[s_t] + max_b advantage[s_t, b])`, v[s_tm1] moves towards
    the target and advantage[s_tm1, a_tm1] towards `target - v[s_tm1]`. The advantage is centred
    under the behaviour policy only at convergence.

    Args:
      tables: the current `VATables`.
      s_tm1, s_t: [] int in [0, S), the state and its successor.
      a_tm1: [] int in [0, A), the action taken.
      r_t: [] float, the reward that it earned.
      discount_t: [] float, gamma, or 0 where the environment terminated.
      step_size_v, step_size_advantage: in [0, 1]; equal in the paper.
      pi: [S, A] float, the policy to evaluate, rows summing to 1; None is control.

    Returns:
      `VATables`, float32 or wider. Gradients flow: this is an update, not a loss.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Tang et al. 2023, arXiv:2305.18161. Deviation: two step sizes.
    """
    _check_tables(
        tables,
        pi,
        s_tm1=Spec(s_tm1, "", int),
        a_tm1=Spec(a_tm1, "", int),
        r_t=Spec(r_t, "", NUMBER),
        discount_t=Spec(discount_t, "", NUMBER),
        s_t=Spec(s_t, "", int),
    )
    names = "step_size_v", "step_size_advantage"
    check_scalars(
        step_size_v=step_size_v,
        step_size_advantage=step_size_advantage,
        from_zero=names,
        up_to_one=names,
    )
    v, advantage = map(widen, tables)
    r_t, discount_t, v_t = promote(r_t, discount_t, _next_value(tables, pi)[s_t])
    target = r_t + discount_t * finite_where(discount_t == 0, v_t)
    v_error = target - v[s_tm1]
    advantage_error = v_error - advantage[s_tm1, a_tm1]
    # Tables keep their dtype even if other inputs are float64, so that scans can carry them.
    v_step = jnp.asarray(step_size_v * v_error, v.dtype)
    advantage_step = jnp.asarray(step_size_advantage * advantage_error, advantage.dtype)
    return VATables(v.at[s_tm1].add(v_step), advantage.at[s_tm1, a_tm1].add(advantage_step))


def va_value_iteration(
    tables: VATables,
    r: chex.Array,
    p: chex.Array,
    mu: chex.Array,
    *,
    gamma: chex.Numeric,
    pi: chex.Array | None = None,
) -> VATables:
    """One exact iteration: v becomes the mean over mu of the Bellman backup, advantage the rest.

    The sum of the new tables is the backup of the sum of the old ones, so it converges at rate
    gamma. The fixed point is `v = sum_a mu(a) * q(a)` and `advantage = q - v`, with q that of pi,
    or optimal.

    Args:
      tables: the current `VATables`.
      r: [S, A] float, expected rewards.
      p: [S, A, S] float, probabilities of the next state; a row may sum to less than 1; the rest
        is the probability of termination.
      mu: [S, A] float, behaviour policy, rows summing to 1.
      gamma: discount in [0, 1].
      pi: [S, A] float, the policy to evaluate, rows summing to 1; None is control.

    Returns:
      `VATables`, float32 or wider.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Tang et al. 2023, arXiv:2305.18161. The *new* v must be subtracted: with the old v a
      full step is not a contraction and diverges on a periodic chain.
    """
    _check_tables(tables, pi, r=Spec(r, "SA", NUMBER), p=Spec(p, "SAS"), mu=Spec(mu, "SA"))
    check_scalars(gamma=gamma, from_zero=("gamma",), up_to_one=("gamma",))
    r, p, mu, next_value = promote(r, p, mu, _next_value(tables, pi))
    q = r + gamma * weighted_sum(p, jnp.broadcast_to(next_value, p.shape))
    v = weighted_sum(mu, q)
    return VATables(v, q - v[:, None])
