"""VA-learning's losses: decoupling, relation to dueling, worked numbers, controls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bellmax import losses
from helpers.contract import Case, check_contract
from helpers.peers import rlax

KEYS = jax.random.split(jax.random.key(1), 6)
MU = jax.nn.softmax(jax.random.normal(KEYS[0], (4,)))
NOW = {
    "v_tm1": jnp.float32(0.4),
    "advantage_tm1": jax.random.normal(KEYS[1], (4,)),
    "a_tm1": jnp.int32(2),
}
BASE = {"baseline_tm1": jnp.float32(0.7)}
STEP = {
    "r_t": jnp.float32(0.3),
    "discount_t": jnp.float32(0.9),
    "v_t": jnp.float32(-0.6),
    "advantage_t": jax.random.normal(KEYS[2], (4,)),
}
SELECTOR = {"selector_t": jnp.array([0.3, -0.2, 0.9, 0.1])}
ONLINE = ("v_tm1", "advantage_tm1")


def double_va_target(r_t, discount_t, v_t, advantage_t, selector_t):
    return losses.va_target(r_t, discount_t, v_t, advantage_t, selector_t=selector_t)


def double_va_learning(*arrays, stop_target_gradients=True):
    *others, selector_t = arrays
    more = {"selector_t": selector_t, "stop_target_gradients": stop_target_gradients}
    return losses.va_learning(*others, **more)


def double_behaviour_dueling(*arrays, stop_target_gradients=True):
    *others, selector_t = arrays
    more = {"selector_t": selector_t, "stop_target_gradients": stop_target_gradients}
    return losses.behaviour_dueling_q_learning(*others, **more)


CASES = [
    Case(losses.behaviour_centred, {"f": NOW["advantage_tm1"], "mu": MU}, ("f",)),
    Case(
        losses.behaviour_likelihood_loss,
        {"logits": MU, "a": jnp.int32(1)},
        ("logits",),
        free=("logits",),
    ),
    Case(losses.va_target, STEP, tuple(STEP), values=("v_t", "advantage_t"), free=("advantage_t",)),
    Case(
        double_va_target,
        STEP | SELECTOR,
        tuple(STEP),
        values=("v_t", "selector_t"),
        optional=("selector_t",),
    ),
    Case(
        losses.va_errors,
        NOW | BASE | {"target_tm1": jnp.float32(2.0)},
        ONLINE,
        free=("advantage_tm1",),
    ),
    Case(losses.va_learning, NOW | BASE | STEP, ONLINE, values=(*ONLINE, "v_t", "advantage_t")),
    Case(
        double_va_learning,
        NOW | BASE | STEP | SELECTOR,
        ONLINE,
        values=(*ONLINE, "selector_t"),
        optional=("selector_t",),
    ),
    Case(losses.behaviour_dueling_q_learning, NOW | STEP, ONLINE, values=(*ONLINE, "v_t")),
    Case(double_behaviour_dueling, NOW | STEP | SELECTOR, ONLINE, optional=("selector_t",)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_contract(case):
    check_contract(case)


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def problem(seed, actions=5):
    generator = np.random.default_rng(seed)
    f, targets = generator.normal(size=(2, actions))
    return float(generator.normal()), f, generator.dirichlet(np.ones(actions)), targets


def test_worked_numbers():
    # mu.f = 0.25 * 1 + 0.75 * 3 = 2.5, so A = (-1.5, 0.5).
    advantage = losses.behaviour_centred(jnp.array([1.0, 3.0]), jnp.array([0.25, 0.75]))
    np.testing.assert_allclose(advantage, [-1.5, 0.5], atol=1e-7)
    # Target 0.5 + 0.9 * (2 + 1) = 3.2. Errors 3.2 - 1, 3.2 - 1.4 - 0.5 and 3.2 - (1 + 0.5).
    step = 0.5, 0.9, 2.0, jnp.array([-1.0, 1.0])
    np.testing.assert_allclose(losses.va_target(*step), 3.2, rtol=1e-6)
    errors = losses.va_learning(1.0, advantage, 1, 1.4, *step)
    np.testing.assert_allclose(errors, (2.2, 1.3), rtol=1e-6)
    dueling = losses.behaviour_dueling_q_learning(1.0, advantage, 1, *step)
    np.testing.assert_allclose(dueling, 1.7, rtol=1e-6)
    # The selector prefers action 0: 0.5 + 0.9 * (2 - 1) = 1.4.
    selector = jnp.array([5.0, 4.0])
    np.testing.assert_allclose(losses.va_target(*step, selector_t=selector), 1.4, rtol=1e-6)
    errors = losses.va_learning(1.0, advantage, 1, 1.4, *step, selector_t=selector)
    np.testing.assert_allclose(errors, (0.4, -0.5), rtol=1e-5)
    dueling = losses.behaviour_dueling_q_learning(1.0, advantage, 1, *step, selector_t=selector)
    np.testing.assert_allclose(dueling, -0.1, rtol=1e-5)


def test_termination_drops_the_bootstrap_and_a_time_limit_does_not():
    v_t, advantage_t = 2.0, jnp.array([-1.0, 1.0])
    ended, cut = (losses.va_target(1.0, discount, v_t, advantage_t) for discount in (0.0, 0.9))
    np.testing.assert_allclose(ended, 1.0)
    np.testing.assert_allclose(cut - ended, 0.9 * 3.0, rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_decoupling(seed, float64):
    v, f, mu, targets = problem(seed)
    advantage = losses.behaviour_centred(jnp.asarray(f), jnp.asarray(mu))
    mean = lambda x: float(np.sum(mu * x))  # noqa: E731
    together = mean((targets - v - advantage) ** 2)
    apart = mean((targets - v) ** 2) + mean((targets - advantage) ** 2) - mean(targets**2)
    assert abs(together - apart) < 1e-12
    # Control: centred under another policy, the two gradients are not independent.
    other = f - f.mean()
    together = mean((targets - v - other) ** 2)
    apart = mean((targets - v) ** 2) + mean((targets - other) ** 2) - mean(targets**2)
    assert abs(together - apart) > 1e-3


@jax.jit
def expected_losses(v, f, mu, targets, centre_mu, baseline=0.7):
    """Expected loss of VA-learning and of behaviour dueling over actions drawn from mu."""
    advantage = losses.behaviour_centred(f, centre_mu)

    def both(a, target):
        errors = losses.va_errors(v, advantage, a, baseline, target)
        nothing = 0.0, 0.0, jnp.zeros_like(f)
        error = losses.behaviour_dueling_q_learning(v, advantage, a, target, *nothing)
        return 0.5 * (errors.value**2 + errors.advantage**2), 0.5 * error**2

    each = jax.vmap(both)(jnp.arange(f.size), targets)
    return jnp.stack([jnp.vdot(mu, loss) for loss in each])


@pytest.mark.parametrize("seed", range(3))
def test_expected_gradients_agree(seed, float64):
    v, f, mu, targets = problem(seed)
    arguments = tuple(map(jnp.asarray, (v, f, mu, targets)))
    d_v, d_f = jax.jacrev(expected_losses, (0, 1))(*arguments, jnp.asarray(mu))
    np.testing.assert_allclose(d_v[0], d_v[1], atol=1e-12)
    np.testing.assert_allclose(d_f[0], d_f[1], atol=1e-12)
    np.testing.assert_allclose(d_v[0], v - np.sum(mu * targets), atol=1e-12)
    # Control: centred under the greedy policy instead, the gradients differ.
    greedy = jax.nn.one_hot(np.argmax(f), len(f), dtype=jnp.float64)
    d_v, d_f = jax.jacrev(expected_losses, (0, 1))(*arguments, greedy)
    assert float(jnp.max(jnp.abs(d_v[0] - d_v[1]))) > 1e-2
    assert float(jnp.max(jnp.abs(d_f[0] - d_f[1]))) > 1e-2


def dueling_change(v, f, mu, a, target, step_size):
    """How a gradient step on one sample moves all action values, and the TD error before it."""

    def error(v, f):
        advantage = losses.behaviour_centred(f, mu)
        zeros = jnp.zeros_like(f)
        return losses.behaviour_dueling_q_learning(v, advantage, a, target, 0.0, 0.0, zeros)

    q = lambda v, f: v + losses.behaviour_centred(f, mu)  # noqa: E731
    d_v, d_f = jax.grad(lambda *params: 0.5 * error(*params) ** 2, (0, 1))(v, f)
    return q(v - step_size * d_v, f - step_size * d_f) - q(v, f), error(v, f)


@pytest.mark.parametrize("a", [0, 3])
def test_what_a_dueling_step_does_to_every_action(a, float64):
    v, f, mu, targets = problem(7)
    change, delta = dueling_change(jnp.float64(v), jnp.asarray(f), jnp.asarray(mu), a, 1.5, 0.1)
    taken = np.eye(5)[a]
    expected = 0.1 * delta * (1 + taken - mu - mu[a] + np.sum(mu**2))
    np.testing.assert_allclose(change, expected, atol=1e-12)
    uniform = jnp.full(5, 0.2)
    change, delta = dueling_change(jnp.float64(v), jnp.asarray(f), uniform, a, 1.5, 0.1)
    np.testing.assert_allclose(change, 0.1 * delta * (1 + taken - 0.2), atol=1e-12)


def test_uniform_behaviour_is_the_usual_dueling_head(float64):
    _, f, _, _ = problem(3)
    got = losses.behaviour_centred(jnp.asarray(f), jnp.full(5, 0.2))
    np.testing.assert_allclose(got, f - np.mean(f), atol=1e-12)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.integers(0, 10**6), st.floats(-100, 100))
def test_centring_and_invariance(seed, shift):
    with jax.enable_x64(True):
        _, f, mu, _ = problem(seed)
        advantage = losses.behaviour_centred(jnp.asarray(f), jnp.asarray(mu))
        assert abs(float(np.sum(mu * advantage))) < 1e-12
        raised = losses.behaviour_centred(jnp.asarray(f + shift), jnp.asarray(mu))
        np.testing.assert_allclose(raised, advantage, atol=1e-12)
        target = losses.va_target(0.5, 0.9, 2.0, advantage)
        np.testing.assert_allclose(losses.va_target(0.5, 0.9, 2.0, raised), target, atol=1e-12)
        errors = (losses.va_learning(1.0, x, 1, 0.3, 0.5, 0.9, 2.0, x) for x in (advantage, raised))
        np.testing.assert_allclose(*errors, atol=1e-12)
        errors = (
            losses.behaviour_dueling_q_learning(1.0, x, 1, 0.5, 0.9, 2.0, x)
            for x in (advantage, raised)
        )
        np.testing.assert_allclose(*errors, atol=1e-12)


def test_behaviour_likelihood():
    logits = jnp.array([0.0, jnp.log(3.0), -jnp.inf])
    np.testing.assert_allclose(
        losses.behaviour_likelihood_loss(logits, 1), -np.log(0.75), rtol=1e-6
    )
    gradient = jax.grad(losses.behaviour_likelihood_loss)(logits, 1)
    np.testing.assert_allclose(gradient, [0.25, -0.25, 0.0], atol=1e-7)


@pytest.mark.peer
@pytest.mark.parametrize("seed", range(3))
def test_dueling_is_q_learning_with_the_sum(seed):
    generator = np.random.default_rng(seed)
    advantages = jnp.asarray(generator.normal(size=(3, 6)), jnp.float32)
    q_tm1, q_t = 0.3 + advantages[0], -1.2 + advantages[1]
    got = losses.behaviour_dueling_q_learning(0.3, advantages[0], 4, 0.5, 0.9, -1.2, advantages[1])
    np.testing.assert_allclose(got, rlax.q_learning(q_tm1, 4, 0.5, 0.9, q_t), atol=1e-6)
    got = losses.behaviour_dueling_q_learning(
        0.3, advantages[0], 4, 0.5, 0.9, -1.2, advantages[1], selector_t=advantages[2]
    )
    expected = rlax.double_q_learning(q_tm1, 4, 0.5, 0.9, q_t, advantages[2])
    np.testing.assert_allclose(got, expected, atol=1e-6)
