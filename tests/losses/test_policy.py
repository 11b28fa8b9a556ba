"""Advantages, PPO and entropy: worked numbers, loops in NumPy, episode ends, rlax as a peer."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bellmax import losses
from helpers.contract import Case, check_contract
from helpers.peers import rlax

KEYS = jax.random.split(jax.random.key(0), 6)
advantages_of = jax.jit(losses.generalised_advantages)


def window(steps=6, seed=0, discount=None, trace=None):
    generator = np.random.default_rng(seed)
    v_tm1, r_t, v_t = generator.normal(size=(3, steps))
    discount = np.ones(steps) if discount is None else np.array(discount, float)
    trace = np.ones(steps) if trace is None else np.array(trace, float)
    return v_tm1, r_t, 0.9 * discount, v_t, trace


def loop_advantages(v_tm1, r_t, discount_t, v_t, trace_t, lambda_):
    """Sums of discounted TD errors, forwards from each row."""
    out = np.zeros_like(r_t)
    for i in range(len(r_t)):
        weight = 1.0
        for j in range(i, len(r_t)):
            out[i] += weight * (r_t[j] + discount_t[j] * v_t[j] - v_tm1[j])
            weight *= discount_t[j] * lambda_ * trace_t[j]
    return out


def test_advantages_worked():
    # TD errors 1 + 0.5 * 4 - 2 = 1 and 3 + 0.5 * 2 - 4 = 0; 1 + 0.5 * 0.8 * 0 and the bootstrap.
    args = [jnp.array(x) for x in ([2.0, 4.0], [1.0, 3.0], [0.5, 0.5], [4.0, 2.0], [1.0, 1.0])]
    np.testing.assert_allclose(advantages_of(*args, lambda_=0.8), [1.0, 0.0], atol=1e-6)
    args[1] = jnp.array([1.0, 6.0])  # the second TD error is 3 now: 1 + 0.4 * 3
    np.testing.assert_allclose(advantages_of(*args, lambda_=0.8), [2.2, 3.0], rtol=1e-6)


@pytest.mark.parametrize("lambda_", [0.0, 0.95, 1.0])
@pytest.mark.parametrize(
    ("discount", "trace"),
    [(None, None), ([1, 1, 0, 1, 1, 1], [1, 1, 0, 1, 1, 1]), (None, [1, 0, 1, 0.5, 1, 1])],
)
def test_advantages_equal_the_loop(discount, trace, lambda_):
    args = window(discount=discount, trace=trace)
    with jax.enable_x64(True):
        got = advantages_of(*args, lambda_=lambda_)
    np.testing.assert_allclose(got, loop_advantages(*args, lambda_), rtol=1e-9, atol=1e-12)


def test_a_time_limit_bootstraps_and_cuts():
    trace = [1, 1, 0, 1, 1, 1]
    v_tm1, r_t, discount_t, v_t, trace_t = (jnp.asarray(x) for x in window(trace=trace))
    v_tm1 = v_tm1.at[1:3].set(v_t[:2])  # of one observation each, so sums telescope
    cut = advantages_of(v_tm1, r_t, discount_t, v_t, trace_t, lambda_=1.0)
    wanted = r_t[0] + 0.9 * (r_t[1] + 0.9 * (r_t[2] + 0.9 * v_t[2])) - v_tm1[0]
    np.testing.assert_allclose(cut[0], wanted, rtol=1e-5)
    later = [v_tm1.at[3:].add(9.0), r_t.at[3:].add(9.0), discount_t, v_t.at[3:].add(9.0), trace_t]
    np.testing.assert_array_equal(advantages_of(*later, lambda_=1.0)[:3], cut[:3])
    # Controls: without the cut later steps enter; a limit read as a death has no bootstrap.

    whole = advantages_of(v_tm1, r_t, discount_t, v_t, jnp.ones(6), lambda_=1.0)
    dead = advantages_of(v_tm1, r_t, discount_t.at[2].set(0.0), v_t, trace_t, lambda_=1.0)
    assert abs(whole[0] - cut[0]) > 0.1
    np.testing.assert_allclose(cut[2] - dead[2], 0.9 * v_t[2], rtol=1e-4)


def test_stream_with_its_final_observation():
    # Values along a stream whose step 3 closes an episode: the link from step 3 to 4 is masked, and
    # the trace of row 2, which leads into step 3, is cut. No row but row 3 depends on values[4].
    values, (_, r_t, discount_t, _, _) = np.random.default_rng(5).normal(size=7), window()
    trace = np.array([1.0, 1.0, 0.0, 1.0, 1.0, 1.0])
    run = functools.partial(advantages_of, lambda_=0.95)
    base = run(values[:-1], r_t, discount_t, values[1:], trace)
    values[4] += 1.0
    moved = run(values[:-1], r_t, discount_t, values[1:], trace)
    np.testing.assert_array_equal(np.nonzero(base != moved)[0], [3, 4])


@pytest.mark.peer
@pytest.mark.parametrize("lambda_", [0.0, 0.7, 1.0])
def test_peer_advantages(lambda_):
    _, r_t, discount_t, _, trace = map(jnp.asarray, window(trace=[1, 1, 0, 1, 0.3, 1]))
    values = jax.random.normal(KEYS[0], (7,))
    got = advantages_of(values[:-1], r_t, discount_t, values[1:], trace, lambda_=lambda_)
    peer = rlax.truncated_generalized_advantage_estimation(r_t, discount_t, lambda_ * trace, values)
    np.testing.assert_allclose(got, peer, rtol=1e-5, atol=1e-6)
    returns = losses.lambda_returns(r_t, discount_t, values[1:], trace, lambda_=lambda_)
    np.testing.assert_allclose(got + values[:-1], returns, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("ratio", "adv", "loss", "slope"),
    [
        (1.1, 2.0, -2.2, -2.2),  # inside: -rho * adv, gradient to log pi too
        (1.5, 2.0, -2.4, 0.0),  # above 1 + epsilon and good: clipped
        (1.5, -2.0, 3.0, 3.0),  # above and bad: not clipped
        (0.5, 2.0, -1.0, -1.0),  # below and good: not clipped
        (0.5, -2.0, 1.6, 0.0),  # below 1 - epsilon and bad: clipped
    ],
)
def test_clipped_surrogate_worked(ratio, adv, loss, slope):
    log_mu = jnp.float32(-1.3)
    log_pi = log_mu + math.log(ratio)
    both = jax.jit(jax.value_and_grad(losses.clipped_surrogate_loss, (0, 1, 2)))
    got, gradients = both(log_pi, log_mu, jnp.float32(adv))
    np.testing.assert_allclose(got, loss, rtol=1e-5)
    np.testing.assert_allclose(gradients, [slope, 0.0, 0.0], rtol=1e-5)


@pytest.mark.peer
def test_peer_surrogate_takes_the_mean():
    log_pi, log_mu, adv = jax.random.normal(KEYS[1], (3, 32))
    each = jax.jit(jax.vmap(functools.partial(losses.clipped_surrogate_loss, epsilon=0.3)))
    peer = rlax.clipped_surrogate_pg_loss(jnp.exp(log_pi - log_mu), adv, 0.3)
    np.testing.assert_allclose(jnp.mean(each(log_pi, log_mu, adv)), peer, rtol=1e-5)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(*[st.floats(-3, 3, width=32)] * 3, st.floats(0, 1, width=32))
def test_clipping_only_ever_raises_the_loss(log_pi, log_mu, adv, epsilon):
    loss_of = jax.jit(losses.clipped_surrogate_loss)
    loss = loss_of(log_pi, log_mu, adv, epsilon=epsilon)
    assert loss >= -np.exp(np.float32(log_pi) - np.float32(log_mu)) * adv - 1e-4
    value_of = jax.jit(losses.clipped_value_loss)
    assert value_of(log_pi, log_mu, adv, epsilon=epsilon) >= 0.5 * (log_pi - adv) ** 2 - 1e-4


@pytest.mark.parametrize(
    ("v", "old", "target", "loss", "slope"),
    [
        (1.1, 1.0, 2.0, 0.405, -0.9),  # within epsilon: half of 0.9^2
        (1.5, 1.0, 2.0, 0.32, 0.0),  # nearer the target than allowed: half of (1.2 - 2)^2
        (0.5, 1.0, 2.0, 1.125, -1.5),  # moved away: not clipped
    ],
)
def test_clipped_value_worked(v, old, target, loss, slope):
    args = [jnp.float32(x) for x in (v, old, target)]
    got, gradients = jax.value_and_grad(losses.clipped_value_loss, (0, 1, 2))(*args)
    np.testing.assert_allclose(got, loss, rtol=1e-5)
    np.testing.assert_allclose(gradients, [slope, 0.0, 0.0], rtol=1e-5, atol=1e-6)
    plain = losses.clipped_value_loss(*args, epsilon=math.inf)
    np.testing.assert_allclose(plain, 0.5 * (v - target) ** 2, rtol=1e-5)


def test_entropy():
    # Of (1/2, 1/4, 1/4): 1.5 bits. Of one allowed action: none. Of A alike: log A.
    logits = jnp.log(jnp.array([0.5, 0.25, 0.25])) + 7.0
    np.testing.assert_allclose(losses.categorical_entropy(logits), 1.5 * math.log(2), rtol=1e-6)
    np.testing.assert_allclose(losses.categorical_entropy(jnp.zeros(5)), math.log(5), rtol=1e-6)
    assert losses.categorical_entropy(jnp.array([1.0, -jnp.inf, -jnp.inf])) == 0.0
    masked = jnp.append(logits, -jnp.inf)
    value, gradient = jax.value_and_grad(losses.categorical_entropy)(masked)
    np.testing.assert_allclose(value, 1.5 * math.log(2), rtol=1e-6)
    # d H / d logit = -pi * (log pi + H).
    pi = np.array([0.5, 0.25, 0.25])
    np.testing.assert_allclose(gradient[:3], -pi * (np.log(pi) + value), atol=1e-6)
    assert gradient[3] == 0.0


def test_errors_name_the_argument():
    args = window()
    for call, pattern in [
        (lambda: losses.generalised_advantages(*args, lambda_=1.1), "lambda_ must .* got 1.1"),
        (
            lambda: losses.generalised_advantages(*args[:-1], args[-1][1:]),
            "^trace_t must have 6 .* got 5",
        ),
        (
            lambda: losses.clipped_surrogate_loss(0.0, 0.0, 1.0, epsilon=-1.0),
            "epsilon must .* got -1",
        ),
        (
            lambda: losses.clipped_surrogate_loss(args[0], 0.0, 1.0),
            "^log_pi_a_t must .* got rank 1",
        ),
        (lambda: losses.clipped_value_loss(0.0, 0.0, 1.0, epsilon=-1.0), "epsilon must .* got -1"),
        (lambda: losses.categorical_entropy(0.0), "^logits_t must .* got rank 0"),
    ]:
        with pytest.raises(ValueError, match=pattern):
            call()


GAE = dict(zip(("v_tm1", "r_t", "discount_t", "v_t", "trace_t"), window(trace=[1, 1, 0, 1, 0.5, 1]),
               strict=True))  # fmt: skip
GAE = {name: jnp.asarray(x, jnp.float32) for name, x in GAE.items()}
STEP = {"log_pi_a_t": -0.9, "log_mu_a_t": -1.0, "adv_t": 0.7}
VALUE = {"v_tm1": 0.9, "behaviour_v_tm1": 1.0, "target": 0.3}
STEP, VALUE = ({name: jnp.float32(x) for name, x in case.items()} for case in (STEP, VALUE))
CASES = [
    Case(losses.generalised_advantages, GAE, ("v_tm1",), {"lambda_": 0.7}, {}, tuple(GAE)[:4:3]),
    Case(losses.clipped_surrogate_loss, STEP, ("log_pi_a_t",), values=tuple(STEP)),
    Case(losses.clipped_value_loss, VALUE, ("v_tm1",), values=tuple(VALUE)),
    Case(losses.categorical_entropy, {"logits_t": GAE["v_t"]}, ("logits_t",), free=("logits_t",)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_contract(case):
    check_contract(case)
