"""Multi-step distributional targets as mixtures of shifted and scaled distributions.

The target of a step, the anchor, is a mixture over the later steps of the window. Each step
contributes the return distribution at its successor, mapped by `z -> shift + scale * z`. Quantile
and categorical targets share this code and differ in the representation of a distribution.
"""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from bellmax.losses._checks import promote, widen
from bellmax.losses._masking import ends_of, finite_where


class Path(NamedTuple):
    """Contribution of each step of a window to the target of one anchor.

    Attributes:
      shift: [T] float, sum of discounted rewards from the anchor up to and including this step.
      scale: [T] float, product of the discounts from the anchor up to and including this step.
      trace: [T] float, product of the coefficients from the anchor to just before this step;
        0 before the anchor and past a cut.
      c: [T] float, this step's coefficient; 0 at a cut and at the end of the window.
      reached: [T] bool, False before the anchor and past a cut, where weights must be 0.
      terminal: [T] bool, where the environment terminated: the distribution there does not count.
    """

    shift: jax.Array
    scale: jax.Array
    trace: jax.Array
    c: jax.Array
    reached: jax.Array
    terminal: jax.Array


@functools.partial(jax.jit, inline=True)
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
    r_t, discount_t, c_t, trace_t = promote(r_t, discount_t, c_t, trace_t)
    after_anchor = jnp.arange(r_t.shape[0]) >= anchor
    ends = ends_of(discount_t, trace_t)
    reached = after_anchor & ~_before(ends & after_anchor)
    c_t, trace_t = (jnp.where(ends | ~reached, 0.0, x) for x in (c_t, trace_t))
    known = jnp.isfinite(c_t) & jnp.isfinite(trace_t)
    c_t = jnp.where(known, c_t, 0.0) * jnp.where(known, trace_t, 0.0)
    # Rows after a coefficient of 0 are reached, but without weight.
    weightless = _before((c_t == 0) & known & after_anchor)
    rewards = finite_where(weightless, jnp.where(reached, r_t, 0.0))
    discounts = finite_where(weightless, jnp.where(reached, discount_t, 1.0))

    def step(carry, row):
        shift, scale, trace = carry
        reward, discount, c, here = row
        shift, scale = shift + scale * reward, scale * discount
        return (shift, scale, jnp.where(here, trace * c, trace)), (shift, scale, trace)

    zero, one = jnp.zeros((), r_t.dtype), jnp.ones((), r_t.dtype)
    # A path that is not finite has no gradient, instead of nan: its caller may leave it out.
    fine = jnp.isfinite(rewards) & jnp.isfinite(discounts) & (known | weightless)
    rows = *(jnp.where(fine, x, 0.0) for x in (rewards, discounts, c_t)), reached
    shift, scale, trace = jax.lax.scan(step, (zero, one, one), rows)[1]
    shift = jnp.where(~fine | _before(~fine), jnp.nan, shift)
    return Path(shift, scale, jnp.where(reached, trace, 0.0), c_t, reached, discount_t == 0)


def _before(stops: jax.Array) -> jax.Array:
    """[T] bool: whether any earlier row is one of these."""
    return (jnp.cumsum(stops) - stops) > 0


def policy_weights(steps: Path, a_t: chex.Array, pi_t: chex.Array) -> jax.Array:
    """[T, A] weight of each action's distribution in a corrected target: signed, summing to 1.

    `trace * (pi(b) - 1{b = a} * c)`: the expectation over actions, minus the part of the taken
    action that later steps replace.
    """
    pi_t = valid_policy(steps.terminal, jnp.where(steps.reached[:, None], widen(pi_t), 0.0))
    taken = jax.nn.one_hot(a_t, pi_t.shape[-1], dtype=steps.c.dtype)
    pi_t = finite_where(steps.trace == 0, pi_t)
    fine = jnp.isfinite(pi_t)
    weights = jnp.where(fine, pi_t, 0.0) - taken * jnp.where(steps.reached, steps.c, 0.0)[:, None]
    weights = jnp.where(fine, steps.trace[:, None] * weights, jax.lax.stop_gradient(pi_t))
    return jnp.where(steps.reached[:, None], weights, 0.0)


def valid_policy(terminal: jax.Array, pi_t: jax.Array) -> jax.Array:
    """The policy, and a uniform one where there is no next state, whose policy may be anything."""
    return jnp.where(jnp.expand_dims(terminal, -1), 1.0 / pi_t.shape[-1], pi_t)


def bootstrap_weights(steps: Path) -> jax.Array:
    """[T] weight of each step's bootstrap in an uncorrected target: at least 0, summing to 1."""
    return steps.trace * (1.0 - steps.c)


def bootstrap_step(
    r_t: chex.Array, discount_t: chex.Array, trace_t: chex.Array, anchor: chex.Numeric
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Shift, scale and row of the bootstrap of an n-step target, at the first cut or the end."""
    continues = jnp.where(widen(trace_t) == 0, 0.0, 1.0)
    steps = path(r_t, discount_t, jnp.ones_like(continues), continues, anchor)
    end = jnp.add(anchor, jnp.sum(steps.reached) - 1)
    return steps.shift[end], steps.scale[end], end
