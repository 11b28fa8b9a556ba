"""Distillation on tokens (GKD) and inverse reinforcement learning on text (IQ-Learn)."""

import chex
import jax
import jax.numpy as jnp

from bellmax.losses._checks import NUMBER, Spec, check_arrays, check_scalars, one_of, promote
from bellmax.losses.sequence._shared import kept, reduce_tokens

_DIVERGENCES = ("jensen_shannon", "forward", "reverse")


def _kl(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def generalised_jsd(
    student_logits: chex.Array,
    teacher_logits: chex.Array,
    *,
    beta: chex.Numeric = 0.5,
    temperature: chex.Numeric = 1.0,
) -> jax.Array:
    """Generalised Jensen-Shannon divergence of one next token.

    `beta * KL(T || M) + (1 - beta) * KL(S || M)` with `M = beta * T + (1 - beta) * S`, T the
    teacher and S the student. It goes to 0 for beta to 0 and 1: divided by beta its limit is
    KL(T || S), by 1 - beta KL(S || T). TRL's code returns these limits themselves at 0 and 1,
    undivided; here ask for them by name in `gkd_loss`.

    Args:
      student_logits: [V] float, finite.
      teacher_logits: [V] float, finite; constants to the gradient.
      beta: in (0, 1).
      temperature: above 0, divides both logits; the result is not multiplied by its square.

    Returns:
      [] float32 or wider in [0, log 2], in nats.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Agarwal et al. 2023, arXiv:2306.13649, eq. 1.
    """
    _check_divergence(beta, temperature)
    arrays = {"student_logits": student_logits, "teacher_logits": teacher_logits}
    check_arrays(**{name: Spec(x, "V") for name, x in arrays.items()})
    student, teacher, beta, temperature = promote(*arrays.values(), beta, temperature)
    return _jensen_shannon(student, jax.lax.stop_gradient(teacher), beta, temperature)


def _check_divergence(beta, temperature) -> None:
    above = {"above_zero": ("beta", "temperature"), "below_one": ("beta",)}
    check_scalars(beta=beta, temperature=temperature, **above)


def _jensen_shannon(student, teacher, beta, temperature) -> jax.Array:
    log_s, log_t = (jax.nn.log_softmax(x / temperature) for x in (student, teacher))
    log_m = jnp.logaddexp(log_s + jnp.log1p(-beta), log_t + jnp.log(beta))
    return beta * _kl(log_t, log_m) + (1.0 - beta) * _kl(log_s, log_m)


def gkd_loss(
    student_logits: chex.Array,
    teacher_logits: chex.Array,
    mask: chex.Array,
    *,
    beta: chex.Numeric = 0.5,
    temperature: chex.Numeric = 1.0,
    divergence: str = "jensen_shannon",
    average: bool = True,
) -> jax.Array:
    """Generalised knowledge distillation of one sequence, on full next-token distributions.

    Sequences come from the student with a probability of 1/2 (paper), else from the data; there is
    no gradient through sampling.

    Args:
      student_logits: [T, V] float, finite where the mask counts.
      teacher_logits: [T, V] float of the same vocabulary; constants to the gradient.
      mask: [T] float, int or bool, 0 on prompt and padding.
      beta: in (0, 1), of `generalised_jsd`, default 0.5 (paper).
      temperature: above 0, divides both logits.
      divergence: "jensen_shannon", "forward" for KL(T || S), or "reverse" for KL(S || T); static.
      average: whether to divide by the number of tokens; static. TRL divides the sum over a batch
        by its number of tokens, which weighs sequences by their length.

    Returns:
      [] float32 or wider, in nats.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Agarwal et al. 2023, arXiv:2306.13649.
    """
    arrays = {"student_logits": student_logits, "teacher_logits": teacher_logits}
    check_arrays(
        **{name: Spec(x, "TV") for name, x in arrays.items()}, mask=Spec(mask, "T", NUMBER)
    )
    one_of("divergence", divergence, _DIVERGENCES)
    _check_divergence(beta, temperature)
    student, teacher, beta, temperature = promote(*arrays.values(), beta, temperature)
    student, teacher = kept(mask, student, jax.lax.stop_gradient(teacher))
    if divergence == "jensen_shannon":
        losses = _jensen_shannon(student, teacher, beta, temperature)
    else:
        log_s, log_t = (jax.nn.log_softmax(x / temperature) for x in (student, teacher))
        losses = _kl(log_t, log_s) if divergence == "forward" else _kl(log_s, log_t)
    return reduce_tokens(kept(mask, losses)[0], mask, average=average)


def sequence_iq_rewards(
    logits: chex.Array,
    token: chex.Array,
    mask: chex.Array,
    *,
    gamma: chex.Numeric = 1.0,
    stop_next_value: bool = False,
) -> jax.Array:
    """Rewards that logits imply if they are soft action values.

    `logits[t, token[t]] - gamma * v[t + 1]` with `v = logsumexp(logits)`, and v = 0 after the last
    token counted.

    Args:
      logits: [T, V] float, row t before token t. Not normalised log-probabilities: their v is 0.
      token: [T] int in [0, V).
      mask: [T] float, int or bool, 0 on prompt and padding.
      gamma: in [0, 1], discount per token.
      stop_next_value: whether v[t+1] is a constant to the gradient; static.

    Returns:
      [T] float32 or wider, in nats; 0 where the mask is 0.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Wulfmeier et al. 2024, arXiv:2409.01369.
    """
    return _iq(logits, token, mask, gamma, stop_next_value)[0]


def _iq(logits, token, mask, gamma, stop_next_value) -> tuple[jax.Array, jax.Array]:
    """Rewards and log-probabilities of the tokens."""
    check_arrays(
        logits=Spec(logits, "TV"), token=Spec(token, "T", int), mask=Spec(mask, "T", NUMBER)
    )
    check_scalars(gamma=gamma, from_zero=("gamma",), up_to_one=("gamma",))
    rows, gamma = promote(logits, gamma)
    (rows,) = kept(mask, rows)
    v = jax.nn.logsumexp(rows, axis=-1)
    taken = jnp.take_along_axis(rows, jnp.asarray(token)[:, None], axis=-1)[:, 0]
    (counted,) = kept(mask, v)
    next_v = jnp.concatenate([counted[1:], jnp.zeros(1, v.dtype)])
    next_v = jax.lax.stop_gradient(next_v) if stop_next_value else next_v
    rewards, log_pi = kept(mask, taken - gamma * next_v, taken - v)
    return rewards, log_pi


def sequence_iq_loss(
    logits: chex.Array,
    token: chex.Array,
    mask: chex.Array,
    *,
    lambda_: chex.Numeric = 0.1,
    gamma: chex.Numeric = 1.0,
    stop_next_value: bool = False,
) -> jax.Array:
    """IQ-Learn on text: maximum likelihood plus a temporal-difference term.

    The mean over tokens of `lambda * reward[t]^2 - log pi[t]`, with the rewards of
    `sequence_iq_rewards`. The term fixes the constant that likelihood leaves free in the logits of
    each state, and shrinks implied rewards.

    Args:
      logits: [T, V] float, row t before token t; as the model gives them, not normalised.
      token: [T] int in [0, V), text of the data; online, also the model's own (a share of 0.1).
      mask: [T] float, int or bool, 0 on prompt and padding.
      lambda_: at least 0, default 0.1; 0 is maximum likelihood.
      gamma: in [0, 1], discount per token.
      stop_next_value: whether v[t+1] is a constant to the gradient; static.

    Returns:
      [] float32 or wider.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Wulfmeier et al. 2024, arXiv:2409.01369, eq. 14.
    """
    check_scalars(lambda_=lambda_, from_zero=("lambda_",))
    rewards, log_pi = _iq(logits, token, mask, gamma, stop_next_value)
    rewards, log_pi, lambda_ = promote(rewards, log_pi, lambda_)
    return reduce_tokens(lambda_ * jnp.square(rewards) - log_pi, mask, average=True)
