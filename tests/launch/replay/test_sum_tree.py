"""The sum tree has NumPy's sums, and draws by the inverse of the cumulative sum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax.launch.replay import sum_tree


def test_the_tree_stays_exact_after_many_updates():
    """256,000 updates of a tree of 3,000 leaves over nine orders of magnitude."""
    rng = np.random.default_rng(0)
    leaves = np.zeros(3000, np.float32)
    order = np.argsort(rng.random((1000, 3000)), axis=1)[:, :256].astype(np.int32)
    values = (10.0 ** rng.uniform(-6, 3, order.shape)).astype(np.float32)
    values[rng.random(order.shape) < 0.2] = 0
    for index, value in zip(order, values, strict=True):
        leaves[index] = value

    def body(tree, x):
        return sum_tree.update(tree, *x), None

    tree = jax.jit(lambda t: jax.lax.scan(body, t, (order, values))[0])(sum_tree.init(3000))
    levels = [np.asarray(level) for level in tree]
    np.testing.assert_array_equal(levels[0][:3000], leaves)
    assert not levels[0][3000:].any()
    for below, level in zip(levels, levels[1:], strict=False):
        sums = below.reshape(-1, sum_tree.WIDTH).sum(axis=1, dtype=float)
        np.testing.assert_allclose(level[: sums.size], sums, rtol=1e-6)
        assert not level[sums.size :].any()
    np.testing.assert_allclose(sum_tree.total(tree), leaves.astype(np.float64).sum(), rtol=1e-6)
    indices, probabilities = sum_tree.sample(tree, jax.random.key(0), 4096)
    assert (leaves[indices] > 0).all()
    np.testing.assert_allclose(probabilities, leaves[indices] / leaves.sum(dtype=float), rtol=1e-5)
    # Draw i comes from the i-th equal share of the total: the running sum's inverse.
    upper = np.cumsum(leaves, dtype=float) / leaves.sum(dtype=float)
    share = np.arange(4096) / 4096
    assert (upper[indices] >= share - 1e-5).all()
    assert (upper[indices] - probabilities <= share + 1 / 4096 + 1e-5).all()


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_small_trees(size):
    tree = sum_tree.init(size)
    last = jnp.array([size - 1, size - 1, size - 1])
    tree = sum_tree.update(tree, last, jnp.full(3, 2.0))  # equal indices are one leaf
    assert sum_tree.total(tree) == 2
    indices, probabilities = sum_tree.sample(tree, jax.random.key(0), 16)
    assert (indices == size - 1).all() and (probabilities == 1).all()


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])
@pytest.mark.parametrize("pattern", [(0, 1), (1, 0), (0, 0, 0, 1), (1, 0, 0, 0)], ids=str)
def test_draws_on_the_edge_between_leaves_avoid_the_empty_ones(monkeypatch, pattern, uniform):
    """4095 + (1 - 2^-24) rounds to 4096: the draw is the whole mass; at 0 it is a leaf's edge."""
    priorities = jnp.tile(jnp.array(pattern, jnp.float32), 2048 // len(pattern))
    tree = sum_tree.update(sum_tree.init(2048), jnp.arange(2048), priorities)
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape: jnp.full(shape, uniform))
    indices, probabilities = sum_tree.sample(tree, jax.random.key(0), 4096)
    assert (priorities[indices] == 1).all() and (probabilities > 0).all()
