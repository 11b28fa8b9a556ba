"""Multi-step targets of return distributions: path-dependent Retrace, Peng's mixture, n-step.

A multi-step target is a mixture over the steps of a window. Step k contributes the return
distribution at its successor, mapped by `z -> G + Gamma * z`, where G is the sum of discounted
rewards and Gamma the product of discounts along the path from the anchor. Corrections by one-step
errors, without G, have the right mean but the wrong distribution, whose moments diverge (Tang et
al. 2022).

Corrected targets weight the distribution of action b by `C * (pi(b) - 1{b = a} * c)`, where C is
the product of the coefficients so far. The weights are signed and sum to 1; in expectation they are
a probability measure if `c <= pi / mu`. Do not sort, clip or renormalise them. `traces.py` has
`c_t`:

| `c_t` | target |
|---|---|
| `retrace_coefficients` | Retrace |
| `q_lambda_coefficients` | distributional Q(lambda): right means, signed in expectation too |
| 0 | one-step expected SARSA |

Row i is the transition from step i to i + 1; values and policies of row i belong to step i + 1.
Where `trace_t[i]` or `discount_t[i]` is 0 the path ends, and later rows have weight exactly 0. The
atoms of a distribution must have equal mass: quantiles at midpoints, or samples. The target of one
anchor has M atoms; the targets of all rows, each up to the end of the window, are `[T, M]`.
"""

from collections.abc import Callable
from typing import Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np

from bellmax import must
from bellmax.losses._checks import NUMBER, Spec, check_arrays, promote
from bellmax.losses._masking import finite_where
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
    if isinstance(anchor, int | np.integer) and 0 <= anchor < length:
        return
    if anchor != "every":
        raise ValueError(must("anchor", f'in [0, {length}) or "every"', repr(anchor)))


def _at(anchor: Anchor, target: Callable[[chex.Numeric], WeightedAtoms], length: int):
    _check_anchor(anchor, length)
    return jax.vmap(target)(jnp.arange(length)) if anchor == "every" else target(anchor)


def _flat(steps: Path, dist_t: jax.Array, weights: jax.Array) -> WeightedAtoms:
    """Flattens the atoms of all steps; the shape of `weights` broadcasts to that of `dist_t`."""
    column = (-1,) + (1,) * (dist_t.ndim - 1)
    reached = steps.reached.reshape(column)
    counts = reached & ~steps.terminal.reshape(column)
    weights = jnp.broadcast_to(weights, dist_t.shape) / dist_t.shape[1]
    dist_t = finite_where(weights == 0, jnp.where(counts, dist_t, 0.0))
    fine = jnp.isfinite(dist_t)
    atoms = steps.shift.reshape(column)
    atoms = atoms + steps.scale.reshape(column) * jnp.where(fine, dist_t, 0.0)
    atoms = jnp.where(fine, atoms, jax.lax.stop_gradient(dist_t))
    # Atoms of weight 0 are set to 0, so that they cannot overflow.
    return WeightedAtoms(jnp.ravel(jnp.where(reached, atoms, 0.0)), jnp.ravel(weights))


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
    """Corrected multi-step target for any policy: Retrace, or another method by its `c_t`.

    Its mean is `off_policy_returns` of the means; T = 1 is quantile expected SARSA.

    Args:
      r_t: [T] float, rewards.
      discount_t: [T] float, gamma, or 0 where the environment terminated.
      dist_q_t: [T, N, A] float, atoms of each action's return at the successor step.
      a_t: [T] int in [0, A), the action taken there; the last is not used.
      pi_t: [T, A] float, the target policy there, summing to 1 over actions.
      c_t: [T] float, trace coefficients of the taken actions; the last is not used.
      trace_t: [T] float in [0, 1], 0 where the step that followed is the last of its episode.
      anchor: the row whose target is computed, or "every" for all rows.

    Returns:
      Atoms and weights [T N A], or [T, T N A]: float32 or wider. Gradients flow: the caller
      stops them.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Tang et al. 2022, arXiv:2207.07570; Gruslys et al. 2018, arXiv:1704.04651.
    """
    check_arrays(
        r_t=Spec(r_t, "T", NUMBER),
        discount_t=Spec(discount_t, "T", NUMBER),
        dist_q_t=Spec(dist_q_t, "TNA"),
        a_t=Spec(a_t, "T", int),
        pi_t=Spec(pi_t, "TA"),
        c_t=Spec(c_t, "T"),
        trace_t=Spec(trace_t, "T", NUMBER),
    )
    arrays = promote(r_t, discount_t, dist_q_t, pi_t, c_t, trace_t)
    r_t, discount_t, dist_q_t, pi_t, c_t, trace_t = arrays

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

    Step k has the weight `(1 - lambda[k])` times the product of the earlier lambdas, which is not
    negative.

    Args:
      r_t: [T] float, rewards.
      discount_t: [T] float, gamma, or 0 where the environment terminated.
      dist_v_t: [T, N] float, bootstrap atoms at the successor step, such as those of the greedy
        action.
      lambda_t: [T] float in [0, 1], one per step; the last is not used.
      trace_t: [T] float in [0, 1], 0 where the step that followed is the last of its episode.
      anchor: the row whose target is computed, or "every" for all rows.

    Returns:
      Atoms and weights [T N], or [T, T N]: float32 or wider. Gradients flow: the caller stops
      them. Its mean is `lambda_returns` of the means.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Peng and Williams 1996, here for distributions.
    """
    check_arrays(
        r_t=Spec(r_t, "T", NUMBER),
        discount_t=Spec(discount_t, "T", NUMBER),
        dist_v_t=Spec(dist_v_t, "TN"),
        lambda_t=Spec(lambda_t, "T"),
        trace_t=Spec(trace_t, "T", NUMBER),
    )
    arrays = promote(r_t, discount_t, dist_v_t, lambda_t, trace_t)
    r_t, discount_t, dist_v_t, lambda_t, trace_t = arrays

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

    Equals `distributional_lambda_target` with lambda 1, without the atoms of weight 0.

    Args:
      r_t: [T] float, rewards.
      discount_t: [T] float, gamma, or 0 where the environment terminated.
      dist_v_t: [T, N] float, bootstrap atoms at the successor step.
      trace_t: [T] float, 0 where the step that followed is the last of its episode, or wherever the
        target should bootstrap; any other value continues the trace in full.
      anchor: the row whose target is computed, or "every" for all rows.

    Returns:
      Atoms and weights [N], or [T, N]: float32 or wider, each weight 1 / N. Gradients flow: the
      caller stops them.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Hessel et al. 2017, arXiv:1710.02298, here for quantiles.
    """
    check_arrays(
        r_t=Spec(r_t, "T", NUMBER),
        discount_t=Spec(discount_t, "T", NUMBER),
        dist_v_t=Spec(dist_v_t, "TN"),
        trace_t=Spec(trace_t, "T", NUMBER),
    )
    r_t, discount_t, dist_v_t = promote(r_t, discount_t, dist_v_t)

    def target(row: chex.Numeric) -> WeightedAtoms:
        shift, scale, end = bootstrap_step(r_t, discount_t, trace_t, row)
        atoms = shift + scale * finite_where(scale == 0, dist_v_t[end])
        return WeightedAtoms(atoms, jnp.full_like(atoms, 1.0 / atoms.size))

    return _at(anchor, target, dist_v_t.shape[0])
