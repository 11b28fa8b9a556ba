"""Quantile losses against distributional Retrace targets, of the first or of every step.

QR-DQN-Retrace is `distributional_retrace` with `retrace_coefficients`; other coefficients give
distributional Q(lambda), tree backup or expected SARSA. The loss is linear in the target, so signed
weights give an unbiased gradient. The loss is bounded below but may have several minima, so log a
one-step loss as well. For the greedy policy `distributional_greedy.py` is cheaper and needs no
`mu`.
"""

import functools

import chex
import jax
import jax.numpy as jnp

from bellmax.losses._checks import Spec, check_arrays, widen
from bellmax.losses.distributional import distributional_retrace_target
from bellmax.losses.quantile import WeightedAtoms, quantile_regression


def check_first(dist_q_tm1, tau_tm1, a_tm1, dist_q_t) -> None:
    """Checks the arguments of one prediction and of the window that follows."""
    check_arrays(
        dist_q_tm1=Spec(dist_q_tm1, "NA"),
        tau_tm1=Spec(tau_tm1, "N"),
        a_tm1=Spec(a_tm1, "", int),
        dist_q_t=Spec(dist_q_t, "TMA"),
    )


def check_every(dist_q_tm1, tau_tm1, a_tm1, dist_q_t) -> None:
    """Checks the arguments of the predictions at all steps of a window."""
    check_arrays(
        dist_q_tm1=Spec(dist_q_tm1, "TNA"),
        tau_tm1=Spec(tau_tm1, "TN"),
        a_tm1=Spec(a_tm1, "T", int),
        dist_q_t=Spec(dist_q_t, "TMA"),
    )


def regress(dist_q_tm1, tau_tm1, a_tm1, target: WeightedAtoms, **options) -> jax.Array:
    """`quantile_regression` of the taken action's distribution on a target, without checks."""
    dist_tm1 = widen(dist_q_tm1)[:, a_tm1]
    return quantile_regression(dist_tm1, tau_tm1, target.atoms, weights=target.weights, **options)


def regress_every(dist_q_tm1, tau_tm1, a_tm1, targets: WeightedAtoms, **options) -> jax.Array:
    """[T] losses of `regress`; a row that is not finite gives nan and has no gradient."""
    rows = dist_q_tm1, tau_tm1, *targets
    fine = [jnp.isfinite(x).all(axis=tuple(range(1, jnp.ndim(x)))) for x in rows]
    fine = functools.reduce(jnp.logical_and, fine)
    safe = [jnp.where(jnp.reshape(fine, (-1,) + (1,) * (jnp.ndim(x) - 1)), x, 0.0) for x in rows]
    one = lambda dist, tau, a, *target: regress(dist, tau, a, WeightedAtoms(*target), **options)  # noqa: E731
    losses = jax.vmap(one)(*safe[:2], jnp.asarray(a_tm1), *safe[2:])
    return jnp.where(fine, losses, jnp.nan)


def distributional_retrace(
    dist_q_tm1: chex.Array,
    tau_tm1: chex.Array,
    a_tm1: chex.Numeric,
    r_t: chex.Array,
    discount_t: chex.Array,
    dist_q_t: chex.Array,
    a_t: chex.Array,
    pi_t: chex.Array,
    c_t: chex.Array,
    trace_t: chex.Array,
    *,
    huber_kappa: chex.Numeric = 1.0,
    divide_by_kappa: bool = False,
    stop_target_gradients: bool = True,
    method: str = "auto",
) -> jax.Array:
    """Loss of a window's first step against its `distributional_retrace_target`.

    Args:
      dist_q_tm1: [N, A] float, quantile values at the first step, in units of return.
      tau_tm1: [N] float in (0, 1), the fractions that they estimate.
      a_tm1: [] int in [0, A), the action taken there; it has no coefficient.
      r_t: [T] float, rewards.
      discount_t: [T] float, gamma, or 0 where the environment terminated.
      dist_q_t: [T, M, A] float, atoms at each successor step, usually of the target network.
      a_t: [T] int in [0, A), the action taken there; the last is not used.
      pi_t: [T, A] float, the target policy there, summing to 1 over actions.
      c_t: [T] float, trace coefficients of the taken actions; the last is not used.
      trace_t: [T] float in [0, 1], 0 where the step that followed is the last of its episode.
      huber_kappa: at least 0, in units of return: larger errors are penalised linearly; 0 penalises
        all errors by `|u|` (the pinball loss), inf by `u**2 / 2`.
      divide_by_kappa: whether `huber` is divided by `huber_kappa`, as in IQN and not in QR-DQN;
        makes the loss continuous at 0 and has no effect at 0 and 1.
      stop_target_gradients: whether target and weights are constants to the gradient.
      method: "pairwise" is O(N M), "sorted" O((N + M) log N); "auto" selects the one that
        `quantile_sorted.py` expects to be faster. They differ by rounding, described there.

    Returns:
      [] float32 or wider, a loss. T = 1 is `quantile_expected_sarsa`.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Tang et al. 2022, arXiv:2207.07570.
    """
    check_first(dist_q_tm1, tau_tm1, a_tm1, dist_q_t)
    target = distributional_retrace_target(r_t, discount_t, dist_q_t, a_t, pi_t, c_t, trace_t)
    return regress(
        dist_q_tm1,
        tau_tm1,
        a_tm1,
        target,
        huber_kappa=huber_kappa,
        divide_by_kappa=divide_by_kappa,
        stop_target_gradients=stop_target_gradients,
        method=method,
    )


def distributional_retrace_every(
    dist_q_tm1: chex.Array,
    tau_tm1: chex.Array,
    a_tm1: chex.Array,
    r_t: chex.Array,
    discount_t: chex.Array,
    dist_q_t: chex.Array,
    a_t: chex.Array,
    pi_t: chex.Array,
    c_t: chex.Array,
    trace_t: chex.Array,
    *,
    huber_kappa: chex.Numeric = 1.0,
    divide_by_kappa: bool = False,
    stop_target_gradients: bool = True,
    method: str = "auto",
) -> jax.Array:
    """`distributional_retrace` of every step, each against the rest of the window.

    Args:
      dist_q_tm1: [T, N, A] float, quantile values where each action was taken.
      tau_tm1: [T, N] float in (0, 1), the fractions that they estimate.
      a_tm1: [T] int in [0, A), the actions.
      r_t: [T] float, rewards.
      discount_t: [T] float, gamma, or 0 where the environment terminated.
      dist_q_t: [T, M, A] float, atoms at each successor step, usually of the target network.
      a_t: [T] int in [0, A), the action taken there; the last is not used.
      pi_t: [T, A] float, the target policy there, summing to 1 over actions.
      c_t: [T] float, trace coefficients of the taken actions; the last is not used.
      trace_t: [T] float in [0, 1], 0 where the step that followed is the last of its episode.
      huber_kappa: at least 0, in units of return: larger errors are penalised linearly; 0 penalises
        all errors by `|u|` (the pinball loss), inf by `u**2 / 2`.
      divide_by_kappa: whether `huber` is divided by `huber_kappa`, as in IQN and not in QR-DQN;
        makes the loss continuous at 0 and has no effect at 0 and 1.
      stop_target_gradients: whether target and weights are constants to the gradient.
      method: "pairwise" is O(N M), "sorted" O((N + M) log N); "auto" selects the one that
        `quantile_sorted.py` expects to be faster. They differ by rounding, described there.

    Returns:
      [T] float32 or wider, losses. Later steps have shorter windows. Uses memory for T T M A
      atoms.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Tang et al. 2022, arXiv:2207.07570.
    """
    check_every(dist_q_tm1, tau_tm1, a_tm1, dist_q_t)
    window = (r_t, discount_t, dist_q_t, a_t, pi_t, c_t, trace_t)
    targets = distributional_retrace_target(*window, anchor="every")
    options = {"huber_kappa": huber_kappa, "divide_by_kappa": divide_by_kappa, "method": method}
    options |= {"stop_target_gradients": stop_target_gradients}
    return regress_every(dist_q_tm1, tau_tm1, a_tm1, targets, **options)
