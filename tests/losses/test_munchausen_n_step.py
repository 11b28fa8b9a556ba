"""The n-step form against a loop in NumPy float64, with episode ends inside the window."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import losses
from helpers.jitted import jitted, quick_jit

T, A, GAMMA = 6, 4, 0.97
HYPER = {"temperature": 0.3, "alpha": 0.8, "clip": -0.5}


def window(discount=(1.0,) * T, trace=(1.0,) * T):
    generator = np.random.default_rng(3)
    q, q_tm1, r_t = (generator.normal(size=shape) for shape in ((T + 1, A), A, T))
    a_tm1 = generator.integers(A, size=T)
    discount_t = GAMMA * np.array(discount)
    floats = (x.astype(np.float32) for x in (q_tm1, r_t, discount_t, q[:-1], q[1:]))
    q_tm1, r_t, discount_t, target_q_tm1, target_q_t = floats
    trace_t = np.array(trace, np.float32)
    return q_tm1, a_tm1.astype(np.int32), r_t, discount_t, target_q_tm1, target_q_t, trace_t


def log_policy(q, tau):
    q = np.asarray(q, np.float64)
    exponents = np.exp((q - q.max()) / tau)
    return tau * np.log(exponents / exponents.sum())


def soft_value(q, tau):
    log_pi = log_policy(q, tau)
    return float(np.sum(np.exp(log_pi / tau) * (np.asarray(q, np.float64) - log_pi)))


def loop_return(steps, a, r, discount, q_tm1, q_t, *, temperature, alpha, clip):
    """Sum over `steps` steps, forwards, as in docs/agents/munchausen_dqn.md."""
    total, weight = 0.0, 1.0
    for i in range(steps):
        log_pi = log_policy(q_tm1[i], temperature)[int(a[i])]
        total += weight * (float(r[i]) + alpha * max(log_pi, clip) - (log_pi if i else 0.0))
        weight *= float(discount[i])
    return total + weight * soft_value(q_t[steps - 1], temperature)


def n_step_target(args, **hyper):
    error = jitted.n_step_munchausen_q_learning(*args, **hyper)
    return error + args[0][args[1][0]]


def test_hand_worked():
    # Zeros over 2 actions, tau = 1: log pi = -ln 2 and L = ln 2 everywhere. Rewards 1, 2,
    # gamma 0.5, alpha 0.5: 1 - 0.5 ln 2 + 0.5 * (2 - 0.5 ln 2 + ln 2 + 0.5 * ln 2) = 2.
    q = jnp.zeros((2, 2))
    a, r = jnp.array([0, 1]), jnp.array([1.0, 2.0])
    error = jitted.n_step_munchausen_q_learning(
        jnp.zeros(2), a, r, jnp.full(2, 0.5), q, q, jnp.ones(2), temperature=1.0, alpha=0.5
    )
    np.testing.assert_allclose(error, 2.0, rtol=1e-6)


def test_one_step_window_is_the_one_step_loss():
    q_tm1, *sequence = window()
    first = [array[:1] for array in sequence]
    got = jitted.n_step_munchausen_q_learning(q_tm1, *first, **HYPER)
    a, r, discount, target_q_tm1, target_q_t, _ = (array[0] for array in first)
    expected = jitted.munchausen_q_learning(
        q_tm1, a, r, discount, target_q_tm1, target_q_t, **HYPER
    )
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("hyper", [HYPER, {"temperature": 0.03, "alpha": 0.9, "clip": -1.0}])
def test_whole_window_equals_the_loop(hyper):
    args = window()
    np.testing.assert_allclose(
        n_step_target(args, **hyper), loop_return(T, *args[1:-1], **hyper), rtol=1e-5
    )


def test_truncation_bootstraps_from_the_final_observation_and_cuts():
    trace = [1.0, 1.0, 0.0, 1.0, 1.0, 1.0]
    args = window(trace=trace)
    expected = loop_return(3, *args[1:-1], **HYPER)
    np.testing.assert_allclose(n_step_target(args, **HYPER), expected, rtol=1e-5)
    # Nothing after the cut enters, not even through the entropy of the step after it.
    changed = [x.copy() for x in args]
    changed[2][3:] += 100.0
    changed[4][3:, 1] += 100.0
    changed[5][3:] += 100.0
    np.testing.assert_array_equal(n_step_target(changed, **HYPER), n_step_target(args, **HYPER))
    # Control: without the cut it would have.
    assert abs(n_step_target(window(), **HYPER) - expected) > 0.01


def test_termination_drops_the_bootstrap_and_keeps_the_term():
    discount = [1.0, 1.0, 0.0, 1.0, 1.0, 1.0]
    for trace in ([1.0] * T, [1.0, 1.0, 0.0, 1.0, 1.0, 1.0]):
        args = window(discount=discount, trace=trace)
        expected = loop_return(3, *args[1:-1], **HYPER)
        np.testing.assert_allclose(n_step_target(args, **HYPER), expected, rtol=1e-5)
    a, r, gammas, q_tm1, *_ = args[1:]
    no_term = loop_return(2, a, r, gammas, q_tm1, np.zeros((T, A)), **HYPER)
    no_term -= GAMMA**2 * soft_value(np.zeros(A), 0.3)
    log_pi = log_policy(q_tm1[2], 0.3)[int(a[2])]
    last = float(r[2]) + 0.8 * max(log_pi, -0.5) - log_pi
    np.testing.assert_allclose(expected, no_term + GAMMA**2 * last, rtol=1e-6)


def test_every_row_is_the_return_of_its_own_window():
    _, *sequence = window(trace=[1.0, 1.0, 0.0, 1.0, 1.0, 1.0])
    returns = jitted.munchausen_lambda_returns(*sequence, **HYPER)
    assert returns.shape == (T,)
    for i, end in enumerate([3, 3, 3, 6, 6, 6]):
        tail = [array[i:] for array in sequence[:-1]]
        np.testing.assert_allclose(returns[i], loop_return(end - i, *tail, **HYPER), rtol=1e-5)


def test_fractional_trace_mixes_window_lengths():
    lambda_ = 0.6
    args = window(trace=[lambda_] * T)
    mixed = sum(
        (1 - lambda_ if n < T else 1.0) * lambda_ ** (n - 1) * loop_return(n, *args[1:-1], **HYPER)
        for n in range(1, T + 1)
    )
    np.testing.assert_allclose(n_step_target(args, **HYPER), mixed, rtol=1e-5)


def test_control_entropy_bonus_of_later_steps():
    args = window()
    log_pis = [log_policy(q, 0.3)[int(a)] for q, a in zip(args[4], args[1], strict=True)]
    missing = -sum(GAMMA**i * log_pis[i] for i in range(1, T))
    assert missing > 0.1
    without = loop_return(T, *args[1:-1], **HYPER) - missing
    np.testing.assert_allclose(n_step_target(args, **HYPER) - without, missing, rtol=1e-5)


def test_gradients():
    args = window()

    def error(q_tm1, target_q_tm1, target_q_t, temperature, alpha, stop):
        return losses.n_step_munchausen_q_learning(
            q_tm1, *args[1:4], target_q_tm1, target_q_t, args[6],
            temperature=temperature, alpha=alpha, stop_target_gradients=stop,
        )  # fmt: skip

    both = quick_jit(jax.value_and_grad(error, range(5)), static_argnums=5)
    at = args[0], args[4], args[5], 0.3, 0.8
    _, (online, *others) = both(*at, True)
    np.testing.assert_array_equal(online, -np.eye(A)[args[1][0]])
    assert all(not np.any(gradient) for gradient in others)
    _, (_, *through) = both(*at, False)
    assert all(np.any(gradient) for gradient in through)
    for i in (3, 4):  # the hyper-parameters, by central differences
        shifted = [list(at), list(at)]
        shifted[0][i], shifted[1][i] = at[i] + 5e-3, at[i] - 5e-3
        slope = (both(*shifted[0], False)[0] - both(*shifted[1], False)[0]) / 1e-2
        np.testing.assert_allclose(through[i - 1], slope, rtol=2e-2)


def test_jit_vmap_bfloat16_and_long_windows():
    args = window()
    batch = [np.stack([x, x[::-1]]) for x in args]
    mapped = quick_jit(jax.vmap(losses.n_step_munchausen_q_learning))(*batch)
    for i in range(2):
        alone = jitted.n_step_munchausen_q_learning(*(array[i] for array in batch))
        np.testing.assert_allclose(mapped[i], alone, rtol=1e-5)
    # Products over a long window must be float32's, not bfloat16's.
    half = [np.tile(x, (333,) + (1,) * (x.ndim - 1)).astype(jnp.bfloat16) for x in args[2:]]
    actions = np.tile(args[1], 333)
    wide = [x.astype(np.float32) for x in half]
    got = jitted.munchausen_lambda_returns(actions, *half)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, jitted.munchausen_lambda_returns(actions, *wide))


def test_errors_name_the_argument():
    args = list(window())
    for i, name, wrong, pattern in [
        (1, "a_tm1", args[1][0], "got rank 0"),
        (4, "target_q_tm1", args[4][0], "rank 2 .*rank 1"),
        (6, "trace_t", args[6][:-1], "6 entries.* a_tm1 has, got 5"),
        (6, "trace_t", args[6].astype(complex), "numbers, got dtype complex"),
        (0, "q_tm1", args[4], "got rank 2"),
    ]:
        bad = [*args[:i], wrong, *args[i + 1 :]]
        with pytest.raises(ValueError, match=f"^{name} must .*{pattern}"):
            losses.n_step_munchausen_q_learning(*bad)
    with pytest.raises(ValueError, match="temperature must .* got 0"):
        losses.n_step_munchausen_q_learning(*args, temperature=0, clip=-math.inf)
