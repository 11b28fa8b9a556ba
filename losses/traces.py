"""Trace coefficients: the weight of steps after i + 1 in the multi-step target of step i.

A multi-step off-policy target corrects its bootstrap by later rewards and values, times `c_t`:
`G[i] = r[i] + discount[i] * (<pi[i], q[i]> + c[i] * (G[i + 1] - q[i, a[i]]))`. The methods differ
only in `c_t`. Each is a function here, and `off_policy_returns`, `distributional_retrace` and
`categorical_retrace` take its result. Row i belongs to step i + 1: `a_t[i]` was taken there, with
probability `mu_t[i]` under the acting policy. The last row belongs to the end of the window;
targets do not use it.

Coefficients do not include masks: the targets multiply `c_t` by `trace_t`. If `0 <= c <= pi / mu`,
the expected target is a contraction for every `pi` and `mu`.
"""

import chex
import jax
import jax.numpy as jnp

from bellmax.losses._checks import Spec, check_arrays, check_scalars, promote
from bellmax.losses._masking import guarded


def check_lambda(lambda_: chex.Numeric) -> None:
    """Checks that lambda_ is a scalar in [0, 1]."""
    check_scalars(lambda_=lambda_, from_zero=("lambda_",), up_to_one=("lambda_",))


def taken(x_t: jax.Array, a_t: chex.Array) -> jax.Array:
    """[T] entries of [T, A] at the actions taken."""
    return jnp.take_along_axis(x_t, jnp.asarray(a_t)[:, None], axis=-1)[:, 0]


def _scaled(lambda_: jax.Array, ratios, *rows: jax.Array) -> jax.Array:
    """[T] coefficients `lambda * ratio`, with gradients of 0 where a row is not finite."""
    return guarded(lambda *rows: (lambda_ * ratios(*rows),), *rows)[0]


def retrace_coefficients(
    a_t: chex.Array,
    pi_t: chex.Array,
    mu_t: chex.Array,
    *,
    lambda_: chex.Numeric = 1.0,
    cap: chex.Numeric = 1.0,
) -> jax.Array:
    """Retrace, `c_t = lambda * min(cap, pi_t[a_t] / mu_t)`: safe for every behaviour.

    Args:
      a_t: [T] int in [0, A), actions taken.
      pi_t: [T, A] float, probabilities of the target policy, summing to 1 over actions.
      mu_t: [T] float in [0, 1], probability of a_t when it was chosen. No constant is added to it:
        at 0 the limit is used, so c_t is lambda * cap where pi_t[a_t] > 0 and 0 elsewhere.
      lambda_: in [0, 1]; 0 gives one-step expected SARSA.
      cap: above 0; the paper's 1 keeps the variance bounded.

    Returns:
      [T] float32 or wider in [0, lambda * cap].

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Munos et al. 2016, arXiv:1606.02647, section 3. Deviation: cap.
    """
    return retrace_ratios(a_t, pi_t, mu_t, lambda_, cap)


def retrace_ratios(a_t, pi_t, mu_t, lambda_, cap: chex.Numeric = 1.0, gradients=True) -> jax.Array:
    """`retrace_coefficients`, `guarded` if they have gradients."""
    check_arrays(a_t=Spec(a_t, "T", int), pi_t=Spec(pi_t, "TA"), mu_t=Spec(mu_t, "T"))
    check_scalars(cap=cap, above_zero=("cap",))
    check_lambda(lambda_)
    pi_t, mu_t, lambda_, cap = promote(pi_t, mu_t, lambda_, cap)
    pi_a_t = taken(pi_t, a_t)

    def ratios(pi_a_t, mu_t):
        # min(cap, x / y) as x / max(x / cap, y): exactly cap when capped, and never overflows.
        divisor = jnp.maximum(pi_a_t / cap, mu_t)
        return jnp.where(divisor > 0, pi_a_t / jnp.where(divisor > 0, divisor, 1.0), 0.0)

    return _scaled(lambda_, ratios, pi_a_t, mu_t) if gradients else lambda_ * ratios(pi_a_t, mu_t)


def importance_sampling_coefficients(
    a_t: chex.Array, pi_t: chex.Array, mu_t: chex.Array, *, lambda_: chex.Numeric = 1.0
) -> jax.Array:
    """Per-decision importance sampling, `c_t = lambda * pi_t[a_t] / mu_t`: unbounded variance.

    Args:
      a_t: [T] int in [0, A), actions taken.
      pi_t: [T, A] float, probabilities of the target policy, summing to 1 over actions.
      mu_t: [T] float in [0, 1], probability of a_t when it was chosen. Where it is 0 the ratio is
        undefined, and c_t is 0: the trace is cut.
      lambda_: in [0, 1]; 0 gives one-step expected SARSA.

    Returns:
      [T] float32 or wider, at least 0.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Precup et al. 2000; Munos et al. 2016, arXiv:1606.02647, table 1. Deviation: lambda_.
    """
    check_arrays(a_t=Spec(a_t, "T", int), pi_t=Spec(pi_t, "TA"), mu_t=Spec(mu_t, "T"))
    check_lambda(lambda_)
    pi_t, mu_t, lambda_ = promote(pi_t, mu_t, lambda_)

    def ratios(pi_a_t, mu_t):
        return jnp.where(mu_t > 0, pi_a_t / jnp.where(mu_t > 0, mu_t, 1.0), 0.0)

    return _scaled(lambda_, ratios, taken(pi_t, a_t), mu_t)


def tree_backup_coefficients(
    a_t: chex.Array, pi_t: chex.Array, *, lambda_: chex.Numeric = 1.0
) -> jax.Array:
    """Tree backup, `c_t = lambda * pi_t[a_t]`: needs no `mu`, cuts traces even on-policy.

    Args:
      a_t: [T] int in [0, A), actions taken.
      pi_t: [T, A] float, probabilities of the target policy, summing to 1 over actions.
      lambda_: in [0, 1]; 0 gives one-step expected SARSA.

    Returns:
      [T] float32 or wider in [0, lambda].

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Precup et al. 2000; Munos et al. 2016, arXiv:1606.02647, table 1.
    """
    check_arrays(a_t=Spec(a_t, "T", int), pi_t=Spec(pi_t, "TA"))
    check_lambda(lambda_)
    pi_t, lambda_ = promote(pi_t, lambda_)
    return _scaled(lambda_, lambda pi_a_t: pi_a_t, taken(pi_t, a_t))


def q_lambda_coefficients(a_t: chex.Array, *, lambda_: chex.Numeric = 1.0) -> jax.Array:
    """Harutyunyan's Q(lambda), `c_t = lambda`: never cuts, safe only near on-policy.

    The expected target is a contraction where `lambda * max_x |pi - mu|_1 < (1 - gamma) / gamma`.
    Distributional targets then have negative weights, even in expectation.

    Args:
      a_t: [T] int, actions taken; only its length is used.
      lambda_: in [0, 1].

    Returns:
      [T] float32 or wider, each lambda.

    Raises:
      ValueError: a rank, dtype or range differs from the above; names the argument.

    Source: Harutyunyan et al. 2016, arXiv:1602.04951.
    """
    check_arrays(a_t=Spec(a_t, "T", int))
    check_lambda(lambda_)
    _, lambda_ = promote(jnp.zeros((), jnp.float32), lambda_)
    return jnp.full(jnp.shape(a_t), lambda_)


def watkins_coefficients(
    a_t: chex.Array, q_t: chex.Array, *, lambda_: chex.Numeric = 1.0
) -> jax.Array:
    """Watkins' Q(lambda), `c_t = lambda` where a_t is greedy and 0 where it is not.

    This is Retrace for the greedy policy and needs no `mu`. All actions that attain the maximum
    are greedy.

    Args:
      a_t: [T] int in [0, A), actions taken.
      q_t: [T, A] float, the action values that define the policy.
      lambda_: in [0, 1].

    Returns:
      [T] float32 or wider, each 0 or lambda.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Watkins 1989; Sutton and Barto 2018, section 12.10.
    """
    check_arrays(a_t=Spec(a_t, "T", int), q_t=Spec(q_t, "TA"))
    check_lambda(lambda_)
    q_t, lambda_ = promote(q_t, lambda_)
    # By index too: XLA may round the maximum and the values differently.
    greedy = (taken(q_t, a_t) >= jnp.max(q_t, axis=-1)) | (jnp.argmax(q_t, axis=-1) == a_t)
    return lambda_ * greedy.astype(q_t.dtype)
