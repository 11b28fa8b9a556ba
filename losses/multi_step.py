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
step and later rows have no effect, whatever they hold. The last row always bootstraps. rlax has the
same recursions without the mask: there a nan past a cut reaches every row.
"""

import chex
import jax
import jax.numpy as jnp

from bellmax.losses._checks import NUMBER, Spec, check_arrays, check_scalars, promote, widen
from bellmax.losses._masking import backward_sums, ends_of, finite_where, recursion, weighted_sum
from bellmax.losses.traces import check_lambda, retrace_ratios, taken


def check_prediction(q_tm1: chex.Array, a_tm1: chex.Array) -> None:
    """Checks the arguments of the predictions of a window."""
    check_arrays(q_tm1=Spec(q_tm1, "TA"), a_tm1=Spec(a_tm1, "T", int))


def error_of(q_tm1: chex.Array, a_tm1: chex.Array, target: jax.Array, stop: bool) -> jax.Array:
    """[T] target minus prediction."""
    target = jax.lax.stop_gradient(target) if stop else target
    return target - taken(widen(q_tm1), a_tm1)


def minus_value(error: jax.Array, v_tm1: jax.Array) -> jax.Array:
    """The error, with the gradient of `target - v_tm1` for a constant target.

    Not `(error + v_tm1) - v_tm1`, which would round a small error of a large value to 0.
    """
    return jax.lax.stop_gradient(error) - (v_tm1 - jax.lax.stop_gradient(v_tm1))


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
    """
    _check_window(r_t, discount_t, q_t, a_t, pi_t, c_t, trace_t)
    return _returns(r_t, discount_t, q_t, a_t, pi_t, c_t, trace_t)


def _check_window(r_t, discount_t, q_t, a_t, pi_t, c_t, trace_t) -> None:
    check_arrays(
        r_t=Spec(r_t, "T", NUMBER),
        discount_t=Spec(discount_t, "T", NUMBER),
        q_t=Spec(q_t, "TA"),
        a_t=Spec(a_t, "T", int),
        pi_t=Spec(pi_t, "TA"),
        c_t=Spec(c_t, "T"),
        trace_t=Spec(trace_t, "T", NUMBER),
    )


def _returns(r_t, discount_t, q_t, a_t, pi_t, c_t, trace_t, gradients: bool = True) -> jax.Array:
    """`off_policy_returns` without checks."""
    arrays = promote(r_t, discount_t, q_t, pi_t, c_t, trace_t)
    r_t, discount_t, q_t, pi_t, c_t, trace_t = arrays
    ends, terminal = ends_of(discount_t, trace_t), discount_t == 0
    c_t, trace_t = jnp.where(ends, 0.0, c_t), jnp.where(ends, 0.0, trace_t)
    q_a_t = finite_where((c_t == 0) | ends, taken(q_t, a_t))
    q_t, pi_t = finite_where(terminal, q_t), finite_where(terminal, pi_t)

    def parts(r_t, discount_t, q_t, pi_t, c_t, trace_t, q_a_t):
        c_t = c_t * trace_t
        later = weighted_sum(pi_t, q_t) - c_t * q_a_t
        return r_t + discount_t * later, discount_t * c_t

    q_t = finite_where(pi_t == 0, q_t)
    rows = r_t, discount_t, q_t, pi_t, c_t, trace_t, q_a_t
    return backward_sums(*recursion(parts, *rows, gradients=gradients))


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
      r_t: [T] float, rewards.
      discount_t: [T] float, gamma, or 0 where the environment terminated.
      q_t: [T, A] float, action values at the next observation, in units of return.
      a_t: [T] int in [0, A), the action taken there.
      pi_t: [T, A] float, the target policy there, summing to 1 over actions.
      c_t: [T] float, trace coefficients of the taken actions; the last is not used.
      trace_t: [T] float in [0, 1], 0 where the step that followed is the last of its episode.
      stop_target_gradients: whether the target is a constant to the gradient.

    Returns:
      [T] float32 or wider, target minus prediction.

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: Munos et al. 2016, arXiv:1606.02647.
    """
    check_prediction(q_tm1, a_tm1)
    check_arrays(q_tm1=Spec(q_tm1, "TA"), q_t=Spec(q_t, "TA"))
    window = r_t, discount_t, q_t, a_t, pi_t, c_t, trace_t
    _check_window(*window)
    target = _returns(*window, gradients=not stop_target_gradients)
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
      q_tm1: [T, A] float, online values where the actions were taken.
      a_tm1: [T] int in [0, A), the actions taken; within the window `a_t[i]` is `a_tm1[i + 1]`.
      r_t: [T] float, rewards.
      discount_t: [T] float, gamma, or 0 where the environment terminated.
      q_t: [T, A] float, action values at the next observation, in units of return.
      a_t: [T] int in [0, A), the action taken there.
      pi_t: [T, A] float, the target policy there, summing to 1 over actions.
      mu_t: [T] float in [0, 1], probability of a_t when it was chosen. No constant is added to it:
        at 0 the limit is used, so c_t is lambda * cap where pi_t[a_t] > 0 and 0 elsewhere.
      trace_t: [T] float in [0, 1], 0 where the step that followed is the last of its episode.
      lambda_: in [0, 1]; 0 gives one-step expected SARSA.
      stop_target_gradients: whether the target is a constant to the gradient.

    Returns:
      [T] float32 or wider, target minus prediction.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Munos et al. 2016, arXiv:1606.02647. rlax.retrace adds 1e-8 to mu and has no mask.
    """
    check_prediction(q_tm1, a_tm1)
    c_t = retrace_ratios(a_t, pi_t, mu_t, lambda_, gradients=not stop_target_gradients)
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
      r_t: [T] float, rewards.
      discount_t: [T] float, gamma, or 0 where the environment terminated.
      v_t: [T] float, values of the observations that followed.
      rho_tm1: [T] float, at least 0: pi / mu of the actions.
      trace_t: [T] float in [0, 1], 0 where the step that followed is the last of its episode.
      lambda_: in [0, 1].
      clip_rho: above 0, bound of the ratio that determines the fixed point; inf gives V^pi.
      stop_target_gradients: whether the target is a constant to the gradient.

    Returns:
      [T] float32 or wider, target minus prediction.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Espeholt et al. 2018, arXiv:1802.01561, eq. 1 with c_bar = 1.
    """
    arrays = {"v_tm1": v_tm1, "r_t": r_t, "discount_t": discount_t, "v_t": v_t}
    arrays |= {"rho_tm1": rho_tm1, "trace_t": trace_t}
    numbers = "r_t", "discount_t", "trace_t"
    kinds = {name: NUMBER if name in numbers else float for name in arrays}
    check_arrays(**{name: Spec(x, "T", kinds[name]) for name, x in arrays.items()})
    check_scalars(clip_rho=clip_rho, above_zero=("clip_rho",))
    check_lambda(lambda_)
    *rows, lambda_, clip_rho = promote(*arrays.values(), lambda_, clip_rho)
    v_tm1, r_t, discount_t, v_t, rho_tm1, trace_t = rows
    trace_t = jnp.where(ends_of(discount_t, trace_t), 0.0, trace_t)

    def parts(v_tm1, r_t, discount_t, v_t, rho_tm1, trace_t):
        error = jnp.minimum(clip_rho, rho_tm1) * (r_t + discount_t * v_t - v_tm1)
        return error, discount_t * lambda_ * trace_t * jnp.minimum(1.0, rho_tm1)

    rows = v_tm1, r_t, discount_t, finite_where(discount_t == 0, v_t), rho_tm1, trace_t
    error = backward_sums(*recursion(parts, *rows, gradients=not stop_target_gradients))
    return minus_value(error, v_tm1) if stop_target_gradients else error
