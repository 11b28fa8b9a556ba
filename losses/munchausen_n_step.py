"""n-step Munchausen value learning, by unrolling Munchausen value iteration.

The paper bootstraps after one step. The soft value that it bootstraps from is an expectation,
`soft_value(q_t) = E_pi[q_t[a_t] - tau * log pi(a_t)]`; sampling a_t and replacing `q_t[a_t]` by the
target of the next step unrolls it by a step. Every step but the first therefore has two terms for
its action: the Munchausen term, clipped and multiplied by alpha, and the entropy bonus
`-tau * log pi`, unclipped and unweighted. As in any uncorrected n-step method, there is no
correction for actions of another policy.
"""

import chex
import jax
import jax.numpy as jnp

from bellmax.losses._checks import NUMBER, Spec, check_arrays, promote, widen
from bellmax.losses._masking import backward_sums, ends_of, finite_where, guarded, recursion
from bellmax.losses.munchausen import check_hyper_parameters, scaled_log_probability
from bellmax.losses.value import soft_parts


def munchausen_lambda_returns(
    a_tm1: chex.Array,
    r_t: chex.Array,
    discount_t: chex.Array,
    target_q_tm1: chex.Array,
    target_q_t: chex.Array,
    trace_t: chex.Array,
    *,
    temperature: chex.Numeric = 0.03,
    alpha: chex.Numeric = 0.9,
    clip: chex.Numeric = -1.0,
) -> jax.Array:
    """Munchausen target of every step of a sequence, each unrolled until its trace is cut.

    With `log_pi` the scaled log-probability of the action taken, L the soft value, and i a row:
    `G[i] = r[i] + alpha * max(clip, log_pi[i])
    + discount[i] * ((1 - trace[i]) * L[i] + trace[i] * (G[i + 1] - log_pi[i + 1]))`.

    Args:
      a_tm1: [T] int in [0, A), actions taken.
      r_t: [T] float, the rewards that they earned.
      discount_t: [T] float, gamma, or 0 where the environment terminated.
      target_q_tm1: [T, A] float, target network's values where the action was taken.
      target_q_t: [T, A] float, target network's values at the next observation.
      trace_t: [T] float in [0, 1]; 0 where that observation is the last of its episode or window:
        the return bootstraps from it and later rows have no effect. The last row always bootstraps.
      temperature: above 0, in units of return.
      alpha: weight of the Munchausen term, in [0, 1]; 0 gives soft Q-learning.
      clip: lower bound of the unweighted term, at most 0; -inf for none.

    Returns:
      [T] float32 or wider, in units of return. Gradients flow: the caller stops them.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Vieillard et al. 2020, arXiv:2007.14430. Deviation: the paper has T = 1 only.
    """
    check_arrays(
        a_tm1=Spec(a_tm1, "T", int),
        r_t=Spec(r_t, "T", NUMBER),
        discount_t=Spec(discount_t, "T", NUMBER),
        target_q_tm1=Spec(target_q_tm1, "TA"),
        target_q_t=Spec(target_q_t, "TA"),
        trace_t=Spec(trace_t, "T", NUMBER),
    )
    check_hyper_parameters(temperature=temperature, alpha=alpha, clip=clip)
    arrays = (r_t, discount_t, target_q_tm1, target_q_t, trace_t, temperature, alpha, clip)
    r_t, discount_t, target_q_tm1, target_q_t, trace_t, *hyper = promote(*arrays)
    temperature, alpha, clip = hyper
    trace_t = jnp.where(ends_of(discount_t, trace_t), 0.0, trace_t)

    def log_policy(q):
        each = jax.vmap(scaled_log_probability, (0, 0, None))
        return (each(q, jnp.asarray(a_tm1), temperature),)

    def soft_values(q):
        at_t = soft_parts(q, temperature)
        return (at_t.maximum + at_t.excess,)

    def parts(r_t, discount_t, term, entropy_t, v_t, trace_t):
        later = (1.0 - trace_t) * v_t + trace_t * entropy_t
        return r_t + alpha * term + discount_t * later, discount_t * trace_t

    (log_pi,) = guarded(log_policy, target_q_tm1)
    (v_t,) = guarded(soft_values, finite_where(discount_t == 0, target_q_t))
    # The entropy bonus of the next step counts only where the trace continues.
    entropy_t = finite_where(trace_t == 0, -jnp.roll(log_pi, -1))
    rows = r_t, discount_t, jnp.maximum(log_pi, clip), entropy_t, finite_where(trace_t == 1, v_t)
    return backward_sums(*recursion(parts, *rows, trace_t))


def n_step_munchausen_q_learning(
    q_tm1: chex.Array,
    a_tm1: chex.Array,
    r_t: chex.Array,
    discount_t: chex.Array,
    target_q_tm1: chex.Array,
    target_q_t: chex.Array,
    trace_t: chex.Array,
    *,
    temperature: chex.Numeric = 0.03,
    alpha: chex.Numeric = 0.9,
    clip: chex.Numeric = -1.0,
    stop_target_gradients: bool = True,
) -> jax.Array:
    """TD error of the first step of a window against its n-step Munchausen target, n = T.

    Args:
      q_tm1: [A] float, online network's values of the window's first observation.
      a_tm1: [T] int in [0, A), actions taken.
      r_t: [T] float, the rewards that they earned.
      discount_t: [T] float, gamma, or 0 where the environment terminated.
      target_q_tm1: [T, A] float, target network's values where the action was taken.
      target_q_t: [T, A] float, target network's values at the next observation.
      trace_t: [T] float in [0, 1]; 0 where that observation is the last of its episode or window:
        the return bootstraps from it and later rows have no effect. The last row always bootstraps.
      temperature: above 0, in units of return.
      alpha: weight of the Munchausen term, in [0, 1]; 0 gives soft Q-learning.
      clip: lower bound of the unweighted term, at most 0; -inf for none.
      stop_target_gradients: whether the target is a constant to the gradient.

    Returns:
      [] float32 or wider, target minus prediction; T = 1 is `munchausen_q_learning`.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Vieillard et al. 2020, arXiv:2007.14430. Deviation: the paper has T = 1 only.
    """
    check_arrays(q_tm1=Spec(q_tm1, "A"), target_q_tm1=Spec(target_q_tm1, "TA"))
    hyper = {"temperature": temperature, "alpha": alpha, "clip": clip}
    returns = munchausen_lambda_returns(
        a_tm1, r_t, discount_t, target_q_tm1, target_q_t, trace_t, **hyper
    )
    target = jax.lax.stop_gradient(returns[0]) if stop_target_gradients else returns[0]
    return target - widen(q_tm1)[jnp.asarray(a_tm1)[0]]
