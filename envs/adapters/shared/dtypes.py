"""Dtypes in suites: a state's leaves, constant in a `lax.scan`, and jax's default promotion."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp


def own_dtypes(tree: Any) -> Any:
    """Make every leaf strongly typed; Python numbers (gymnax's `time=0`) are weakly typed."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.asarray(leaf).dtype), tree)


def same_dtypes(old: Any, new: Any) -> Any:
    """Cast each leaf of `new` to the dtype of the same leaf in `old`."""
    return jax.tree.map(lambda before, leaf: jnp.asarray(leaf, before.dtype), old, new)


@contextlib.contextmanager
def default_promotion() -> Iterator[None]:
    """Promote ranks and dtypes as jax does by default, which suites rely on."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield
