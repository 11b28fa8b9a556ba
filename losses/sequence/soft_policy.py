"""Soft policy optimisation: regression on the value equation of the KL-regularised optimum."""

import chex
import jax
import jax.numpy as jnp

from bellmax.losses._checks import NUMBER, Spec, check_arrays, check_scalars, promote
from bellmax.losses.sequence._shared import (
    check_tokens,
    kept,
    log_ratios,
    reduce_tokens,
    to_go,
)


def soft_policy_loss(
    log_pi: chex.Numeric,
    log_ref: chex.Numeric,
    r: chex.Numeric,
    v: chex.Numeric,
    *,
    beta: chex.Numeric = 0.05,
) -> jax.Array:
    """Soft policy optimisation of one answer, with a learned value of the prompt.

    `(v - r + beta * log(pi / ref))^2`: at the optimum v is `beta log Z`. Where K > 1 answers are at
    hand, their mean serves as v, see `agro_loss`. Leaving v out, as a public implementation does,
    has another optimum.

    Args:
      log_pi: [] float, log-probability of the answer, in nats.
      log_ref: [] float, that under the reference; a constant to the gradient.
      r: [] float, its reward; a constant to the gradient.
      v: [] float, learned soft value of the prompt, in units of reward.
      beta: at least 0, in units of reward per nat.

    Returns:
      [] float32 or wider, in units of reward^2; gradient to policy and value.

    Raises:
      ValueError: a rank, dtype or range differs from the above; names the argument.

    Source: Cohen et al. 2025, arXiv:2503.05453; the form with a value is derived here.
    """
    arrays = {"log_pi": log_pi, "log_ref": log_ref}
    check_arrays(**{name: Spec(x, "") for name, x in arrays.items()})
    check_arrays(r=Spec(r, "", NUMBER), v=Spec(v, ""))
    check_scalars(beta=beta, from_zero=("beta",))
    log_pi, log_ref, r, v, beta = promote(*arrays.values(), r, v, beta)
    log_ref, r = map(jax.lax.stop_gradient, (log_ref, r))
    return jnp.square(v - r + beta * (log_pi - log_ref))


def soft_path_loss(
    log_pi: chex.Array,
    log_ref: chex.Array,
    v: chex.Array,
    r: chex.Numeric,
    mask: chex.Array,
    *,
    beta: chex.Numeric = 0.05,
) -> jax.Array:
    """Soft policy optimisation of one answer, with learned values of its prefixes.

    The mean over tokens of `(v[t] - r + beta * sum_{s >= t} l[s])^2`: path consistency from every
    prefix to the end. `beta * l[t]` is then the advantage of token t.

    Args:
      log_pi: [T] float, log-probabilities of the tokens, in nats.
      log_ref: [T] float, those under the reference; constants to the gradient.
      v: [T] float, learned soft values of the prefixes before the tokens, in units of reward.
      r: [] float, reward of the answer, earned at its end; a constant to the gradient.
      mask: [T] float, int or bool, 0 on prompt and padding.
      beta: at least 0, in units of reward per nat.

    Returns:
      [] float32 or wider, in units of reward^2; gradient to policy and values.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Cohen et al. 2025, arXiv:2503.05453; Nachum et al. 2017, arXiv:1702.08892. The form
      with values of prefixes is derived here.
    """
    check_tokens(mask, log_pi=log_pi, log_ref=log_ref, v=v)
    check_arrays(r=Spec(r, "", NUMBER))
    check_scalars(beta=beta, from_zero=("beta",))
    ratio, _, v, r, beta = log_ratios(log_pi, log_ref, mask, v, r, beta)
    residual = kept(mask, v)[0] - jax.lax.stop_gradient(r) + beta * to_go(ratio)
    return reduce_tokens(kept(mask, jnp.square(residual))[0], mask, average=True)
