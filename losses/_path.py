"""Multi-step distributional targets as mixtures of shifted and scaled distributions.

The target of a step, the anchor, is a mixture over the later steps of the window. Each step
contributes the return distribution at its successor, mapped by `z -> shift + scale * z`. Quantile
and categorical targets share this code and differ in the representation of a distribution.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from bellmax.losses._checks import widen


class Path(NamedTuple):
    """Contribution of each step of a window to the target of one anchor.

    Attributes:
      shift: [T] float, sum of discounted rewards from the anchor up to and including this step.
      scale: [T] float, product of the discounts from the anchor up to and including this step.
      trace: [T] float, product of the coefficients from the anchor to just before this step;
        0 before the anchor and past a cut.
      c: [T] float, this step's coefficient; 0 at a cut and at the end of the window.
      reached: [T] bool, False before the anchor and past a cut, where weights must be 0.
    """

    shift: jax.Array
    scale: jax.Array
    trace: jax.Array
    c: jax.Array
    reached: jax.Array


def masked(c_t: chex.Array, trace_t: chex.Array) -> jax.Array:
    """`c_t * trace_t`, and exactly 0 where the trace is cut, even if c_t is not finite."""
    trace_t = widen(trace_t)
    return jnp.where(trace_t == 0.0, 0.0, widen(c_t) * trace_t)


def path(
    r_t: chex.Array,
    discount_t: chex.Array,
    c_t: chex.Array,
    trace_t: chex.Array,
    anchor: chex.Numeric,
) -> Path:
    """The path from row `anchor` to the end of the window, without argument checks.

    The path also ends at termination, where the future return is a point mass at 0: later rows get
    weights of exactly 0, whatever the arrays contain there.
    """
    dtype = jnp.result_type(*map(widen, (r_t, discount_t, c_t, trace_t)))
    r_t, discount_t, c_t = (jnp.asarray(x, dtype) for x in (r_t, discount_t, c_t))
    rows = jnp.arange(r_t.shape[0])
    goes_on = (widen(trace_t) != 0.0) & (discount_t != 0.0) & (rows < r_t.shape[0] - 1)
    c_t = jnp.where(goes_on, masked(c_t, trace_t), 0.0).astype(dtype)

    def step(carry, row):
        shift, scale, trace, alive = carry
        i, reward, discount, c, on = row
        reached = alive & (i >= anchor)
        shift = shift + jnp.where(reached, scale * reward, 0.0)
        scale = scale * jnp.where(reached, discount, 1.0)
        out = Path(shift, scale, jnp.where(reached, trace, 0.0), c, reached)
        trace = trace * jnp.where(reached, c, 1.0)
        return (shift, scale, trace, alive & (on | (i < anchor))), out

    zero, one = jnp.zeros((), dtype), jnp.ones((), dtype)
    start = (zero, one, one, jnp.bool_(True))
    return jax.lax.scan(step, start, (rows, r_t, discount_t, c_t, goes_on))[1]


def policy_weights(steps: Path, a_t: chex.Array, pi_t: chex.Array) -> jax.Array:
    """[T, A] weight of each action's distribution in a corrected target: signed, summing to 1.

    `trace * (pi(b) - 1{b = a} * c)`: the expectation over actions, minus the part of the taken
    action that later steps replace.
    """
    pi_t = widen(pi_t)
    taken = jax.nn.one_hot(a_t, pi_t.shape[-1], dtype=steps.c.dtype)
    weights = steps.trace[:, None] * (pi_t - taken * steps.c[:, None])
    return jnp.where(steps.reached[:, None], weights, 0.0)


def bootstrap_weights(steps: Path) -> jax.Array:
    """[T] weight of each step's bootstrap in an uncorrected target: at least 0, summing to 1."""
    return steps.trace * (1.0 - steps.c)


def bootstrap_step(
    r_t: chex.Array, discount_t: chex.Array, trace_t: chex.Array, anchor: chex.Numeric
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Shift, scale and row of the bootstrap of an n-step target, at the first cut or the end."""
    steps = path(r_t, discount_t, jnp.ones_like(widen(trace_t)), trace_t, anchor)
    end = jnp.add(anchor, jnp.sum(steps.reached) - 1)
    return steps.shift[end], steps.scale[end], end
