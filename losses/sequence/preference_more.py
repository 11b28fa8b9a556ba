"""SRPO, contrastive preference learning, and gauges of over-optimisation."""

import chex
import jax
import jax.numpy as jnp

from bellmax import must
from bellmax.losses._checks import (
    NUMBER,
    Spec,
    check_arrays,
    check_scalars,
    promote,
    whole_number,
    widen,
)
from bellmax.losses.sequence._shared import at_least_two


def srpo_loss(
    log_ratio_w: chex.Numeric,
    log_ratio_l: chex.Numeric,
    log_ratio_w_after_l: chex.Numeric,
    log_ratio_l_after_w: chex.Numeric,
    log_ratio_w_after_w: chex.Numeric,
    log_ratio_l_after_l: chex.Numeric,
    *,
    beta: chex.Numeric = 0.1,
    alpha: chex.Numeric = 0.5,
    p: chex.Numeric = 1.0,
) -> jax.Array:
    """Self-improving robust preference optimisation, of one labelled pair w, l.

    A generator writes an answer and an improver, the same model with an answer in its context,
    rewrites it. With l(.) and l+(.|.) their log-ratios to the reference, the optimum satisfies

        improver:  P(b > a) - 1/2 = beta * (l+(b|a) - l+(a|a))
        joint:     P(b > a) - 1/2 = beta / 2 * (l(b) - l(a) + l+(b|a) - l+(a|b))

    and the loss is `(1 - alpha) * improver + alpha * joint` of squared residuals, each the mean
    over both orders of the pair. Without the log-ratios of an answer after itself the improver
    would be defined only up to a function of the first answer.

    Args:
      log_ratio_w: [] float, log pi / ref of the preferred answer as a first answer, in nats.
      log_ratio_l: [] float, that of the other answer.
      log_ratio_w_after_l: [] float, that of the preferred answer with the other in the context.
      log_ratio_l_after_w: [] float, that of the other answer with the preferred in the context.
      log_ratio_w_after_w: [] float, that of the preferred answer with itself in the context.
      log_ratio_l_after_l: [] float, that of the other answer with itself in the context.
      beta: above 0, strength of the regularisation of both.
      alpha: in [0, 1], weight of the joint residual.
      p: in [0, 1], probability that w is preferred to l; 1 for a label.

    Returns:
      [] float32 or wider. Stop the gradients of the reference where the log-ratios are computed.

    Raises:
      ValueError: a rank, dtype or range differs from the above; names the argument.

    Source: Choi et al. 2024, arXiv:2406.01660. Deviation: means over the two orders, not sums.
    """
    arrays = {"log_ratio_w": log_ratio_w, "log_ratio_l": log_ratio_l}
    arrays |= {
        "log_ratio_w_after_l": log_ratio_w_after_l,
        "log_ratio_l_after_w": log_ratio_l_after_w,
        "log_ratio_w_after_w": log_ratio_w_after_w,
        "log_ratio_l_after_l": log_ratio_l_after_l,
    }
    check_arrays(**{name: Spec(x, "") for name, x in arrays.items()})
    ranges = {"from_zero": ("alpha", "p"), "up_to_one": ("alpha", "p"), "above_zero": ("beta",)}
    check_scalars(beta=beta, alpha=alpha, p=p, **ranges)
    w, l_, w_l, l_w, w_w, l_l, beta, alpha, p = promote(*arrays.values(), beta, alpha, p)
    target = p - 0.5
    improver = jnp.square(beta * (w_l - l_l) - target) + jnp.square(beta * (l_w - w_w) + target)
    # The other order only changes the sign of this residual.
    joint = jnp.square(beta / 2.0 * (w - l_ + w_l - l_w) - target)
    return (1.0 - alpha) * improver / 2.0 + alpha * joint


def cpl_loss(
    log_pi_w: chex.Numeric,
    log_pi_l: chex.Numeric,
    *,
    alpha: chex.Numeric = 0.1,
    bias: chex.Numeric = 0.5,
) -> jax.Array:
    """Contrastive preference learning: preferences over segments, without a reward model.

    `log(1 + exp(alpha * (bias * log_pi_l - log_pi_w)))`. Segments may be those of a control task:
    their sums of log-densities of the taken actions, or for a deterministic actor minus the
    squared distance to them.

    Args:
      log_pi_w: [] float, sum over the preferred segment, in nats.
      log_pi_l: [] float, sum over the other segment, in nats.
      alpha: above 0, temperature, default 0.1 (code of the paper).
      bias: in (0, 1], default 0.5 (code of the paper). Below 1 the loss is no longer invariant to
        a shift of all log-densities: it prefers to make actions in the data likely.

    Returns:
      [] float32 or wider.

    Raises:
      ValueError: a rank, dtype or range differs from the above; names the argument.

    Source: Hejna et al. 2023, arXiv:2310.13639. Sums are undiscounted, as in the paper's code.
    """
    check_arrays(log_pi_w=Spec(log_pi_w, ""), log_pi_l=Spec(log_pi_l, ""))
    _check_contrast(alpha, bias)
    log_pi_w, log_pi_l, alpha, bias = promote(log_pi_w, log_pi_l, alpha, bias)
    return jax.nn.softplus(alpha * (bias * log_pi_l - log_pi_w))


def _check_contrast(alpha: chex.Numeric, bias: chex.Numeric) -> None:
    check_scalars(alpha=alpha, bias=bias, above_zero=("alpha", "bias"), up_to_one=("bias",))


def cpl_rating_loss(
    log_pi: chex.Array,
    score: chex.Array,
    *,
    alpha: chex.Numeric = 0.1,
    bias: chex.Numeric = 0.5,
) -> jax.Array:
    """`cpl_loss` of rated segments: the mean over all pairs of different scores.

    Args:
      log_pi: [K] float, the axis is the group: sums over K segments, in nats.
      score: [K] float, their ratings, of which only the order matters.
      alpha: above 0, temperature.
      bias: in (0, 1], weight of the worse segment.

    Returns:
      [] float32 or wider; 0 if all scores are equal.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Hejna et al. 2023, arXiv:2310.13639, in the published code.
    """
    check_arrays(log_pi=Spec(log_pi, "K"), score=Spec(score, "K", NUMBER))
    _check_contrast(alpha, bias)
    at_least_two(log_pi=log_pi)
    log_pi, score, alpha, bias = promote(log_pi, score, alpha, bias)
    better = score[:, None] > score[None, :]
    losses = jax.nn.softplus(alpha * (bias * log_pi[None, :] - log_pi[:, None]))
    count = jnp.maximum(jnp.sum(better), 1).astype(losses.dtype)
    return jnp.sum(jnp.where(better, losses, 0.0)) / count


def top_k_entropy(logits: chex.Array, *, k: int = 10) -> jax.Array:
    """Entropy of the k likeliest next tokens, renormalised: a gauge of over-optimisation.

    If it and `top_k_mass` fall together, expect worse text although margins still grow.

    Args:
      logits: [V] float, of one next token.
      k: how many tokens, at most V; static.

    Returns:
      [] float32 or wider in [0, log k], in nats.

    Raises:
      ValueError: a rank, dtype or range differs from the above; names the argument.

    Source: Shi et al. 2024, arXiv:2410.11677.
    """
    top = _top(logits, k)
    log_p = jax.nn.log_softmax(top)
    # A token that is not allowed has logit -inf and probability 0: 0 * -inf would be nan.
    allowed = jnp.isfinite(log_p)
    log_p = jnp.where(allowed, log_p, 0.0)
    return -jnp.sum(jnp.where(allowed, jnp.exp(log_p), 0.0) * log_p)


def top_k_mass(logits: chex.Array, *, k: int = 10) -> jax.Array:
    """Probability of the k likeliest next tokens together; see `top_k_entropy`.

    Args:
      logits: [V] float, of one next token.
      k: how many tokens, at most V; static.

    Returns:
      [] float32 or wider in (0, 1].

    Raises:
      ValueError: a rank, dtype or range differs from the above; names the argument.

    Source: Shi et al. 2024, arXiv:2410.11677.
    """
    top = _top(logits, k)
    return jnp.exp(jax.nn.logsumexp(top) - jax.nn.logsumexp(widen(logits)))


def _top(logits: chex.Array, k: int) -> jax.Array:
    check_arrays(logits=Spec(logits, "V"))
    k, size = whole_number("k", k), jnp.shape(logits)[0]
    if k > size:
        raise ValueError(must("k", f"at most {size}, the entries of logits", k))
    return jax.lax.top_k(widen(logits), k)[0]
