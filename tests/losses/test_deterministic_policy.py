"""Continuous actions: TD3's and SAC's formulas by hand, against loops, and their gradients."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bellmax import losses
from helpers.contract import Case, check_contract
from helpers.jitted import jitted, quick_jit
from helpers.peers import rlax

BOUNDS = {"minimum": jnp.array([-1.0, -2.0, 0.0]), "maximum": jnp.array([1.0, 2.0, 5.0])}
ACTION = {"action": jnp.array([0.2, -1.5, 4.0]), "noise": jnp.array([0.1, 0.3, -0.9])}
STEP = {"r_t": jnp.float32(0.3), "discount_t": jnp.float32(0.9)}
Q_T = {"q_t": jnp.array([1.2, -0.4, 0.7])}
Q_TM1 = {"q_tm1": jnp.array([0.3, 0.8, -1.1])}
GAUSSIAN = {
    "u": jnp.array([0.5, -1.2]),
    "mean": jnp.array([0.2, 0.1]),
    "std": jnp.array([0.5, 1.5]),
}
CASES = [
    Case(losses.smoothed_target_action, ACTION, tuple(ACTION), static=BOUNDS),
    Case(losses.clipped_double_q_target, STEP | Q_T, (*STEP, "q_t"), free=("q_t",)),
    Case(
        losses.clipped_double_q_learning, Q_TM1 | STEP | Q_T, ("q_tm1",),
        static={"reduce": "mean"}, values=("q_tm1", "q_t"),
    ),
    Case(
        losses.soft_actor_critic_target, STEP | Q_T | {"log_prob_t": jnp.float32(-0.8)},
        (*STEP, "q_t", "log_prob_t"), {"temperature": 0.2}, free=("q_t",)),
    Case(losses.tanh_gaussian_log_prob, GAUSSIAN, tuple(GAUSSIAN), {"scale": 1.3}, values=("u",)),
    Case(
        losses.temperature_loss,
        {"log_temperature": jnp.float32(-0.3), "log_prob": jnp.float32(1.2)},
        ("log_temperature",), static={"target_entropy": -3.0}, values=(),
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.function.__name__)
def test_contract(case):
    check_contract(case)


POLICY = Case(
    losses.deterministic_policy_gradient,
    {"a_t": jnp.array([0.1, -0.4]), "dqda_t": jnp.array([1.5, 0.3])},
    ("a_t",),
)


# Its gradient is not that of its value: that is the point of it.
def test_contract_of_the_policy_gradient():
    check_contract(POLICY, but=("differentiates",))


def test_worked_targets_of_td3():
    critics = jnp.array([10.0, 8.0])
    ongoing = losses.clipped_double_q_target(1.0, 0.99, critics)  # at a time limit too
    ended = losses.clipped_double_q_target(1.0, 0.0, critics)
    np.testing.assert_allclose((ongoing, ended), (8.92, 1.0), rtol=1e-6)
    np.testing.assert_allclose(ongoing - ended, 0.99 * 8.0, rtol=1e-6)
    mean = losses.clipped_double_q_target(1.0, 0.99, critics, reduce="mean")
    np.testing.assert_allclose(mean, 1 + 0.99 * 9.0, rtol=1e-6)
    single = losses.clipped_double_q_target(1.0, 0.99, critics[:1])
    np.testing.assert_allclose(single, 1 + 0.99 * 10.0, rtol=1e-6)
    errors = losses.clipped_double_q_learning(jnp.array([9.0, 8.0]), 1.0, 0.99, critics)
    np.testing.assert_allclose(errors, [-0.08, 0.92], atol=1e-5)


def test_worked_target_of_soft_actor_critic():
    critics = jnp.array([10.0, 8.0])
    target = lambda discount, temperature: losses.soft_actor_critic_target(  # noqa: E731
        1.0, discount, critics, -1.0, temperature=temperature
    )
    np.testing.assert_allclose(target(0.99, 0.2), 9.118, rtol=1e-6)
    np.testing.assert_allclose(target(0.99, 0.0), 8.92, rtol=1e-6)
    np.testing.assert_allclose(target(0.0, 0.2), 1.0, rtol=1e-6)  # the entropy ends too


def test_one_critic_is_plain_td_and_all_share_one_target():
    single = losses.clipped_double_q_learning(jnp.array([0.4]), 0.3, 0.9, jnp.array([2.0]))
    np.testing.assert_allclose(single, [rlax.td_learning(0.4, 0.3, 0.9, 2.0)], rtol=1e-6)
    # Control: a critic bootstrapping from itself would have errors 0.3 + 0.9 * (2, 1).
    errors = losses.clipped_double_q_learning(jnp.zeros(2), 0.3, 0.9, jnp.array([2.0, 1.0]))
    np.testing.assert_allclose(errors, [1.2, 1.2], rtol=1e-6)


def loop_smoothed(action, noise, clip, low, high):
    out = []
    for a, e, lo, hi in zip(action, noise, low, high, strict=True):
        scale = (hi - lo) / 2
        e = min(max(e * scale, -clip * scale), clip * scale)
        out.append(min(max(a + e, lo), hi))
    return out


def test_worked_smoothing():
    # Scales 1, 2, 2.5. 0.2 + 0.1; -1.5 + 2 * 0.3; 4 - 2.5 * 0.5, as the noise is clipped first.
    got = jitted.smoothed_target_action(*ACTION.values(), **BOUNDS)
    np.testing.assert_allclose(got, [0.3, -0.9, 2.75], rtol=1e-6)
    at_bound = jitted.smoothed_target_action(jnp.array([0.9]), jnp.array([0.3]))
    np.testing.assert_allclose(at_bound, [1.0])
    off = jitted.smoothed_target_action(*ACTION.values(), noise_clip=0.0, **BOUNDS)
    np.testing.assert_allclose(off, ACTION["action"], rtol=1e-6)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.integers(0, 10**6))
def test_smoothing_equals_the_loop_and_stays_in_bounds(seed):
    generator = np.random.default_rng(seed)
    action, noise, low, width = generator.normal(size=(4, 5)).astype(np.float32)
    high = low + np.abs(width)
    clip = float(generator.uniform(0, 1))
    got = losses.smoothed_target_action(
        action, noise, noise_clip=clip, minimum=jnp.asarray(low), maximum=jnp.asarray(high)
    )
    np.testing.assert_allclose(got, loop_smoothed(action, noise, clip, low, high), atol=1e-5)
    assert np.all(low <= got) and np.all(got <= high)


def test_standard_deviation_of_the_smoothing():
    # Noise at the quantiles of N(0, 0.2^2), clipped at c = 2.5 deviations. With Q(c) the tail,
    # the variance over 0.2^2 is 1 - 2 Q(c) - 2 c pdf(c) + 2 c^2 Q(c) = 0.977560.
    noise = 0.2 * stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000).astype(np.float32)
    std = np.std(jitted.smoothed_target_action(np.zeros_like(noise), noise))
    np.testing.assert_allclose(std, 0.197743, atol=2e-6)


def test_actor_gradient_reaches_the_actor_only():
    critic = lambda w, a: -jnp.sum((a - w["goal"]) ** 2)  # noqa: E731
    actor = lambda theta, x: jnp.tanh(theta * x)  # noqa: E731
    x, theta, w = jnp.array([0.5, -1.0]), jnp.array([0.3, 0.7]), {"goal": jnp.array([0.9, 0.1])}

    def loss(theta, w, clipping):
        a_t = actor(theta, x)
        dqda_t = jax.grad(critic, 1)(w, a_t)
        return losses.deterministic_policy_gradient(a_t, dqda_t, dqda_clipping=clipping)

    @quick_jit
    def run(theta, w):
        gradients = [jax.grad(loss, (0, 1))(theta, w, clipping) for clipping in (None, 0.5, 100.0)]
        expected = jax.grad(lambda theta: -critic(w, actor(theta, x)))(theta)
        return gradients, expected, jax.grad(critic, 1)(w, actor(theta, x)), loss(theta, w, None)

    ((d_theta, d_w), (clipped, _), (far, _)), expected, dqda, value = run(theta, w)
    np.testing.assert_allclose(d_theta, expected, rtol=1e-5)
    np.testing.assert_array_equal(d_w["goal"], jnp.zeros(2))
    # The gradient in the action is shortened to length 0.5, at most.
    length = float(jnp.linalg.norm(dqda))
    assert length > 0.5
    np.testing.assert_allclose(clipped, expected * 0.5 / length, rtol=1e-5)
    np.testing.assert_allclose(far, expected, rtol=1e-5)
    np.testing.assert_allclose(value, 0.5 * length**2, rtol=1e-5)


@pytest.mark.parametrize(
    ("u", "mean", "std", "scale", "expected"),
    [
        (0.0, 0.0, 1.0, 1.0, -0.9189385),
        (1.0, 0.0, 1.0, 1.0, -0.5513769),  # -1/2 - log(2 pi) / 2 + 0.8675617
        (1.0, 0.0, 1.0, 2.0, -1.2445241),
        (0.5, 0.2, 0.5, 1.0, -0.1655623),
    ],
)
def test_worked_log_prob(u, mean, std, scale, expected):
    with jax.enable_x64(True):
        u, mean, std = (np.array([x]) for x in (u, mean, std))
        got = jitted.tanh_gaussian_log_prob(u, mean, std, scale=np.array(scale))
        np.testing.assert_allclose(got, expected, atol=1e-7)
        # Control: code that adds 1e-6 inside the logarithm is off by as much, -0.5513793 at u = 1.
        normal = stats.norm.logpdf(u, mean, std)[0]
        added = normal - np.log(scale * (1 - np.tanh(u[0]) ** 2) + 1e-6)
        if scale == 1.0 and u[0] == 1.0:
            np.testing.assert_allclose(added, -0.5513793, atol=1e-7)


def test_log_prob_is_a_density_over_actions():
    """Integrates to 1 over the action's range, for each of two scales given as an array."""
    with jax.enable_x64(True):
        scale = np.array([1.0, 3.0])
        u = np.arctanh((np.arange(20_000) + 0.5) / 10_000 - 1)
        log_prob_of = lambda pair: losses.tanh_gaussian_log_prob(  # noqa: E731
            pair, jnp.full(2, 0.3), jnp.full(2, 0.8), scale=scale
        )
        mapped = quick_jit(jax.vmap(log_prob_of))
        for d in range(2):
            log_prob = np.asarray(mapped(u[:, None] * np.eye(2)[d]))
            fixed = stats.norm.logpdf(0.0, 0.3, 0.8) - np.log(scale[1 - d])
            mass = np.sum(np.exp(log_prob - fixed)) * scale[d] / 10_000
            np.testing.assert_allclose(mass, 1.0, atol=1e-4)


def test_log_prob_is_exact_where_tanh_rounds_to_one():
    log_prob = lambda u: losses.tanh_gaussian_log_prob(u, u, jnp.ones(1))  # noqa: E731
    both = quick_jit(jax.value_and_grad(log_prob))
    for u in (30.0, -30.0):
        # 1 - tanh(u)^2 = 4 exp(-2 |u|) there.
        expected = -0.5 * math.log(2 * math.pi) - math.log(4.0) + 60.0
        value, gradient = both(jnp.array([u]))
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        np.testing.assert_allclose(gradient, [math.copysign(2.0, u)], rtol=1e-6)
    assert 1 - jnp.tanh(jnp.float32(30.0)) ** 2 == 0.0  # the plain form takes its logarithm


@pytest.mark.parametrize(("log_prob", "direction"), [(2.5, 1.0), (2.0, 0.0), (1.5, -1.0)])
def test_temperature_rises_where_entropy_is_too_low(log_prob, direction):
    # Target -2: a log-probability of 2 is on target.
    slope = jax.grad(losses.temperature_loss)(0.3, log_prob, target_entropy=-2.0)
    np.testing.assert_allclose(-slope, 0.5 * direction * math.exp(0.3), rtol=1e-6)


def test_errors_name_the_argument():
    a, q = np.zeros(3, np.float32), np.zeros(2, np.float32)
    for call, words in (
        (
            lambda: losses.clipped_double_q_target(0.0, 0.9, q, reduce="max"),
            "^reduce must .*, got 'max'",
        ),
        (lambda: losses.smoothed_target_action(a, a, noise_clip=-0.1), "^noise_clip must .*-0.1"),
        (lambda: losses.smoothed_target_action(a, a, maximum=q), "^maximum must have 3 .* got 2"),
        (
            lambda: losses.tanh_gaussian_log_prob(a, a, a + 1, scale=q),
            "^scale must have 3 .* got 2",
        ),
        (lambda: losses.deterministic_policy_gradient(a, a, dqda_clipping=0.0), "^dqda_clipping"),
        (
            lambda: losses.soft_actor_critic_target(0.0, 0.9, q, 0.0, temperature=-1.0),
            "^temperature must .* got -1.0",
        ),
        (
            lambda: losses.temperature_loss(0.0, 0.0, target_entropy=a),
            "^target_entropy must be a scalar",
        ),
        # A column of critics must not broadcast against a row of them.
        (
            lambda: losses.clipped_double_q_learning(q[:, None], 0.0, 0.9, q),
            "^q_tm1 must .* rank 2",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            call()
