"""Distributions on a fixed grid (C51): one-step losses, and projected regressions.

A target is projected onto the grid and compared by cross-entropy, or by the Cramer distance, which
is bounded below for negative masses too. The projection is rlax's. The losses of rlax are not
called because they use `rlax.categorical_cross_entropy`, which is deprecated, warns, and gives NaN
for the negative masses of a corrected multi-step target. rlax also lacks expected SARSA. Grids must
be increasing; their spacing is arbitrary.
"""

import chex
import jax
import jax.numpy as jnp

from bellmax.losses._checks import NUMBER, Spec, check_arrays, promote, widen
from bellmax.losses._masking import finite_where, weighted_sum
from bellmax.losses._path import valid_policy
from bellmax.losses._rlax import rlax
from bellmax.losses.value import log_softmax, softmax


def check_prediction(q_atoms_tm1, q_logits_tm1, a_tm1) -> None:
    """Checks the arguments of the prediction at one step."""
    check_arrays(
        q_atoms_tm1=Spec(q_atoms_tm1, "M"),
        q_logits_tm1=Spec(q_logits_tm1, "AM"),
        a_tm1=Spec(a_tm1, "", int),
    )


def _check_step(q_atoms_tm1, q_logits_tm1, a_tm1, r_t, discount_t, q_atoms_t, q_logits_t) -> None:
    check_prediction(q_atoms_tm1, q_logits_tm1, a_tm1)
    check_arrays(
        q_logits_tm1=Spec(q_logits_tm1, "AM"),
        r_t=Spec(r_t, "", NUMBER),
        discount_t=Spec(discount_t, "", NUMBER),
        q_atoms_t=Spec(q_atoms_t, "L"),
        q_logits_t=Spec(q_logits_t, "AL"),
    )


def _projected(
    atoms_tm1, logits_tm1, target, weights, stop_target_gradients: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The target's masses on the grid, [M], and the grid and logits in the common dtype."""
    check_arrays(
        atoms_tm1=Spec(atoms_tm1, "M"),
        logits_tm1=Spec(logits_tm1, "M"),
        target=Spec(target, "K"),
        weights=Spec(weights, "K"),
    )
    arrays = promote(atoms_tm1, logits_tm1, target, weights)
    atoms_tm1, logits_tm1, target, weights = arrays
    target = finite_where(weights == 0, target)
    masses = jnp.asarray(rlax.categorical_l2_project(target, weights, atoms_tm1))
    if stop_target_gradients:
        masses = jax.lax.stop_gradient(masses)
    return masses, atoms_tm1, logits_tm1


def categorical_regression(
    atoms_tm1: chex.Array,
    logits_tm1: chex.Array,
    target: chex.Array,
    weights: chex.Array,
    *,
    stop_target_gradients: bool = True,
) -> jax.Array:
    """Cross-entropy of one distribution on a grid against weighted target atoms.

    The target is projected onto the grid: each atom's weight is split linearly between its two
    neighbours; atoms outside the grid go to its end. The loss is linear in the weights, which may
    be negative; its gradient is `mass * softmax(logits) - projected target`.

    Args:
      atoms_tm1: [M] float, increasing, the grid in units of return.
      logits_tm1: [M] float, finite logits of the probabilities on the grid.
      target: [K] float, target atoms in units of return.
      weights: [K] float summing to 1, may be negative.
      stop_target_gradients: whether the projected target is a constant to the gradient.

    Returns:
      [] float32 or wider, a loss; its minimum is the target's entropy, not 0.

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: Bellemare et al. 2017, arXiv:1707.06887, algorithm 1. Deviation: signed weights, as
    Gruslys et al. 2018, arXiv:1704.04651. Calls rlax.categorical_l2_project.
    """
    masses, _, logits_tm1 = _projected(
        atoms_tm1, logits_tm1, target, weights, stop_target_gradients
    )
    return -weighted_sum(masses, log_softmax(logits_tm1))


def categorical_cramer_regression(
    atoms_tm1: chex.Array,
    logits_tm1: chex.Array,
    target: chex.Array,
    weights: chex.Array,
    *,
    stop_target_gradients: bool = True,
) -> jax.Array:
    """Squared Cramer distance of one distribution on a grid from weighted target atoms.

    The integral of the squared difference of the cumulative distributions, after the target is
    projected onto the grid as in `categorical_regression`. It is at least 0 for any weights, where
    the cross-entropy of a target with negative masses has no lower bound.

    Args:
      atoms_tm1: [M] float, increasing, the grid in units of return.
      logits_tm1: [M] float, finite logits of the probabilities on the grid.
      target: [K] float, target atoms in units of return.
      weights: [K] float summing to 1, may be negative.
      stop_target_gradients: whether the projected target is a constant to the gradient.

    Returns:
      [] float32 or wider, a loss in units of return.

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: Bellemare et al. 2019, arXiv:1902.03149; Rowland et al. 2018, arXiv:1802.08163.
    Deviation: signed weights. Calls rlax.categorical_l2_project.
    """
    masses, atoms_tm1, logits_tm1 = _projected(
        atoms_tm1, logits_tm1, target, weights, stop_target_gradients
    )
    error = jnp.cumsum(masses - softmax(logits_tm1))[:-1]
    # The grid is a constant, as in the cross-entropy.
    return jnp.sum(jnp.diff(jax.lax.stop_gradient(atoms_tm1)) * jnp.square(error))


def means(q_atoms: chex.Array, q_logits: chex.Array) -> jax.Array:
    """[..., A] means of categorical distributions, from [L] atoms and [..., A, L] logits."""
    q_logits, q_atoms = promote(q_logits, q_atoms)
    return jnp.einsum("...l,l->...", softmax(q_logits), q_atoms, precision="highest")


def categorical_expected_sarsa(
    q_atoms_tm1: chex.Array,
    q_logits_tm1: chex.Array,
    a_tm1: chex.Numeric,
    r_t: chex.Numeric,
    discount_t: chex.Numeric,
    q_atoms_t: chex.Array,
    q_logits_t: chex.Array,
    probs_a_t: chex.Array,
    *,
    stop_target_gradients: bool = True,
) -> jax.Array:
    """Loss against the mixture of all actions' distributions, weighted by the policy.

    Args:
      q_atoms_tm1: [M] float, rising, the grid of the prediction, in units of return.
      q_logits_tm1: [A, M] float, logits of each action's distribution at t-1.
      a_tm1: [] int in [0, A), the action taken at t-1.
      r_t: [] float, the reward that it earned.
      discount_t: [] float, gamma, or 0 where the environment terminated.
      q_atoms_t: [L] float, rising, the grid at t, usually the same.
      q_logits_t: [A, L] float, logits at t, usually of the target network.
      probs_a_t: [A] float, the policy's probabilities at t, summing to 1.
      stop_target_gradients: whether the target is a constant to the gradient.

    Returns:
      [] float32 or wider, a loss.

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: Bellemare et al. 2017, arXiv:1707.06887, with an expectation over actions.
    """
    _check_step(q_atoms_tm1, q_logits_tm1, a_tm1, r_t, discount_t, q_atoms_t, q_logits_t)
    check_arrays(q_logits_t=Spec(q_logits_t, "AL"), probs_a_t=Spec(probs_a_t, "A"))
    arrays = promote(r_t, discount_t, q_atoms_t, q_logits_t, probs_a_t)
    r_t, discount_t, q_atoms_t, q_logits_t, probs_a_t = arrays
    terminal = discount_t == 0
    probs_a_t, q_logits_t = valid_policy(terminal, probs_a_t), finite_where(terminal, q_logits_t)
    probs_t = softmax(finite_where(probs_a_t == 0, q_logits_t))
    mixture = jnp.einsum("a,al->l", probs_a_t, probs_t, precision="highest")
    target = r_t + discount_t * q_atoms_t
    prediction = (q_atoms_tm1, widen(q_logits_tm1)[a_tm1])
    return categorical_regression(
        *prediction, target, mixture, stop_target_gradients=stop_target_gradients
    )


def categorical_q_learning(
    q_atoms_tm1: chex.Array,
    q_logits_tm1: chex.Array,
    a_tm1: chex.Numeric,
    r_t: chex.Numeric,
    discount_t: chex.Numeric,
    q_atoms_t: chex.Array,
    q_logits_t: chex.Array,
    *,
    q_t_selector: chex.Array | None = None,
    stop_target_gradients: bool = True,
) -> jax.Array:
    """Loss of C51: the target is the distribution of the action with the highest mean.

    Args:
      q_atoms_tm1: [M] float, rising, the grid of the prediction, in units of return.
      q_logits_tm1: [A, M] float, logits of each action's distribution at t-1.
      a_tm1: [] int in [0, A), the action taken at t-1.
      r_t: [] float, the reward that it earned.
      discount_t: [] float, gamma, or 0 where the environment terminated.
      q_atoms_t: [L] float, rising, the grid at t, usually the same.
      q_logits_t: [A, L] float, logits at t, usually of the target network.
      q_t_selector: [A] float, values at t whose argmax selects the action (the first of ties); None
        means the means of q_logits_t. Values of the online network give double Q-learning.
      stop_target_gradients: whether the target is a constant to the gradient.

    Returns:
      [] float32 or wider, a loss.

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: Bellemare et al. 2017, arXiv:1707.06887, algorithm 1; van Hasselt et al. 2015,
    arXiv:1509.06461. Same as rlax.categorical_q_learning and rlax.categorical_double_q_learning.
    """
    _check_step(q_atoms_tm1, q_logits_tm1, a_tm1, r_t, discount_t, q_atoms_t, q_logits_t)
    selector = means(q_atoms_t, q_logits_t) if q_t_selector is None else q_t_selector
    check_arrays(q_logits_t=Spec(q_logits_t, "AL"), q_t_selector=Spec(selector, "A"))
    r_t, discount_t, q_atoms_t, q_logits_t = promote(r_t, discount_t, q_atoms_t, q_logits_t)
    logits_t = q_logits_t[jnp.argmax(jnp.asarray(selector))]
    probs_t = softmax(finite_where(discount_t == 0, logits_t))
    prediction = (q_atoms_tm1, widen(q_logits_tm1)[a_tm1])
    target = r_t + discount_t * q_atoms_t
    return categorical_regression(
        *prediction, target, probs_t, stop_target_gradients=stop_target_gradients
    )
