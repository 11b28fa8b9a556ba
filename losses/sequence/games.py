"""Preference games: Nash-MD, online IPO, IPO-MD, INPO, DNO, and win rates as rewards.

`p` is the probability that the first answer is preferred to the second; ties and an answer against
itself are 1/2. For answers y, y' drawn independently from mu, the g that minimises the mean of
`pairwise_regression_loss` is `scale * (P(y > mu) - 1/2)` plus a constant, which makes four methods
of one function:

| method | answers from | g | scale |
|---|---|---|---|
| IPO | data | log pi / ref | 1 / tau |
| online IPO | the policy | log pi / ref | 1 / tau |
| IPO-MD | `mixture_logits` | log pi / ref | 1 / tau |
| INPO | the policy of this iteration | `inpo_log_ratio` | 1 / eta |

The fixed point of online IPO is the regularised equilibrium; IPO's is another policy.
"""

import chex
import jax
import jax.numpy as jnp

from bellmax.losses._checks import NUMBER, Spec, check_arrays, check_scalars, promote, widen
from bellmax.losses.sequence._shared import at_least_two, check_tokens, log_ratios, to_go


def pairwise_regression_loss(
    g: chex.Numeric, g_other: chex.Numeric, p: chex.Numeric, *, scale: chex.Numeric
) -> jax.Array:
    """Regression of a difference on a preference: `(g - g_other - scale * (p - 1/2))^2`.

    Args:
      g: [] float, of the first answer, a log-ratio in nats; see the table of this module.
      g_other: [] float, of the second answer.
      p: [] float in [0, 1], that the first is preferred, or a label in {0, 1} for this order.
      scale: above 0, in nats; 1 / tau or 1 / eta.

    Returns:
      [] float32 or wider, in nats^2. Answers and p are data: no gradient through how they were
      drawn.

    Raises:
      ValueError: a rank, dtype or range differs from the above; names the argument.

    Source: Azar et al. 2023, arXiv:2310.12036; Calandriello et al. 2024, arXiv:2403.08635; Zhang
      et al. 2024, arXiv:2407.00617.
    """
    check_arrays(g=Spec(g, ""), g_other=Spec(g_other, ""), p=Spec(p, "", NUMBER))
    check_scalars(scale=scale, above_zero=("scale",))
    g, g_other, p, scale = promote(g, g_other, p, scale)
    return jnp.square(g - g_other - scale * (jax.lax.stop_gradient(p) - 0.5))


def inpo_log_ratio(
    log_pi: chex.Numeric,
    log_pi_t: chex.Numeric,
    log_ref: chex.Numeric,
    *,
    tau: chex.Numeric = 0.1,
    eta: chex.Numeric = 1.0,
) -> jax.Array:
    """INPO's g: `log pi - (1 - tau / eta) * log pi_t - tau / eta * log ref`.

    With `pairwise_regression_loss` and scale 1 / eta it is a step of mirror descent from pi_t.

    Args:
      log_pi: [] float, log-probability of an answer under the policy, in nats.
      log_pi_t: [] float, that under the policy of this iteration; a constant to the gradient.
      log_ref: [] float, that under the reference; a constant to the gradient.
      tau: at least 0, regularisation towards the reference.
      eta: above 0 and at least tau, the inverse of the step size.

    Returns:
      [] float32 or wider, in nats.

    Raises:
      ValueError: a rank, dtype or range differs from the above; names the argument.

    Source: Zhang et al. 2024, arXiv:2407.00617.
    """
    arrays = {"log_pi": log_pi, "log_pi_t": log_pi_t, "log_ref": log_ref}
    check_arrays(**{name: Spec(x, "") for name, x in arrays.items()})
    check_scalars(tau=tau, eta=eta, from_zero=("tau",), above_zero=("eta",))
    log_pi, log_pi_t, log_ref, tau, eta = promote(*arrays.values(), tau, eta)
    log_pi_t, log_ref = map(jax.lax.stop_gradient, (log_pi_t, log_ref))
    return log_pi - (1.0 - tau / eta) * log_pi_t - tau / eta * log_ref


def mixture_logits(
    logits_pi: chex.Array, logits_ref: chex.Array, *, b: chex.Numeric = 0.5
) -> jax.Array:
    """Logits of the geometric mixture of policy and reference, for the opponent's next token.

    `(1 - b) * log_softmax(logits_pi) + b * log_softmax(logits_ref)`: mixing probabilities would be
    another game. The mixture of whole answers is intractable; that of tokens approximates it.

    Args:
      logits_pi: [V] float; a constant to the gradient, as one samples from the result.
      logits_ref: [V] float; a constant to the gradient.
      b: in [0, 1], weight of the reference; eta * tau in Nash-MD.

    Returns:
      [V] float32 or wider, unnormalised.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Munos et al. 2023, arXiv:2312.00886. TRL's Nash-MD has b = 0.5.
    """
    check_arrays(logits_pi=Spec(logits_pi, "V"), logits_ref=Spec(logits_ref, "V"))
    check_scalars(b=b, from_zero=("b",), up_to_one=("b",))
    logits_pi, logits_ref, b = promote(logits_pi, logits_ref, b)
    pi, ref = (jax.nn.log_softmax(jax.lax.stop_gradient(x)) for x in (logits_pi, logits_ref))
    return (1.0 - b) * pi + b * ref


def nash_md_loss(
    log_pi: chex.Array,
    log_ref: chex.Array,
    p: chex.Numeric,
    mask: chex.Array,
    *,
    tau: chex.Numeric = 0.1,
    baseline: chex.Numeric = 0.5,
    stop_target_gradients: bool = True,
) -> jax.Array:
    """Nash-MD of one answer against one of the mixture: `-(p - baseline) * log pi + tau * KL`.

    The KL term is that of `token_kl_loss`, whose gradient is that of the KL. TRL's is local to each
    token and EasyDeL's differentiates both of its factors; neither is a gradient of the KL.

    Args:
      log_pi: [T] float, log-probabilities of the tokens under the policy that drew them, in nats.
      log_ref: [T] float, those under the reference; constants to the gradient.
      p: [] float in [0, 1], that the answer is preferred to one of `mixture_logits`; a constant.
      mask: [T] float, int or bool, 0 on prompt and padding.
      tau: at least 0, default 0.1 (TRL).
      baseline: any number that does not depend on the answer; 1/2 is right against oneself, the
        mean of p over other answers has less variance.
      stop_target_gradients: whether sums of log-ratios are constants to the gradient.

    Returns:
      [] float32 or wider; its value has no meaning.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Munos et al. 2023, arXiv:2312.00886. Deviation: the KL of later tokens counts.
    """
    check_tokens(mask, log_pi=log_pi, log_ref=log_ref)
    check_arrays(p=Spec(p, "", NUMBER))
    check_scalars(tau=tau, baseline=baseline, from_zero=("tau",))
    ratio, log_pi, p, tau, baseline = log_ratios(log_pi, log_ref, mask, p, tau, baseline)
    later = to_go(ratio)
    later = jax.lax.stop_gradient(later) if stop_target_gradients else later
    weights = tau * later - (jax.lax.stop_gradient(p) - baseline)
    return jnp.sum(weights * log_pi)


def dno_loss(
    log_ratio: chex.Numeric,
    log_ratio_other: chex.Numeric,
    r: chex.Numeric,
    r_other: chex.Numeric,
    *,
    eta: chex.Numeric = 0.1,
) -> jax.Array:
    """Direct Nash optimisation: classification with soft labels from win rates.

    `-(s * log sigmoid(h) + (1 - s) * log sigmoid(-h))`, `h = eta * (log_ratio - log_ratio_other)`,
    `s = sigmoid(r - r_other)`. The practical form is `dpo_loss` of the best against the worst of
    several answers.

    Args:
      log_ratio: [] float, log pi / pi_t of an answer, in nats; stop the gradient of pi_t.
      log_ratio_other: [] float, that of the other answer.
      r: [] float, win rate of the answer against pi_t, such as from `win_rates`; a constant.
      r_other: [] float, that of the other answer; a constant.
      eta: above 0.

    Returns:
      [] float32 or wider.

    Raises:
      ValueError: a rank, dtype or range differs from the above; names the argument.

    Source: Rosset et al. 2024, arXiv:2404.03715.
    """
    check_arrays(
        log_ratio=Spec(log_ratio, ""),
        log_ratio_other=Spec(log_ratio_other, ""),
        r=Spec(r, "", NUMBER),
        r_other=Spec(r_other, "", NUMBER),
    )
    check_scalars(eta=eta, above_zero=("eta",))
    log_ratio, other, r, r_other, eta = promote(log_ratio, log_ratio_other, r, r_other, eta)
    s = jax.nn.sigmoid(jax.lax.stop_gradient(r - r_other))
    h = eta * (log_ratio - other)
    return s * jax.nn.softplus(-h) + (1.0 - s) * jax.nn.softplus(h)


def win_rates(p: chex.Array) -> jax.Array:
    """Rewards of self-play: the mean preference of each answer over the others.

    Any policy gradient may follow, for answers or for trajectories of a control task; in cycles the
    average iterate approaches the minimax winner.

    Args:
      p: [K, K] float in [0, 1], the axes are the group: p[i, j] that answer i is preferred to j.
        The diagonal has no influence.

    Returns:
      [K] float32 or wider in [0, 1].

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: Swamy et al. 2024, arXiv:2401.04056.
    """
    check_arrays(p=Spec(p, "KK", NUMBER))
    at_least_two(p=p)
    p = widen(p)
    size = p.shape[0]
    return jnp.sum(jnp.where(jnp.eye(size, dtype=bool), 0.0, p), axis=1) / (size - 1)
