"""One-step Munchausen learning: worked numbers, a loop in NumPy float64, gradients, controls."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import losses

TAU = 0.03
Q_S, Q_NEXT = jnp.array([1.0, 0.98, 0.5]), jnp.array([0.2, 0.25, 0.1])


def loop_log_policy(q, tau):
    q = [float(value) for value in q]
    top = max(q)
    log_sum = math.log(sum(math.exp((value - top) / tau) for value in q))
    return [value - top - tau * log_sum for value in q]


def loop_target(a, r, discount, q_s, q_next, tau=TAU, alpha=0.9, clip=-1.0):
    """The target as the paper writes it: the soft value is an explicit expectation."""
    bonus = min(max(loop_log_policy(q_s, tau)[a], clip), 0.0)
    soft = 0.0
    for value, log_pi in zip(q_next, loop_log_policy(q_next, tau), strict=True):
        soft += math.exp(log_pi / tau) * (float(value) - log_pi)
    return float(r) + alpha * bonus + float(discount) * soft


def random_batch(scale, batch=32, actions=6):
    generator = np.random.default_rng(1)
    q_tm1, target_q_tm1, target_q_t = scale * generator.normal(size=(3, batch, actions))
    a_tm1 = generator.integers(actions, size=batch)
    r_t, discount_t = generator.normal(size=batch), 0.99 * generator.binomial(1, 0.8, batch)
    return tuple(map(jnp.asarray, (q_tm1, a_tm1, r_t, discount_t, target_q_tm1, target_q_t)))


def test_worked_log_policy_and_soft_value():
    # log(1 + e^(-0.02 / 0.03) + e^(-0.5 / 0.03)) * 0.03 = 0.01243110375
    expected = [-0.01243110375, -0.03243110375, -0.51243110375]
    got = losses.scaled_log_policy(Q_S, temperature=TAU)
    np.testing.assert_allclose(got, expected, atol=1e-7)
    np.testing.assert_allclose(losses.soft_value(Q_NEXT, temperature=TAU), 0.25535978, atol=1e-7)


@pytest.mark.parametrize(
    ("q_s", "a", "r", "discount", "q_next", "expected"),
    [
        # 0.5 + 0.9 * -0.03243110 + 0.99 * 0.25535978
        pytest.param(Q_S, 1, 0.5, 0.99, Q_NEXT, 0.7236181933, id="plain"),
        # The raw term is -2.5, so the clip holds: -1 + 0.9 * -1 + 0.99 * 0.25535978
        pytest.param(Q_S.at[0].set(3.0), 2, -1.0, 0.99, Q_NEXT, -1.6471938133, id="clipped"),
        # Termination removes the bootstrap and keeps the term: 1 + 0.9 * -0.01243110
        pytest.param(Q_S, 0, 1.0, 0.0, Q_NEXT, 0.9888120066, id="terminal"),
        pytest.param(Q_S, 0, 1.0, 0.0, Q_NEXT + 77.0, 0.9888120066, id="terminal-any-next"),
        # -0.9 * 0.03 * ln 4 + 0.99 * 0.03 * ln 4
        pytest.param(jnp.zeros(4), 3, 0.0, 0.99, jnp.zeros(4), 0.00374299478, id="uniform"),
    ],
)
def test_worked_targets(q_s, a, r, discount, q_next, expected):
    target = losses.munchausen_target(a, r, discount, q_s, q_next)
    np.testing.assert_allclose(target, expected, atol=2e-7)
    error = losses.munchausen_q_learning(jnp.full_like(q_s, 0.25), a, r, discount, q_s, q_next)
    np.testing.assert_allclose(error, expected - 0.25, atol=2e-7)
    np.testing.assert_allclose(loop_target(a, r, discount, q_s, q_next), expected, atol=1e-7)


def test_uniform_policy_pays_log_of_the_number_of_actions():
    term = losses.munchausen_term(jnp.zeros(4), 2)
    np.testing.assert_allclose(term, -0.04158883083, atol=1e-8)
    np.testing.assert_allclose(losses.soft_value(jnp.zeros(4), temperature=TAU), -term)


def test_invariance_to_a_constant():
    term = losses.munchausen_term(Q_S, 1)
    np.testing.assert_allclose(losses.munchausen_term(Q_S + 5.0, 1), term, atol=1e-6)
    target = losses.munchausen_target(1, 0.5, 0.99, Q_S, Q_NEXT)
    raised = losses.munchausen_target(1, 0.5, 0.99, Q_S, Q_NEXT + 5.0)
    np.testing.assert_allclose(raised - target, 0.99 * 5.0, atol=1e-6)


def test_extreme_values_stay_finite_and_exact():
    q = jnp.array([1e4, 0.0, -1e4])
    np.testing.assert_array_equal(
        losses.scaled_log_policy(q, temperature=TAU), jnp.array([0.0, -1e4, -2e4])
    )
    assert not jnp.all(jnp.isfinite(TAU * jnp.log(jax.nn.softmax(q / TAU))))  # the naive form
    for a in range(3):
        assert jnp.isfinite(losses.munchausen_target(a, 0.0, 0.99, q, -q))
    # Large and close: the excess of 0.03 * ln 2 must not be rounded into 1e4.
    close = losses.scaled_log_policy(jnp.array([1e4, 1e4]), temperature=TAU)
    np.testing.assert_allclose(close, -TAU * math.log(2.0), rtol=1e-6)
    term = losses.munchausen_term(jnp.array([1e4, 1e4]), 0)
    np.testing.assert_allclose(term, -TAU * math.log(2.0), rtol=1e-6)


def test_forbidden_actions_take_no_part():
    masked = jnp.append(Q_S, -jnp.inf)
    target = losses.munchausen_target(1, 0.5, 0.99, masked, jnp.append(Q_NEXT, -jnp.inf))
    np.testing.assert_array_equal(target, losses.munchausen_target(1, 0.5, 0.99, Q_S, Q_NEXT))


def test_limits():
    # alpha = 0 and no temperature: DQN. alpha = 0: soft Q-learning. No temperature: Advantage
    # Learning, r + alpha * (q - max q) + gamma * max q'.
    args = 1, 0.5, 0.99, Q_S, Q_NEXT
    dqn = losses.munchausen_target(*args, temperature=1e-6, alpha=0.0)
    np.testing.assert_allclose(dqn, 0.5 + 0.99 * 0.25, atol=1e-5)
    soft = losses.munchausen_q_learning(Q_S, *args, temperature=0.2, alpha=0.0)
    expected = losses.soft_q_learning(Q_S, 1, 0.5, 0.99, Q_NEXT, temperature=0.2)
    np.testing.assert_allclose(soft, expected, atol=1e-7)
    advantage = losses.munchausen_target(*args, temperature=1e-3, clip=-math.inf)
    np.testing.assert_allclose(advantage, 0.5 + 0.9 * (0.98 - 1.0) + 0.99 * 0.25, atol=1e-5)


@pytest.mark.parametrize("scale", [0.05, 1.0, 30.0])
@pytest.mark.parametrize("hyper", [(0.03, 0.9, -1.0), (0.5, 0.3, -0.2), (2.0, 1.0, -math.inf)])
def test_equals_the_loop(scale, hyper):
    names = dict(zip(("temperature", "alpha", "clip"), hyper, strict=True))
    batch = random_batch(scale)

    @jax.jit
    @jax.vmap
    def both(*args):
        error = losses.munchausen_q_learning(*args, **names)
        return error, losses.munchausen_loss(*args, **names, huber_delta=0.7)

    errors, huber = map(np.asarray, both(*batch))
    for i, (q, a, *rest) in enumerate(zip(*map(np.asarray, batch), strict=True)):
        error = loop_target(a, *rest, *hyper) - float(q[a])
        np.testing.assert_allclose(errors[i], error, rtol=2e-5, atol=1e-5)
        size = abs(error)
        expected = 0.5 * size**2 if size < 0.7 else 0.7 * (size - 0.35)
        np.testing.assert_allclose(huber[i], expected, rtol=5e-5, atol=1e-5)


def test_term_is_never_above_zero():
    *_, target_q_tm1, _ = random_batch(1.0, batch=500)
    best = jnp.argmax(target_q_tm1, axis=-1)
    terms = jax.jit(jax.vmap(losses.munchausen_term))(target_q_tm1, best)
    assert jnp.max(terms) <= 0.0


def test_loss_gradient_is_the_clipped_error():
    batch = random_batch(1.0)
    size = batch[1].shape[0]

    def loss(q_tm1, target_q_tm1, target_q_t):
        args = q_tm1, *batch[1:4], target_q_tm1, target_q_t
        return jnp.mean(jax.vmap(losses.munchausen_loss)(*args))

    online, *targets = jax.jit(jax.grad(loss, (0, 1, 2)))(batch[0], *batch[4:])
    errors = jax.jit(jax.vmap(losses.munchausen_q_learning))(*batch)
    assert jnp.any(jnp.abs(errors) > 1.0) and jnp.any(jnp.abs(errors) < 1.0)
    expected = -jnp.clip(errors, -1.0, 1.0)[:, None] * jax.nn.one_hot(batch[1], 6) / size
    np.testing.assert_allclose(online, expected, atol=1e-7)
    for gradient in targets:
        np.testing.assert_array_equal(gradient, jnp.zeros_like(gradient))


def test_target_gradients_flow_when_asked():
    def error(target_q_tm1, target_q_t, temperature, alpha):
        return losses.munchausen_q_learning(
            Q_S, 1, 0.5, 0.99, target_q_tm1, target_q_t,
            temperature=temperature, alpha=alpha, stop_target_gradients=False,
        )  # fmt: skip

    at = Q_S, Q_NEXT, 0.1, 0.9
    d_tm1, d_t, d_tau, d_alpha = jax.grad(error, (0, 1, 2, 3))(*at)
    pi, pi_next = jax.nn.softmax(Q_S / 0.1), jax.nn.softmax(Q_NEXT / 0.1)
    np.testing.assert_allclose(d_tm1, 0.9 * (jax.nn.one_hot(1, 3) - pi), atol=1e-6)
    np.testing.assert_allclose(d_t, 0.99 * pi_next, atol=1e-6)
    # d L / d tau is the policy's entropy, for the term and for the bootstrap.
    entropy, entropy_next = -jnp.sum(pi * jnp.log(pi)), -jnp.sum(pi_next * jnp.log(pi_next))
    np.testing.assert_allclose(d_tau, -0.9 * entropy + 0.99 * entropy_next, atol=1e-5)
    np.testing.assert_allclose(d_alpha, losses.munchausen_term(Q_S, 1, temperature=0.1), atol=1e-6)
