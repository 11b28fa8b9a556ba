"""Losses of tokens that an older policy drew: the clipped surrogate of GRPO, and NFT.

LOOP is a composition: `leave_one_out_advantages` and `grpo_loss` with `beta=0`.
"""

import functools

import chex
import jax
import jax.numpy as jnp

from bellmax.losses._checks import NUMBER, Spec, check_arrays, check_scalars, one_of, promote
from bellmax.losses.policy import clipped_surrogate_loss
from bellmax.losses.sequence._shared import (
    KL_ESTIMATORS,
    MAX_EXPONENT,
    check_tokens,
    kept,
    kl_terms,
    reduce_tokens,
    to_go,
)

_RETURNS = "returns"


def grpo_loss(
    log_pi: chex.Array,
    log_mu: chex.Array,
    log_ref: chex.Array,
    adv: chex.Numeric,
    mask: chex.Array,
    *,
    epsilon: chex.Numeric = 0.2,
    beta: chex.Numeric = 0.04,
    kl: str = "k3",
    average: bool = True,
    stop_target_gradients: bool = True,
) -> jax.Array:
    """Clipped surrogate of one answer, token by token, plus beta times a KL term.

    `-min(rho * adv, clip(rho, 1 - epsilon, 1 + epsilon) * adv) + beta * kl[t]`, rho = pi / mu. With
    l = log pi / ref of a token, the term is `l` (k1), `l^2 / 2` (k2), `exp(-l) - 1 + l` (k3), or
    `stop(sum_{s >= t} l[s]) * log_pi[t]` (returns). Their expected gradients for answers of the
    policy:

    | kl | gradient |
    |---|---|
    | k1 | 0 |
    | k2 | of the KL of each token alone: later tokens' KL is missing |
    | k3 | the same, of KL(ref || pi); the form of GRPO, TRL and EasyDeL |
    | returns | of KL(pi || ref), as `token_kl_loss` |

    Args:
      log_pi: [T] float, log-probabilities of the tokens under the policy, in nats.
      log_mu: [T] float, those when they were drawn; constants to the gradient.
      log_ref: [T] float, those under the reference; constants to the gradient.
      adv: [] float, advantage of the answer, such as from `group_advantages` or
        `leave_one_out_advantages`.
      mask: [T] float, int or bool, 0 on prompt and padding.
      epsilon: at least 0, clip range, default 0.2.
      beta: at least 0, weight of the KL term, default 0.04 (paper); 0 in newer trainers.
      kl: "k1", "k2", "k3" or "returns"; static.
      average: whether to divide by the number of tokens, as GRPO does, which weighs long answers
        less; False, the sum, is the form of Dr. GRPO up to a constant; static.
      stop_target_gradients: whether advantage and sums of log-ratios are constants to the gradient.

    Returns:
      [] float32 or wider; for log_mu = log_pi its gradient is that of REINFORCE.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Shao et al. 2024, arXiv:2402.03300, eq. 3; Liu et al. 2025, arXiv:2503.20783, for
      `average`; Tang and Munos 2025, arXiv:2506.09477, for the table. Exponents above 30 count as
      30.
    """
    check_tokens(mask, log_pi=log_pi, log_mu=log_mu, log_ref=log_ref)
    check_arrays(adv=Spec(adv, ""))
    check_scalars(epsilon=epsilon, beta=beta, from_zero=("epsilon", "beta"))
    one_of("kl", kl, (*KL_ESTIMATORS, _RETURNS))
    arrays = log_pi, log_mu, log_ref, adv, epsilon, beta
    log_pi, log_mu, log_ref, adv, epsilon, beta = promote(*arrays)
    log_pi, log_mu, log_ref = kept(mask, log_pi, log_mu, jax.lax.stop_gradient(log_ref))
    options = {"epsilon": epsilon, "stop_target_gradients": stop_target_gradients}
    surrogate = functools.partial(clipped_surrogate_loss, **options)
    losses = jax.vmap(surrogate, (0, 0, None))(log_pi, log_mu, adv)
    ratio = log_pi - log_ref
    if kl == _RETURNS:
        later = to_go(ratio)
        term = (jax.lax.stop_gradient(later) if stop_target_gradients else later) * log_pi
    else:
        term = kl_terms(ratio, kl)
    return reduce_tokens(kept(mask, losses + beta * term)[0], mask, average=average)


def nft_loss(
    log_pi: chex.Array,
    log_mu: chex.Array,
    correct: chex.Numeric,
    p: chex.Numeric,
    mask: chex.Array,
    *,
    floor: chex.Numeric = 1e-3,
) -> jax.Array:
    """Negative-aware fine-tuning of one answer: likelihood of right ones, and of not wrong ones.

    The mean over tokens of `-log rho` for a right answer and of `-log((1 - p * rho) / (1 - p))` for
    a wrong one, rho = pi / mu. At rho = 1 gradients are -1 and p / (1 - p) times grad log pi: the
    signs and the ratio of GRPO.

    Args:
      log_pi: [T] float, log-probabilities of the tokens under the policy, in nats.
      log_mu: [T] float, those when they were drawn; constants to the gradient.
      correct: [] float, int or bool, not 0 if the answer is right.
      p: [] float in (0, 1), success rate of the prompt under the policy that drew the answers; a
        constant to the gradient. Leave out prompts with p = 0 or 1.
      mask: [T] float, int or bool, 0 on prompt and padding.
      floor: above 0, lower bound of the argument of the second logarithm, where the gradient ends.

    Returns:
      [] float32 or wider, in nats.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Chen et al. 2025, arXiv:2505.18116. The default of the floor is ours.
    """
    check_tokens(mask, log_pi=log_pi, log_mu=log_mu)
    check_arrays(correct=Spec(correct, "", NUMBER), p=Spec(p, "", NUMBER))
    check_scalars(floor=floor, above_zero=("floor",))
    log_pi, log_mu, p, floor = promote(log_pi, log_mu, p, floor)
    log_mu, p = map(jax.lax.stop_gradient, (log_mu, p))
    log_pi, log_mu = kept(mask, log_pi, log_mu)
    log_rho = log_pi - log_mu
    rho = jnp.exp(jnp.minimum(log_rho, MAX_EXPONENT))
    left = (1.0 - p * rho) / jnp.maximum(1.0 - p, jnp.finfo(p.dtype).tiny)
    wrong = -jnp.log(jnp.maximum(left, floor))
    losses = jnp.where(jnp.asarray(correct) != 0, -log_rho, wrong)
    return reduce_tokens(kept(mask, losses)[0], mask, average=True)
