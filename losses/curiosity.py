"""Curiosity bonuses from network outputs: RND, ICM, E3B and counts.

RND's normalisation of observations and returns is in `intrinsic_reward.py`. A bonus belongs to the
transition that *reaches* an observation; mask it where there was no transition.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from bellmax.losses._checks import (
    NUMBER,
    Spec,
    check_arrays,
    check_scalars,
    promote,
    whole_number,
    widen,
)
from bellmax.losses.value import log_softmax


def rnd_error(
    prediction: chex.Array, target: chex.Array, *, stop_target_gradients: bool = True
) -> jax.Array:
    """Random network distillation: squared distance to the output of a random network.

    It is both the predictor's loss (in the paper's code on a random quarter of the samples) and
    the raw reward of reaching the observation.

    Args:
      prediction: [D] float, output of the trained network.
      target: [D] float, output of the random network, which is never trained.
      stop_target_gradients: whether the target is a constant to the gradient.

    Returns:
      [] float32 or wider, at least 0, summed over D. Public code halves it, or divides it by D.

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: Burda et al. 2018, arXiv:1810.12894.
    """
    check_arrays(prediction=Spec(prediction, "D"), target=Spec(target, "D"))
    prediction, target = promote(prediction, target)
    target = jax.lax.stop_gradient(target) if stop_target_gradients else target
    return jnp.sum(jnp.square(prediction - target))


class IntrinsicCuriosity(NamedTuple):
    """ICM's losses and reward for one transition, each [] float.

    Attributes:
      loss: `(1 - beta) * inverse_loss + beta * forward_loss`.
      inverse_loss: cross-entropy of the taken action, in nats.
      forward_loss: half the squared error of the predicted latent.
      reward: `eta * forward_loss`, a constant to the gradient.
    """

    loss: jax.Array
    inverse_loss: jax.Array
    forward_loss: jax.Array
    reward: jax.Array


def intrinsic_curiosity(
    logits_a_tm1: chex.Array,
    a_tm1: chex.Numeric,
    predicted_latent_t: chex.Array,
    latent_t: chex.Array,
    *,
    beta: chex.Numeric = 0.2,
    eta: chex.Numeric = 0.01,
    stop_target_gradients: bool = True,
) -> IntrinsicCuriosity:
    """Intrinsic curiosity module: latents from an inverse model, reward from a forward model.

    The inverse loss trains the encoder. To exclude the forward loss from training the encoder, also
    stop the gradient of the latent that is the forward model's input.

    Args:
      logits_a_tm1: [A] float, the inverse model's action logits, from the latents at t-1 and t;
        -inf marks an action that is not allowed.
      a_tm1: [] int in [0, A), the action taken at t-1.
      predicted_latent_t: [D] float, the forward model's prediction from the latent at t-1 and
        a_tm1.
      latent_t: [D] float, the encoder's output at t.
      beta: weight of the forward loss, in [0, 1].
      eta: scale of the reward, at least 0, in units of reward.
      stop_target_gradients: whether latent_t is a constant to the forward loss.

    Returns:
      `IntrinsicCuriosity`, each [] float32 or wider. The caller weights the policy's loss (in the
      paper 0.1, with weight 1 for this loss).

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Pathak et al. 2017, arXiv:1705.05363, eqs. 3, 5, 6 and 7.
    """
    check_arrays(
        logits_a_tm1=Spec(logits_a_tm1, "A"),
        a_tm1=Spec(a_tm1, "", int),
        predicted_latent_t=Spec(predicted_latent_t, "D"),
        latent_t=Spec(latent_t, "D"),
    )
    ranges = {"from_zero": ("beta", "eta"), "up_to_one": ("beta",)}
    check_scalars(beta=beta, eta=eta, **ranges)
    logits, predicted, latent_t = promote(logits_a_tm1, predicted_latent_t, latent_t)
    inverse = -log_softmax(logits)[a_tm1]
    latent_t = jax.lax.stop_gradient(latent_t) if stop_target_gradients else latent_t
    forward = 0.5 * jnp.sum(jnp.square(predicted - latent_t))
    loss = (1.0 - beta) * inverse + beta * forward
    reward = eta * jax.lax.stop_gradient(forward)
    return IntrinsicCuriosity(jnp.asarray(loss), inverse, forward, jnp.asarray(reward))


def elliptical_bonus_init(
    features: int, *, ridge: chex.Numeric = 0.1, dtype: jnp.dtype | type = jnp.float32
) -> jax.Array:
    """E3B's inverse covariance at the start of an episode: `eye / ridge`, [D, D].

    Args:
      features: D.
      ridge: above 0, in units of feature^2; the paper's lambda.
      dtype: of the result.

    Raises:
      ValueError: ridge is out of range.

    Source: Henaff et al. 2022, arXiv:2210.05805.
    """
    check_scalars(ridge=ridge, above_zero=("ridge",))
    features = whole_number("features", features)
    return jnp.eye(features, dtype=dtype) / jnp.asarray(ridge, dtype)


def elliptical_bonus(
    inverse_covariance: chex.Array, feature_t: chex.Array
) -> tuple[jax.Array, jax.Array]:
    """E3B: elliptical distance of an observation's features from earlier ones of its episode.

    The features come from an inverse model, as in ICM. A unit vector that was visited m times in
    the episode before gets the bonus `1 / (ridge + m)`: a generalised episodic count.

    Args:
      inverse_covariance: [D, D] float, symmetric; reset it to `elliptical_bonus_init` at each
        episode.
      feature_t: [D] float, features of the observation reached.

    Returns:
      The updated inverse covariance, [D, D], and the bonus `feature' C^-1 feature` before the
      update, [], in float32 or wider; constants to the gradient.

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: Henaff et al. 2022, arXiv:2210.05805.
    """
    inverse, feature = inverse_covariance, feature_t
    check_arrays(feature_t=Spec(feature, "D"), inverse_covariance=Spec(inverse, "DD"))
    inverse, feature = jax.lax.stop_gradient(promote(inverse, feature))
    u = jnp.matmul(inverse, feature, precision="highest")
    bonus = jnp.dot(feature, u, precision="highest")
    # Sherman-Morrison: the inverse of C + feature feature'.
    return inverse - u[:, None] * u[None, :] / (1.0 + bonus), bonus


def count_bonus(count_t: chex.Numeric, *, beta: chex.Numeric = 1.0) -> jax.Array:
    """`beta / sqrt(count_t)`: a reference for other bonuses where states can be counted.

    Args:
      count_t: [] float or int, at least 1: number of visits to the state, including this one; or a
        pseudo-count.
      beta: scale, at least 0, in units of reward.

    Returns:
      [] float32 or wider.

    Raises:
      ValueError: a rank, dtype or range differs from the above; names the argument.

    Source: Strehl and Littman 2008; Bellemare et al. 2016, arXiv:1606.01868.
    """
    check_arrays(count_t=Spec(count_t, "", NUMBER))
    check_scalars(beta=beta, from_zero=("beta",))
    return jnp.asarray(beta * jax.lax.rsqrt(widen(count_t)))
