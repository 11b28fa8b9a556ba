"""The types of the leaves of an environment's state, which a compiled loop must find unchanged."""

from typing import Any

import jax
import jax.numpy as jnp


def own_dtypes(tree: Any) -> Any:
    """Arrays of their own dtype: a Python number such as gymnax's `time=0` has a weak one."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.asarray(leaf).dtype), tree)


def same_dtypes(old: Any, new: Any) -> Any:
    """`new` with each leaf in the dtype that it has in `old`."""
    return jax.tree.map(lambda before, leaf: jnp.asarray(leaf, before.dtype), old, new)
