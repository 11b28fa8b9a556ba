"""Multi-step targets of return distributions: path-dependent Retrace, Peng's mixture, n-step.

A multi-step target is a mixture over the steps of a window: what step k ends in, seen from the
anchor, is `z -> G + Gamma * z` of the distribution there, with the rewards G and discounts Gamma of
the whole path. Correcting with one-step errors that leave G out gives the right mean and the
wrong distribution; its moments diverge (Tang et al. 2022).

Corrected targets weigh the distribution of action b by `C * (pi(b) - 1{b = a} * c)`, where C is
the product of the coefficients so far: signed, summing to 1, a probability measure in expectation
where `c <= pi / mu`. Do not sort, clip or renormalise the weights. `traces.py` has `c_t`:

| `c_t` | target |
|---|---|
| `retrace_coefficients` | Retrace |
| `q_lambda_coefficients` | distributional Q(lambda): right means, signed in expectation too |
| 0 | one-step expected SARSA |

Row i is the transition from step i to i + 1; arrays of values and policies are of step i + 1.
Where `trace_t[i]` or `discount_t[i]` is 0 the path ends and later rows have weight 0, exactly.
Atoms need equal mass in their distribution: quantiles at midpoints, or samples. A target of one
anchor has M atoms, a target of every row, each up to the window's end, `[T, M]`.
"""

from collections.abc import Callable
from typing import Literal

import chex
import jax
import jax.numpy as jnp

from bellmax.losses._checks import Spec, check_arrays, widen
from bellmax.losses._path import (
    Path,
    bootstrap_step,
    bootstrap_weights,
    path,
    policy_weights,
)
from bellmax.losses.quantile import WeightedAtoms

Anchor = int | Literal["every"]


def _check_anchor(anchor: Anchor, length: int) -> None:
    if anchor != "every" and not (isinstance(anchor, int) and 0 <= anchor < length):
        raise ValueError(f'anchor is {anchor!r}, but must be in [0, {length}) or "every".')


def _at(anchor: Anchor, target: Callable[[chex.Numeric], WeightedAtoms], length: int):
    _check_anchor(anchor, length)
    return jax.vmap(target)(jnp.arange(length)) if anchor == "every" else target(anchor)


def _flat(steps: Path, dist_t: jax.Array, weights: jax.Array) -> WeightedAtoms:
    """Atoms of all steps in a row; `weights` has what `dist_t` has, or 1 in an axis."""
    column = (-1,) + (1,) * (dist_t.ndim - 1)
    atoms = steps.shift.reshape(column) + steps.scale.reshape(column) * dist_t
    # Where nothing weighs, nothing may overflow either.
    atoms = jnp.where(steps.reached.reshape(column), atoms, 0.0)
    weights = jnp.broadcast_to(weights, dist_t.shape) / dist_t.shape[1]
    return WeightedAtoms(jnp.ravel(atoms), jnp.ravel(weights))


def distributional_retrace_target(
    r_t: chex.Array,
    discount_t: chex.Array,
    dist_q_t: chex.Array,
    a_t: chex.Array,
    pi_t: chex.Array,
    c_t: chex.Array,
    trace_t: chex.Array,
    *,
    anchor: Anchor = 0,
) -> WeightedAtoms:
    """Corrected multi-step target for any policy: Retrace, or as `c_t` says.

    Its mean is `off_policy_returns` of the means; T = 1 is quantile expected SARSA.

    Args:
      r_t: [T] float, rewards.
      discount_t: [T] float, gamma, or 0 where the environment terminated.
      dist_q_t: [T, N, A] float, atoms of each action's return where step i led to.
      a_t: [T] int in [0, A), the action taken there; the last is not used.
      pi_t: [T, A] float, the target policy there, summing to 1 over actions.
      c_t: [T] float, trace coefficients of the taken actions; the last is not used.
      trace_t: [T] float in [0, 1], 0 where the step that followed is the last of its episode.
      anchor: the row whose target it is, or "every" for all rows.

    Returns:
      Atoms and weights [T N A], or [T, T N A]: float32 or wider. Gradients flow: the caller
      stops them.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Tang et al. 2022, arXiv:2207.07570; Gruslys et al. 2018, arXiv:1704.04651.
    """
    check_arrays(
        r_t=Spec(r_t, "T"),
        discount_t=Spec(discount_t, "T"),
        dist_q_t=Spec(dist_q_t, "TNA"),
        a_t=Spec(a_t, "T", int),
        pi_t=Spec(pi_t, "TA"),
        c_t=Spec(c_t, "T"),
        trace_t=Spec(trace_t, "T"),
    )
    dist_q_t = widen(dist_q_t)

    def target(row: chex.Numeric) -> WeightedAtoms:
        steps = path(r_t, discount_t, c_t, trace_t, row)
        return _flat(steps, dist_q_t, policy_weights(steps, a_t, pi_t)[:, None, :])

    return _at(anchor, target, dist_q_t.shape[0])


def distributional_lambda_target(
    r_t: chex.Array,
    discount_t: chex.Array,
    dist_v_t: chex.Array,
    lambda_t: chex.Array,
    trace_t: chex.Array,
    *,
    anchor: Anchor = 0,
) -> WeightedAtoms:
    """Uncorrected multi-step target, Peng's Q(lambda) of distributions: a mixture of n-step ones.

    Step k weighs `(1 - lambda[k])` times the lambdas before it, never negative.

    Args:
      r_t, discount_t, trace_t, anchor: as in `distributional_retrace_target`.
      dist_v_t: [T, N] float, atoms to bootstrap from where step i led to, such as those of the
        greedy action there.
      lambda_t: [T] float in [0, 1], one for each step; the last is not used.

    Returns:
      Atoms and weights [T N], or [T, T N]: float32 or wider. Gradients flow: the caller stops
      them. Its mean is `lambda_returns` of the means.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Peng and Williams 1996, here for distributions.
    """
    check_arrays(
        r_t=Spec(r_t, "T"),
        discount_t=Spec(discount_t, "T"),
        dist_v_t=Spec(dist_v_t, "TN"),
        lambda_t=Spec(lambda_t, "T"),
        trace_t=Spec(trace_t, "T"),
    )
    dist_v_t = widen(dist_v_t)

    def target(row: chex.Numeric) -> WeightedAtoms:
        steps = path(r_t, discount_t, lambda_t, trace_t, row)
        return _flat(steps, dist_v_t, bootstrap_weights(steps)[:, None])

    return _at(anchor, target, dist_v_t.shape[0])


def distributional_n_step_target(
    r_t: chex.Array,
    discount_t: chex.Array,
    dist_v_t: chex.Array,
    trace_t: chex.Array,
    *,
    anchor: Anchor = 0,
) -> WeightedAtoms:
    """Uncorrected target with one bootstrap, at the first cut or the end of the window.

    Equals `distributional_lambda_target` with lambda 1, less the atoms that weigh nothing.

    Args:
      r_t, discount_t, anchor: as in `distributional_retrace_target`.
      dist_v_t: [T, N] float, atoms to bootstrap from where step i led to.
      trace_t: [T] float, 0 where the step that followed is the last of its episode, or where the
        target shall bootstrap for another reason; anything else goes on in full.

    Returns:
      Atoms and weights [N], or [T, N]: float32 or wider, each weight 1 / N. Gradients flow: the
      caller stops them.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Hessel et al. 2017, arXiv:1710.02298, here for quantiles.
    """
    check_arrays(
        r_t=Spec(r_t, "T"),
        discount_t=Spec(discount_t, "T"),
        dist_v_t=Spec(dist_v_t, "TN"),
        trace_t=Spec(trace_t, "T"),
    )
    dist_v_t = widen(dist_v_t)

    def target(row: chex.Numeric) -> WeightedAtoms:
        shift, scale, end = bootstrap_step(r_t, discount_t, trace_t, row)
        atoms = shift + scale * dist_v_t[end]
        return WeightedAtoms(atoms, jnp.full_like(atoms, 1.0 / atoms.size))

    return _at(anchor, target, dist_v_t.shape[0])
