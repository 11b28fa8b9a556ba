"""Off-policy corrected multi-step value learning: Retrace and related methods, and V-trace.

With the correction the fixed point of the expected target is the value of the target policy `pi`
for any behaviour policy. `q_lambda.py` has the uncorrected methods.

| method | call | fixed point of the expected target |
|---|---|---|
| Retrace, tree backup, importance sampling | `off_policy_td` with their `c_t` | Q^pi, any mu |
| Harutyunyan's Q(lambda) | `off_policy_td` with its `c_t` | Q^pi, mu close to pi |
| V-trace | `v_trace` | V of the policy proportional to min(clip_rho * mu, pi) |

Row i is the transition from step i to i + 1; `q_t[i]`, `a_t[i]` and `pi_t[i]` belong to step i +
1. `trace_t[i]` is 0 where step i + 1 is the last of its episode: the target bootstraps from that
step and later rows have no effect (they must be finite). The last row always bootstraps. The
recursions are rlax's; bellmax adds the checks and the mask.
"""

import chex
import jax
import jax.numpy as jnp

from bellmax.losses._checks import Spec, check_arrays, check_scalars, widen
from bellmax.losses._path import masked
from bellmax.losses._rlax import rlax
from bellmax.losses.traces import check_lambda, retrace_coefficients


def check_prediction(q_tm1: chex.Array, a_tm1: chex.Array) -> None:
    """Checks the arguments of the predictions of a window."""
    check_arrays(q_tm1=Spec(q_tm1, "TA"), a_tm1=Spec(a_tm1, "T", int))


def error_of(q_tm1: chex.Array, a_tm1: chex.Array, target: jax.Array, stop: bool) -> jax.Array:
    """[T] target minus prediction."""
    target = jax.lax.stop_gradient(target) if stop else target
    return target - jnp.take_along_axis(widen(q_tm1), jnp.asarray(a_tm1)[:, None], axis=-1)[:, 0]


def off_policy_returns(
    r_t: chex.Array,
    discount_t: chex.Array,
    q_t: chex.Array,
    a_t: chex.Array,
    pi_t: chex.Array,
    c_t: chex.Array,
    trace_t: chex.Array,
) -> jax.Array:
    """Off-policy target of every step of a window; `c_t` (see `traces.py`) selects the method.

    `G[i] = r[i] + discount[i] * (<pi[i], q[i]> + trace[i] * c[i] * (G[i + 1] - q[i, a[i]]))`.

    Args:
      r_t: [T] float, rewards.
      discount_t: [T] float, gamma, or 0 where the environment terminated.
      q_t: [T, A] float, action values at the next observation, in units of return.
      a_t: [T] int in [0, A), the action taken there.
      pi_t: [T, A] float, the target policy there, summing to 1 over actions.
      c_t: [T] float, trace coefficients of the taken actions; the last is not used.
      trace_t: [T] float in [0, 1], 0 where the step that followed is the last of its episode.

    Returns:
      [T] float32 or wider, in units of return. Gradients flow: the caller stops them.

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: Munos et al. 2016, arXiv:1606.02647, eq. 3.
    Calls rlax.general_off_policy_returns_from_action_values.
    """
    check_arrays(
        r_t=Spec(r_t, "T"),
        discount_t=Spec(discount_t, "T"),
        q_t=Spec(q_t, "TA"),
        a_t=Spec(a_t, "T", int),
        pi_t=Spec(pi_t, "TA"),
        c_t=Spec(c_t, "T"),
        trace_t=Spec(trace_t, "T"),
    )
    r_t, discount_t, q_t, pi_t = map(widen, (r_t, discount_t, q_t, pi_t))
    returns = rlax.general_off_policy_returns_from_action_values(
        q_t, a_t, r_t, discount_t, masked(c_t, trace_t), pi_t
    )
    return jnp.asarray(returns)


def off_policy_td(
    q_tm1: chex.Array,
    a_tm1: chex.Array,
    r_t: chex.Array,
    discount_t: chex.Array,
    q_t: chex.Array,
    a_t: chex.Array,
    pi_t: chex.Array,
    c_t: chex.Array,
    trace_t: chex.Array,
    *,
    stop_target_gradients: bool = True,
) -> jax.Array:
    """TD error of every step of a window: `off_policy_returns - q_tm1[a_tm1]`.

    Args:
      q_tm1: [T, A] float, online values where the actions were taken.
      a_tm1: [T] int in [0, A), the actions taken; within the window `a_t[i]` is `a_tm1[i + 1]`.
      r_t, discount_t, q_t, a_t, pi_t, c_t, trace_t: as in `off_policy_returns`.
      stop_target_gradients: whether the target is a constant to the gradient.

    Returns:
      [T] float32 or wider, target minus prediction.

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: Munos et al. 2016, arXiv:1606.02647.
    """
    check_prediction(q_tm1, a_tm1)
    check_arrays(q_tm1=Spec(q_tm1, "TA"), q_t=Spec(q_t, "TA"))
    target = off_policy_returns(r_t, discount_t, q_t, a_t, pi_t, c_t, trace_t)
    return error_of(q_tm1, a_tm1, target, stop_target_gradients)


def retrace(
    q_tm1: chex.Array,
    a_tm1: chex.Array,
    r_t: chex.Array,
    discount_t: chex.Array,
    q_t: chex.Array,
    a_t: chex.Array,
    pi_t: chex.Array,
    mu_t: chex.Array,
    trace_t: chex.Array,
    *,
    lambda_: chex.Numeric = 1.0,
    stop_target_gradients: bool = True,
) -> jax.Array:
    """TD error of Retrace(lambda), `c_t = lambda * min(1, pi_t[a_t] / mu_t)`: `off_policy_td`.

    Args:
      q_tm1, a_tm1, r_t, discount_t, q_t, a_t, pi_t, trace_t: as in `off_policy_td`.
      mu_t, lambda_: as in `retrace_coefficients`.
      stop_target_gradients: whether the target is a constant to the gradient.

    Returns:
      [T] float32 or wider, target minus prediction.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Munos et al. 2016, arXiv:1606.02647. rlax.retrace adds 1e-8 to mu and has no mask.
    """
    check_prediction(q_tm1, a_tm1)
    c_t = retrace_coefficients(a_t, pi_t, mu_t, lambda_=lambda_)
    arrays = (q_tm1, a_tm1, r_t, discount_t, q_t, a_t, pi_t, c_t, trace_t)
    return off_policy_td(*arrays, stop_target_gradients=stop_target_gradients)


def v_trace(
    v_tm1: chex.Array,
    r_t: chex.Array,
    discount_t: chex.Array,
    v_t: chex.Array,
    rho_tm1: chex.Array,
    trace_t: chex.Array,
    *,
    lambda_: chex.Numeric = 1.0,
    clip_rho: chex.Numeric = 1.0,
    stop_target_gradients: bool = True,
) -> jax.Array:
    """TD error of V-trace: off-policy learning of state values.

    `e[i] = min(clip_rho, rho[i]) * (r[i] + discount[i] * v_t[i] - v_tm1[i]) + discount[i] *
    trace[i] * lambda * min(1, rho[i]) * e[i + 1]`. Unlike `c_t` in the other methods, `rho_tm1[i]`
    belongs to the action that earned `r_t[i]`.

    Args:
      v_tm1: [T] float, values where the actions were taken.
      r_t, discount_t, trace_t: as in `off_policy_returns`.
      v_t: [T] float, values of the observations that followed.
      rho_tm1: [T] float, at least 0: pi / mu of the actions.
      lambda_: in [0, 1].
      clip_rho: above 0, bound of the ratio that determines the fixed point; inf gives V^pi.
      stop_target_gradients: whether the target is a constant to the gradient.

    Returns:
      [T] float32 or wider, target minus prediction.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Espeholt et al. 2018, arXiv:1802.01561, eq. 1 with c_bar = 1. Calls rlax.vtrace.
    """
    arrays = {"v_tm1": v_tm1, "r_t": r_t, "discount_t": discount_t, "v_t": v_t}
    arrays |= {"rho_tm1": rho_tm1, "trace_t": trace_t}
    check_arrays(**{name: Spec(x, "T") for name, x in arrays.items()})
    check_scalars(clip_rho=clip_rho, above_zero=("clip_rho",))
    check_lambda(lambda_)
    v_tm1, r_t, discount_t, v_t, rho_tm1, trace_t = map(widen, arrays.values())
    error = rlax.vtrace(
        v_tm1,
        v_t,
        r_t,
        discount_t,
        rho_tm1,
        lambda_ * trace_t,
        clip_rho,  # pyright: ignore[reportArgumentType]  # annotated as a float; may be traced
        stop_target_gradients,
    )
    return jnp.asarray(error)
