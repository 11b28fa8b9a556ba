"""VA-learning: a value and a centred advantage, both bootstrapped from the same target.

The estimate is `q = v + advantage`, where the advantage has mean 0 under the *behaviour* policy mu
that chose the actions, so v converges to the mean of q over mu. Every transition from a state
updates v, and thereby the estimates of actions that were not taken.

There are two losses. `va_learning` regresses v and the advantage separately;
`behaviour_dueling_q_learning` regresses their sum. For squared errors and actions drawn from mu
both have the same expected gradient; per example they differ, and with a Huber loss they agree only
in its quadratic range.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from bellmax.losses._checks import NUMBER, Spec, check_arrays, promote, widen
from bellmax.losses._masking import finite_where, weighted_sum
from bellmax.losses.value import log_softmax


class VAErrors(NamedTuple):
    """TD errors of VA-learning; the loss sums half their squares or their Huber losses.

    Attributes:
      value: [] float, target minus the state's value.
      advantage: [] float, target minus baseline minus the advantage of the action taken.
    """

    value: jax.Array
    advantage: jax.Array


def behaviour_centred(f: chex.Array, mu: chex.Array) -> jax.Array:
    """Advantages with mean 0 under mu: `f - sum_b mu[b] * f[b]`.

    Invariant to a constant added to f. A uniform mu gives the standard dueling head.

    Args:
      f: [A] float, raw advantages, in units of return; finite where mu is not 0.
      mu: [A] float, probabilities of the behaviour policy, summing to 1. With replay these are the
        frequencies of actions in the buffer, which `behaviour_likelihood_loss` learns. Constant to
        the gradient.

    Returns:
      [A] float32 or wider, in units of return. Gradients flow to f.

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: Tang et al. 2023, arXiv:2305.18161.
    """
    check_arrays(f=Spec(f, "A"), mu=Spec(mu, "A"))
    f, mu = promote(f, mu)
    return f - weighted_sum(jax.lax.stop_gradient(mu), f)


def behaviour_likelihood_loss(logits: chex.Array, a: chex.Numeric) -> jax.Array:
    """Negative log-likelihood of a replayed action, to learn the behaviour policy.

    Args:
      logits: [A] float, of the behaviour head; -inf marks an action that is not allowed.
      a: [] int in [0, A), the action that was taken.

    Returns:
      [] float32 or wider, `-log softmax(logits)[a]`.

    Raises:
      ValueError: a rank or dtype differs from the above; names the argument.

    Source: maximum likelihood; Tang et al. 2023, arXiv:2305.18161, need mu.
    """
    check_arrays(logits=Spec(logits, "A"), a=Spec(a, "", int))
    return -log_softmax(widen(logits))[a]


def va_target(
    r_t: chex.Numeric,
    discount_t: chex.Numeric,
    v_t: chex.Numeric,
    advantage_t: chex.Array,
    *,
    selector_t: chex.Array | None = None,
) -> jax.Array:
    """`r_t + discount_t * (v_t + max advantage_t)`, the regression target of both losses.

    Args:
      r_t: [] float, the reward that the action earned.
      discount_t: [] float, gamma, or 0 where the environment terminated.
      v_t: [] float, value at t, usually of the target network.
      advantage_t: [A] float, advantages at t of the same network, from `behaviour_centred`.
      selector_t: [A] float, values at t whose argmax selects the action; None means advantage_t.
        Values of the online network give the target of double Q-learning. Has no gradient.

    Returns:
      [] float32 or wider, in units of return. Gradients flow: the caller stops them.

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: Tang et al. 2023, arXiv:2305.18161. Deviation: selector_t, van Hasselt et al. 2015,
    arXiv:1509.06461.
    """
    selector = advantage_t if selector_t is None else selector_t
    check_arrays(
        r_t=Spec(r_t, "", NUMBER),
        discount_t=Spec(discount_t, "", NUMBER),
        v_t=Spec(v_t, ""),
        advantage_t=Spec(advantage_t, "A"),
        selector_t=Spec(selector, "A"),
    )
    r_t, discount_t, v_t, advantage_t = promote(r_t, discount_t, v_t, advantage_t)
    q_t = v_t + advantage_t[jnp.argmax(jnp.asarray(selector))]
    return r_t + discount_t * finite_where(discount_t == 0, q_t)


def va_errors(
    v_tm1: chex.Numeric,
    advantage_tm1: chex.Array,
    a_tm1: chex.Numeric,
    baseline_tm1: chex.Numeric,
    target_tm1: chex.Numeric,
    *,
    stop_target_gradients: bool = True,
) -> VAErrors:
    """TD errors of VA-learning against any target: n-step, Retrace, or a policy's value.

    Args:
      v_tm1: [] float, value at t-1, in units of return.
      advantage_tm1: [A] float, advantages at t-1, from `behaviour_centred`.
      a_tm1: [] int in [0, A), the action taken at t-1.
      baseline_tm1: [] float, subtracted from the target of the advantage; may be any function of
        the state, such as the target network's value at t-1, which is close to the target of v.
      target_tm1: [] float, target of `v + advantage`.
      stop_target_gradients: whether target and baseline are constants to the gradient.

    Returns:
      `VAErrors`, two TD errors, [] float32 or wider each.

    Raises:
      ValueError: a rank or dtype differs from the above; names the argument.

    Source: Tang et al. 2023, arXiv:2305.18161.
    """
    check_arrays(
        v_tm1=Spec(v_tm1, ""),
        advantage_tm1=Spec(advantage_tm1, "A"),
        a_tm1=Spec(a_tm1, "", int),
        baseline_tm1=Spec(baseline_tm1, ""),
        target_tm1=Spec(target_tm1, ""),
    )
    arrays = promote(v_tm1, advantage_tm1, baseline_tm1, target_tm1)
    v_tm1, advantage_tm1, baseline, target = arrays
    if stop_target_gradients:
        target, baseline = jax.lax.stop_gradient((target, baseline))
    return VAErrors(target - v_tm1, target - baseline - advantage_tm1[a_tm1])


def va_learning(
    v_tm1: chex.Numeric,
    advantage_tm1: chex.Array,
    a_tm1: chex.Numeric,
    baseline_tm1: chex.Numeric,
    r_t: chex.Numeric,
    discount_t: chex.Numeric,
    v_t: chex.Numeric,
    advantage_t: chex.Array,
    *,
    selector_t: chex.Array | None = None,
    stop_target_gradients: bool = True,
) -> VAErrors:
    """TD errors of one-step VA-learning: `va_errors` against `va_target`.

    Args:
      v_tm1: [] float, value at t-1, in units of return.
      advantage_tm1: [A] float, advantages at t-1, from `behaviour_centred`.
      a_tm1: [] int in [0, A), the action taken at t-1.
      baseline_tm1: [] float, subtracted from the target of the advantage; may be any function of
        the state, such as the target network's value at t-1, which is close to the target of v.
      r_t: [] float, the reward that the action earned.
      discount_t: [] float, gamma, or 0 where the environment terminated.
      v_t: [] float, value at t, usually of the target network.
      advantage_t: [A] float, advantages at t of the same network, from `behaviour_centred`.
      selector_t: [A] float, values at t whose argmax selects the action; None means advantage_t.
        Values of the online network give the target of double Q-learning. Has no gradient.
      stop_target_gradients: whether target and baseline are constants to the gradient.

    Returns:
      `VAErrors`, two TD errors, [] float32 or wider each.

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: Tang et al. 2023, arXiv:2305.18161.
    """
    check_arrays(advantage_tm1=Spec(advantage_tm1, "A"), advantage_t=Spec(advantage_t, "A"))
    target = va_target(r_t, discount_t, v_t, advantage_t, selector_t=selector_t)
    online = v_tm1, advantage_tm1, a_tm1, baseline_tm1
    return va_errors(*online, target, stop_target_gradients=stop_target_gradients)


def behaviour_dueling_q_learning(
    v_tm1: chex.Numeric,
    advantage_tm1: chex.Array,
    a_tm1: chex.Numeric,
    r_t: chex.Numeric,
    discount_t: chex.Numeric,
    v_t: chex.Numeric,
    advantage_t: chex.Array,
    *,
    selector_t: chex.Array | None = None,
    stop_target_gradients: bool = True,
) -> jax.Array:
    """TD error of Q-learning with the head `v + advantage`: `va_target - v_tm1 - advantage_tm1[a]`.

    Args:
      v_tm1: [] float, value at t-1, in units of return.
      advantage_tm1: [A] float, advantages at t-1, from `behaviour_centred`.
      a_tm1: [] int in [0, A), the action taken at t-1.
      r_t: [] float, the reward that the action earned.
      discount_t: [] float, gamma, or 0 where the environment terminated.
      v_t: [] float, value at t, usually of the target network.
      advantage_t: [A] float, advantages at t of the same network, from `behaviour_centred`.
      selector_t: [A] float, values at t whose argmax selects the action; None means advantage_t.
        Values of the online network give the target of double Q-learning. Has no gradient.
      stop_target_gradients: whether the target is a constant to the gradient.

    Returns:
      [] float32 or wider, target minus prediction.

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: Tang et al. 2023, arXiv:2305.18161; Wang et al. 2015, arXiv:1511.06581, for uniform mu.
    """
    check_arrays(
        v_tm1=Spec(v_tm1, ""),
        advantage_tm1=Spec(advantage_tm1, "A"),
        a_tm1=Spec(a_tm1, "", int),
        advantage_t=Spec(advantage_t, "A"),
    )
    target = va_target(r_t, discount_t, v_t, advantage_t, selector_t=selector_t)
    if stop_target_gradients:
        target = jax.lax.stop_gradient(target)
    return target - widen(v_tm1) - widen(advantage_tm1)[a_tm1]
