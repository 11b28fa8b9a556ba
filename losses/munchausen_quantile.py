"""Distributional Munchausen learning: M-IQN, and the same loss for QR-DQN's quantiles.

Policies are softmaxes of mean values, `pi = softmax(mean over quantiles / temperature)`. The target
has one atom per target quantile j, with the expectation over actions *inside* the atom: `r + alpha
* term + discount * sum over a of pi(a) * (z[j, a] - tau * log pi(a))`. This averages the actions'
quantiles at each fraction, as in the paper's code. It is not the mixture of the actions'
distributions, which has M A atoms, a larger spread and the same mean.
"""

import chex
import jax
import jax.numpy as jnp

from bellmax.losses._checks import NUMBER, Spec, check_arrays, promote, widen
from bellmax.losses._masking import finite_where
from bellmax.losses.munchausen import check_hyper_parameters, munchausen_term, scaled_log_policy
from bellmax.losses.quantile import quantile_regression


def munchausen_quantile_target(
    a_tm1: chex.Numeric,
    r_t: chex.Numeric,
    discount_t: chex.Numeric,
    target_dist_q_tm1: chex.Array,
    target_dist_q_t: chex.Array,
    *,
    target_dist_q_t_policy: chex.Array | None = None,
    temperature: chex.Numeric = 0.03,
    alpha: chex.Numeric = 0.9,
    clip: chex.Numeric = -1.0,
) -> jax.Array:
    """Target atoms of M-IQN, one per target quantile; their mean is the `munchausen_target`.

    Termination (`discount_t` = 0) masks only the bootstrap, never the Munchausen term.

    Args:
      a_tm1: [] int in [0, A), the action taken at t-1.
      r_t: [] float, the reward that it earned.
      discount_t: [] float, gamma, or 0 where the environment terminated.
      target_dist_q_tm1: [K, A] float, target network's quantile values at t-1; their mean defines
        the policy of the Munchausen term.
      target_dist_q_t: [M, A] float, target network's quantile values at t, for the bootstrap. Each
        row has one fraction.
      target_dist_q_t_policy: [L, A] float, quantile values at t whose mean defines the policy; None
        means `target_dist_q_t`. M-IQN draws K separate fractions for it, as at t-1.
      temperature: above 0, in units of return.
      alpha: weight of the Munchausen term, in [0, 1].
      clip: lower bound of the unweighted term, at most 0; -inf for none.

    Returns:
      [M] float32 or wider, in units of return. Gradients flow: the caller stops them.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Vieillard et al. 2020, arXiv:2007.14430, and the authors' training code.
    """
    policy = target_dist_q_t if target_dist_q_t_policy is None else target_dist_q_t_policy
    check_arrays(
        a_tm1=Spec(a_tm1, "", int),
        r_t=Spec(r_t, "", NUMBER),
        discount_t=Spec(discount_t, "", NUMBER),
        target_dist_q_tm1=Spec(target_dist_q_tm1, "KA"),
        target_dist_q_t=Spec(target_dist_q_t, "MA"),
        target_dist_q_t_policy=Spec(policy, "LA"),
    )
    check_hyper_parameters(temperature=temperature, alpha=alpha, clip=clip)
    r_t, discount_t, dist_tm1, dist_t, policy = promote(
        r_t, discount_t, target_dist_q_tm1, target_dist_q_t, policy
    )
    terminal = discount_t == 0
    dist_t, policy = finite_where(terminal, dist_t), finite_where(terminal, policy)
    q_tm1, q_t = jnp.mean(dist_tm1, axis=0), jnp.mean(policy, axis=0)
    term = munchausen_term(q_tm1, a_tm1, temperature=temperature, clip=clip)
    log_pi = scaled_log_policy(q_t, temperature=temperature)
    # Actions that are not allowed have values and log-policy of -inf: masked twice, as 0 * inf
    # would make the gradient in the temperature nan.
    allowed = log_pi > -jnp.inf
    log_pi = jnp.where(allowed, log_pi, 0.0)
    pi = jnp.where(allowed, jnp.exp(log_pi / temperature), 0.0)
    dist_t = jnp.where((pi > 0.0)[None, :], dist_t, 0.0)
    bootstrap = jnp.sum(pi[None, :] * (dist_t - log_pi[None, :]), axis=1)
    return r_t + alpha * term + discount_t * bootstrap


def munchausen_quantile_q_learning(
    dist_q_tm1: chex.Array,
    tau_tm1: chex.Array,
    a_tm1: chex.Numeric,
    r_t: chex.Numeric,
    discount_t: chex.Numeric,
    target_dist_q_tm1: chex.Array,
    target_dist_q_t: chex.Array,
    *,
    target_dist_q_t_policy: chex.Array | None = None,
    temperature: chex.Numeric = 0.03,
    alpha: chex.Numeric = 0.9,
    clip: chex.Numeric = -1.0,
    huber_kappa: chex.Numeric = 1.0,
    divide_by_kappa: bool = False,
    stop_target_gradients: bool = True,
    method: str = "auto",
) -> jax.Array:
    """Loss of M-IQN on one transition: `quantile_regression` on `munchausen_quantile_target`.

    Args:
      dist_q_tm1: [N, A] float, online network's quantile values at t-1, in units of return.
      tau_tm1: [N] float in (0, 1), the fractions that they estimate.
      a_tm1: [] int in [0, A), the action taken at t-1.
      r_t: [] float, the reward that it earned.
      discount_t: [] float, gamma, or 0 where the environment terminated.
      target_dist_q_tm1: [K, A] float, target network's quantile values at t-1; their mean defines
        the policy of the Munchausen term.
      target_dist_q_t: [M, A] float, target network's quantile values at t, for the bootstrap. Each
        row has one fraction.
      target_dist_q_t_policy: [L, A] float, quantile values at t whose mean defines the policy; None
        means `target_dist_q_t`. M-IQN draws K separate fractions for it, as at t-1.
      temperature: above 0, in units of return.
      alpha: weight of the Munchausen term, in [0, 1].
      clip: lower bound of the unweighted term, at most 0; -inf for none.
      huber_kappa: at least 0, in units of return: larger errors are penalised linearly; 0 penalises
        all errors by `|u|` (the pinball loss), inf by `u**2 / 2`; the authors divide by kappa,
        which is 1.
      divide_by_kappa: whether `huber` is divided by `huber_kappa`, as in IQN and not in QR-DQN;
        makes the loss continuous at 0 and has no effect at 0 and 1; the authors divide by kappa,
        which is 1.
      stop_target_gradients: whether target and weights are constants to the gradient; the authors
        divide by kappa, which is 1.
      method: "pairwise" is O(N M), "sorted" O((N + M) log N); "auto" selects the one that
        `quantile_sorted.py` expects to be faster. They differ by rounding, described there; the
        authors divide by kappa, which is 1.

    Returns:
      [] float32 or wider, a loss.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Vieillard et al. 2020, arXiv:2007.14430, and the authors' training code.
    """
    check_arrays(
        dist_q_tm1=Spec(dist_q_tm1, "NA"),
        tau_tm1=Spec(tau_tm1, "N"),
        a_tm1=Spec(a_tm1, "", int),
        target_dist_q_tm1=Spec(target_dist_q_tm1, "KA"),
    )
    target = munchausen_quantile_target(
        a_tm1,
        r_t,
        discount_t,
        target_dist_q_tm1,
        target_dist_q_t,
        target_dist_q_t_policy=target_dist_q_t_policy,
        temperature=temperature,
        alpha=alpha,
        clip=clip,
    )
    return quantile_regression(
        widen(dist_q_tm1)[:, a_tm1],
        tau_tm1,
        target,
        huber_kappa=huber_kappa,
        divide_by_kappa=divide_by_kappa,
        stop_target_gradients=stop_target_gradients,
        method=method,
    )
