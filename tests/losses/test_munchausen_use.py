"""Munchausen losses in use: transformations, dtypes, errors, and planted mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import losses

Q_S, Q_NEXT = jnp.array([1.0, 0.98, 0.5]), jnp.array([0.2, 0.25, 0.1])


def term_with_clip_on_log_policy(q, a, tau=0.03, clip=-1.0):
    """A mistake seen in public code."""
    return tau * jnp.maximum(losses.scaled_log_policy(q, temperature=tau)[a] / tau, clip)


def test_control_clip_acts_on_the_scaled_log_policy():
    # Action 2: tau * log pi = -0.512, within the clip; log pi = -17, far beyond it.
    right = losses.munchausen_term(Q_S, 2)
    wrong = term_with_clip_on_log_policy(Q_S, 2)
    np.testing.assert_allclose(right, -0.51243110375, atol=1e-7)
    np.testing.assert_allclose(wrong, -0.03, atol=1e-7)


def test_control_term_is_not_masked_at_termination():
    right = losses.munchausen_target(2, 1.0, 0.0, Q_S, Q_NEXT)
    masked = 1.0
    np.testing.assert_allclose(right - masked, 0.9 * -0.51243110375, atol=1e-6)


def test_control_bootstrap_is_soft():
    right = losses.munchausen_target(0, 0.0, 0.99, Q_S, Q_NEXT)
    hard = 0.9 * losses.munchausen_term(Q_S, 0) + 0.99 * jnp.max(Q_NEXT)
    np.testing.assert_allclose(right - hard, 0.99 * (0.25535978 - 0.25), atol=1e-7)


def test_control_alpha_multiplies_after_the_clip():
    target = losses.munchausen_target(1, 0.0, 0.0, jnp.array([50.0, 0.0]), Q_NEXT[:2], alpha=0.5)
    np.testing.assert_allclose(target, -0.5, atol=1e-7)


def test_bfloat16_input_is_widened():
    half = [q.astype(jnp.bfloat16) for q in (Q_S, Q_NEXT)]
    reward, discount = jnp.bfloat16(0.5), jnp.bfloat16(0.75)
    got = losses.munchausen_loss(half[0], 1, reward, discount, half[0], half[1])
    wide = [q.astype(jnp.float32) for q in half]
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(
        got, losses.munchausen_loss(wide[0], 1, 0.5, 0.75, wide[0], wide[1])
    )
    assert losses.scaled_log_policy(half[0], temperature=0.03).dtype == jnp.float32


def test_float64_input_stays_float64():
    with jax.enable_x64(True):
        q = jnp.asarray([1.0, 0.98, 0.5], jnp.float64)
        target = losses.munchausen_target(1, 0.5, 0.99, q, jnp.asarray([0.2, 0.25, 0.1]))
        assert target.dtype == jnp.float64
        np.testing.assert_allclose(target, 0.7236181933, atol=1e-10)


def test_numpy_arrays_work_under_a_traced_action():
    q_s, q_next = np.asarray(Q_S), np.asarray(Q_NEXT)
    jitted = jax.jit(lambda a: losses.munchausen_q_learning(q_s, a, 0.5, 0.99, q_s, q_next))
    np.testing.assert_allclose(jitted(1), 0.7236181933 - 0.98, atol=1e-6)


def test_scans_and_learns_the_target():
    def step(q, _):
        gradient = jax.grad(losses.munchausen_loss)(q, 1, 0.5, 0.99, Q_S, Q_NEXT)
        return q - 0.5 * gradient, None

    q, _ = jax.lax.scan(step, jnp.zeros(3), None, length=50)
    np.testing.assert_allclose(q, jnp.array([0.0, 0.7236181933, 0.0]), atol=1e-6)


def test_hyper_parameters_may_be_swept():
    def target(temperature, alpha, clip):
        return losses.munchausen_target(
            2, 0.0, 0.99, Q_S, Q_NEXT, temperature=temperature, alpha=alpha, clip=clip
        )

    grid = jnp.array([0.03, 0.1]), jnp.array([0.0, 0.9]), jnp.array([-1.0, -0.1])
    swept = jax.jit(jax.vmap(target))(*grid)
    alone = [target(*point) for point in zip(*grid, strict=True)]
    np.testing.assert_allclose(swept, jnp.stack(alone), atol=1e-6)


def test_huber_delta():
    args = jnp.zeros(3), 0, 10.0, 0.0, Q_S, Q_NEXT
    error = losses.munchausen_q_learning(*args)
    for delta in (1.0, 4.0):
        loss = losses.munchausen_loss(*args, huber_delta=delta)
        np.testing.assert_allclose(loss, delta * (error - delta / 2), rtol=1e-6)
    wide = losses.munchausen_loss(*args, huber_delta=100.0)
    np.testing.assert_allclose(wide, 0.5 * error**2, rtol=1e-6)
    assert jax.grad(lambda d: losses.munchausen_loss(*args, huber_delta=d))(1.0) > 0.0


@pytest.mark.parametrize("call", [losses.munchausen_q_learning, losses.munchausen_loss])
def test_errors_name_the_argument(call):
    with pytest.raises(
        ValueError, match=r"target_q_tm1 must .* got rank 2 \(shape \(1, 3\)\).*vmap"
    ):
        call(Q_S, 1, 0.5, 0.99, Q_S[None], Q_NEXT)
    with pytest.raises(ValueError, match="target_q_t must have 3 .* has, got 2"):
        call(Q_S, 1, 0.5, 0.99, Q_S, Q_NEXT[:2])
    with pytest.raises(ValueError, match=r"q_tm1 must .* got rank 0"):
        call(1.0, 1, 0.5, 0.99, Q_S, Q_NEXT)
    with pytest.raises(ValueError, match=r"a_tm1 must .* ints, got dtype bool"):
        call(Q_S, True, 0.5, 0.99, Q_S, Q_NEXT)
    with pytest.raises(ValueError, match=r"r_t must .* integers from -2\*\*24"):
        call(Q_S, 1, 2**24 + 1, 0.99, Q_S, Q_NEXT)


def test_errors_name_the_hyper_parameter():
    with pytest.raises(ValueError, match=r"clip must be at most 0, got 1.0"):
        losses.munchausen_term(Q_S, 1, clip=1.0)
    with pytest.raises(ValueError, match=r"temperature must be above 0, got -0.1"):
        losses.munchausen_target(1, 0.5, 0.99, Q_S, Q_NEXT, temperature=-0.1)
    with pytest.raises(ValueError, match=r"alpha must be a scalar, got shape \(3,\)"):
        losses.munchausen_target(1, 0.5, 0.99, Q_S, Q_NEXT, alpha=jnp.ones(3))
    with pytest.raises(ValueError, match=r"huber_delta must be above 0, got 0.0"):
        losses.munchausen_loss(Q_S, 1, 0.5, 0.99, Q_S, Q_NEXT, huber_delta=0.0)
