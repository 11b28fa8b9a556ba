"""Self-prediction: BYOL-Explore's world-model loss, and the uncertainty that it rewards.

From every step p of a chunk the world model predicts the latents of the next K steps. Prediction
[k - 1, p] is for step p + k; targets are latents of single observations. The same errors, summed in
two different ways, give the loss and the raw intrinsic reward:

    mask = horizon_mask(transition_t, horizons=K)            # [K, S], S = T - 1
    errors = horizon_losses(predictions, targets, mask)      # [K, S]
    loss = self_prediction_loss(errors, mask)                # [S]: over k, from one start p
    uncertainty = prediction_uncertainty(errors, mask)       # [S]: over p + k, of one prediction

`transition_t[i]` is 0 where step i is the last of its episode, so that step i + 1 does not follow
from it, and 1 elsewhere: `1 - is_last[:-1]`. The final observation of an episode is a separate
step, so it is a target, but later steps are not. Where `transition_t` is 0 the loss and the
uncertainty have no terms and are 0: weight their means by it. It equals `trace_t` shifted by one
row.

`reward_normaliser_update` converts the uncertainty to a reward.
"""

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


def _unit(x: chex.Array, eps: chex.Numeric) -> jax.Array:
    # x / norm would have a nan gradient at 0.
    x = widen(x)
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + eps)


def normalised_prediction_loss(
    prediction: chex.Array,
    target: chex.Array,
    *,
    eps: chex.Numeric = 1e-12,
    stop_target_gradients: bool = True,
) -> jax.Array:
    """Squared distance of two directions, `|u(prediction) - u(target)|^2 = 2 - 2 cos`.

    `u(x) = x / sqrt(|x|^2 + eps)`, so the loss does not depend on the length of either vector, and
    its gradient is finite at 0, where the loss is 1.

    Args:
      prediction: [D] float.
      target: [D] float, usually the latent of a target network.
      eps: above 0, in units of |x|^2; much smaller than typical |x|^2, and not 0 in float32.
      stop_target_gradients: whether the target is a constant to the gradient.

    Returns:
      [] float32 or wider in [0, 4]: 0 for equal, 2 for orthogonal, 4 for opposite directions.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Guo et al. 2022, arXiv:2206.08332.
    """
    check_arrays(prediction=Spec(prediction, "D"), target=Spec(target, "D"))
    check_scalars(eps=eps, above_zero=("eps",))
    prediction, target = promote(prediction, target)
    if stop_target_gradients:
        target = jax.lax.stop_gradient(target)
    return jnp.sum(jnp.square(_unit(prediction, eps) - _unit(target, eps)))


def horizon_mask(transition_t: chex.Array, *, horizons: int) -> jax.Array:
    """Mask of the predictions that have a target: inside the chunk and without a reset between.

    Args:
      transition_t: [S] float, 0 where step i is the last of its episode, else 1.
      horizons: K, at least 1, in steps; not traced.

    Returns:
      [K, S] float32 or wider, each 0 or 1: entry [k - 1, p] is 1 where steps p to p + k belong to
      one episode and to this chunk. Row 0 is `transition_t`.

    Raises:
      ValueError: a rank, dtype or range differs from the above; names the argument.

    Source: Guo et al. 2022, arXiv:2206.08332. Deviation: episode ends, which the paper does not
      specify.
    """
    check_arrays(transition_t=Spec(transition_t, "S", NUMBER))
    horizons = whole_number("horizons", horizons)
    transition_t = jax.lax.stop_gradient(widen(transition_t))
    step = jnp.where(transition_t != 0, 1.0, 0.0).astype(transition_t.dtype)
    # There are no transitions past the chunk.
    padded = jnp.append(step, jnp.zeros(horizons, step.dtype))
    starts, ahead = jnp.arange(step.shape[0]), jnp.arange(horizons)
    return jnp.cumprod(padded[starts[None, :] + ahead[:, None]], axis=0)


def horizon_losses(
    predictions: chex.Array,
    targets: chex.Array,
    mask: chex.Array,
    *,
    eps: chex.Numeric = 1e-12,
    stop_target_gradients: bool = True,
) -> jax.Array:
    """`normalised_prediction_loss` of every start and horizon.

    Args:
      predictions: [K, S, D] float, row [k - 1, p] is the prediction of step p + k from step p.
      targets: [T, D] float, latents of the chunk's steps, T = S + 1.
      mask: [K, S] float, from `horizon_mask`; 0 where there is no target. Predictions there have no
        effect.
      eps: above 0, in units of |x|^2; much smaller than typical |x|^2, and not 0 in float32.
      stop_target_gradients: whether the target is a constant to the gradient.

    Returns:
      [K, S] float32 or wider in [0, 4], and 0 where masked.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Guo et al. 2022, arXiv:2206.08332.
    """
    check_arrays(
        predictions=Spec(predictions, "KSD"),
        targets=Spec(targets, "TD"),
        mask=Spec(mask, "KS", NUMBER),
    )
    check_scalars(eps=eps, above_zero=("eps",))
    (horizons, starts), (steps, _) = jnp.shape(mask), jnp.shape(targets)
    if steps != starts + 1:
        allowed = f"{starts + 1} entries along its axis [T], one more than mask has starts [S]"
        raise ValueError(must("targets", allowed, steps, verb="have"))
    predictions, targets = promote(predictions, targets)
    if stop_target_gradients:
        targets = jax.lax.stop_gradient(targets)
    predicted = jnp.arange(starts)[None, :] + jnp.arange(1, horizons + 1)[:, None]
    valid = jnp.asarray(mask) != 0
    # Past the chunk the target is arbitrary: the mask is 0. Masked before they are normalised, so
    # that no gradient is nan.
    wanted = targets[jnp.minimum(predicted, steps - 1)]
    wanted, predictions = (jnp.where(valid[:, :, None], x, 0.0) for x in (wanted, predictions))
    return jnp.sum(jnp.square(_unit(predictions, eps) - _unit(wanted, eps)), axis=-1)


def self_prediction_loss(
    errors: chex.Array, mask: chex.Array, *, average: bool = True
) -> jax.Array:
    """World-model loss of every start: the mean or sum of its errors over valid horizons.

    Args:
      errors: [K, S] float, from `horizon_losses`.
      mask: [K, S] float, from `horizon_mask`.
      average: whether to divide by the number of unmasked horizons K(p), so that all starts have
        equal weight; False gives the sum, in which starts near the end have less weight.

    Returns:
      [S] float32 or wider, in [0, 4] if averaged; 0 where no horizon is valid. The paper's loss is
      the mean over starts and the batch.

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: Guo et al. 2022, arXiv:2206.08332. Descriptions of the method differ in the division by
      K(p).
    """
    check_arrays(errors=Spec(errors, "KS"), mask=Spec(mask, "KS", NUMBER))
    valid = jnp.asarray(mask) != 0
    total = jnp.sum(jnp.where(valid, widen(errors), 0.0), axis=0)
    return total / jnp.maximum(jnp.sum(valid, axis=0), 1) if average else total


def prediction_uncertainty(errors: chex.Array, mask: chex.Array) -> jax.Array:
    """Uncertainty of every transition: the sum of the errors of all predictions of its successor.

    `uncertainty[t]` is the sum of `errors[k - 1, p]` over p + k = t + 1, an anti-diagonal, and not
    over k from the start t. It has min(K, t + 1) terms, fewer after a reset, so the first K - 1
    transitions of a chunk have smaller values. The paper does not correct for this.

    Args:
      errors: [K, S] float, from `horizon_losses`.
      mask: [K, S] float, from `horizon_mask`.

    Returns:
      [S] float32 or wider, at least 0; a constant to the gradient.

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: Guo et al. 2022, arXiv:2206.08332.
    """
    check_arrays(errors=Spec(errors, "KS"), mask=Spec(mask, "KS", NUMBER))
    errors = jax.lax.stop_gradient(jnp.where(jnp.asarray(mask) != 0, widen(errors), 0.0))
    horizons, starts = errors.shape
    # Step t + 1 is k steps after start t + 1 - k; starts before the chunk count as 0.
    start = jnp.arange(starts)[None, :] - jnp.arange(horizons)[:, None]
    terms = jnp.take_along_axis(errors, jnp.maximum(start, 0), axis=1)
    return jnp.sum(jnp.where(start >= 0, terms, 0.0), axis=0)
