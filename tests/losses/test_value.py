"""One-step value learning against hand-worked numbers, loops in NumPy float64, and its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import losses
from helpers.peers import rlax

A = 5


@pytest.fixture
def example():
    keys = jax.random.split(jax.random.key(0), 4)
    q_tm1, q_t, q_other = (jax.random.normal(key, (A,)) for key in keys[:3])
    return {"q_tm1": q_tm1, "q_t": q_t, "q_other": q_other, "probs": jax.nn.softmax(q_other)}


def loop_soft_value(q, temperature):
    top = max(float(value) for value in q)
    return top + temperature * np.log(sum(np.exp((float(v) - top) / temperature) for v in q))


def test_hand_worked():
    q_tm1, q_t, other = jnp.array([1.0, 2.0]), jnp.array([3.0, 5.0]), jnp.array([1.0, 0.0])
    # 0.5 + 0.9 * 5 - 2 = 3; the selector prefers action 0: 0.5 + 0.9 * 3 - 2 = 1.2;
    # 0.5 + 0.9 * (0.25 * 3 + 0.75 * 5) - 2 = 2.55; soft at temperature 2: 5 + 2 log(1 + e^-1).
    np.testing.assert_allclose(losses.q_learning(q_tm1, 1, 0.5, 0.9, q_t), 3.0, rtol=1e-6)
    error = losses.double_q_learning(q_tm1, 1, 0.5, 0.9, q_t, other)
    np.testing.assert_allclose(error, 1.2, rtol=1e-6)
    error = losses.expected_sarsa(q_tm1, 1, 0.5, 0.9, q_t, jnp.array([0.25, 0.75]))
    np.testing.assert_allclose(error, 2.55, rtol=1e-6)
    error = losses.soft_q_learning(q_tm1, 1, 0.5, 0.9, q_t, temperature=2.0)
    soft = 5.0 + 2.0 * np.log1p(np.exp(-1.0))
    np.testing.assert_allclose(error, 0.5 + 0.9 * soft - 2.0, rtol=1e-6)


@pytest.mark.parametrize("stop", [True, False])
def test_values_and_gradients_are_rlaxs(example, stop):
    q_tm1, q_t, other = (example[name] for name in ("q_tm1", "q_t", "q_other"))

    def both(ours, theirs, *arrays):
        options = {"stop_target_gradients": stop}
        got = jax.value_and_grad(lambda *x: ours(x[0], 2, 0.5, 0.9, *x[1:], **options), (0, 1))
        want = jax.value_and_grad(lambda *x: theirs(x[0], 2, 0.5, 0.9, *x[1:], **options), (0, 1))
        jax.tree.map(np.testing.assert_array_equal, got(*arrays), want(*arrays))

    both(losses.q_learning, rlax.q_learning, q_tm1, q_t)
    both(losses.double_q_learning, rlax.double_q_learning, q_tm1, q_t, other)


@pytest.mark.parametrize("temperature", [0.01, 0.3, 5.0])
def test_soft_value_equals_the_loop(example, temperature):
    got = losses.soft_value(example["q_t"], temperature=temperature)
    np.testing.assert_allclose(got, loop_soft_value(example["q_t"], temperature), rtol=1e-6)


def test_soft_value_is_expectation_plus_entropy(example):
    q, temperature = example["q_t"], 0.4
    pi = jax.nn.softmax(q / temperature)
    expected = jnp.sum(pi * q) - temperature * jnp.sum(pi * jnp.log(pi))
    np.testing.assert_allclose(losses.soft_value(q, temperature=temperature), expected, rtol=1e-6)


def test_soft_value_bounds_and_limit(example):
    q = example["q_t"]
    soft = losses.soft_value(q, temperature=0.7)
    assert jnp.max(q) <= soft <= jnp.max(q) + 0.7 * np.log(A)
    assert losses.soft_value(q, temperature=1e-6) == jnp.max(q)
    assert losses.soft_value(q + 1e4, temperature=1e-6) == jnp.max(q + 1e4)


def test_soft_value_ignores_forbidden_actions():
    allowed = losses.soft_value(jnp.array([1.0, 2.0]), temperature=0.5)
    masked = jnp.array([1.0, -jnp.inf, 2.0])
    assert losses.soft_value(masked, temperature=0.5) == allowed
    gradient = jax.grad(lambda q: losses.soft_value(q, temperature=0.5))(masked)
    assert jnp.all(jnp.isfinite(gradient)) and gradient[1] == 0.0


def test_soft_value_gradients(example):
    q, temperature = example["q_t"], 0.4
    gradient = jax.grad(lambda q: losses.soft_value(q, temperature=temperature))(q)
    np.testing.assert_allclose(gradient, jax.nn.softmax(q / temperature), rtol=1e-5)
    # d(tau * lse(q / tau)) / d tau is the entropy.
    pi = jax.nn.softmax(q / temperature)
    slope = jax.grad(lambda tau: losses.soft_value(q, temperature=tau))(temperature)
    np.testing.assert_allclose(slope, -jnp.sum(pi * jnp.log(pi)), rtol=1e-5)


def test_cold_soft_q_learning_is_q_learning(example):
    args = example["q_tm1"], 2, 0.3, 0.9, example["q_t"]
    soft = losses.soft_q_learning(*args, temperature=1e-6)
    np.testing.assert_allclose(soft, losses.q_learning(*args), rtol=1e-6)
    warm = losses.soft_q_learning(*args, temperature=0.5)
    assert warm > losses.q_learning(*args) + 0.01  # control: at a real temperature they differ


CALLS = {
    "q_learning": lambda e, q_tm1, q_t, **k: losses.q_learning(q_tm1, 1, 0.5, 0.9, q_t, **k),
    "double_q_learning": lambda e, q_tm1, q_t, **k: losses.double_q_learning(
        q_tm1, 1, 0.5, 0.9, q_t, e["q_other"], **k
    ),
    "expected_sarsa": lambda e, q_tm1, q_t, **k: losses.expected_sarsa(
        q_tm1, 1, 0.5, 0.9, q_t, e["probs"], **k
    ),
    "soft_q_learning": lambda e, q_tm1, q_t, **k: losses.soft_q_learning(
        q_tm1, 1, 0.5, 0.9, q_t, temperature=0.3, **k
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_gradients_stop_at_targets_unless_asked(name, example):
    def error(q_tm1, q_t, **options):
        return CALLS[name](example, q_tm1, q_t, **options)

    q_tm1, q_t = example["q_tm1"], example["q_t"]
    online, target = jax.grad(error, (0, 1))(q_tm1, q_t)
    np.testing.assert_array_equal(online, -jax.nn.one_hot(1, A))
    np.testing.assert_array_equal(target, jnp.zeros(A))
    through = jax.grad(lambda q: error(q_tm1, q, stop_target_gradients=False))(q_t)
    np.testing.assert_allclose(jnp.sum(through), 0.9, rtol=1e-6)


@pytest.mark.parametrize("name", CALLS)
def test_jit_vmap_and_bfloat16(name, example):
    def error(q_tm1, q_t):
        return CALLS[name](example, q_tm1, q_t)

    batch = jnp.stack([example["q_tm1"], example["q_t"], example["q_other"]])
    mapped = jax.jit(jax.vmap(error))(batch, batch[::-1])
    loop = [error(q_tm1, q_t) for q_tm1, q_t in zip(batch, batch[::-1], strict=True)]
    np.testing.assert_allclose(mapped, jnp.stack(loop), rtol=1e-5, atol=1e-6)

    half = batch.astype(jnp.bfloat16)
    got, widened = error(half[0], half[1]), half.astype(jnp.float32)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, error(widened[0], widened[1]))


@pytest.mark.parametrize("name", CALLS)
def test_errors_name_the_argument(name, example):
    q = example["q_t"]
    with pytest.raises(
        ValueError, match=r"q_tm1 must be .* rank 1 .* got rank 2 \(shape \(1, 5\)\)"
    ):
        CALLS[name](example, q[None], q)
    with pytest.raises(
        ValueError, match=r"q_t(_value)? must be an array of floats, got dtype int32"
    ):
        CALLS[name](example, q, q.astype(int))
    with pytest.raises(ValueError, match=r"q_t(_value)? must have 5 .* q_tm1 has, got 4"):
        CALLS[name](example, q, q[:4])
    with pytest.raises(ValueError, match="q_tm1 must .* got a list"):
        CALLS[name](example, [1.0, 2.0], q)


def test_errors_name_scalars(example):
    q = example["q_t"]
    with pytest.raises(ValueError, match="a_tm1 must be an array of ints, got dtype float32"):
        losses.q_learning(q, 1.0, 0.0, 0.9, q)
    with pytest.raises(ValueError, match="discount_t must .* got rank 1"):
        losses.q_learning(q, 1, 0.0, jnp.ones(1), q)
    with pytest.raises(ValueError, match=r"temperature must be above 0, got 0.0"):
        losses.soft_value(q, temperature=0.0)
    with pytest.raises(ValueError, match=r"temperature must .* got nan"):
        losses.soft_value(q, temperature=float("nan"))
    with pytest.raises(ValueError, match=r"temperature must be a scalar, got shape \(2,\)"):
        losses.soft_value(q, temperature=jnp.ones(2))
