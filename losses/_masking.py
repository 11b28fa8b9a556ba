"""What has weight 0 has no influence, whatever it holds: 0 * inf and 0 * nan would be nan.

Entries that are excluded count as 0 where they are not finite. Finite ones stay, so that gradients
in the weight itself are those of the formula.

Helpers under `jax.jit(..., inline=True)` are one call where a loss runs without jit, and part of
the caller's program where it is compiled.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp


@functools.partial(jax.jit, inline=True)
def finite_where(excluded: jax.Array, x: jax.Array) -> jax.Array:
    """`x`, with 0 for entries that are excluded and not finite; `excluded` has its leading axes."""
    excluded = jnp.reshape(excluded, excluded.shape + (1,) * (x.ndim - excluded.ndim))
    return jnp.where(excluded & ~jnp.isfinite(x), jnp.zeros_like(x), x)


@functools.partial(jax.jit, inline=True)
def weighted_sum(weights: jax.Array, values: jax.Array) -> jax.Array:
    """The sum of `weights * values` over the last axis, in which values of weight 0 do not count.

    Not a dot product, which accelerators may round to TF32 or bfloat16.
    """
    return jnp.sum(weights * finite_where(weights == 0, values), axis=-1)


def guarded(function: Callable[..., tuple[jax.Array, ...]], *rows: jax.Array) -> list[jax.Array]:
    """`function(*rows)`, in which a row that is not finite has no gradient, instead of nan.

    Otherwise a row that the caller leaves out would still give gradients of nan: 0 times a partial
    derivative of nan.

    Args:
      function: acts on each row alone and returns arrays [T]; finite for rows of zeros.
      rows: each [T, ...].
    """
    raw = jax.lax.stop_gradient(function(*rows))
    fine = functools.reduce(jnp.logical_and, map(jnp.isfinite, raw))
    safe = (jnp.where(jnp.reshape(fine, (-1,) + (1,) * (x.ndim - 1)), x, 0) for x in rows)
    return [jnp.where(fine, x, y) for x, y in zip(function(*safe), raw, strict=True)]


def recursion(
    parts: Callable[..., tuple[jax.Array, jax.Array]], *rows: jax.Array, gradients: bool = True
) -> list[jax.Array]:
    """Terms and factors of `G[i] = term[i] + factor[i] * G[i + 1]`, [T] each.

    They are `guarded` if they have gradients. A row that is not finite has a factor of 0, so that
    it does not reach the gradients of others.
    """
    if not gradients:
        return list(parts(*rows))
    term, factor = guarded(parts, *rows)
    fine = jnp.isfinite(factor)
    return [jnp.where(fine, term, jnp.nan), jnp.where(fine, factor, 0.0)]


@functools.partial(jax.jit, inline=True)
def backward_sums(term: jax.Array, factor: jax.Array) -> jax.Array:
    """[T] sums from the end of a window, `G[i] = term[i] + factor[i] * G[i + 1]`.

    Where a factor is 0, later rows do not count; the last factor is.
    """

    def step(later, row):
        term, factor = row
        here = term + factor * finite_where(factor == 0, later)
        return here, here

    return jax.lax.scan(step, jnp.zeros((), term.dtype), (term, factor), reverse=True)[1]


def ends_of(discount_t: jax.Array, trace_t: jax.Array) -> jax.Array:
    """[T] bool: rows after which a target ends: at a termination, at a cut and at the last row."""
    last = jnp.arange(discount_t.shape[0]) == discount_t.shape[0] - 1
    return (discount_t == 0) | (trace_t == 0) | last
