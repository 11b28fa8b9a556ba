"""From logits and masks to the numbers that the other functions take."""

import chex
import jax
import jax.numpy as jnp

from bellmax.losses._checks import NUMBER, Spec, check_arrays, widen
from bellmax.losses.sequence._shared import check_tokens, kept, reduce_tokens


def token_log_probs(logits: chex.Array, token: chex.Array, mask: chex.Array) -> jax.Array:
    """Log-probabilities of the tokens of a sequence: `log_softmax(logits)[t, token[t]]`.

    Args:
      logits: [T, V] float; row t is computed from what precedes token t: shift them before.
      token: [T] int in [0, V).
      mask: [T] float, int or bool, 0 on prompt and padding, whose logits have no influence.

    Returns:
      [T] float32 or wider, in nats; 0 where the mask is 0.

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: the chain rule of probabilities.
    """
    check_arrays(
        logits=Spec(logits, "TV"), token=Spec(token, "T", int), mask=Spec(mask, "T", NUMBER)
    )
    (rows,) = kept(mask, widen(logits))
    log_probs = jax.nn.log_softmax(rows)
    taken = jnp.take_along_axis(log_probs, jnp.asarray(token)[:, None], axis=-1)[:, 0]
    return kept(mask, taken)[0]


def sequence_log_prob(
    log_prob: chex.Array, mask: chex.Array, *, average: bool = False
) -> jax.Array:
    """Log-probability of a sequence: the sum, or the mean, of those of its tokens.

    The mean makes a preference loss independent of length. Use the same choice for policy and
    reference: the mean of one and the sum of the other is no log-ratio of anything.

    Args:
      log_prob: [T] float, log-probabilities of the tokens, in nats.
      mask: [T] float, int or bool, 0 on prompt and padding. Count the end-of-sequence token:
        without it the optimum is another one.
      average: whether to divide by the number of tokens counted; static.

    Returns:
      [] float32 or wider, in nats; 0 for an empty mask. Sums of 1,000 bfloat16 numbers would lose
      the margin of two answers.

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: Grinsztajn et al. 2024, arXiv:2406.19188, for `average`. TRL averages in its `ipo` and
      `sigmoid_norm` losses only, EasyDeL in `ipo` only.
    """
    check_tokens(mask, log_prob=log_prob)
    (row,) = kept(mask, widen(log_prob))
    return reduce_tokens(row, mask, average=average)
