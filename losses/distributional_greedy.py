"""Distributional multi-step learning of the greedy policy: Retrace without mu, n-step QR-DQN.

For a deterministic policy Retrace's `c` is lambda where the taken action is greedy, as mu is at
most 1, and 0 elsewhere. Its target is therefore an ordinary mixture without negative weights, and
only the greedy action's distribution contributes at each step. With lambda 1 it is an n-step target
that bootstraps at the first non-greedy action: of the T N atoms, N have weight.
`distributional_n_step_target` with `trace_t` times greedy returns only these.

Ties are broken by the first action. The means of `dist_q_t` choose the greedy action unless a
selector is given; values of the online network give double Q-learning.
"""

import chex
import jax
import jax.numpy as jnp

from bellmax.losses._checks import NUMBER, Spec, check_arrays, promote, widen
from bellmax.losses.distributional import (
    Anchor,
    distributional_lambda_target,
    distributional_n_step_target,
)
from bellmax.losses.distributional_off_policy import (
    check_every,
    check_first,
    regress,
    regress_every,
)
from bellmax.losses.quantile import WeightedAtoms
from bellmax.losses.traces import check_lambda


def _greedy(dist_q_t: chex.Array, q_t_selector: chex.Array | None) -> tuple[jax.Array, jax.Array]:
    """Greedy actions [T] and their atoms [T, N]."""
    check_arrays(dist_q_t=Spec(dist_q_t, "TNA"))
    dist_q_t = widen(dist_q_t)
    q_t = jnp.mean(dist_q_t, axis=1) if q_t_selector is None else q_t_selector
    check_arrays(dist_q_t=Spec(dist_q_t, "TNA"), q_t_selector=Spec(q_t, "TA"))
    best = jnp.argmax(q_t, axis=-1)
    return best, jnp.take_along_axis(dist_q_t, best[:, None, None], axis=-1)[:, :, 0]


def greedy_distributional_retrace_target(
    r_t: chex.Array,
    discount_t: chex.Array,
    dist_q_t: chex.Array,
    a_t: chex.Array,
    trace_t: chex.Array,
    *,
    q_t_selector: chex.Array | None = None,
    lambda_: chex.Numeric = 1.0,
    anchor: Anchor = 0,
) -> WeightedAtoms:
    """`distributional_retrace_target` for the greedy policy, with T N atoms instead of T N A.

    Args:
      r_t: [T] float, rewards.
      discount_t: [T] float, gamma, or 0 where the environment terminated.
      dist_q_t: [T, N, A] float, atoms of each action's return at the successor step.
      a_t: [T] int in [0, A), the action taken there; the last is not used.
      trace_t: [T] float in [0, 1], 0 where the step that followed is the last of its episode.
      q_t_selector: [T, A] float, values whose argmax is the greedy action; None means the means of
        dist_q_t.
      lambda_: in [0, 1]; 0 gives the one-step target.
      anchor: the row whose target is computed, or "every" for all rows.

    Returns:
      Atoms and weights [T N], or [T, T N]: float32 or wider, weights at least 0. Gradients flow:
      the caller stops them.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Tang et al. 2022, arXiv:2207.07570, Retrace, simplified for a greedy policy.
    """
    best, dist_v_t = _greedy(dist_q_t, q_t_selector)
    check_arrays(dist_q_t=Spec(dist_q_t, "TNA"), a_t=Spec(a_t, "T", int))
    check_lambda(lambda_)
    dist_v_t, lambda_ = promote(dist_v_t, lambda_)
    lambda_t = lambda_ * (best == jnp.asarray(a_t)).astype(dist_v_t.dtype)
    window = (r_t, discount_t, dist_v_t, lambda_t, trace_t)
    return distributional_lambda_target(*window, anchor=anchor)


def greedy_distributional_retrace(
    dist_q_tm1: chex.Array,
    tau_tm1: chex.Array,
    a_tm1: chex.Numeric,
    r_t: chex.Array,
    discount_t: chex.Array,
    dist_q_t: chex.Array,
    a_t: chex.Array,
    trace_t: chex.Array,
    *,
    q_t_selector: chex.Array | None = None,
    lambda_: chex.Numeric = 1.0,
    huber_kappa: chex.Numeric = 1.0,
    divide_by_kappa: bool = False,
    stop_target_gradients: bool = True,
    method: str = "auto",
) -> jax.Array:
    """Loss of a window's first step against its `greedy_distributional_retrace_target`.

    Args:
      dist_q_tm1: [N, A] float, quantile values at the first step, in units of return.
      tau_tm1: [N] float in (0, 1), the fractions that they estimate.
      a_tm1: [] int in [0, A), the action taken there; it has no coefficient.
      r_t: [T] float, rewards.
      discount_t: [T] float, gamma, or 0 where the environment terminated.
      dist_q_t: [T, M, A] float, atoms at each successor step, usually of the target network.
      a_t: [T] int in [0, A), the action taken there; the last is not used.
      trace_t: [T] float in [0, 1], 0 where the step that followed is the last of its episode.
      q_t_selector: [T, A] float, values whose argmax is the greedy action; None means the means of
        dist_q_t.
      lambda_: in [0, 1]; 0 gives the one-step target.
      huber_kappa: at least 0, in units of return: larger errors are penalised linearly; 0 penalises
        all errors by `|u|` (the pinball loss), inf by `u**2 / 2`.
      divide_by_kappa: whether `huber` is divided by `huber_kappa`, as in IQN and not in QR-DQN;
        makes the loss continuous at 0 and has no effect at 0 and 1.
      stop_target_gradients: whether target and weights are constants to the gradient.
      method: "pairwise" is O(N M), "sorted" O((N + M) log N); "auto" selects the one that
        `quantile_sorted.py` expects to be faster. They differ by rounding, described there.

    Returns:
      [] float32 or wider, a loss. T = 1, or lambda_ 0, is `quantile_q_learning`.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Tang et al. 2022, arXiv:2207.07570.
    """
    check_first(dist_q_tm1, tau_tm1, a_tm1, dist_q_t)
    choice = {"q_t_selector": q_t_selector, "lambda_": lambda_}
    target = greedy_distributional_retrace_target(r_t, discount_t, dist_q_t, a_t, trace_t, **choice)
    options = {"huber_kappa": huber_kappa, "divide_by_kappa": divide_by_kappa, "method": method}
    options |= {"stop_target_gradients": stop_target_gradients}
    return regress(dist_q_tm1, tau_tm1, a_tm1, target, **options)


def greedy_distributional_retrace_every(
    dist_q_tm1: chex.Array,
    tau_tm1: chex.Array,
    a_tm1: chex.Array,
    r_t: chex.Array,
    discount_t: chex.Array,
    dist_q_t: chex.Array,
    a_t: chex.Array,
    trace_t: chex.Array,
    *,
    q_t_selector: chex.Array | None = None,
    lambda_: chex.Numeric = 1.0,
    huber_kappa: chex.Numeric = 1.0,
    divide_by_kappa: bool = False,
    stop_target_gradients: bool = True,
    method: str = "auto",
) -> jax.Array:
    """`greedy_distributional_retrace` of every step, each against the rest of the window.

    Args:
      dist_q_tm1: [T, N, A] float, quantile values where each action was taken.
      tau_tm1: [T, N] float in (0, 1), the fractions that they estimate.
      a_tm1: [T] int in [0, A), the actions.
      r_t: [T] float, rewards.
      discount_t: [T] float, gamma, or 0 where the environment terminated.
      dist_q_t: [T, M, A] float, atoms at each successor step, usually of the target network.
      a_t: [T] int in [0, A), the action taken there; the last is not used.
      trace_t: [T] float in [0, 1], 0 where the step that followed is the last of its episode.
      q_t_selector: [T, A] float, values whose argmax is the greedy action; None means the means of
        dist_q_t.
      lambda_: in [0, 1]; 0 gives the one-step target.
      huber_kappa: at least 0, in units of return: larger errors are penalised linearly; 0 penalises
        all errors by `|u|` (the pinball loss), inf by `u**2 / 2`.
      divide_by_kappa: whether `huber` is divided by `huber_kappa`, as in IQN and not in QR-DQN;
        makes the loss continuous at 0 and has no effect at 0 and 1.
      stop_target_gradients: whether target and weights are constants to the gradient.
      method: "pairwise" is O(N M), "sorted" O((N + M) log N); "auto" selects the one that
        `quantile_sorted.py` expects to be faster. They differ by rounding, described there.

    Returns:
      [T] float32 or wider, losses. Uses memory for T T M atoms.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Tang et al. 2022, arXiv:2207.07570.
    """
    check_every(dist_q_tm1, tau_tm1, a_tm1, dist_q_t)
    choice = {"q_t_selector": q_t_selector, "lambda_": lambda_}
    targets = greedy_distributional_retrace_target(
        r_t, discount_t, dist_q_t, a_t, trace_t, **choice, anchor="every"
    )
    options = {"huber_kappa": huber_kappa, "divide_by_kappa": divide_by_kappa, "method": method}
    options |= {"stop_target_gradients": stop_target_gradients}
    return regress_every(dist_q_tm1, tau_tm1, a_tm1, targets, **options)


def n_step_quantile_q_learning(
    dist_q_tm1: chex.Array,
    tau_tm1: chex.Array,
    a_tm1: chex.Numeric,
    r_t: chex.Array,
    discount_t: chex.Array,
    dist_q_t: chex.Array,
    trace_t: chex.Array,
    *,
    q_t_selector: chex.Array | None = None,
    huber_kappa: chex.Numeric = 1.0,
    divide_by_kappa: bool = False,
    stop_target_gradients: bool = True,
    method: str = "auto",
) -> jax.Array:
    """Loss of QR-DQN with an uncorrected n-step target, n = T: biased off-policy.

    Args:
      dist_q_tm1: [N, A] float, quantile values at the first step, in units of return.
      tau_tm1: [N] float in (0, 1), the fractions that they estimate.
      a_tm1: [] int in [0, A), the action taken there; it has no coefficient.
      r_t: [T] float, rewards.
      discount_t: [T] float, gamma, or 0 where the environment terminated.
      dist_q_t: [T, M, A] float, atoms at each successor step, usually of the target network.
      trace_t: [T] float, 0 where the target bootstraps; any other value continues the trace.
      q_t_selector: [T, A] float, values whose argmax is the greedy action; None means the means of
        dist_q_t.
      huber_kappa: at least 0, in units of return: larger errors are penalised linearly; 0 penalises
        all errors by `|u|` (the pinball loss), inf by `u**2 / 2`.
      divide_by_kappa: whether `huber` is divided by `huber_kappa`, as in IQN and not in QR-DQN;
        makes the loss continuous at 0 and has no effect at 0 and 1.
      stop_target_gradients: whether target and weights are constants to the gradient.
      method: "pairwise" is O(N M), "sorted" O((N + M) log N); "auto" selects the one that
        `quantile_sorted.py` expects to be faster. They differ by rounding, described there.

    Returns:
      [] float32 or wider, a loss. T = 1 is `quantile_q_learning`.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Hessel et al. 2017, arXiv:1710.02298, for quantiles.
    """
    check_first(dist_q_tm1, tau_tm1, a_tm1, dist_q_t)
    check_arrays(r_t=Spec(r_t, "T", NUMBER), dist_q_t=Spec(dist_q_t, "TMA"))
    _, dist_v_t = _greedy(dist_q_t, q_t_selector)
    target = distributional_n_step_target(r_t, discount_t, dist_v_t, trace_t)
    options = {"huber_kappa": huber_kappa, "divide_by_kappa": divide_by_kappa, "method": method}
    options |= {"stop_target_gradients": stop_target_gradients}
    return regress(dist_q_tm1, tau_tm1, a_tm1, target, **options)
