"""The KL divergence of a sequence policy from a reference: estimates, rewards and gradients.

With l[t] = log pi - log ref of token t and L their sum over an answer drawn from the policy, the
KL is E[L] and its gradient `E[L * grad log pi(answer)]`. The derivative of an estimate of the KL
is something else: 0 in the mean for L itself, and without the KL of later tokens for sums of
squares over tokens. `sequence_kl_loss` and `token_kl_loss` have the right gradient, the second
with less variance. All three assume answers that were drawn from the current policy.
"""

import chex
import jax
import jax.numpy as jnp

from bellmax.losses._checks import NUMBER, Spec, check_arrays, check_scalars, one_of, promote
from bellmax.losses.sequence._shared import (
    KL_ESTIMATORS,
    check_tokens,
    kept,
    kl_terms,
    log_ratios,
    to_go,
)


def kl_estimate(
    log_pi: chex.Array, log_ref: chex.Array, mask: chex.Array, *, estimator: str = "k1"
) -> jax.Array:
    """An estimate of KL(pi || ref) from one answer of the policy: for logs, not for training.

    Sums over tokens of `k1 = l`, `k2 = l^2 / 2` or `k3 = exp(-l) - 1 + l`. k1 and k3 are unbiased,
    k3 is never negative and has less variance near the reference; k2 is biased.

    Args:
      log_pi: [T] float, log-probabilities of the tokens under the policy that drew them, in nats.
      log_ref: [T] float, those under the reference.
      mask: [T] float, int or bool, 0 on prompt and padding.
      estimator: "k1", "k2" or "k3"; static.

    Returns:
      [] float32 or wider, in nats; a constant to the gradient, because the derivative of an
      estimate is not the gradient of the KL.

    Raises:
      ValueError: a rank, dtype, size or name differs from the above; names the argument.

    Source: Schulman 2020, "Approximating KL divergence"; Tang and Munos 2025, arXiv:2506.09477.
      Exponents above 30 in k3 count as 30.
    """
    check_tokens(mask, log_pi=log_pi, log_ref=log_ref)
    one_of("estimator", estimator, KL_ESTIMATORS)
    ratio, _ = log_ratios(log_pi, log_ref, mask)
    return jax.lax.stop_gradient(jnp.sum(kl_terms(ratio, estimator)))


def kl_penalised_rewards(
    log_pi: chex.Array,
    log_ref: chex.Array,
    r: chex.Numeric,
    mask: chex.Array,
    *,
    beta: chex.Numeric = 0.1,
) -> jax.Array:
    """Rewards of tokens: `-beta * l[t]`, plus r at the last token counted.

    Args:
      log_pi: [T] float, log-probabilities of the tokens under the policy, in nats; a constant to
        the gradient.
      log_ref: [T] float, those under the reference; a constant to the gradient.
      r: [] float, reward of the answer; a constant to the gradient.
      mask: [T] float, int or bool, 0 on prompt and padding.
      beta: at least 0, in units of reward per nat.

    Returns:
      [T] float32 or wider, in units of reward; 0 where the mask is 0. For actors with values:
      `generalised_advantages` takes them. Their sum is `r - beta * L`.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Ziegler et al. 2019, arXiv:1909.08593. The rewards of TRL's PPO trainer.
    """
    ratio, r, beta = _penalty(log_pi, log_ref, r, mask, beta)
    rows = jnp.arange(ratio.size)
    last = rows == jnp.max(jnp.where(jnp.asarray(mask) != 0, rows, -1))
    return jnp.where(last, r, 0.0) - beta * ratio


def kl_penalised_returns(
    log_pi: chex.Array,
    log_ref: chex.Array,
    r: chex.Numeric,
    mask: chex.Array,
    *,
    beta: chex.Numeric = 0.1,
) -> jax.Array:
    """Returns of tokens, KL included: `r - beta * sum_{s >= t} l[s]`.

    `reinforce_loss` with these, minus any baseline that does not depend on the answer, has the
    gradient of `E[r] - beta * KL(pi || ref)`.

    Args:
      log_pi: [T] float, log-probabilities of the tokens under the policy, in nats; a constant to
        the gradient.
      log_ref: [T] float, those under the reference; a constant to the gradient.
      r: [] float, reward of the answer; a constant to the gradient.
      mask: [T] float, int or bool, 0 on prompt and padding.
      beta: at least 0, in units of reward per nat.

    Returns:
      [T] float32 or wider, in units of reward; 0 where the mask is 0.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Tang and Munos 2025, arXiv:2506.09477.
    """
    ratio, r, beta = _penalty(log_pi, log_ref, r, mask, beta)
    return kept(mask, r - beta * to_go(ratio))[0]


def _penalty(log_pi, log_ref, r, mask, beta) -> list[jax.Array]:
    check_tokens(mask, log_pi=log_pi, log_ref=log_ref)
    check_arrays(r=Spec(r, "", NUMBER))
    check_scalars(beta=beta, from_zero=("beta",))
    ratio, _, r, beta = log_ratios(log_pi, log_ref, mask, r, beta)
    return [*map(jax.lax.stop_gradient, (ratio, r)), beta]


def sequence_kl_loss(
    log_pi: chex.Array,
    log_ref: chex.Array,
    mask: chex.Array,
    *,
    baseline: chex.Numeric = 0.0,
) -> jax.Array:
    """A loss whose expected gradient is that of KL(pi || ref): `(L - baseline)^2 / 2`.

    Its value is not the KL: see `kl_estimate`. The square is that of the whole answer.

    Args:
      log_pi: [T] float, log-probabilities of the tokens under the policy that drew them, in nats.
      log_ref: [T] float, those under the reference; a constant to the gradient.
      mask: [T] float, int or bool, 0 on prompt and padding.
      baseline: in nats; any number that does not depend on the answer, such as the mean L of other
        answers to the prompt, leaves the expected gradient as it is.

    Returns:
      [] float32 or wider, in nats^2.

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: Tang and Munos 2025, arXiv:2506.09477.
    """
    check_tokens(mask, log_pi=log_pi, log_ref=log_ref)
    check_scalars(baseline=baseline)
    ratio, _, baseline = log_ratios(log_pi, log_ref, mask, baseline)
    return jnp.square(jnp.sum(ratio) - baseline) / 2.0


def token_kl_loss(
    log_pi: chex.Array,
    log_ref: chex.Array,
    mask: chex.Array,
    *,
    stop_target_gradients: bool = True,
) -> jax.Array:
    """A loss whose expected gradient is that of KL(pi || ref), with less variance.

    `sum_t stop(sum_{s >= t} l[s]) * log_pi[t]`: each token answers for the KL from it on. With
    `l[t]` alone in place of the sum (TRL's Nash-MD), the KL that a token causes later is missing;
    with both factors differentiated (EasyDeL's Nash-MD), the gradient is that of no KL.

    Args:
      log_pi: [T] float, log-probabilities of the tokens under the policy that drew them, in nats.
      log_ref: [T] float, those under the reference; a constant to the gradient.
      mask: [T] float, int or bool, 0 on prompt and padding.
      stop_target_gradients: whether the sums are constants to the gradient, as they must be.

    Returns:
      [] float32 or wider; its value has no meaning.

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: Tang and Munos 2025, arXiv:2506.09477.
    """
    check_tokens(mask, log_pi=log_pi, log_ref=log_ref)
    ratio, log_pi = log_ratios(log_pi, log_ref, mask)
    later = to_go(ratio)
    later = jax.lax.stop_gradient(later) if stop_target_gradients else later
    return jnp.sum(later * log_pi)


def reinforce_loss(
    log_pi: chex.Array,
    adv: chex.Array,
    mask: chex.Array,
    *,
    stop_target_gradients: bool = True,
) -> jax.Array:
    """REINFORCE of one answer: `-sum_t adv[t] * log_pi[t]`.

    Args:
      log_pi: [T] float, log-probabilities of the tokens under the policy that drew them, in nats.
      adv: [T] float, advantages or returns of the tokens, such as `kl_penalised_returns` minus a
        baseline; broadcast that of an answer.
      mask: [T] float, int or bool, 0 on prompt and padding.
      stop_target_gradients: whether the advantages are constants to the gradient.

    Returns:
      [] float32 or wider, a sum over tokens; a mean would weigh long answers less.

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: Williams 1992.
    """
    check_tokens(mask, log_pi=log_pi, adv=adv)
    log_pi, adv = kept(mask, *promote(log_pi, adv))
    adv = jax.lax.stop_gradient(adv) if stop_target_gradients else adv
    return -jnp.sum(adv * log_pi)
