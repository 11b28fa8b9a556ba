"""Best-of-N sampling as a distribution, and BOND, which distils it into a policy."""

import math

import chex
import jax
import jax.numpy as jnp

from bellmax.losses._checks import NUMBER, Spec, check_arrays, check_scalars, promote


def best_of_n_log_prob(log_ref: chex.Array, score: chex.Array, *, n: chex.Numeric) -> jax.Array:
    """Log-probabilities of the best of n answers of a reference, on a finite set of answers.

    `ref * (p_le^n - p_lt^n) / (p_le - p_lt)`, with p_le and p_lt the probabilities that an answer
    scores at most, or less than, this one. Ties share in proportion to ref, as the mean over the
    orders in which they could be broken does.

    Args:
      log_ref: [K] float, log-probabilities of all answers, which sum to 1, in nats.
      score: [K] float, of which only the order matters.
      n: at least 1, number of answers drawn.

    Returns:
      [K] float32 or wider, in nats. Their KL from ref is at most log n - (n - 1) / n, and equal to
      it only without atoms.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Sessa et al. 2024, arXiv:2407.14622, eq. 3.
    """
    check_arrays(log_ref=Spec(log_ref, "K"), score=Spec(score, "K", NUMBER))
    check_scalars(n=n, above_zero=("n",))
    log_ref, score, n = promote(log_ref, score, n)
    score = jax.lax.stop_gradient(score)
    below, tied = score[None, :] < score[:, None], score[None, :] == score[:, None]
    log_le = _log_mass(log_ref, below | tied)
    log_lt = _log_mass(log_ref, below)
    # Nothing scores less than the worst: its p_lt^n is 0, without a gradient.
    some = jnp.any(below, axis=1)
    drop = jnp.where(some, n * (jnp.where(some, log_lt, 0.0) - log_le), -1.0)
    best = n * log_le + jnp.where(some, jnp.log(-jnp.expm1(drop)), 0.0)
    return log_ref - _log_mass(log_ref, tied) + best


def _log_mass(log_ref: jax.Array, chosen: jax.Array) -> jax.Array:
    """[K] log of the probability of the answers chosen in each row; -inf for none."""
    some = jnp.any(chosen, axis=1)
    rows = jnp.where(chosen, log_ref[None, :], -jnp.inf)
    safe = jnp.where(some[:, None], rows, 0.0)
    return jnp.where(some, jax.nn.logsumexp(safe, axis=1), -jnp.inf)


def quantile_reward(score: chex.Numeric, reference_scores: chex.Array) -> jax.Array:
    """Log of the share of reference answers that score at most as much, floor 1 / (M + 1).

    A reward in quantiles: any increasing transformation of the scores leaves it as it is.

    Args:
      score: [] float, of the answer.
      reference_scores: [M] float, of answers of the reference to the same prompt.

    Returns:
      [] float32 or wider in [-log(M + 1), 0], an estimate of log p_le; no gradient.

    Raises:
      ValueError: a rank or dtype differs from the above; names the argument.

    Source: Sessa et al. 2024, arXiv:2407.14622. The floor is ours.
    """
    check_arrays(
        score=Spec(score, "", NUMBER), reference_scores=Spec(reference_scores, "M", NUMBER)
    )
    score, reference = promote(score, reference_scores)
    size = jnp.asarray(reference.size, reference.dtype)
    share = jnp.sum((reference <= score).astype(size.dtype)) / size
    return jnp.log(jnp.maximum(share, 1.0 / (size + 1.0)))


def j_bond_reward(score: chex.Numeric, anchor_scores: chex.Array) -> jax.Array:
    """J-BOND's reward: `-log 16` for an answer below both of two answers of the anchor, else 0.

    Its mean at the median, log 1/2, is log p_le there.

    Args:
      score: [] float, of the answer.
      anchor_scores: [M] float, of answers of the anchor, a moving average of the policy; M = 2 in
        the paper.

    Returns:
      [] float32 or wider; no gradient.

    Raises:
      ValueError: a rank or dtype differs from the above; names the argument.

    Source: Sessa et al. 2024, arXiv:2407.14622; the calibration is derived here.
    """
    check_arrays(score=Spec(score, "", NUMBER), anchor_scores=Spec(anchor_scores, "M", NUMBER))
    score, anchors = promote(score, anchor_scores)
    return jnp.where(jnp.all(score < anchors), jnp.asarray(-math.log(16.0), score.dtype), 0.0)


def jeffreys_divergence(
    log_target: chex.Array, log_pi: chex.Array, *, b: chex.Numeric = 0.5
) -> jax.Array:
    """`(1 - b) * KL(target || pi) + b * KL(pi || target)` on a finite set of answers.

    Args:
      log_target: [K] float, log-probabilities of the target, such as `best_of_n_log_prob`; a
        constant to the gradient. -inf is allowed where log_pi is -inf too.
      log_pi: [K] float, log-probabilities under the policy, which sum to 1, in nats.
      b: in [0, 1], weight of the backward part; default 0.5 (paper).

    Returns:
      [] float32 or wider, in nats.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Sessa et al. 2024, arXiv:2407.14622.
    """
    check_arrays(log_target=Spec(log_target, "K"), log_pi=Spec(log_pi, "K"))
    check_scalars(b=b, from_zero=("b",), up_to_one=("b",))
    log_target, log_pi, b = promote(log_target, log_pi, b)
    log_target = jax.lax.stop_gradient(log_target)
    nobody = jnp.isneginf(log_target) & jnp.isneginf(log_pi)
    log_target, log_pi = (jnp.where(nobody, 0.0, x) for x in (log_target, log_pi))
    weights = (1.0 - b) * jnp.exp(log_target) - b * jnp.exp(log_pi)
    return jnp.sum(jnp.where(nobody, 0.0, weights * (log_target - log_pi)))


def bond_loss(
    log_pi_best: chex.Numeric,
    log_pi: chex.Numeric,
    log_ref: chex.Numeric,
    reward: chex.Numeric,
    *,
    n: chex.Numeric = 2.0,
    b: chex.Numeric = 0.5,
    baseline: chex.Numeric = 0.0,
    stop_target_gradients: bool = True,
) -> jax.Array:
    """BOND on samples: likelihood of the best of n, and a policy gradient on quantiles.

    `-(1 - b) * log_pi_best + b * (log(pi / ref) - (n - 1) * reward - baseline) * log_pi`, where the
    bracket is a constant: for large n its gradient approaches that of `jeffreys_divergence`. The
    reward of the exact backward part is `log(p_BoN / ref) / (n - 1)`.

    Args:
      log_pi_best: [] float, log-probability under the policy of the best of n answers of the
        reference, in nats.
      log_pi: [] float, log-probability of an answer of the policy, in nats.
      log_ref: [] float, that under the reference; a constant to the gradient.
      reward: [] float, log p_le of that answer, such as `quantile_reward`; a constant.
      n: above 0, of best-of-n.
      b: in [0, 1], weight of the backward part; default 0.5 (paper).
      baseline: in nats; any number that does not depend on the answer.
      stop_target_gradients: whether the bracket is a constant to the gradient, as it must be.

    Returns:
      [] float32 or wider; its value has no meaning.

    Raises:
      ValueError: a rank, dtype or range differs from the above; names the argument.

    Source: Sessa et al. 2024, arXiv:2407.14622. J-BOND takes `j_bond_reward` and n = 2.
    """
    arrays = {"log_pi_best": log_pi_best, "log_pi": log_pi, "log_ref": log_ref, "reward": reward}
    check_arrays(**{name: Spec(x, "") for name, x in arrays.items()})
    ranges = {"above_zero": ("n",), "from_zero": ("b",), "up_to_one": ("b",)}
    check_scalars(n=n, b=b, baseline=baseline, **ranges)
    best, log_pi, log_ref, reward, n, b, baseline = promote(*arrays.values(), n, b, baseline)
    log_ref, reward = map(jax.lax.stop_gradient, (log_ref, reward))
    held = jax.lax.stop_gradient(log_pi) if stop_target_gradients else log_pi
    bracket = held - log_ref - (n - 1.0) * reward - baseline
    return b * bracket * log_pi - (1.0 - b) * best
