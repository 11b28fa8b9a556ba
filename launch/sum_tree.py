"""A sum tree in one array: draws an index in proportion to its priority in O(log n).

Node 1 is the root, node i has children 2i and 2i+1, the leaves are the last half. Parents are
recomputed from both children, never adjusted by a difference, so float32 errors do not build up.
"""

import jax
import jax.numpy as jnp


def init(size: int) -> jax.Array:
    """A tree of at least `size` leaves, all zero: [2 * P] float32, P the next power of two."""
    leaves = 1 << max(size - 1, 1).bit_length()
    return jnp.zeros((2 * leaves,), jnp.float32)


def total(tree: jax.Array) -> jax.Array:
    """[] sum of all priorities."""
    return tree[1]


def update(tree: jax.Array, indices: jax.Array, values: jax.Array) -> jax.Array:
    """Sets the priorities of leaves [K] to values [K]; of equal indices one wins."""
    leaves = tree.shape[0] // 2
    node = indices + leaves
    tree = tree.at[node].set(values)
    for _ in range(leaves.bit_length() - 1):
        node = node // 2
        tree = tree.at[node].set(tree[2 * node] + tree[2 * node + 1])
    return tree


def sample(tree: jax.Array, key: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Draws `count` leaves, one from each of as many equal shares of the total (stratified).

    Returns:
      indices [count] int32 and their probabilities [count] float32; a leaf of priority 0 is never
      drawn while another's is above 0.
    """
    leaves = tree.shape[0] // 2
    strata = jnp.arange(count) + jax.random.uniform(key, (count,))
    mass = strata / count * tree[1]
    node = jnp.ones((count,), jnp.int32)
    for _ in range(leaves.bit_length() - 1):
        left, right = tree[2 * node], tree[2 * node + 1]
        goes_right = (mass >= left) & (right > 0)
        mass = jnp.where(goes_right, mass - left, mass)
        node = 2 * node + goes_right
    return node - leaves, tree[node] / tree[1]
