"""What the losses of sequences share: masks, sums over tokens, KL estimates and checks.

A mask counts a token where it is not 0. What it leaves out is replaced by 0 before anything is
computed from it, so that it reaches neither values nor gradients, whatever it holds.
"""

import chex
import jax
import jax.numpy as jnp

from bellmax import must
from bellmax.losses._checks import NUMBER, Spec, check_arrays, promote

# exp of this is far beyond any useful ratio, and far below overflow.
MAX_EXPONENT = 30.0
KL_ESTIMATORS = ("k1", "k2", "k3")


def at_least_two(**groups: chex.Array) -> None:
    """Checks that a group has an example to compare with.

    Raises:
      ValueError: it has one entry; names the argument.
    """
    for name, group in groups.items():
        if jnp.shape(group)[0] < 2:
            raise ValueError(must(name, "2 or more entries along its axis [K]", 1, verb="have"))


def check_tokens(mask: chex.Array, **rows: chex.Array) -> None:
    """Checks rows [T] of floats and their mask [T]."""
    specs = {name: Spec(row, "T") for name, row in rows.items()}
    check_arrays(**specs, mask=Spec(mask, "T", NUMBER))


def kept(mask: chex.Array, *rows: jax.Array) -> list[jax.Array]:
    """The rows [T, ...], with 0 in place of those that the mask leaves out."""
    on = jnp.asarray(mask) != 0
    return [jnp.where(jnp.reshape(on, (-1,) + (1,) * (x.ndim - 1)), x, 0) for x in rows]


def reduce_tokens(values: jax.Array, mask: chex.Array, *, average: bool) -> jax.Array:
    """Sum of values [T] that are 0 where the mask is, or their mean over the tokens counted."""
    total = jnp.sum(values)
    if not average:
        return total
    count = jnp.sum(jnp.asarray(mask) != 0)
    return total / jnp.maximum(count, 1).astype(values.dtype)


def to_go(values: jax.Array) -> jax.Array:
    """[T] sums from each row to the last one."""
    return jnp.cumsum(values[::-1])[::-1]


def log_ratios(
    log_pi: chex.Array, log_ref: chex.Array, mask: chex.Array, *others: chex.Numeric
) -> list[jax.Array]:
    """Masked log pi / ref, masked log pi, and the others in the same dtype.

    The reference is a constant to the gradient.
    """
    wide_pi, wide_ref, *wide = promote(log_pi, log_ref, *others)
    wide_pi, wide_ref = kept(mask, wide_pi, jax.lax.stop_gradient(wide_ref))
    return [wide_pi - wide_ref, wide_pi, *wide]


def kl_terms(log_ratio: jax.Array, estimator: str) -> jax.Array:
    """k1, k2 or k3 of each entry."""
    if estimator == "k1":
        return log_ratio
    if estimator == "k2":
        return jnp.square(log_ratio) / 2
    return jnp.exp(jnp.minimum(-log_ratio, MAX_EXPONENT)) - 1 + log_ratio


def log_mean_exp(x: jax.Array) -> jax.Array:
    """Log of the mean of exp over the last axis."""
    return jax.nn.logsumexp(x, axis=-1) - jnp.log(jnp.asarray(x.shape[-1], x.dtype))
