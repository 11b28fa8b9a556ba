"""One-step Munchausen value learning: the log-probability of the action is added to the reward.

Policies are the softmax of *target* values, `pi = softmax(target_q / temperature)`, at t-1 and t.
`munchausen_n_step.py` has the multi-step form, `munchausen_tabular.py` the exact operator.
"""

import chex
import jax
import jax.numpy as jnp

from bellmax.losses._checks import NUMBER, Spec, check_arrays, check_scalars, promote, widen
from bellmax.losses._masking import finite_where
from bellmax.losses.huber import huber
from bellmax.losses.value import soft_parts


def check_hyper_parameters(**values: chex.Numeric) -> None:
    """Checks that named hyper-parameters of Munchausen losses are scalars and in range."""
    ranges = {"from_zero": ("alpha",), "up_to_one": ("alpha",)}
    check_scalars(**values, above_zero=("temperature",), up_to_zero=("clip",), **ranges)


def scaled_log_policy(q: chex.Array, *, temperature: chex.Numeric) -> jax.Array:
    """`temperature * log softmax(q / temperature)`, finite for any finite values.

    Args:
      q: [A] float, action values.
      temperature: above 0, in units of q.

    Returns:
      [A] float32 or wider, at most 0, in units of q.

    Raises:
      ValueError: a rank, dtype or range differs from the above; names the argument.

    Source: Vieillard et al. 2020, arXiv:2007.14430.
    """
    check_arrays(q=Spec(q, "A"))
    check_hyper_parameters(temperature=temperature)
    parts = soft_parts(q, temperature)
    return parts.offsets - parts.excess


def scaled_log_probability(q: chex.Array, a: chex.Numeric, temperature: chex.Numeric) -> jax.Array:
    """Entry `a` of `scaled_log_policy`, without checks; used by one-step and n-step targets."""
    parts = soft_parts(q, temperature)
    return parts.offsets[a] - parts.excess


def munchausen_term(
    target_q_tm1: chex.Array,
    a_tm1: chex.Numeric,
    *,
    temperature: chex.Numeric = 0.03,
    clip: chex.Numeric = -1.0,
) -> jax.Array:
    """The Munchausen term before weighting by alpha: `max(clip, tau * log pi(a_tm1))`.

    The clip applies to the *scaled* log-policy. No upper bound is needed: the scaled log-policy is
    at most 0, also in floating point.

    Args:
      target_q_tm1: [A] float, target network's action values at t-1.
      a_tm1: [] int in [0, A), the action taken at t-1.
      temperature: above 0, in units of return.
      clip: lower bound, at most 0, in units of return; -inf for none.

    Returns:
      [] float32 or wider in [clip, 0], in units of return.

    Raises:
      ValueError: a rank, dtype or range differs from the above; names the argument.

    Source: Vieillard et al. 2020, arXiv:2007.14430.
    """
    check_arrays(target_q_tm1=Spec(target_q_tm1, "A"), a_tm1=Spec(a_tm1, "", int))
    check_hyper_parameters(temperature=temperature, clip=clip)
    return jnp.maximum(scaled_log_probability(target_q_tm1, a_tm1, temperature), clip)


def munchausen_target(
    a_tm1: chex.Numeric,
    r_t: chex.Numeric,
    discount_t: chex.Numeric,
    target_q_tm1: chex.Array,
    target_q_t: chex.Array,
    *,
    temperature: chex.Numeric = 0.03,
    alpha: chex.Numeric = 0.9,
    clip: chex.Numeric = -1.0,
) -> jax.Array:
    """`r_t + alpha * munchausen_term + discount_t * soft_value(target_q_t)`.

    Termination (`discount_t` = 0) masks only the bootstrap, never the Munchausen term.

    Args:
      a_tm1: [] int in [0, A), the action taken at t-1.
      r_t: [] float, the reward that it earned.
      discount_t: [] float, gamma, or 0 where the environment terminated.
      target_q_tm1: [A] float, target network's action values at t-1.
      target_q_t: [A] float, target network's action values at t.
      temperature: above 0, in units of return.
      alpha: weight of the Munchausen term, in [0, 1]; 0 gives soft Q-learning.
      clip: lower bound of the unweighted term, at most 0; -inf for none.

    Returns:
      [] float32 or wider, in units of return. Gradients flow: the caller stops them.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Vieillard et al. 2020, arXiv:2007.14430; defaults from the authors' training code.
    """
    check_arrays(
        a_tm1=Spec(a_tm1, "", int),
        r_t=Spec(r_t, "", NUMBER),
        discount_t=Spec(discount_t, "", NUMBER),
        target_q_tm1=Spec(target_q_tm1, "A"),
        target_q_t=Spec(target_q_t, "A"),
    )
    check_hyper_parameters(temperature=temperature, alpha=alpha, clip=clip)
    arrays = promote(r_t, discount_t, target_q_tm1, target_q_t)
    r_t, discount_t, target_q_tm1, target_q_t = arrays
    log_pi = scaled_log_probability(target_q_tm1, a_tm1, temperature)
    # The sum over actions of pi * (q - tau * log pi) in closed form: one reduction, no 0 * inf.
    at_t = soft_parts(finite_where(discount_t == 0, target_q_t), temperature)
    term = alpha * jnp.maximum(log_pi, clip)
    return r_t + term + discount_t * (at_t.maximum + at_t.excess)


def munchausen_q_learning(
    q_tm1: chex.Array,
    a_tm1: chex.Numeric,
    r_t: chex.Numeric,
    discount_t: chex.Numeric,
    target_q_tm1: chex.Array,
    target_q_t: chex.Array,
    *,
    temperature: chex.Numeric = 0.03,
    alpha: chex.Numeric = 0.9,
    clip: chex.Numeric = -1.0,
    stop_target_gradients: bool = True,
) -> jax.Array:
    """TD error of Munchausen Q-learning: `munchausen_target - q_tm1[a_tm1]`.

    Args:
      q_tm1: [A] float, online network's action values at t-1.
      a_tm1: [] int in [0, A), the action taken at t-1.
      r_t: [] float, the reward that it earned.
      discount_t: [] float, gamma, or 0 where the environment terminated.
      target_q_tm1: [A] float, target network's action values at t-1.
      target_q_t: [A] float, target network's action values at t.
      temperature: above 0, in units of return.
      alpha: weight of the Munchausen term, in [0, 1]; 0 gives soft Q-learning.
      clip: lower bound of the unweighted term, at most 0; -inf for none.
      stop_target_gradients: whether the target is a constant to the gradient; False allows learning
        hyper-parameters through it.

    Returns:
      [] float32 or wider, target minus prediction, in units of return.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Vieillard et al. 2020, arXiv:2007.14430.
    """
    check_arrays(q_tm1=Spec(q_tm1, "A"), target_q_tm1=Spec(target_q_tm1, "A"))
    hyper = {"temperature": temperature, "alpha": alpha, "clip": clip}
    target = munchausen_target(a_tm1, r_t, discount_t, target_q_tm1, target_q_t, **hyper)
    if stop_target_gradients:
        target = jax.lax.stop_gradient(target)
    return target - widen(q_tm1)[a_tm1]


def munchausen_loss(
    q_tm1: chex.Array,
    a_tm1: chex.Numeric,
    r_t: chex.Numeric,
    discount_t: chex.Numeric,
    target_q_tm1: chex.Array,
    target_q_t: chex.Array,
    *,
    temperature: chex.Numeric = 0.03,
    alpha: chex.Numeric = 0.9,
    clip: chex.Numeric = -1.0,
    huber_delta: chex.Numeric = 1.0,
    stop_target_gradients: bool = True,
) -> jax.Array:
    """Loss of M-DQN on one transition: the Huber loss of the `munchausen_q_learning` TD error.

    Args:
      q_tm1: [A] float, online network's action values at t-1.
      a_tm1: [] int in [0, A), the action taken at t-1.
      r_t: [] float, the reward that it earned.
      discount_t: [] float, gamma, or 0 where the environment terminated.
      target_q_tm1: [A] float, target network's action values at t-1.
      target_q_t: [A] float, target network's action values at t.
      temperature: above 0, in units of return.
      alpha: weight of the Munchausen term, in [0, 1]; 0 gives soft Q-learning.
      clip: lower bound of the unweighted term, at most 0; -inf for none.
      huber_delta: above 0, in units of return: a larger TD error is penalised linearly; inf gives
        half the squared error.
      stop_target_gradients: whether the target is a constant to the gradient; False allows learning
        hyper-parameters through it.

    Returns:
      [] float32 or wider; the caller takes the mean over a batch.

    Raises: as `munchausen_q_learning`.

    Source: Vieillard et al. 2020, arXiv:2007.14430.
    """
    check_scalars(huber_delta=huber_delta, above_zero=("huber_delta",))
    arrays = (q_tm1, a_tm1, r_t, discount_t, target_q_tm1, target_q_t)
    hyper = {"temperature": temperature, "alpha": alpha, "clip": clip}
    td_error = munchausen_q_learning(*arrays, **hyper, stop_target_gradients=stop_target_gradients)
    return huber(td_error, huber_delta)
