"""Quantile regression of return distributions, and the one-step losses of QR-DQN and IQN.

A distribution is N values, each an estimate of the quantile at its fraction `tau`; a target is M
atoms with weights. The loss is linear in the target's measure, so weights may be negative: an
unbiased estimate of a mixture, such as an off-policy correction, gives an unbiased gradient.

rlax's losses have no weights, build an N x M table of differences and reject a traced threshold, so
the regression is implemented here; tests check that it equals rlax's. One convention differs, only
at ties with `huber_kappa=0`: an atom equal to a value counts as above it, because `u < 0` is
strict, with the slope `tau`; rlax differentiates `abs(u)` there, which gives 0.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from bellmax.losses._checks import (
    NUMBER,
    Spec,
    check_arrays,
    check_scalars,
    one_of,
    promote,
    whole_number,
    widen,
)
from bellmax.losses._masking import finite_where
from bellmax.losses._path import valid_policy
from bellmax.losses.huber import huber
from bellmax.losses.quantile_sorted import penalty, sorted_quantile_regression, sorting_pays

METHODS = ("auto", "pairwise", "sorted")


class WeightedAtoms(NamedTuple):
    """A distribution of returns, or a signed measure of total mass 1.

    Attributes:
      atoms: [M] float, in units of return; in any order, ties allowed.
      weights: [M] float, summing to 1; entries may be negative.
    """

    atoms: jax.Array
    weights: jax.Array


def quantile_midpoints(n: int) -> jax.Array:
    """Fractions of N quantiles of equal mass: `(2 i - 1) / (2 N)`, i from 1 to N.

    Args:
      n: number of quantiles, at least 1; not traced, as it is a shape.

    Returns:
      [N] float in (0, 1), increasing.

    Raises:
      ValueError: n is below 1.

    Source: Dabney et al. 2018, arXiv:1710.10044, lemma 2.
    """
    n = whole_number("n", n)
    return (jnp.arange(n) + 0.5) / n


def _pairwise(theta, tau, z, w, kappa: chex.Numeric, divide_by_kappa: bool) -> jax.Array:
    u = z[None, :] - theta[:, None]
    # The comparison has derivative 0: the indicator is a constant to the gradient.
    slope = tau[:, None] - (u < 0.0).astype(u.dtype)

    penalties = penalty(
        kappa, lambda: slope * u, lambda k: jnp.abs(slope) * huber(u, k), divide_by_kappa
    )
    return jnp.sum(penalties * w[None, :])


def quantile_regression(
    dist_tm1: chex.Array,
    tau_tm1: chex.Array,
    target: chex.Array,
    *,
    weights: chex.Array | None = None,
    huber_kappa: chex.Numeric = 1.0,
    divide_by_kappa: bool = False,
    stop_target_gradients: bool = True,
    method: str = "auto",
) -> jax.Array:
    """Quantile-regression loss of one distribution against weighted target atoms.

    With `u = target[j] - dist_tm1[i]`, the sum over i and j of
    `weights[j] * |tau_tm1[i] - 1{u < 0}| * huber(u)`.

    Args:
      dist_tm1: [N] float, quantile values at t-1, in units of return; in any order.
      tau_tm1: [N] float in (0, 1), the fraction that each value estimates. Gradients flow to it;
        stop them if a network proposes the fractions.
      target: [M] float, target atoms, in units of return.
      weights: [M] float summing to 1, may be negative; None means 1/M each. Where it is 0 the atom
        has no effect, whatever it is.
      huber_kappa: at least 0, in units of return: larger errors are penalised linearly; 0 penalises
        all errors by `|u|` (the pinball loss), inf by `u**2 / 2`.
      divide_by_kappa: whether `huber` is divided by `huber_kappa`, as in IQN and not in QR-DQN;
        makes the loss continuous at 0 and has no effect at 0 and 1.
      stop_target_gradients: whether target and weights are constants to the gradient.
      method: "pairwise" is O(N M), "sorted" O((N + M) log N); "auto" selects the one that
        `quantile_sorted.py` expects to be faster. They differ by rounding, described there.

    Returns:
      [] float32 or wider, a loss: summed over N, averaged over M by the weights.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Dabney et al. 2018, arXiv:1710.10044, eq. 10. Deviation: weights.
    """
    check_arrays(dist_tm1=Spec(dist_tm1, "N"), tau_tm1=Spec(tau_tm1, "N"), target=Spec(target, "M"))
    if weights is not None:
        check_arrays(target=Spec(target, "M"), weights=Spec(weights, "M"))
    check_scalars(huber_kappa=huber_kappa, from_zero=("huber_kappa",))
    one_of("method", method, METHODS)
    if weights is None:
        theta, tau, z = promote(dist_tm1, tau_tm1, target)
        w = jnp.full_like(z, 1.0 / z.size)
    else:
        theta, tau, z, w = promote(dist_tm1, tau_tm1, target, weights)
        z = finite_where(w == 0, z)
    if stop_target_gradients:
        z, w = jax.lax.stop_gradient((z, w))
        # Atoms without weight must not set the scale of the sums of the others.
        z = jnp.where(w == 0, jax.lax.stop_gradient(theta[0]), z)
    on_cpu, elsewhere = (
        method == "sorted" or (method == "auto" and sorting_pays(theta.size, z.size, cpu=cpu))
        for cpu in (True, False)
    )

    def by_sorting(theta, tau, z, w) -> jax.Array:
        return sorted_quantile_regression(theta, tau, z, w, huber_kappa, divide_by_kappa)

    def pairwise(theta, tau, z, w) -> jax.Array:
        return _pairwise(theta, tau, z, w, huber_kappa, divide_by_kappa)

    if on_cpu and not elsewhere:
        # By the platform that the program is compiled for, which need not be this host's.
        return jax.lax.platform_dependent(theta, tau, z, w, cpu=by_sorting, default=pairwise)
    return by_sorting(theta, tau, z, w) if on_cpu else pairwise(theta, tau, z, w)


def quantile_q_learning(
    dist_q_tm1: chex.Array,
    tau_tm1: chex.Array,
    a_tm1: chex.Numeric,
    r_t: chex.Numeric,
    discount_t: chex.Numeric,
    dist_q_t: chex.Array,
    *,
    dist_q_t_selector: chex.Array | None = None,
    huber_kappa: chex.Numeric = 1.0,
    divide_by_kappa: bool = False,
    stop_target_gradients: bool = True,
    method: str = "auto",
) -> jax.Array:
    """Loss of QR-DQN: the target is the distribution of the action with the highest mean.

    Args:
      dist_q_tm1: [N, A] float, quantile values of each action at t-1, in units of return.
      tau_tm1: [N] float in (0, 1), the fractions that they estimate.
      a_tm1: [] int in [0, A), the action taken at t-1.
      r_t: [] float, the reward that it earned.
      discount_t: [] float, gamma, or 0 where the environment terminated.
      dist_q_t: [M, A] float, quantile values at t, usually of the target network; M may differ from
        N.
      dist_q_t_selector: [K, A] float, values at t whose mean selects the action (the first of
        ties); None means `dist_q_t`. Values of the online network give double Q-learning.
      huber_kappa: at least 0, in units of return: larger errors are penalised linearly; 0 penalises
        all errors by `|u|` (the pinball loss), inf by `u**2 / 2`.
      divide_by_kappa: whether `huber` is divided by `huber_kappa`, as in IQN and not in QR-DQN;
        makes the loss continuous at 0 and has no effect at 0 and 1.
      stop_target_gradients: whether target and weights are constants to the gradient.
      method: "pairwise" is O(N M), "sorted" O((N + M) log N); "auto" selects the one that
        `quantile_sorted.py` expects to be faster. They differ by rounding, described there.

    Returns:
      [] float32 or wider, a loss.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Dabney et al. 2018, arXiv:1710.10044, algorithm 1.
    """
    selector = dist_q_t if dist_q_t_selector is None else dist_q_t_selector
    check_arrays(
        dist_q_tm1=Spec(dist_q_tm1, "NA"),
        tau_tm1=Spec(tau_tm1, "N"),
        a_tm1=Spec(a_tm1, "", int),
        r_t=Spec(r_t, "", NUMBER),
        discount_t=Spec(discount_t, "", NUMBER),
        dist_q_t=Spec(dist_q_t, "MA"),
        dist_q_t_selector=Spec(selector, "KA"),
    )
    a_t = jnp.argmax(jnp.mean(widen(selector), axis=0))
    r_t, discount_t, dist_q_t = promote(r_t, discount_t, dist_q_t)
    target = r_t + discount_t * finite_where(discount_t == 0, dist_q_t[:, a_t])
    return quantile_regression(
        widen(dist_q_tm1)[:, a_tm1],
        tau_tm1,
        target,
        huber_kappa=huber_kappa,
        divide_by_kappa=divide_by_kappa,
        stop_target_gradients=stop_target_gradients,
        method=method,
    )


def quantile_expected_sarsa(
    dist_q_tm1: chex.Array,
    tau_tm1: chex.Array,
    a_tm1: chex.Numeric,
    r_t: chex.Numeric,
    discount_t: chex.Numeric,
    dist_q_t: chex.Array,
    probs_a_t: chex.Array,
    *,
    huber_kappa: chex.Numeric = 1.0,
    divide_by_kappa: bool = False,
    stop_target_gradients: bool = True,
    method: str = "auto",
) -> jax.Array:
    """Loss against the mixture of all actions' distributions: M A atoms of weight `probs_a_t / M`.

    Args:
      dist_q_tm1: [N, A] float, quantile values of each action at t-1, in units of return.
      tau_tm1: [N] float in (0, 1), the fractions that they estimate.
      a_tm1: [] int in [0, A), the action taken at t-1.
      r_t: [] float, the reward that it earned.
      discount_t: [] float, gamma, or 0 where the environment terminated.
      dist_q_t: [M, A] float, quantile values at t, usually of the target network; M may differ from
        N.
      probs_a_t: [A] float, the policy's probabilities at t, summing to 1.
      huber_kappa: at least 0, in units of return: larger errors are penalised linearly; 0 penalises
        all errors by `|u|` (the pinball loss), inf by `u**2 / 2`.
      divide_by_kappa: whether `huber` is divided by `huber_kappa`, as in IQN and not in QR-DQN;
        makes the loss continuous at 0 and has no effect at 0 and 1.
      stop_target_gradients: whether target and weights are constants to the gradient.
      method: "pairwise" is O(N M), "sorted" O((N + M) log N); "auto" selects the one that
        `quantile_sorted.py` expects to be faster. They differ by rounding, described there.

    Returns:
      [] float32 or wider, a loss.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: the one-step target of Tang et al. 2022, arXiv:2207.07570. rlax has an equivalent with
      one quantile loss per action.
    """
    check_arrays(
        dist_q_tm1=Spec(dist_q_tm1, "NA"),
        tau_tm1=Spec(tau_tm1, "N"),
        a_tm1=Spec(a_tm1, "", int),
        r_t=Spec(r_t, "", NUMBER),
        discount_t=Spec(discount_t, "", NUMBER),
        dist_q_t=Spec(dist_q_t, "MA"),
        probs_a_t=Spec(probs_a_t, "A"),
    )
    r_t, discount_t, dist_q_t, probs = promote(r_t, discount_t, dist_q_t, probs_a_t)
    probs = valid_policy(discount_t == 0, probs)
    atoms = r_t + discount_t * finite_where((discount_t == 0) | (probs == 0)[None, :], dist_q_t)
    return quantile_regression(
        widen(dist_q_tm1)[:, a_tm1],
        tau_tm1,
        jnp.ravel(atoms),
        weights=jnp.ravel(jnp.broadcast_to(probs[None, :] / atoms.shape[0], atoms.shape)),
        huber_kappa=huber_kappa,
        divide_by_kappa=divide_by_kappa,
        stop_target_gradients=stop_target_gradients,
        method=method,
    )
