"""The Huber loss, in a form whose gradient does not cancel."""

import functools

import chex
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from bellmax.losses._checks import Spec, check_arrays, check_scalars, promote


def huber(x: chex.Numeric, delta: chex.Numeric) -> jax.Array:
    """The Huber loss of any shape, without checks."""
    return _huber(*promote(x, delta))


@jax.custom_jvp
def _huber(x: jax.Array, delta: jax.Array) -> jax.Array:
    clipped = jnp.clip(x, -delta, delta)
    return clipped * (x - 0.5 * clipped)


# Written out: the derivative of `clip` keeps a mask for each side in memory, which makes the
# pairwise loss of many quantiles several times slower.
@functools.partial(_huber.defjvp, symbolic_zeros=True)
def _huber_jvp(primals, tangents):
    x, delta = primals
    slopes = jnp.clip(x, -delta, delta), jnp.maximum(jnp.abs(x) - delta, 0.0)
    terms = [
        slope * tangent
        for slope, tangent in zip(slopes, tangents, strict=True)
        if not isinstance(tangent, SymbolicZero)
    ]
    out = _huber(x, delta)
    return out, sum(terms[1:], terms[0]) if terms else jnp.zeros_like(out)


def huber_loss(td_error: chex.Numeric, *, delta: chex.Numeric = 1.0) -> jax.Array:
    """`0.5 * td_error ** 2` up to delta, and `delta * (|td_error| - 0.5 * delta)` beyond.

    Its gradient is exactly the error, clipped to `[-delta, delta]`. The usual form, a quadratic
    plus a linear part, differentiates to `(x + delta) - delta`, which rounds small errors to 0.

    Args:
      td_error: [] float, target minus prediction, in units of return.
      delta: above 0, in units of return; inf gives half the squared error.

    Returns:
      [] float32 or wider, a loss.

    Raises:
      ValueError: a rank, dtype or range differs from the above; names the argument.

    Source: Huber 1964. Equals rlax.huber_loss, but for the rounding of its gradient.
    """
    check_arrays(td_error=Spec(td_error, ""))
    check_scalars(delta=delta, above_zero=("delta",))
    return huber(td_error, delta)
