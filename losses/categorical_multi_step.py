"""Multi-step targets of distributions on a grid: path-dependent Retrace and n-step C51.

The targets are those of `distributional.py` with categorical distributions, projected onto the
grid once, at the end. Projecting at every step of the window would give a different, coarser
target. Values and policies of row i belong to step i + 1; the path ends where `trace_t[i]` or
`discount_t[i]` is 0.
"""

import chex
import jax
import jax.numpy as jnp

from bellmax.losses._checks import NUMBER, Spec, check_arrays, promote, widen
from bellmax.losses._masking import finite_where
from bellmax.losses._path import bootstrap_step, path, policy_weights
from bellmax.losses.categorical import categorical_regression, check_prediction, means
from bellmax.losses.quantile import WeightedAtoms
from bellmax.losses.value import softmax


def categorical_retrace_target(
    r_t: chex.Array,
    discount_t: chex.Array,
    q_atoms_t: chex.Array,
    q_logits_t: chex.Array,
    a_t: chex.Array,
    pi_t: chex.Array,
    c_t: chex.Array,
    trace_t: chex.Array,
) -> WeightedAtoms:
    """Corrected multi-step target of a window's first step, before projection.

    Args:
      r_t: [T] float, rewards.
      discount_t: [T] float, gamma, or 0 where the environment terminated.
      q_atoms_t: [L] float, the grid, in units of return.
      q_logits_t: [T, A, L] float, logits of each action's distribution at the successor step.
      a_t: [T] int in [0, A), the action taken there; the last is not used.
      pi_t: [T, A] float, the target policy there, summing to 1 over actions.
      c_t: [T] float, trace coefficients of `traces.py`; the last is not used.
      trace_t: [T] float in [0, 1], 0 where the step that followed is the last of its episode.

    Returns:
      Atoms and signed weights [T L], float32 or wider, for `categorical_regression`. The actions
      of a step share its atoms. Gradients flow: the caller stops them.

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: Gruslys et al. 2018, arXiv:1704.04651; Tang et al. 2022, arXiv:2207.07570.
    """
    check_arrays(
        r_t=Spec(r_t, "T", NUMBER),
        discount_t=Spec(discount_t, "T", NUMBER),
        q_atoms_t=Spec(q_atoms_t, "L"),
        q_logits_t=Spec(q_logits_t, "TAL"),
        a_t=Spec(a_t, "T", int),
        pi_t=Spec(pi_t, "TA"),
        c_t=Spec(c_t, "T"),
        trace_t=Spec(trace_t, "T", NUMBER),
    )
    arrays = promote(r_t, discount_t, q_atoms_t, q_logits_t, pi_t, c_t, trace_t)
    r_t, discount_t, q_atoms_t, q_logits_t, pi_t, c_t, trace_t = arrays
    steps = path(r_t, discount_t, c_t, trace_t, 0)
    weights = policy_weights(steps, a_t, pi_t)
    q_logits_t = jnp.where(steps.terminal[:, None, None], 0.0, q_logits_t)
    probs = softmax(finite_where(weights == 0, q_logits_t))
    weights = jnp.einsum("ta,tal->tl", weights, probs, precision="highest")
    atoms = steps.shift[:, None] + steps.scale[:, None] * q_atoms_t[None, :]
    return WeightedAtoms(jnp.ravel(atoms), jnp.ravel(weights))


def categorical_retrace(
    q_atoms_tm1: chex.Array,
    q_logits_tm1: chex.Array,
    a_tm1: chex.Numeric,
    r_t: chex.Array,
    discount_t: chex.Array,
    q_atoms_t: chex.Array,
    q_logits_t: chex.Array,
    a_t: chex.Array,
    pi_t: chex.Array,
    c_t: chex.Array,
    trace_t: chex.Array,
    *,
    stop_target_gradients: bool = True,
) -> jax.Array:
    """Loss of a window's first step against its `categorical_retrace_target`: C51-Retrace.

    Args:
      q_atoms_tm1: [M] float, rising, the grid of the prediction, in units of return.
      q_logits_tm1: [A, M] float, logits of each action's distribution at the first step.
      a_tm1: [] int in [0, A), the action taken there; it has no coefficient.
      r_t: [T] float, rewards.
      discount_t: [T] float, gamma, or 0 where the environment terminated.
      q_atoms_t: [L] float, the grid, in units of return.
      q_logits_t: [T, A, L] float, logits of each action's distribution at the successor step.
      a_t: [T] int in [0, A), the action taken there; the last is not used.
      pi_t: [T, A] float, the target policy there, summing to 1 over actions.
      c_t: [T] float, trace coefficients of `traces.py`; the last is not used.
      trace_t: [T] float in [0, 1], 0 where the step that followed is the last of its episode.
      stop_target_gradients: whether the target is a constant to the gradient.

    Returns:
      [] float32 or wider, a loss. T = 1 is `categorical_expected_sarsa`.

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: Gruslys et al. 2018, arXiv:1704.04651.
    """
    check_prediction(q_atoms_tm1, q_logits_tm1, a_tm1)
    check_arrays(q_logits_tm1=Spec(q_logits_tm1, "AM"), q_logits_t=Spec(q_logits_t, "TAL"))
    window = (r_t, discount_t, q_atoms_t, q_logits_t, a_t, pi_t, c_t, trace_t)
    target = categorical_retrace_target(*window)
    prediction = (q_atoms_tm1, widen(q_logits_tm1)[a_tm1])
    return categorical_regression(*prediction, *target, stop_target_gradients=stop_target_gradients)


def n_step_categorical_target(
    r_t: chex.Array,
    discount_t: chex.Array,
    q_atoms_t: chex.Array,
    q_logits_t: chex.Array,
    trace_t: chex.Array,
    *,
    q_t_selector: chex.Array | None = None,
) -> WeightedAtoms:
    """Uncorrected n-step target of a window's first step, n = T, before projection.

    It bootstraps from the greedy action at the first cut or the end of the window.

    Args:
      r_t: [T] float, rewards.
      discount_t: [T] float, gamma, or 0 where the environment terminated.
      q_atoms_t: [L] float, the grid, in units of return.
      q_logits_t: [T, A, L] float, logits of each action's distribution at the successor step.
      trace_t: [T] float, 0 where the target bootstraps; any other value continues the trace.
      q_t_selector: [T, A] float, values whose argmax is the greedy action (the first of ties); None
        means the means of q_logits_t.

    Returns:
      Atoms and weights [L], float32 or wider, for `categorical_regression`. Gradients flow: the
      caller stops them.

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: Hessel et al. 2017, arXiv:1710.02298.
    """
    check_arrays(
        r_t=Spec(r_t, "T", NUMBER),
        discount_t=Spec(discount_t, "T", NUMBER),
        q_atoms_t=Spec(q_atoms_t, "L"),
        q_logits_t=Spec(q_logits_t, "TAL"),
        trace_t=Spec(trace_t, "T", NUMBER),
    )
    selector = means(q_atoms_t, q_logits_t) if q_t_selector is None else q_t_selector
    check_arrays(q_logits_t=Spec(q_logits_t, "TAL"), q_t_selector=Spec(selector, "TA"))
    shift, scale, end = bootstrap_step(r_t, discount_t, trace_t, 0)
    logits = widen(q_logits_t)[end, jnp.argmax(jnp.asarray(selector)[end])]
    # After a termination all atoms are the sum of rewards, and the logits do not count.
    weights = softmax(jnp.where(scale == 0, 0.0, logits))
    return WeightedAtoms(shift + scale * widen(q_atoms_t), weights)


def n_step_categorical_q_learning(
    q_atoms_tm1: chex.Array,
    q_logits_tm1: chex.Array,
    a_tm1: chex.Numeric,
    r_t: chex.Array,
    discount_t: chex.Array,
    q_atoms_t: chex.Array,
    q_logits_t: chex.Array,
    trace_t: chex.Array,
    *,
    q_t_selector: chex.Array | None = None,
    stop_target_gradients: bool = True,
) -> jax.Array:
    """Loss of C51 with an uncorrected n-step target, n = T, as in Rainbow: biased off-policy.

    It bootstraps from the greedy action at the first cut or the end of the window.

    Args:
      q_atoms_tm1: [M] float, rising, the grid of the prediction, in units of return.
      q_logits_tm1: [A, M] float, logits of each action's distribution at the first step.
      a_tm1: [] int in [0, A), the action taken there; it has no coefficient.
      r_t: [T] float, rewards.
      discount_t: [T] float, gamma, or 0 where the environment terminated.
      q_atoms_t: [L] float, the grid, in units of return.
      q_logits_t: [T, A, L] float, logits of each action's distribution at the successor step.
      trace_t: [T] float, 0 where the target bootstraps; any other value continues the trace.
      q_t_selector: [T, A] float, values whose argmax is the greedy action (the first of ties); None
        means the means of q_logits_t.
      stop_target_gradients: whether the target is a constant to the gradient.

    Returns:
      [] float32 or wider, a loss. T = 1 is `categorical_q_learning`.

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: Hessel et al. 2017, arXiv:1710.02298.
    """
    check_prediction(q_atoms_tm1, q_logits_tm1, a_tm1)
    check_arrays(q_logits_tm1=Spec(q_logits_tm1, "AM"), q_logits_t=Spec(q_logits_t, "TAL"))
    window = (r_t, discount_t, q_atoms_t, q_logits_t, trace_t)
    target = n_step_categorical_target(*window, q_t_selector=q_t_selector)
    prediction = (q_atoms_tm1, widen(q_logits_tm1)[a_tm1])
    return categorical_regression(*prediction, *target, stop_target_gradients=stop_target_gradients)
