"""Policy gradients of a group of answers to one prompt: RLOO, CoPG, AGRO, AsymRE.

The axis [K] is the group. Log-probabilities are those of whole answers, from `sequence_log_prob`.
The KL-regularised optimum is `pi* ~ ref * exp(r / beta)`, at which the regularised reward `R = r -
beta * log(pi / ref)` is the same for every answer of a prompt, `beta log Z`.
"""

import chex
import jax
import jax.numpy as jnp

from bellmax.losses._checks import NUMBER, Spec, check_arrays, check_scalars, promote, widen
from bellmax.losses.sequence._shared import at_least_two


def leave_one_out_advantages(r: chex.Array) -> jax.Array:
    """Rewards minus the mean reward of the *other* answers: an unbiased baseline.

    Args:
      r: [K] float, the axis is the group: rewards of K >= 2 answers to one prompt.

    Returns:
      [K] float32 or wider, in units of reward.

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: Kool et al. 2019; Ahmadian et al. 2024, arXiv:2402.14740.
    """
    check_arrays(r=Spec(r, "K", NUMBER))
    at_least_two(r=r)
    return _centred(widen(r)) * (jnp.shape(r)[0] / (jnp.shape(r)[0] - 1))


def _centred(x: jax.Array) -> jax.Array:
    return x - jnp.mean(x)


def group_advantages(
    r: chex.Array, *, divide_by_std: bool = True, epsilon: chex.Numeric = 1e-4
) -> jax.Array:
    """Rewards minus the mean of the group, over its standard deviation: advantages of GRPO.

    Dividing by the deviation weighs easy and hard prompts more than others, and moves the fixed
    point of `copg_loss` and `agro_loss`. The mean includes the answer itself, which scales the
    gradient by 1 - 1 / K.

    Args:
      r: [K] float, the axis is the group: rewards of K >= 2 answers to one prompt.
      divide_by_std: False is the form of Dr. GRPO; static.
      epsilon: at least 0, added to the deviation, in units of reward.

    Returns:
      [K] float32 or wider, without a unit, or in units of reward.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Shao et al. 2024, arXiv:2402.03300; Liu et al. 2025, arXiv:2503.20783. The deviation
      has the denominator K - 1 and epsilon is 1e-4, as in TRL.
    """
    check_arrays(r=Spec(r, "K", NUMBER))
    check_scalars(epsilon=epsilon, from_zero=("epsilon",))
    at_least_two(r=r)
    r, epsilon = promote(r, epsilon)
    centred = _centred(r)
    if not divide_by_std:
        return centred
    variance = jnp.sum(jnp.square(centred)) / (r.size - 1)
    # Equal rewards have no slope of the root.
    differ = variance > 0
    std = jnp.sqrt(jnp.where(differ, variance, 1.0))
    return jnp.where(differ, centred / (std + epsilon), 0.0)


def _regularised_rewards(log_pi, log_ref, r, beta) -> list[jax.Array]:
    """Regularised rewards R and log pi, both [K], with the gradients of log pi and beta."""
    arrays = {"log_pi": log_pi, "log_ref": log_ref}
    check_arrays(**{name: Spec(x, "K") for name, x in arrays.items()}, r=Spec(r, "K", NUMBER))
    check_scalars(beta=beta, from_zero=("beta",))
    at_least_two(log_pi=log_pi)
    log_pi, log_ref, r, beta = promote(log_pi, log_ref, r, beta)
    log_ref, r = map(jax.lax.stop_gradient, (log_ref, r))
    return [r - beta * (log_pi - log_ref), log_pi]


def rloo_loss(
    log_pi: chex.Array,
    log_ref: chex.Array,
    r: chex.Array,
    *,
    beta: chex.Numeric = 0.05,
    stop_target_gradients: bool = True,
) -> jax.Array:
    """REINFORCE with a leave-one-out baseline and the KL inside the reward.

    `-sum_i (R_i - mean_{j != i} R_j) * log_pi_i / K`. Its expected gradient over answers of the
    policy is minus that of `E[r] - beta * KL(pi || ref)`.

    Args:
      log_pi: [K] float, the axis is the group: log-probabilities of K >= 2 answers, in nats.
      log_ref: [K] float, those under the reference; constants to the gradient.
      r: [K] float, their rewards; constants to the gradient.
      beta: at least 0, in units of reward per nat.
      stop_target_gradients: whether the advantages are constants to the gradient, as they must be.

    Returns:
      [] float32 or wider, in units of reward times nats.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Ahmadian et al. 2024, arXiv:2402.14740.
    """
    held = jax.lax.stop_gradient(log_pi) if stop_target_gradients else log_pi
    # Of the advantages the policy's gradient is held, that of beta is not.
    regularised, _ = _regularised_rewards(held, log_ref, r, beta)
    log_pi, _ = promote(log_pi, regularised)
    return -jnp.mean(_centred(regularised) * log_pi) * (log_pi.size / (log_pi.size - 1))


def copg_loss(
    log_pi: chex.Array, log_ref: chex.Array, r: chex.Array, *, beta: chex.Numeric = 0.05
) -> jax.Array:
    """Contrastive policy gradient: `sum_{i > j} (R_i - R_j)^2 / (K - 1)`.

    It asks that regularised rewards be equal, which they are at pi* alone, whichever policy drew
    the answers: no ratio, no clip, no value function. Its gradient is that of `rloo_loss` times
    2 * beta * K, so answers of the policy give a policy gradient. K = 2 is a loss of a pair.

    Args:
      log_pi: [K] float, the axis is the group: log-probabilities of K >= 2 answers, in nats.
      log_ref: [K] float, those under the reference; constants to the gradient.
      r: [K] float, their rewards; constants to the gradient.
      beta: at least 0, in units of reward per nat. The gradient comes from the log-ratios in R.

    Returns:
      [] float32 or wider, in units of reward^2.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Flet-Berliac et al. 2024, arXiv:2406.19185.
    """
    regularised, _ = _regularised_rewards(log_pi, log_ref, r, beta)
    size = regularised.size
    # The sum over pairs is K times the sum of squares about the mean.
    return jnp.sum(jnp.square(_centred(regularised))) * (size / (size - 1))


def agro_loss(
    log_pi: chex.Array,
    log_ref: chex.Array,
    r: chex.Array,
    *,
    beta: chex.Numeric = 0.05,
    on_policy: bool = False,
) -> jax.Array:
    """Any-generation reward optimisation: half the variance of the regularised reward.

    Off-policy, for answers of any distribution mu, it is an unbiased estimate of `Var_mu(R) / 2`,
    `copg_loss / (2 K)`. On-policy, the distribution moves with the policy, and a score-function
    term makes the gradient that of `Var_pi(R) / 2`.

    Args:
      log_pi: [K] float, the axis is the group: log-probabilities of K >= 2 answers, in nats.
      log_ref: [K] float, those under the reference; constants to the gradient.
      r: [K] float, their rewards; constants to the gradient.
      beta: at least 0, in units of reward per nat.
      on_policy: whether the answers are the policy's own and the gradient counts that; static.

    Returns:
      [] float32 or wider, in units of reward^2; the term that only adds a gradient is 0.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Tang et al. 2025, arXiv:2503.19612. The unbiased estimates are derived here.
    """
    regularised, log_pi = _regularised_rewards(log_pi, log_ref, r, beta)
    size = log_pi.size
    variance = jnp.sum(jnp.square(_centred(regularised))) / (2 * (size - 1))
    if not on_policy:
        return variance
    # A pair's (R_i - R_j)^2 / 4 has half the variance as its mean, and the scores of both answers.
    pairs = jax.lax.stop_gradient(jnp.square(regularised[:, None] - regularised[None, :]) / 4)
    weights = jnp.sum(pairs, axis=1) * (2 / (size * (size - 1)))
    if size > 2:  # minus the mean over the pairs without the answer
        others = jnp.sum(pairs) / 2 - jnp.sum(pairs, axis=1)
        weights -= others * (4 / (size * (size - 1) * (size - 2)))
    # 0 in value: only the gradient of log pi is meant.
    return variance + jnp.sum(weights * (log_pi - jax.lax.stop_gradient(log_pi)))


def asymmetric_reinforce_loss(
    log_pi: chex.Array, r: chex.Array, *, delta: chex.Numeric = -0.1
) -> jax.Array:
    """Asymmetric REINFORCE: `-mean_i (r_i - mean(r) - delta) * log_pi_i`, off-policy, no ratio.

    The answers are those of an older policy mu. Below its value (delta < 0) good answers count
    more than bad ones, and the limit keeps several answers; from delta = 0 on it keeps one, and
    training collapses.

    Args:
      log_pi: [K] float, the axis is the group: log-probabilities of K >= 2 answers, in nats.
      r: [K] float, their rewards; constants to the gradient.
      delta: in units of reward, default -0.1 for rewards in {0, 1} (paper).

    Returns:
      [] float32 or wider, in units of reward times nats.

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: Arnal et al. 2025, arXiv:2506.20520. The mean includes the answer itself.
    """
    check_arrays(log_pi=Spec(log_pi, "K"), r=Spec(r, "K", NUMBER))
    check_scalars(delta=delta)
    at_least_two(log_pi=log_pi)
    log_pi, r, delta = promote(log_pi, r, delta)
    return -jnp.mean((jax.lax.stop_gradient(_centred(r)) - delta) * log_pi)
