"""A sum tree: updates priorities, and draws indices in proportion to them, in O(log n).

A tree is a tuple of levels, the leaves first and the total last; an entry is the sum of `WIDTH`
entries below. Sums are recomputed from their entries, never adjusted by a difference, so float32
errors do not accumulate. Each level is an array of its own, read only after it is written: with one
array XLA would copy the whole tree at every level.
"""

import jax
import jax.numpy as jnp

WIDTH = 16  # measured on CPU: 8 and 16 are equally fast, 2 takes three times as long, 64 four times


def init(size: int) -> tuple[jax.Array, ...]:
    """Return a tree of at least `size` leaves, all zero."""
    levels, count = [], size
    while not levels or count > 1:
        count = -(-count // WIDTH)
        levels.append(jnp.zeros((count * WIDTH,), jnp.float32))
    return *levels, jnp.zeros((1,), jnp.float32)


def total(tree: tuple[jax.Array, ...]) -> jax.Array:
    """Return the sum [] of all priorities."""
    return tree[-1][0]


def update(
    tree: tuple[jax.Array, ...], indices: jax.Array, values: jax.Array
) -> tuple[jax.Array, ...]:
    """Set the priorities of leaves [K] to values [K]; of equal indices, one takes effect."""
    levels = [tree[0].at[indices].set(values)]
    for level in tree[1:]:
        indices = indices // WIDTH
        sums = levels[-1].reshape(-1, WIDTH)[indices].sum(axis=-1)
        levels.append(level.at[indices].set(sums))
    return tuple(levels)


def sample(tree: tuple[jax.Array, ...], key: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Draw `count` leaves, one from each of `count` equal shares of the total (stratified).

    Returns:
      indices [count] int32 and their probabilities [count] float32. A leaf of priority 0 is drawn
      only if all are 0.
    """
    mass = (jnp.arange(count) + jax.random.uniform(key, (count,))) / count * total(tree)
    node = jnp.zeros((count,), jnp.int32)
    child = jnp.arange(WIDTH)[None]
    # Minima and sums, because XLA's argmin and cumsum take twice as long on CPU.
    up_to = jnp.triu(jnp.ones((WIDTH, WIDTH)))
    for level in tree[-2::-1]:
        entries = level.reshape(-1, WIDTH)[node]
        upper = jnp.dot(entries, up_to, precision="highest")
        reached = (upper > mass[:, None]) & (entries > 0)
        first = jnp.min(jnp.where(reached, child, WIDTH), axis=-1)
        # Rounding can put the mass beyond every entry; then take the last that is not empty.
        last = jnp.max(jnp.where(entries > 0, child, 0), axis=-1)
        chosen = jnp.where(first < WIDTH, first, last)
        below = jnp.where(child == chosen[:, None], upper - entries, 0.0).sum(axis=-1)
        mass = jnp.maximum(mass - below, 0.0)
        node = node * WIDTH + chosen
    return node, tree[0][node] / total(tree)
