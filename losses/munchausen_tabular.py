"""Munchausen value iteration: the exact tabular operator that M-DQN approximates.

The equivalent mirror-descent value iteration gives the same policies; it is in the tests.
"""

import chex
import jax
import jax.numpy as jnp

from bellmax.losses._checks import NUMBER, Spec, check_arrays, check_scalars, promote
from bellmax.losses._masking import weighted_sum
from bellmax.losses.munchausen import check_hyper_parameters
from bellmax.losses.value import soft_parts


def munchausen_value_iteration(
    q: chex.Array,
    r: chex.Array,
    p: chex.Array,
    *,
    gamma: chex.Numeric,
    temperature: chex.Numeric = 0.03,
    alpha: chex.Numeric = 0.9,
    clip: chex.Numeric = -1.0,
) -> jax.Array:
    """One application of the operator: `r + alpha * max(clip, tau * log pi) + gamma * p @ L`.

    `pi = softmax(q / tau)` is the policy and L its soft value. Without a clip (-inf) the fixed
    point's policy is optimal for entropy temperature `(1 - alpha) * tau`, and its action gaps are
    the soft-optimal ones over `1 - alpha`.

    Args:
      q: [S, A] float, action values, in units of return.
      r: [S, A] float, expected rewards.
      p: [S, A, S] float, probabilities of the next state; a row may sum to less than 1; the rest is
        the probability of termination.
      gamma: discount in [0, 1].
      temperature: above 0, in units of return.
      alpha: weight of the Munchausen term, in [0, 1]; 0 gives soft Q-learning.
      clip: lower bound of the unweighted term, at most 0; -inf for none.

    Returns:
      [S, A] float32 or wider.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Vieillard et al. 2020, arXiv:2007.14430.
    """
    check_arrays(q=Spec(q, "SA"), r=Spec(r, "SA", NUMBER), p=Spec(p, "SAS"))
    check_scalars(gamma=gamma, from_zero=("gamma",), up_to_one=("gamma",))
    check_hyper_parameters(temperature=temperature, alpha=alpha, clip=clip)
    q, r, p = promote(q, r, p)
    parts = soft_parts(q, temperature)
    log_pi = parts.offsets - parts.excess[:, None]
    value = jnp.broadcast_to(parts.maximum + parts.excess, p.shape)
    return r + alpha * jnp.maximum(log_pi, clip) + gamma * weighted_sum(p, value)
