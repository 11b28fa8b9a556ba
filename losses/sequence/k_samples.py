"""Objectives of k answers to one prompt: pass@k, majority votes, and latent thoughts (JEPO).

The gradient of `E f(y_1 .. y_k)` is `k * E[(f(y_1 .. y_k) - f(y_2 .. y_k)) * grad log pi(y_1)]`.
From N >= k answers the weight of each is the mean of that difference over the k - 1 others drawn
without replacement, and `-(k / N) * sum_i weight_i * log_pi_i` is an unbiased loss.
"""

import itertools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np

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
from bellmax.losses.sequence._shared import log_mean_exp

_MOST_SUBSETS = 20_000


def _group(k: int, correct: chex.Array) -> tuple[int, int]:
    check_arrays(correct=Spec(correct, "N", NUMBER))
    k, size = whole_number("k", k), jnp.shape(correct)[0]
    if k > size:
        raise ValueError(must("k", f"at most {size}, the entries of correct", k))
    return k, size


def pass_at_k(correct: chex.Array, *, k: int) -> jax.Array:
    """Unbiased estimate of pass@k from N answers: `1 - C(N - c, k) / C(N, k)`, c of them right.

    Args:
      correct: [N] float, int or bool, the axis is the group: not 0 where an answer is right.
      k: number of tries, at most N; static.

    Returns:
      [] float32 or wider in [0, 1]; no gradient.

    Raises:
      ValueError: a rank, dtype or range differs from the above; names the argument.

    Source: Chen et al. 2021, arXiv:2107.03374.
    """
    k, size = _group(k, correct)
    wrong = [1.0 - math.comb(size - c, k) / math.comb(size, k) for c in range(size + 1)]
    return jnp.asarray(wrong, _dtype(correct))[jnp.sum(jnp.asarray(correct) != 0)]


def _dtype(correct: chex.Array):
    return widen(correct).dtype


def pass_at_k_advantages(correct: chex.Array, *, k: int) -> jax.Array:
    """Weights of N answers in the gradient of pass@k, with a leave-one-out baseline.

    `C(N - c, k - 1) / C(N - 1, k - 1)` for a right answer, the probability that its k - 1
    companions are all wrong, and 0 for a wrong one. `-(k / N) * sum_i weight_i * log_pi_i` is the
    loss.

    Args:
      correct: [N] float, int or bool, the axis is the group: not 0 where an answer is right.
      k: number of tries, at most N; static.

    Returns:
      [N] float32 or wider in [0, 1]; no gradient.

    Raises:
      ValueError: a rank, dtype or range differs from the above; names the argument.

    Source: Tang et al. 2025, arXiv:2503.19595.
    """
    k, size = _group(k, correct)
    alone = [math.comb(size - c, k - 1) / math.comb(size - 1, k - 1) for c in range(size + 1)]
    right = jnp.asarray(correct) != 0
    weight = jnp.asarray(alone, _dtype(correct))[jnp.sum(right)]
    return jnp.where(right, weight, 0.0)


def majority_vote(answer: chex.Array, correct: chex.Array) -> jax.Array:
    """Whether the most frequent answer is right; the mean over those that are tied.

    Args:
      answer: [K] int, the axis is the group: equal numbers are equal answers.
      correct: [K] float, int or bool, not 0 where an answer is right.

    Returns:
      [] float32 or wider in [0, 1]; no gradient.

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: Wang et al. 2022, arXiv:2203.11171.
    """
    check_arrays(answer=Spec(answer, "K", int), correct=Spec(correct, "K", NUMBER))
    everyone = jnp.ones((1, jnp.shape(answer)[0]), _dtype(correct))
    return _votes(jnp.asarray(answer), jnp.asarray(correct) != 0, everyone)[0]


def _votes(answer: jax.Array, right: jax.Array, members: jax.Array) -> jax.Array:
    """[M] votes of groups given by rows of 0 and 1, [M, N]; 0 for an empty group."""
    counts = members * jnp.sum(
        members[:, None, :] * (answer[:, None] == answer[None, :])[None], axis=-1
    )
    most = jnp.max(counts, axis=1, keepdims=True)
    modes = jnp.where(counts == most, members, 0.0)
    voters = jnp.maximum(jnp.sum(modes, axis=1), 1.0)
    return jnp.sum(jnp.where(right[None], modes, 0.0), axis=1) / voters


def majority_advantages(answer: chex.Array, correct: chex.Array, *, k: int) -> jax.Array:
    """Weights of N answers in the gradient of the majority vote of k, by enumeration.

    The mean over companions S of k - 1 others of `vote(S with i) - vote(S)`, where the vote of
    nobody is 0. `-(k / N) * sum_i weight_i * log_pi_i` is the loss.

    Args:
      answer: [N] int, the axis is the group: equal numbers are equal answers.
      correct: [N] float, int or bool, not 0 where an answer is right.
      k: number of votes, at most N, with at most 20,000 groups of k; static.

    Returns:
      [N] float32 or wider in [-1, 1]; no gradient.

    Raises:
      ValueError: a rank, dtype or range differs from the above; names the argument.

    Source: Tang et al. 2025, arXiv:2503.19595.
    """
    k, size = _group(k, correct)
    check_arrays(answer=Spec(answer, "N", int), correct=Spec(correct, "N", NUMBER))
    if max(math.comb(size, k), math.comb(size, k - 1)) > _MOST_SUBSETS:
        allowed = f"such that {size} answers form at most {_MOST_SUBSETS:,} groups"
        raise ValueError(must("k", allowed, k))
    answer, right = jnp.asarray(answer), jnp.asarray(correct) != 0
    groups, companions = (_subsets(size, number) for number in (k, k - 1))
    dtype = _dtype(correct)
    with_it = _votes(answer, right, jnp.asarray(groups, dtype))
    without = _votes(answer, right, jnp.asarray(companions, dtype))
    gained = jnp.sum(with_it[:, None] * groups, axis=0)
    lost = jnp.sum(without[:, None] * (1 - companions), axis=0)
    return (gained - lost).astype(dtype) / math.comb(size - 1, k - 1)


def _subsets(size: int, number: int) -> np.ndarray:
    """[M, size] rows of 0 and 1, one for each subset of this number."""
    chosen = list(itertools.combinations(range(size), number))
    rows = np.zeros((len(chosen), size), np.float32)
    for row, members in zip(rows, chosen, strict=True):
        row[list(members)] = 1.0
    return rows


def jepo_loss(
    log_pi_thought: chex.Array,
    log_pi_answer: chex.Array,
    *,
    baseline: chex.Numeric | None = None,
    stop_target_gradients: bool = True,
) -> jax.Array:
    """JEPO: the likelihood of a known answer, with the thoughts before it as latent variables.

    F, the log of the mean probability of the answer over K thoughts, bounds its log-likelihood
    from below, more tightly with more thoughts. The loss is `-F - sum_i (F - b_i) *
    log_pi_thought_i`: the answer is learned by supervision, thoughts by their scores.

    Args:
      log_pi_thought: [K] float, the axis is the group: log-probabilities of K thoughts drawn for
        one prompt, in nats. Mask what is not thought.
      log_pi_answer: [K] float, log-probabilities of the right answer after each of them, in nats.
        Not probabilities: their mean would be another bound.
      baseline: a number in nats; None takes for b_i the bound of the other thoughts, K >= 2.
      stop_target_gradients: whether F - b is a constant to the gradient, as it must be.

    Returns:
      [] float32 or wider, whose gradient is unbiased for that of -E[F].

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: Tang et al. 2025, arXiv:2503.19618.
    """
    arrays = {"log_pi_thought": log_pi_thought, "log_pi_answer": log_pi_answer}
    check_arrays(**{name: Spec(x, "K") for name, x in arrays.items()})
    size = jnp.shape(log_pi_answer)[0]
    if baseline is None and size < 2:
        raise ValueError(must("baseline", "a number for a single thought", None))
    if baseline is not None:
        check_scalars(baseline=baseline)
    given = () if baseline is None else (baseline,)
    thought, answer, *given = promote(*arrays.values(), *given)
    bound = log_mean_exp(answer)
    # Row i lacks thought i; a difference of sums of exponentials would cancel.
    others = jnp.asarray([[j for j in range(size) if j != i] for i in range(size)], jnp.int32)
    base = given[0] if given else log_mean_exp(answer[others])
    gain = bound - base
    gain = jax.lax.stop_gradient(gain) if stop_target_gradients else gain
    return -bound - jnp.sum(gain * thought)
