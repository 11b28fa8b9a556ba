"""RND, ICM, E3B and counts: worked numbers, loops in NumPy, gradients, controls."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bellmax import losses
from helpers.contract import Case, check_contract
from helpers.jitted import jitted, quick_jit

KEYS = jax.random.split(jax.random.key(0), 6)
bonus_of = quick_jit(losses.elliptical_bonus)


def test_rnd_worked_and_its_gradients():
    # 1 + 4 + 9; the gradient is 2 * (prediction - target), none of it to the random network.
    prediction, target = jnp.array([1.0, 2.0, 5.0]), jnp.array([0.0, 4.0, 2.0])
    value_and_grad = quick_jit(jax.value_and_grad(losses.rnd_error, (0, 1)))
    error, (to_prediction, to_target) = value_and_grad(prediction, target)
    assert error == 14.0
    np.testing.assert_array_equal(to_prediction, [2.0, -4.0, 6.0])
    np.testing.assert_array_equal(to_target, np.zeros(3))
    assert jitted.rnd_error(target, target) == 0.0


def test_rnd_pays_less_for_what_was_trained_on():
    # Linear networks: regress the random one on inputs of the first two coordinates only.
    target = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    inputs = np.eye(4, dtype=np.float32)

    def error(weights, x):
        product = lambda w: jnp.sum(w * x[None, :], axis=-1)  # noqa: E731
        return losses.rnd_error(product(weights), product(target))

    def step(weights, _):
        gradients = jax.vmap(jax.grad(error), (None, 0))(weights, inputs[:2])
        return weights - 0.2 * jnp.sum(gradients, axis=0), None

    @quick_jit
    def run():
        weights, _ = jax.lax.scan(step, jnp.zeros((8, 4)), None, length=50)
        return jax.vmap(error, (None, 0))(weights, inputs)

    pay = run()
    np.testing.assert_allclose(pay[:2], 0.0, atol=1e-6)
    np.testing.assert_allclose(pay[2:], np.sum(np.square(target), axis=0)[2:], rtol=1e-5)


def test_icm_worked():
    # Inverse: -log(3 / 4) at logits (ln 3, 0). Forward: (1 + 4) / 2.
    # Loss 0.8 * 0.28768 + 0.2 * 2.5, reward 0.01 * 2.5.
    out = jitted.intrinsic_curiosity(
        jnp.array([math.log(3.0), 0.0]), 0, jnp.array([1.0, 3.0]), jnp.array([2.0, 1.0])
    )
    inverse = math.log(4.0 / 3.0)
    np.testing.assert_allclose(out, [0.8 * inverse + 0.5, inverse, 2.5, 0.025], rtol=1e-6)


def test_icm_equals_the_loop():
    generator = np.random.default_rng(1)
    logits, latents = generator.normal(size=(20, 5)), generator.normal(size=(2, 20, 6))
    actions = generator.integers(5, size=20)
    mapped = quick_jit(jax.vmap(lambda *x: losses.intrinsic_curiosity(*x, beta=0.3, eta=2.0)))
    with jax.enable_x64(True):
        out = mapped(logits, actions, *latents)
    for i in range(20):
        inverse = math.log(sum(math.exp(x) for x in logits[i])) - logits[i, actions[i]]
        forward = sum((x - y) ** 2 for x, y in zip(*latents[:, i], strict=True)) / 2
        wanted = [0.7 * inverse + 0.3 * forward, inverse, forward, 2.0 * forward]
        np.testing.assert_allclose([x[i] for x in out], wanted, rtol=1e-9)


def test_icm_gradients():
    args = jnp.array([0.3, -0.2, 0.1]), 1, jnp.array([1.0, 3.0]), jnp.array([2.0, 1.0])

    def part(name, stop):
        function = lambda *x: getattr(  # noqa: E731
            losses.intrinsic_curiosity(*x, stop_target_gradients=stop), name
        )
        return jax.grad(function, (0, 2, 3))(*args)

    loss, opened, reward = quick_jit(
        lambda: (part("loss", True), part("loss", False), part("reward", False))
    )()
    to_logits, to_predicted, to_latent = loss
    softmax = jax.nn.softmax(args[0])
    np.testing.assert_allclose(to_logits, 0.8 * (softmax - jax.nn.one_hot(1, 3)), rtol=1e-6)
    np.testing.assert_allclose(to_predicted, 0.2 * (args[2] - args[3]), rtol=1e-6)
    assert not jnp.any(to_latent)
    np.testing.assert_allclose(opened[2], 0.2 * (args[3] - args[2]), rtol=1e-6)
    assert not any(np.any(gradient) for gradient in reward)
    # An action that is not allowed takes no part.
    masked = jnp.append(args[0], -jnp.inf)
    loss = lambda logits: losses.intrinsic_curiosity(logits, *args[1:]).loss  # noqa: E731
    (value, gradient), wanted = quick_jit(lambda x, y: (jax.value_and_grad(loss)(x), loss(y)))(
        masked, args[0]
    )
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    np.testing.assert_allclose(gradient, jnp.append(to_logits, 0.0), rtol=1e-6)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.integers(0, 10_000), st.floats(0.0625, 4.0, width=32))
def test_one_direction_pays_as_an_episodic_count(seed, ridge):
    feature = np.random.default_rng(seed).normal(size=3).astype(np.float32)
    feature = feature / np.linalg.norm(feature)
    inverse = losses.elliptical_bonus_init(3, ridge=ridge)
    for visits in range(5):
        inverse, bonus = bonus_of(inverse, feature)
        np.testing.assert_allclose(bonus, 1.0 / (ridge + visits), rtol=1e-4)


def test_elliptical_bonus_equals_an_inverted_covariance():
    features = np.random.default_rng(2).normal(size=(12, 4))
    covariance = 0.1 * np.eye(4)
    with jax.enable_x64(True):
        inverse = losses.elliptical_bonus_init(4, dtype=jnp.float64)
        for feature in features:
            wanted = feature @ np.linalg.inv(covariance) @ feature
            inverse, bonus = bonus_of(inverse, jnp.asarray(feature))
            np.testing.assert_allclose(bonus, wanted, rtol=1e-9)
            covariance += np.outer(feature, feature)
            np.testing.assert_allclose(inverse, np.linalg.inv(covariance), rtol=1e-7, atol=1e-9)
    # A new direction pays as at first; control: the reset is what makes it so for an old one.
    start, (x, y) = losses.elliptical_bonus_init(2), np.eye(2, dtype=np.float32)
    used, first = bonus_of(start, x)
    np.testing.assert_allclose(bonus_of(used, y)[1], first, rtol=1e-6)
    assert bonus_of(used, x)[1] < 0.1 * first


def test_count_bonus():
    got = quick_jit(jax.vmap(lambda n: losses.count_bonus(n, beta=0.5)))(
        np.array([1.0, 4.0, 100.0])
    )
    np.testing.assert_allclose(got, [0.5, 0.25, 0.05], rtol=1e-6)


def test_errors_name_the_argument():
    x = jnp.ones(3)
    for call, pattern in [
        (lambda: losses.rnd_error(x, x[:2]), "^target must have 3 .* as prediction has, got 2"),
        (lambda: losses.intrinsic_curiosity(x, 0, x, x, beta=1.5), "beta must .* got 1.5"),
        (lambda: losses.intrinsic_curiosity(x, 0, x, x, eta=-1.0), "eta must .* got -1"),
        (lambda: losses.intrinsic_curiosity(x, 0, x, x[:2]), "^latent_t must have 3 .*, got 2"),
        (lambda: losses.elliptical_bonus(jnp.eye(2), x), "^inverse_co.* have .*, got 2"),
        (lambda: losses.elliptical_bonus_init(2, ridge=0.0), "ridge must .* got 0"),
        (lambda: losses.count_bonus(2.0, beta=-1.0), "beta must .* got -1"),
        (lambda: losses.count_bonus(x), "^count_t must .* got rank 1"),
    ]:
        with pytest.raises(ValueError, match=pattern):
            call()


def curiosity_losses(
    logits_a_tm1, a_tm1, predicted_latent_t, latent_t, *, beta, stop_target_gradients=True
):
    """Without the reward: it is a constant to the gradient, whatever finite differences say."""
    arrays = (logits_a_tm1, a_tm1, predicted_latent_t, latent_t)
    hyper = {"beta": beta, "stop_target_gradients": stop_target_gradients}
    return losses.intrinsic_curiosity(*arrays, **hyper)[:3]


PAIR = {"prediction": jax.random.normal(KEYS[0], (4,)), "target": jax.random.normal(KEYS[1], (4,))}
ICM = {
    "logits_a_tm1": jax.random.normal(KEYS[2], (3,)),
    "a_tm1": jnp.int32(1),
    "predicted_latent_t": jax.random.normal(KEYS[3], (4,)),
    "latent_t": jax.random.normal(KEYS[4], (4,)),
}
E3B = {"inverse_covariance": jnp.eye(3) * 2.0, "feature_t": jax.random.normal(KEYS[5], (3,))}
LEARNED = ("logits_a_tm1", "predicted_latent_t")
CASES = [
    Case(losses.rnd_error, PAIR, ("prediction",), values=tuple(PAIR)),
    Case(
        curiosity_losses,
        ICM,
        LEARNED,
        {"beta": 0.3},
        values=(*LEARNED, "latent_t"),
        free=(
            "logits_a_tm1",
            "predicted_latent_t",
        ),
    ),
    Case(losses.elliptical_bonus, E3B, values=("feature_t",)),
    Case(losses.count_bonus, {"count_t": jnp.float32(3.0)}, ("count_t",), {"beta": 0.7}, values=()),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_contract(case):
    check_contract(case)
