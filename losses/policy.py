"""Policy losses: V-MPO, PPO's clipped surrogate and value loss, entropy, advantages.

rlax has PPO's surrogate, as a mean over steps, and bellmax calls it for a single step. It also has
V-MPO and advantages, without masks that exclude what they mask.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from bellmax import must
from bellmax.losses._checks import NUMBER, Spec, check_arrays, check_scalars, promote, widen
from bellmax.losses._rlax import rlax
from bellmax.losses.multi_step import v_trace
from bellmax.losses.value import log_softmax, soft_parts

TINY = 1e-10  # lower bound of learned multipliers, as in rlax


def generalised_advantages(
    v_tm1: chex.Array,
    r_t: chex.Array,
    discount_t: chex.Array,
    v_t: chex.Array,
    trace_t: chex.Array,
    *,
    lambda_: chex.Numeric = 0.95,
    stop_target_gradients: bool = True,
) -> jax.Array:
    """Generalised advantage estimates: a discounted sum of one-step TD errors.

    `A[i] = r[i] + discount[i] * v_t[i] - v_tm1[i] + discount[i] * lambda * trace[i] * A[i + 1]`.
    Termination removes the bootstrap. A time limit bootstraps from the true final observation and
    cuts the trace. For non-episodic returns, such as RND's intrinsic returns, set `discount_t` to
    gamma and `trace_t` to 1 everywhere: a reset then counts as a step with reward 0.

    Args:
      v_tm1: [T] float, values where the actions were taken, in units of return.
      r_t: [T] float, the rewards that they earned.
      discount_t: [T] float, gamma, or 0 where the environment terminated.
      v_t: [T] float, values at the next observations.
      trace_t: [T] float in [0, 1], 0 where that observation is the last of its episode.
      lambda_: in [0, 1]; 0 gives one-step TD errors.
      stop_target_gradients: whether the target is a constant to the gradient, so that half
        the squared estimate is a value loss.

    Returns:
      [T] float32 or wider, in units of return. Where `v_t[i]` is `v_tm1[i + 1]`, the
      estimate plus v_tm1 is the lambda-return.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Schulman et al. 2015, arXiv:1506.02438, eq. 16: `v_trace` with ratios of 1. rlax's
      function takes a single row of values, so that v_t[i] must be v_tm1[i + 1].
    """
    check_arrays(v_tm1=Spec(v_tm1, "T"))
    arrays = (v_tm1, r_t, discount_t, v_t, jnp.ones(jnp.shape(v_tm1), jnp.float32), trace_t)
    return v_trace(*arrays, lambda_=lambda_, stop_target_gradients=stop_target_gradients)


def clipped_surrogate_loss(
    log_pi_a_t: chex.Numeric,
    log_mu_a_t: chex.Numeric,
    adv_t: chex.Numeric,
    *,
    epsilon: chex.Numeric = 0.2,
    stop_target_gradients: bool = True,
) -> jax.Array:
    """PPO's policy loss of one step: `-min(rho * adv, clip(rho, 1 - epsilon, 1 + epsilon) * adv)`.

    Args:
      log_pi_a_t: [] float, log-probability of the taken action under the current policy.
      log_mu_a_t: [] float, its log-probability when it was taken; a constant to the gradient.
      adv_t: [] float, its advantage, often standardised over the batch by the caller.
      epsilon: at least 0, clip range of rho = pi / mu around 1, outside which the gradient is 0.
      stop_target_gradients: whether the advantage is a constant to the gradient.

    Returns:
      [] float32 or wider; the caller takes the mean.

    Raises:
      ValueError: a rank, dtype or range differs from the above; names the argument.

    Source: Schulman et al. 2017, arXiv:1707.06347, eq. 7. Calls rlax.clipped_surrogate_pg_loss.
    """
    arrays = {"log_pi_a_t": log_pi_a_t, "log_mu_a_t": log_mu_a_t, "adv_t": adv_t}
    check_arrays(**{name: Spec(value, "") for name, value in arrays.items()})
    check_scalars(epsilon=epsilon, from_zero=("epsilon",))
    log_pi, log_mu, adv_t = promote(*arrays.values())
    # exp overflows at 88, and 0 times its gradient is nan; useful ratios are below e^30.
    rho = jnp.exp(jnp.minimum(log_pi - jax.lax.stop_gradient(log_mu), 30.0))
    # rlax takes the mean over steps, here of a single step.
    loss = rlax.clipped_surrogate_pg_loss(
        rho[None],
        adv_t[None],
        epsilon,  # pyright: ignore[reportArgumentType] - rlax annotates a float.
        stop_target_gradients,
    )
    return jnp.asarray(loss)


def clipped_value_loss(
    v_tm1: chex.Numeric,
    behaviour_v_tm1: chex.Numeric,
    target: chex.Numeric,
    *,
    epsilon: chex.Numeric = 0.2,
    stop_target_gradients: bool = True,
) -> jax.Array:
    """PPO's value loss of one step: the larger loss of the value and of the clipped value.

    `0.5 * max((v - target)^2, (old + clip(v - old, -epsilon, epsilon) - target)^2)`.

    Args:
      v_tm1: [] float, current value, in units of return.
      behaviour_v_tm1: [] float, value at data collection; a constant to the gradient.
      target: [] float, usually the lambda-return.
      epsilon: at least 0, in units of return; inf gives half the squared error.
      stop_target_gradients: whether the target is a constant to the gradient.

    Returns:
      [] float32 or wider, in units of return^2.

    Raises:
      ValueError: a rank, dtype or range differs from the above; names the argument.

    Source: the published code of Schulman et al. 2017, arXiv:1707.06347; it is not in the paper.
    """
    arrays = {"v_tm1": v_tm1, "behaviour_v_tm1": behaviour_v_tm1, "target": target}
    check_arrays(**{name: Spec(value, "") for name, value in arrays.items()})
    check_scalars(epsilon=epsilon, from_zero=("epsilon",))
    v, old, target = promote(*arrays.values())
    old = jax.lax.stop_gradient(old)
    target = jax.lax.stop_gradient(target) if stop_target_gradients else target
    near = old + jnp.clip(v - old, -jnp.asarray(epsilon), epsilon)
    return jnp.maximum(
        jnp.asarray(rlax.l2_loss(v, target)), jnp.asarray(rlax.l2_loss(near, target))
    )


def categorical_entropy(logits_t: chex.Array) -> jax.Array:
    """Entropy of `softmax(logits_t)`, in nats.

    Args:
      logits_t: [A] float; -inf marks an action that is not allowed.

    Returns:
      [] float32 or wider in [0, log A].

    Raises:
      ValueError: a rank or dtype differs from the above; names the argument.

    Source: Williams and Peng 1991. rlax's function takes the mean over steps, and its per-step
      form is deprecated.
    """
    check_arrays(logits_t=Spec(logits_t, "A"))
    logits_t = widen(logits_t)
    log_pi = log_softmax(logits_t)
    allowed = jnp.isfinite(log_pi)
    # Masked twice: 0 * inf in the unselected branch would still make the gradient nan.
    log_pi = jnp.where(allowed, log_pi, 0.0)
    return -jnp.sum(jnp.where(allowed, jnp.exp(log_pi), 0.0) * log_pi)


class Vmpo(NamedTuple):
    """V-MPO's loss and its parts, [N] float; their means over N are the losses of the batch.

    Attributes:
      loss: `policy_loss + temperature_loss + kl_loss + alpha_loss`.
      policy_loss: weighted maximum likelihood; gradient to the policy.
      temperature_loss: dual of the weights' constraint; gradient to the temperature.
      kl_loss: alpha * KL; gradient to the policy.
      alpha_loss: alpha * (epsilon_alpha - KL); gradient to alpha.
      weights: of the samples in policy_loss, summing to 1; 0 outside the top fraction.
    """

    loss: jax.Array
    policy_loss: jax.Array
    temperature_loss: jax.Array
    kl_loss: jax.Array
    alpha_loss: jax.Array
    weights: jax.Array


def vmpo_loss(
    log_pi_a_t: chex.Array,
    adv_t: chex.Array,
    kl_t: chex.Array,
    temperature: chex.Numeric,
    alpha: chex.Numeric,
    mask: chex.Array,
    *,
    epsilon_temperature: chex.Numeric = 0.1,
    epsilon_alpha: chex.Numeric = 0.01,
    top_fraction: float = 0.5,
) -> Vmpo:
    """V-MPO's loss on a batch: imitate the better half of the samples, within a KL trust region.

    With psi the softmax of `adv / temperature` over the top fraction of advantages: `-sum psi *
    log_pi`, `temperature * (epsilon_temperature + log mean exp(adv / temperature))` over the same
    samples, and `alpha * (epsilon_alpha - kl) + alpha * kl` where the first has a gradient only in
    alpha and the second only in the policy. Weights are normalised over the whole batch, so samples
    are flattened: N is time times batch.

    Args:
      log_pi_a_t: [N] float, log-probabilities of the taken actions under the learned policy.
      adv_t: [N] float, their advantages; constants to the policy's gradient.
      kl_t: [N] float, KL(old policy || policy) at each sample, in nats.
      temperature: [] float above 0, learned, in units of advantage.
      alpha: [] float above 0, learned, in units of advantage per nat.
      mask: [N] float, 0 where there was no transition; such samples have no effect on the others.
      epsilon_temperature: above 0, bound of the weights' KL, in nats.
      epsilon_alpha: above 0, bound of kl_t, in nats.
      top_fraction: in (0, 1], fraction of the unmasked samples that is imitated, at least one
        sample; not traced.

    Returns:
      `Vmpo`, float32 or wider; masked entries of policy_loss, kl_loss, alpha_loss are 0.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Song et al. 2019, arXiv:1909.12238. Equals rlax.vmpo_loss without a mask. There masks do
      not apply to the KL, and masked samples count in the top fraction and as advantages of 0.
    """
    vectors = {"log_pi_a_t": log_pi_a_t, "adv_t": adv_t, "kl_t": kl_t}
    specs = {name: Spec(value, "N") for name, value in vectors.items()}
    check_arrays(**specs, mask=Spec(mask, "N", NUMBER))
    check_arrays(temperature=Spec(temperature, ""), alpha=Spec(alpha, ""))
    bounds = {"epsilon_temperature": epsilon_temperature, "epsilon_alpha": epsilon_alpha}
    ranges = {"above_zero": (*bounds, "top_fraction"), "up_to_one": ("top_fraction",)}
    check_scalars(**bounds, top_fraction=top_fraction, **ranges)
    arrays = *vectors.values(), temperature, alpha, *bounds.values()
    log_pi, adv, kl, temperature, alpha, bound, kl_bound = promote(*arrays)
    if top_fraction * adv.size < 1:
        allowed = f"at least 1 / {adv.size}, one of the N = {adv.size} samples"
        raise ValueError(must("top_fraction", allowed, top_fraction))
    temperature, alpha = (jnp.maximum(x, TINY) for x in (temperature, alpha))
    valid = jnp.asarray(mask) != 0
    count = jnp.sum(valid)
    adv = jnp.where(valid, jax.lax.stop_gradient(adv), -jnp.inf)
    first = adv.size - _top(top_fraction, adv.size)[count]
    order = jnp.argsort(adv)
    # By rank too: XLA may round the threshold and the advantages differently.
    ranked = jnp.zeros(adv.size, bool).at[order].set(jnp.arange(adv.size) >= first)
    top = valid & (ranked | (adv >= adv[order[first]]))
    # The weights are the softmax policy of the advantages, the dual their soft value.
    parts = soft_parts(jnp.where(top, adv, -jnp.inf), temperature)
    scaled = jax.lax.stop_gradient(jnp.where(top, parts.offsets - parts.excess, 0.0))
    weights = jnp.where(top, jnp.exp(scaled / jax.lax.stop_gradient(temperature)), 0.0)
    number = jnp.maximum(jnp.sum(top), 1).astype(adv.dtype)
    log_mean = parts.maximum + parts.excess - temperature * jnp.log(number)
    dual = jnp.where(count > 0, temperature * bound + log_mean, 0.0)
    log_pi, kl = jnp.where(weights > 0, log_pi, 0.0), jnp.where(valid, kl, 0.0)
    policy_loss = -adv.size * weights * log_pi
    share = valid * (adv.size / jnp.maximum(count, 1).astype(adv.dtype))
    kl_loss = share * jax.lax.stop_gradient(alpha) * kl
    alpha_loss = share * alpha * (kl_bound - jax.lax.stop_gradient(kl))
    temperature_loss = jnp.broadcast_to(dual, adv.shape)
    loss = policy_loss + temperature_loss + kl_loss + alpha_loss
    return Vmpo(loss, policy_loss, temperature_loss, kl_loss, alpha_loss, weights)


def _top(fraction: float, size: int) -> jax.Array:
    """[N + 1] sizes of the top fraction of 0 to N samples, rounded down, at least 1."""
    return jnp.asarray([max(int(float(fraction) * n), 1) for n in range(size + 1)])
