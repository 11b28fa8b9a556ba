"""Entries of weight 0 have no influence, in tables, batches and lists of atoms.

The contract's `ignores_what_is_excluded` has the arrays of transitions and windows.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import losses
from helpers.jitted import quick_jit

GARBAGE = (np.nan, np.inf, -np.inf)
R = jnp.array([[0.5, 1.0], [0.2, -0.3], [9.0, 9.0]])
# Nothing leads to the last state.
P = jnp.array([[[0.3, 0.7, 0], [0.5, 0.4, 0]], [[1.0, 0, 0], [0.1, 0.9, 0]], [[0.5, 0.5, 0]] * 2])
PI = jnp.array([[0.4, 0.6], [0.5, 0.5], [1.0, 0.0]])


def va_iteration(v):
    tables = losses.VATables(v, jnp.stack([v, 2.0 * v], axis=1))
    return losses.va_value_iteration(tables, R, P, PI, gamma=0.9, pi=PI)


# Of values [S] of states.
TABULAR = {
    "munchausen": lambda v: losses.munchausen_value_iteration(
        jnp.stack([v, v], axis=1), R, P, gamma=0.9
    )[:2],
    "va": lambda v: [x[:2] for x in va_iteration(v)],
    "expectile": lambda v: losses.expectile_value_operator(v, R, P, PI, gamma=0.9, alpha=0.3)[:2],
    "control": lambda v: losses.expectile_bellman_operator(
        jnp.stack([v, v], axis=1), R, P, gamma=0.9, alpha=0.3
    )[:2],
}


@pytest.mark.parametrize("name", TABULAR)
def test_a_state_that_nothing_leads_to(name):
    def total(v):
        output = TABULAR[name](v)
        return sum(jnp.sum(x) for x in jax.tree.leaves(output)), output

    run = quick_jit(jax.value_and_grad(total, has_aux=True))
    (_, wanted), slope = run(jnp.array([1.0, 2.0, 3.0]))
    for garbage in GARBAGE:
        (_, got), gradient = run(jnp.array([1.0, 2.0, garbage]))
        jax.tree.map(np.testing.assert_array_equal, got, wanted)
        np.testing.assert_allclose(gradient[:2], slope[:2], rtol=1e-6)


def test_a_terminal_row_of_tables():
    def updated(last):
        tables = losses.VATables(jnp.array([1.0, last]), jnp.array([[0.5, 0.1], [last, last]]))
        sizes = {"step_size_v": 0.1, "step_size_advantage": 0.2}
        return losses.va_update(tables, 0, 1, 0.5, 0.0, 1, **sizes)

    for garbage in GARBAGE:
        got, wanted = updated(garbage), updated(0.0)
        np.testing.assert_array_equal(got.v[0], wanted.v[0])
        np.testing.assert_array_equal(got.advantage[0], wanted.advantage[0])


@pytest.mark.parametrize("method", ["pairwise", "sorted"])
@pytest.mark.parametrize("kappa", [0.0, 1e-3, 1.0, 1e6, np.inf])
def test_atoms_of_weight_0(method, kappa):
    tau, dist = losses.quantile_midpoints(5), jnp.array([0.1, -0.4, 0.8, 2.0, 0.3])
    atoms, weights = jnp.array([0.5, 1.0, -2.0]), jnp.array([0.5, 0.8, -0.3])

    @quick_jit
    def run(dist, atoms, weights):
        options = {"weights": weights, "huber_kappa": kappa, "method": method}
        rule = lambda dist: losses.quantile_regression(dist, tau, atoms, **options)  # noqa: E731
        return jax.value_and_grad(rule)(dist)

    wanted = run(dist, jnp.append(atoms, 0.0), jnp.append(weights, 0.0))
    alone = run(dist, atoms, weights)
    np.testing.assert_allclose(wanted[1], alone[1], rtol=1e-5, atol=1e-7)
    for garbage in (*GARBAGE, 1e30, -1e4):
        got = run(dist, jnp.append(atoms, garbage), jnp.append(weights, 0.0))
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), got, wanted)


def vmpo_means(log_pi, adv, kl, temperature, mask):
    out = losses.vmpo_loss(log_pi, adv, kl, temperature, 2.0, mask, top_fraction=0.4)
    return jnp.stack([jnp.mean(part) for part in out[1:5]])


@pytest.mark.parametrize("masked", [(1, 4, 7), (0, 2, 3, 5, 6, 8, 9), ()])
def test_vmpo_is_that_of_the_batch_without_its_masked_samples(masked):
    """Values and the gradients of policy, KL and temperature, whatever is masked."""
    generator = np.random.default_rng(0)
    arrays = -generator.exponential(size=(3, 12)).astype(np.float32)
    kept = np.setdiff1d(np.arange(12), masked)
    mask = np.isin(np.arange(12), kept)

    def run(arrays, mask):
        total = lambda *x: (jnp.sum(vmpo_means(*x, mask)), vmpo_means(*x, mask))  # noqa: E731
        rule = jax.value_and_grad(total, (0, 2, 3), has_aux=True)
        (_, means), gradients = quick_jit(rule)(*arrays, np.float32(0.3))
        return means, gradients

    wanted, slopes = run(arrays[:, kept], np.ones(len(kept), bool))
    for garbage in (*GARBAGE, 1e30):
        means, gradients = run(np.where(mask, arrays, garbage), mask)
        np.testing.assert_allclose(means, wanted, rtol=1e-5)
        np.testing.assert_allclose(gradients[0][kept], slopes[0], rtol=1e-5)
        np.testing.assert_allclose(gradients[1][kept], slopes[1], rtol=1e-5)
        np.testing.assert_allclose(gradients[2], slopes[2], rtol=1e-4)
        assert not np.any(gradients[0][~mask]) and not np.any(gradients[1][~mask])


def test_running_moments_have_no_gradient_in_masked_entries():
    state, mask = losses.running_moments_init(()), jnp.array([1, 0, 1])
    slope = jax.grad(lambda x: losses.running_moments_update(state, x, mask).variance)
    for garbage in GARBAGE:
        got = slope(jnp.array([1.0, garbage, 3.0]))
        np.testing.assert_allclose(got, slope(jnp.array([1.0, 0.0, 3.0])), rtol=1e-6)
