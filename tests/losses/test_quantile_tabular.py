"""Quantile TD: its fixed points, its gap to the truth, and that QR-DQN's gradient is its step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import losses
from helpers.contract import Case, check_contract
from helpers.jitted import jitted, quick_jit

GENERATOR = np.random.default_rng(3)
ARRAYS = {
    "dist_tm1": jnp.asarray(GENERATOR.normal(size=5), jnp.float32),
    "tau_tm1": losses.quantile_midpoints(5),
    "target": jnp.asarray(GENERATOR.normal(size=8), jnp.float32),
}
CASE = Case(
    losses.quantile_td,
    ARRAYS,
    ("dist_tm1", "tau_tm1"),
    {"step_size": 0.1},
    values=("dist_tm1", "target"),
    free=("target",),
)


def test_contract():
    check_contract(CASE)


def test_worked_update():
    # Mass below 0 is 1/3 and below 1 is 2/3: 0 + .3 * (.25 - 1/3) and 1 + .3 * (.75 - 2/3).
    args = jnp.array([0.0, 1.0]), jnp.array([0.25, 0.75]), jnp.array([-1.0, 0.5, 3.0])
    new = jitted.quantile_td(*args, step_size=0.3)
    np.testing.assert_allclose(new, [-0.025, 1.025], rtol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("method", ["pairwise", "sorted"])
def test_is_gradient_descent_on_the_pinball_loss(weighted, method):
    weights = np.linspace(-0.5, 0.75, 8, dtype=np.float32) if weighted else None
    dist, tau, target = map(np.array, ARRAYS.values())
    target[0] = dist[0]  # a tie counts as above in both
    loss = functools.partial(
        losses.quantile_regression, weights=weights, huber_kappa=0.0, method=method
    )
    new = jitted.quantile_td(dist, tau, target, step_size=0.2, weights=weights)
    gradient = np.asarray(quick_jit(jax.grad(loss))(dist, tau, target))
    np.testing.assert_allclose(new, dist - 0.2 * gradient, atol=1e-6)


def bernoulli_atoms(theta):
    """One state, reward 0 or 1 with probability 1/2, gamma 1/2: the return is uniform on [0, 2]."""
    return np.concatenate([0.5 * theta, 1.0 + 0.5 * theta])


def lower_quantiles(atoms, tau):
    """The smallest atom with at least mass tau at or below it."""
    ranks = np.ceil(tau * atoms.size - 1e-6).astype(int) - 1
    return np.sort(atoms)[ranks]


@pytest.mark.parametrize("m", [4, 16, 64])
def test_dynamic_programming_with_lower_quantiles_is_biased_by_one_over_m(m):
    tau, theta = np.asarray(losses.quantile_midpoints(m)), np.zeros(m, np.float32)
    for _ in range(40):
        theta = lower_quantiles(bernoulli_atoms(theta), tau)
    np.testing.assert_allclose(np.max(np.abs(theta - 2.0 * tau)), 1.0 / m, rtol=1e-5)
    np.testing.assert_allclose(np.mean(theta), 1.0 - 1.0 / m, rtol=1e-5)
    if m == 4:
        np.testing.assert_allclose(theta, [0.0, 0.5, 1.0, 1.5], atol=1e-6)
    # It is a fixed point of quantile TD up to the flat piece: F just above it has passed tau.
    atoms = bernoulli_atoms(theta)
    near = theta + np.float32(1e-4)
    moved = np.asarray(jitted.quantile_td(near, tau, atoms, step_size=1.0)) - near
    assert np.all(moved <= 1e-6)


def test_quantile_td_finds_the_uniform_return():
    """m = 8, 400,000 sampled rewards, four seeds. Any point of a flat piece of F is at rest, so
    a seed ends anywhere within about 1/m of 2 tau; their mean is within 0.1."""
    m, steps, seeds = 8, 400_000, 4
    tau = losses.quantile_midpoints(m)
    rewards = jax.random.bernoulli(jax.random.key(0), 0.5, (steps, seeds)).astype(jnp.float32)

    @jax.vmap
    def update(theta, reward, size):
        return losses.quantile_td(theta, tau, reward + 0.5 * theta, step_size=size)

    def step(theta, inputs):
        k, reward = inputs
        size = 0.5 / jnp.sqrt(1.0 + k / 1000.0)
        return update(theta, reward, jnp.full(seeds, size)), None

    start = jnp.zeros((seeds, m))
    theta, _ = jax.jit(lambda *xs: jax.lax.scan(step, start, xs))(jnp.arange(steps), rewards)
    theta, tau = np.asarray(theta), np.asarray(tau)
    assert np.max(np.abs(theta - 2.0 * tau)) < 1.0 / m
    assert np.max(np.abs(np.mean(theta, axis=0) - 2.0 * tau)) < 0.1


def test_bad_arguments_get_a_sentence():
    with pytest.raises(ValueError, match="^step_size must .* got -1"):
        losses.quantile_td(*ARRAYS.values(), step_size=-1.0)
    with pytest.raises(ValueError, match="^weights must have .* entries .*, got 5"):
        losses.quantile_td(*ARRAYS.values(), step_size=0.1, weights=jnp.ones(5))
