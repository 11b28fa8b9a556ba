"""Averages of parameters: WARM's mean, WARP's spherical merge, and interpolation, on pytrees.

Trees have the same structure and shapes. Leaves of floats are averaged in float32 or wider and keep
their dtype; other leaves, such as counters, are those of the first tree.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp

from bellmax import must
from bellmax.losses._checks import check_scalars, one_of, promote

_SMALL_ANGLE = 1e-6
_METHODS = ("spherical", "linear")


def _on_floats(function: Callable[..., jax.Array], first: Any, *others: Any, **names: Any) -> Any:
    """`function` of each leaf of floats, in the dtype of the first tree's; see `_check_trees`."""
    _check_trees(first, *others, **names)

    def leaf(*leaves):
        dtype = jnp.result_type(leaves[0])
        if not jnp.issubdtype(dtype, jnp.floating):
            return leaves[0]
        return function(*promote(*leaves)).astype(dtype)

    return jax.tree.map(leaf, first, *others)


def _check_trees(first: Any, *others: Any, names: Sequence[str]) -> None:
    """Raises ValueError with the name of a tree that differs and the first leaf where it does."""
    wanted = jax.tree_util.tree_leaves_with_path(first)
    for name, tree in zip(names[1:], others, strict=True):
        found = jax.tree_util.tree_leaves_with_path(tree)
        for (path, x), (other_path, y) in zip(wanted, found, strict=False):
            where = jax.tree_util.keystr(path)
            if path != other_path:
                there = jax.tree_util.keystr(other_path)
                allowed = f"the leaf {where}, as {names[0]} has"
                raise ValueError(must(name, allowed, there, verb="have"))
            if jnp.shape(x) != jnp.shape(y):
                allowed = f"shape {jnp.shape(x)}, as {names[0]}{where} has"
                raise ValueError(must(name + where, allowed, jnp.shape(y), verb="have"))
        if jax.tree.structure(first) != jax.tree.structure(tree):
            allowed = f"the structure of {names[0]}"
            raise ValueError(must(name, allowed, str(jax.tree.structure(tree)), verb="have"))


def average_weights(trees: Sequence[Any]) -> Any:
    """The mean of M trees of parameters that were fine-tuned from one start: WARM.

    Args:
      trees: M >= 1 pytrees, such as reward models (2 to 10) or policies.

    Returns:
      A pytree as the first.

    Raises:
      ValueError: there is none, or structures or shapes differ; names the tree and the leaf.

    Source: Rame et al. 2024, arXiv:2401.12187.
    """
    trees = list(trees)
    if not trees:
        raise ValueError(must("trees", "1 or more entries", 0, verb="have"))
    names = [f"trees[{i}]" for i in range(len(trees))]
    return _on_floats(_mean, *trees, names=names)


def _mean(*leaves: jax.Array) -> jax.Array:
    return functools.reduce(jnp.add, leaves) / len(leaves)


def lerp(start: Any, end: Any, t: chex.Numeric) -> Any:
    """Linear interpolation of trees: `start + t * (end - start)`.

    With `start` a moving average and t a small rate, it is the update of WARP's anchor; with the
    initial parameters as `start`, WARP's last step.

    Args:
      start: pytree of parameters.
      end: pytree of parameters.
      t: 0 gives `start`, 1 gives `end`; others extrapolate.

    Returns:
      A pytree as `start`.

    Raises:
      ValueError: structures or shapes differ; names the tree and the leaf.

    Source: Rame et al. 2024, arXiv:2406.16768.
    """
    check_scalars(t=t)
    return _on_floats(lambda a, b: a + t * (b - a), start, end, names=("start", "end"))


def slerp(start: Any, end: Any, t: chex.Numeric) -> Any:
    """Spherical interpolation of trees, each leaf on its own.

    `sin((1 - t) w) / sin(w) * start + sin(t w) / sin(w) * end`, w the angle between the two leaves.
    Norms are interpolated, not preserved. Where leaves are parallel, opposite or 0, it is linear.

    Args:
      start: pytree of task vectors, from `task_vector`, not of parameters.
      end: pytree of task vectors.
      t: in [0, 1].

    Returns:
      A pytree as `start`.

    Raises:
      ValueError: structures or shapes differ; names the tree and the leaf.

    Source: Shoemake 1985; Rame et al. 2024, arXiv:2406.16768.
    """
    check_scalars(t=t, from_zero=("t",), up_to_one=("t",))
    return _on_floats(lambda a, b: _slerp(a, b, t), start, end, names=("start", "end"))


def _slerp(a: jax.Array, b: jax.Array, t: chex.Numeric) -> jax.Array:
    # Scaled first, as squares of tiny parameters would be 0.
    sizes = [jnp.max(jnp.abs(x), initial=0.0) for x in (a, b)]
    units = [x / jnp.where(size > 0, size, 1.0) for x, size in zip((a, b), sizes, strict=True)]
    squares = [jnp.sum(jnp.square(x)) for x in units]
    some = (squares[0] > 0) & (squares[1] > 0)
    norms = [jnp.sqrt(jnp.where(some, square, 1.0)) for square in squares]
    p, q = units[0] / norms[0], units[1] / norms[1]
    # Of two unit vectors; exact for small angles, where the arc cosine is not.
    sine = jnp.sum(jnp.square(p - q))
    cosine = jnp.sum(jnp.square(p + q))
    curved = some & (sine > _SMALL_ANGLE**2) & (cosine > _SMALL_ANGLE**2)
    half = jnp.arctan2(
        jnp.sqrt(jnp.where(curved, sine, 1.0)), jnp.sqrt(jnp.where(curved, cosine, 1.0))
    )
    angle = 2.0 * half
    arc = (jnp.sin((1.0 - t) * angle) * a + jnp.sin(t * angle) * b) / jnp.sin(angle)
    return jnp.where(curved, arc, a + t * (b - a))


def task_vector(tree: Any, start: Any) -> Any:
    """What fine-tuning added: `tree - start`.

    Args:
      tree: pytree of fine-tuned parameters.
      start: pytree of the parameters that it began from.

    Returns:
      A pytree as `tree`; leaves that are not floats are those of `tree`.

    Raises:
      ValueError: structures or shapes differ; names the tree and the leaf.

    Source: Ilharco et al. 2022, arXiv:2212.04089.
    """
    return _on_floats(lambda a, b: a - b, tree, start, names=("tree", "start"))


def merge_task_vectors(
    start: Any,
    trees: Sequence[Any],
    *,
    eta: chex.Numeric = 1.0,
    method: str = "spherical",
) -> Any:
    """WARP's merge: `start + eta * merged`, of the task vectors of M fine-tuned trees.

    "spherical" takes `slerp` of the first two at 1/2, of that and the third at 1/3, and so on;
    "linear" the mean. Repeat with the result as the new start.

    Args:
      start: pytree of the parameters that all trees began from.
      trees: M >= 1 pytrees of fine-tuned parameters.
      eta: 1 keeps the merge, 0.3 to 0.5 (paper) goes back towards the start.
      method: "spherical" or "linear"; static.

    Returns:
      A pytree as `start`.

    Raises:
      ValueError: there is no tree, or structures or shapes differ; names the tree and the leaf.

    Source: Rame et al. 2024, arXiv:2406.16768. The order of more than two trees matters a little.
    """
    one_of("method", method, _METHODS)
    check_scalars(eta=eta)
    trees = list(trees)
    if not trees:
        raise ValueError(must("trees", "1 or more entries", 0, verb="have"))

    def merge(start, *leaves):
        vectors = [x - start for x in leaves]
        merged = vectors[0]
        for i, vector in enumerate(vectors[1:], start=2):
            spherical = method == "spherical"
            merged = _slerp(merged, vector, 1 / i) if spherical else merged + (vector - merged) / i
        return start + eta * merged

    names = ["start", *(f"trees[{i}]" for i in range(len(trees)))]
    return _on_floats(merge, start, *trees, names=names)
