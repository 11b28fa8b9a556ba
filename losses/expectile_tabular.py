"""Exact expectiles of discrete distributions, and the expectile Bellman operator.

For alpha <= 1/2 an expectile is a worst case: the smallest mean over distributions whose density
with respect to the nominal one varies by at most a factor (1 - alpha) / alpha. The operator is
therefore that of a robust MDP with such an uncertainty set for each state and action. It is a
gamma-contraction in the maximum norm for every alpha.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from bellmax.losses._checks import NUMBER, Spec, check_arrays, check_scalars, promote
from bellmax.losses._masking import finite_where, weighted_sum
from bellmax.losses.expectile_regression import check_alpha


def _centre_and_above(values, probs, alpha) -> tuple[jax.Array, jax.Array]:
    """Returns [] a constant near the expectile, and [M] bool, outcomes above the expectile.

    The expectile is the mean with weights alpha above itself and 1 - alpha elsewhere. Among all
    splits of the sorted values into two groups, the split at the expectile minimises that mean
    (maximises it for alpha > 1/2). The expectile is stationary in the split, so no gradient is
    needed here.
    """
    values, probs = jax.lax.stop_gradient((values, probs))
    alpha = jax.lax.stop_gradient(jnp.asarray(alpha, values.dtype))
    # Relative to the mean, so that a large common offset causes no rounding error.
    centre = jnp.sum(probs * values) / jnp.sum(probs)
    order = jnp.argsort(values)
    probs, offsets = probs[order], (values - centre)[order]
    total_p, total = jnp.cumsum(probs), jnp.cumsum(probs * offsets)
    below_p, below = jnp.pad(total_p, (1, 0)), jnp.pad(total, (1, 0))
    weights = alpha * (total_p[-1] - below_p) + (1.0 - alpha) * below_p
    means = (alpha * (total[-1] - below) + (1.0 - alpha) * below) / weights
    split = jnp.where(alpha <= 0.5, jnp.min(means), jnp.max(means))
    return centre, values - centre > split


def _expectile(values: jax.Array, probs: jax.Array, alpha: chex.Numeric) -> jax.Array:
    centre, above = _centre_and_above(values, probs, alpha)
    weights = jnp.where(above, alpha, 1.0 - alpha) * probs
    return centre + jnp.sum(weights * (values - centre)) / jnp.sum(weights)


def expectile(values: chex.Array, probs: chex.Array, *, alpha: chex.Numeric) -> jax.Array:
    """The exact alpha-expectile m of a discrete distribution.

    It solves `alpha * E[max(x - m, 0)] = (1 - alpha) * E[max(m - x, 0)]`: the mean at alpha = 1/2,
    the smallest value as alpha falls to 0, the largest as it rises to 1.

    Args:
      values: [M] float, outcomes in any order, finite.
      probs: [M] float, at least 0, summing to 1; normalised internally.
      alpha: above 0 and below 1.

    Returns:
      [] float32 or wider, in units of values. Differentiable in all three; the gradient in the
      values is `worst_case_kernel`.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Newey and Powell 1987.
    """
    check_arrays(values=Spec(values, "M"), probs=Spec(probs, "M"))
    check_alpha(alpha)
    values, probs = promote(values, probs)
    return _expectile(finite_where(probs == 0, values), probs, alpha)


def worst_case_kernel(values: chex.Array, probs: chex.Array, *, alpha: chex.Numeric) -> jax.Array:
    """The probabilities under which the mean of values is their alpha-expectile.

    For alpha <= 1/2 no distribution q with `max(q / probs) <= (1 - alpha) / alpha * min(q / probs)`
    has a smaller mean; for alpha > 1/2 none, with the fraction inverted, has a larger one.

    Args:
      values: [M] float, outcomes in any order, finite.
      probs: [M] float, at least 0, summing to 1; normalised internally.
      alpha: above 0 and below 1.

    Returns:
      [M] float32 or wider, summing to 1. Differentiable in probs and alpha.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Clavier et al. 2024, arXiv:2406.04081 (dual form of expectiles).
    """
    check_arrays(values=Spec(values, "M"), probs=Spec(probs, "M"))
    check_alpha(alpha)
    values, probs = promote(values, probs)
    values = finite_where(probs == 0, values)
    _, above = _centre_and_above(values, probs, alpha)
    weights = jnp.where(above, alpha, 1.0 - alpha) * probs
    return weights / jnp.sum(weights)


def _check_mdp(r, p, gamma, alpha, terminal, **arguments: Spec) -> None:
    reward = Spec(r, "SAS" if np.ndim(r) == 3 else "SA", NUMBER)
    ends = {} if terminal is None else {"terminal": Spec(terminal, "S", bool)}
    check_arrays(**arguments, r=reward, p=Spec(p, "SAS"), **ends)
    check_scalars(gamma=gamma, from_zero=("gamma",), up_to_one=("gamma",))
    check_alpha(alpha)


def _backup(r, v, probs, terminal, gamma, alpha) -> jax.Array:
    """[S, A], the expectile of reward plus discounted value over all axes of probs but two.

    `v` has the axes of `probs` but two, and `r` its first axes.
    """
    r, v, probs = promote(r, v, probs)
    if terminal is not None:
        ends = jnp.reshape(jnp.asarray(terminal), (-1,) + (1,) * (v.ndim - 1))
        v = jnp.where(ends, jnp.zeros_like(v), v)
    r = jnp.broadcast_to(jnp.reshape(r, r.shape + (1,) * (probs.ndim - r.ndim)), probs.shape)
    # Before the sum, so that no gradient is nan.
    r, v = (finite_where(probs == 0, x) for x in (r, jnp.broadcast_to(v, probs.shape)))
    of_one = lambda x, p: _expectile(jnp.ravel(x), jnp.ravel(p), alpha)  # noqa: E731
    return jax.vmap(jax.vmap(of_one))(r + gamma * v, probs)


def expectile_bellman_operator(
    q: chex.Array,
    r: chex.Array,
    p: chex.Array,
    *,
    gamma: chex.Numeric,
    alpha: chex.Numeric,
    pi: chex.Array | None = None,
    terminal: chex.Array | None = None,
) -> jax.Array:
    """One application: the alpha-expectile of `r + gamma * q[s', a']` for each state and action.

    With a policy the expectile is over s' and a' jointly, as in `expectile_td_loss`, so it is also
    pessimistic about the policy's randomness. For control it is over s', and a' is greedy.

    Args:
      q: [S, A] float, action values, in units of return.
      r: [S, A] float, rewards, or [S, A, S] if they depend on the next state.
      p: [S, A, S] float, probabilities of the next state, rows summing to 1.
      gamma: discount in [0, 1].
      alpha: above 0 and below 1; 1/2 is the ordinary operator.
      pi: [S, A] float, the policy to evaluate, rows summing to 1; None is control.
      terminal: [S] bool, states that end the episode when entered, of value 0; None for none.

    Returns:
      [S, A] float32 or wider.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Clavier et al. 2024, arXiv:2406.04081. Deviation: control, and the policy's action
      inside the expectile; in `expectile_value_operator` it is outside.
    """
    policy = {} if pi is None else {"pi": Spec(pi, "SA")}
    _check_mdp(r, p, gamma, alpha, terminal, q=Spec(q, "SA"), **policy)
    q, p = promote(q, p)
    if pi is None:
        return _backup(r, jnp.max(q, axis=-1), p, terminal, gamma, alpha)
    p, pi = promote(p, pi)
    return _backup(r, q, p[..., None] * pi[None, None], terminal, gamma, alpha)


def expectile_value_operator(
    v: chex.Array,
    r: chex.Array,
    p: chex.Array,
    pi: chex.Array,
    *,
    gamma: chex.Numeric,
    alpha: chex.Numeric,
    terminal: chex.Array | None = None,
) -> jax.Array:
    """One application: the mean over pi of the alpha-expectile over s' of `r + gamma * v[s']`.

    It is pessimistic only about the environment. For a deterministic policy it equals
    `expectile_bellman_operator` at the policy's actions.

    Args:
      v: [S] float, state values, in units of return.
      r: [S, A] float, rewards, or [S, A, S] if they depend on the next state.
      p: [S, A, S] float, probabilities of the next state, rows summing to 1.
      pi: [S, A] float, the policy to evaluate, rows summing to 1.
      gamma: discount in [0, 1].
      alpha: above 0 and below 1; 1/2 is the ordinary operator.
      terminal: [S] bool, states that end the episode when entered, of value 0; None for none.

    Returns:
      [S] float32 or wider.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Clavier et al. 2024, arXiv:2406.04081.
    """
    _check_mdp(r, p, gamma, alpha, terminal, v=Spec(v, "S"), pi=Spec(pi, "SA"))
    q, pi = promote(_backup(r, v, p, terminal, gamma, alpha), pi)
    return weighted_sum(pi, q)
