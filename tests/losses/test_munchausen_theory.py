"""Theory of Munchausen value iteration, checked on small tables in float64."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import losses

S, A, GAMMA = 6, 4, 0.9
PAIRS = [(0.9, 0.03), (0.5, 0.3), (0.7, 0.1)]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def random_mdp(states=S, actions=A, seed=0):
    generator = np.random.default_rng(seed)
    p = generator.dirichlet(np.ones(states), size=(states, actions))
    return generator.normal(size=(states, actions)), p


def log_softmax(q, tau):
    shifted = (q - q.max(axis=-1, keepdims=True)) / tau
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def soft_max(q, tau):
    log_pi = log_softmax(q, tau)
    return np.sum(np.exp(log_pi) * (q - tau * log_pi), axis=-1)


def mirror_descent_step(q, log_pi, r, p, alpha, tau):
    """MD-VI: greedy in q - alpha * tau * KL(. || pi) + (1 - alpha) * tau * H(.), and its backup."""
    new_log_pi = log_softmax(q + alpha * tau * log_pi, tau)
    new_pi = np.exp(new_log_pi)
    kl = np.sum(new_pi * (new_log_pi - log_pi), axis=-1)
    entropy = -np.sum(new_pi * new_log_pi, axis=-1)
    value = np.sum(new_pi * q, axis=-1) - alpha * tau * kl + (1 - alpha) * tau * entropy
    return r + GAMMA * p @ value, new_log_pi


def step(q, r, p, alpha, tau, clip=-math.inf, gamma=GAMMA):
    hyper = {"gamma": gamma, "temperature": tau, "alpha": alpha, "clip": clip}
    return losses.munchausen_value_iteration(q, r, p, **hyper)


def fixed_point(r, p, alpha, tau, steps=2500, gamma=GAMMA):
    def body(q, _):
        return step(q, r, p, alpha, tau, gamma=gamma), None

    return np.asarray(jax.lax.scan(body, jnp.zeros(r.shape), None, length=steps)[0])


def soft_optimal(r, p, tau, steps=600):
    q = np.zeros_like(r)
    for _ in range(steps):
        q = r + GAMMA * p @ soft_max(q, tau)
    return q


def gaps(q):
    return q.max(axis=-1, keepdims=True) - q


@pytest.mark.parametrize(("alpha", "tau"), [(0.9, 0.03), (0.5, 0.3), (0.0, 0.2), (0.99, 0.1)])
def test_equals_mirror_descent_value_iteration(alpha, tau):
    r, p = random_mdp()
    q_md = np.random.default_rng(1).normal(size=(S, A))
    log_pi = np.full((S, A), -np.log(A))
    q = q_md + alpha * tau * log_pi
    for _ in range(30):
        new_log_pi = log_softmax(q, tau)
        q = np.asarray(step(q, r, p, alpha, tau))
        q_md, log_pi = mirror_descent_step(q_md, log_pi, r, p, alpha, tau)
        np.testing.assert_allclose(np.exp(new_log_pi), np.exp(log_pi), rtol=0, atol=1e-13)
        np.testing.assert_allclose(q - alpha * tau * new_log_pi, q_md, rtol=0, atol=1e-13)


def test_mirror_descent_oracle_is_greedy():
    """No random policy does better at the regularised objective than the closed form."""
    generator, alpha, tau = np.random.default_rng(2), 0.6, 0.4
    q, old = generator.normal(size=A), generator.dirichlet(np.ones(A))

    def objective(pi):
        kl, entropy = np.sum(pi * np.log(pi / old)), -np.sum(pi * np.log(pi))
        return pi @ q - alpha * tau * kl + (1 - alpha) * tau * entropy

    best = objective(np.exp(log_softmax(q + alpha * tau * np.log(old), tau)))
    assert best > max(objective(pi) for pi in generator.dirichlet(np.ones(A), size=1000))


def test_log_sum_exp_form_and_paper_form():
    r, p = random_mdp()
    q, alpha, tau = np.random.default_rng(3).normal(size=(S, A)), 0.9, 0.03
    value = soft_max(q, tau)
    expected = r + alpha * (q - value[:, None]) + GAMMA * p @ value
    np.testing.assert_allclose(step(q, r, p, alpha, tau), expected, atol=1e-13)
    clipped = r + alpha * np.maximum(tau * log_softmax(q, tau), -1.0) + GAMMA * p @ value
    np.testing.assert_allclose(step(q, r, p, alpha, tau, clip=-1.0), clipped, atol=1e-13)
    assert np.abs(clipped - expected).max() > 0.1  # control: the clip was active


def test_special_cases():
    r, p = random_mdp()
    q = np.random.default_rng(3).normal(size=(S, A))
    top = q.max(axis=-1)
    soft = r + GAMMA * p @ soft_max(q, 0.3)
    np.testing.assert_allclose(step(q, r, p, 0.0, 0.3), soft, atol=1e-13)
    np.testing.assert_allclose(step(q, r, p, 0.0, 1e-6), r + GAMMA * p @ top, atol=1e-5)
    advantage = r + 0.9 * (q - top[:, None]) + GAMMA * p @ top
    np.testing.assert_allclose(step(q, r, p, 0.9, 1e-6), advantage, atol=1e-5)
    value = soft_max(q, 0.3)  # alpha = 1: dynamic policy programming
    programming = q + r + GAMMA * p @ value - value[:, None]
    np.testing.assert_allclose(step(q, r, p, 1.0, 0.3), programming, atol=1e-13)


def test_rows_short_of_one_terminate():
    r, _ = random_mdp()
    q = np.random.default_rng(3).normal(size=(S, A))
    ended = r + 0.9 * 0.3 * log_softmax(q, 0.3)
    np.testing.assert_allclose(step(q, r, np.zeros((S, A, S)), 0.9, 0.3), ended, atol=1e-13)


@pytest.mark.parametrize(("alpha", "tau"), PAIRS)
def test_fixed_point_is_soft_optimal_and_gaps_grow(alpha, tau):
    r, p = random_mdp()
    q, q_soft = fixed_point(r, p, alpha, tau), soft_optimal(r, p, (1 - alpha) * tau)
    np.testing.assert_allclose(step(q, r, p, alpha, tau), q, atol=1e-11)
    policy, expected = log_softmax(q, tau), log_softmax(q_soft, (1 - alpha) * tau)
    np.testing.assert_allclose(np.exp(policy), np.exp(expected), atol=1e-9)
    np.testing.assert_allclose(soft_max(q, tau), soft_max(q_soft, (1 - alpha) * tau), atol=1e-9)
    gap, soft_gap = gaps(q), gaps(q_soft)
    wide = soft_gap > 1e-3
    ratio = gap[wide] / soft_gap[wide]
    np.testing.assert_allclose(ratio, 1 / (1 - alpha), rtol=1e-6)
    # (1 + alpha) / (1 - alpha), 19 at alpha = 0.9, is quoted in places and is not the factor.
    assert np.all(np.abs(ratio - (1 + alpha) / (1 - alpha)) > 0.5)


def test_control_clip_breaks_the_gap_factor():
    r, p = random_mdp()
    q = np.zeros((S, A))
    for _ in range(600):
        q = np.asarray(step(q, r, p, 0.9, 0.03, clip=-1.0))
    soft_gap = gaps(soft_optimal(r, p, 0.1 * 0.03))
    wide = soft_gap > 0.5
    assert np.all(gaps(q)[wide] / soft_gap[wide] < 5.0)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_n_step_target_on_policy_has_the_same_fixed_point(n):
    """Every path of n steps from every (s, a), weighted by its probability under pi and p."""
    states, actions, gamma = 3, 2, 0.6
    hyper = {"temperature": 0.5, "alpha": 0.7, "clip": -math.inf}
    r, p = random_mdp(states, actions)
    q = fixed_point(r, p, 0.7, 0.5, steps=400, gamma=gamma)
    log_pi = log_softmax(q, 0.5)
    ranges = [range(states), range(actions)] * n + [range(states)]
    path = np.array(list(itertools.product(*ranges)))
    s, a = path[:, 0::2], path[:, 1::2]

    transitions = p[s[:, :-1], a, s[:, 1:]].prod(axis=1)
    weight = transitions * np.exp(log_pi[s[:, 1:-1], a[:, 1:]]).prod(axis=1)
    window = np.full_like(transitions, gamma)[:, None] * np.ones(n)
    loss = functools.partial(losses.n_step_munchausen_q_learning, **hyper)
    errors = jax.jit(jax.vmap(loss))(
        q[s[:, 0]], a, r[s[:, :-1], a], window, q[s[:, :-1]], q[s[:, 1:]], np.ones_like(window)
    )
    for start in itertools.product(range(states), range(actions)):
        of = (s[:, 0] == start[0]) & (a[:, 0] == start[1])
        np.testing.assert_allclose(weight[of].sum(), 1.0, rtol=1e-12)
        np.testing.assert_allclose((weight * np.asarray(errors))[of].sum(), 0.0, atol=1e-10)


def test_errors_name_the_argument():
    r, p = random_mdp()
    with pytest.raises(ValueError, match=r"p must have 6 .* axis \[S\], as q has, got 4"):
        step(r, r, p[:, :, :4], 0.9, 0.03)
    with pytest.raises(ValueError, match="r must .* got rank 1"):
        step(r, r[:, 0], p, 0.9, 0.03)
