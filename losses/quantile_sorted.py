"""Quantile regression of N values against M atoms without the N x M table of differences.

Between two breakpoints the loss is a polynomial in the value, whose coefficients are the mass and
the first two moments of the atoms below. The N values are sorted, a binary search finds the gap
between values that contains each atom, and a cumulative sum over the gaps gives all coefficients:
O((N + M) log N) instead of O(N M). The values are sorted rather than the atoms, because sorting is
the slow part on a CPU and N is smaller than M.

Speed on a CPU: milliseconds per gradient, kappa = 1, weights, batch 32, medians of 31 rounds on two
busy cores (`benchmarks/quantile.py`). The time of pairwise jumps once its table exceeds the cache.

    N    M      pairwise  sorted         N    M      pairwise  sorted
    32   1,024    0.5      1.6           201  201      1.3      1.7
    64   512      0.8      1.4           201  603      4.4      2.2
    64   1,024    1.2      2.0           201  1,005    9.5      4.7
    64   2,048    9.3      3.5           201  2,010   59        9.0

Within a gradient step of a whole network the table costs more than in isolation, because its
memory is allocated at every step: with 201 values against 201 atoms, sorting takes 2 to 3 ms where
pairwise takes 4 to 10 (`benchmarks/learner.py`); with 160 and 160 they are equal.

There are no measurements on a GPU. There pairwise is one fused pass, and the sum over gaps is a
scatter whose order of additions is not deterministic, so results differ between runs by rounding.

Rounding: values are centred on the atoms' mean, so a common offset has no effect, but the
contribution of atoms within kappa of a value is a difference of moments of all atoms. The relative
error of loss and gradient is about `eps * spread / kappa`, where `spread` is the range of atoms and
values, and `eps` for kappa = 0. In float32 with a spread above about 1e4 kappa, use "pairwise".
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from bellmax.losses._checks import widen

# Smallest number of values and of differences N * M for which sorting is faster on a CPU
# (measured).
CPU_VALUES = 64
CPU_DIFFERENCES = 40_000
# A guess, not measured: accelerators use pairwise until the differences of a batch of 32 would
# need 2 GB without fusion.
ACCELERATOR_DIFFERENCES = 16_000_000


def sorting_pays(n: int, m: int) -> bool:
    """Whether the sorted form is expected to be faster for N values and M atoms."""
    cpu = jax.default_backend() == "cpu"
    return n >= CPU_VALUES and n * m >= (CPU_DIFFERENCES if cpu else ACCELERATOR_DIFFERENCES)


def penalty(
    kappa: chex.Numeric,
    pinball: Callable[[], jax.Array],
    huber: Callable[[chex.Numeric], jax.Array],
    divide_by_kappa: bool,
) -> jax.Array:
    """`huber(kappa)`, or `pinball()` where kappa is 0; a traced kappa computes both."""
    if isinstance(kappa, int | float):
        known = huber(kappa) if kappa else pinball()
        return known / kappa if kappa and divide_by_kappa else known
    kappa = widen(kappa)
    above_zero = kappa > 0.0
    safe = jnp.where(above_zero, kappa, 1.0)  # keeps gradients of the unselected branch finite
    penalties = huber(safe) / safe if divide_by_kappa else huber(safe)
    return jnp.where(above_zero, penalties, pinball())


class _Moments(NamedTuple):
    """Sums over some atoms; each [N], or [] for all atoms.

    Attributes:
      number: number of atoms; exact up to 2**24 in float32.
      mass, first, second: sums of their weights, of weight * atom and of weight * atom**2.
    """

    number: jax.Array
    mass: jax.Array
    first: jax.Array
    second: jax.Array

    def minus(self, other: "_Moments") -> "_Moments":
        """Moments of the atoms that are not in `other`; exactly 0 where there are none."""
        some = self.number != other.number
        # Sums in a different order differ by rounding, which the squares below would amplify.
        return _Moments(*(jnp.where(some, x - y, 0.0) for x, y in zip(self, other, strict=True)))

    def distance(self, t: jax.Array) -> jax.Array:
        """The sum of `weight * (atom - t)`."""
        return self.first - t * self.mass

    def half_square(self, t: jax.Array) -> jax.Array:
        """The sum of `weight * (atom - t)**2 / 2`."""
        return 0.5 * (self.second - 2.0 * t * self.first + t * t * self.mass)


def _moments_below(rising: jax.Array, atoms: jax.Array, powers: jax.Array) -> _Moments:
    """Moments of the atoms strictly below each entry of `rising` [N]; `powers` is [M, 4]."""
    rising, atoms = jax.lax.stop_gradient((rising, atoms))
    # The default method, named explicitly. Under vmap on a CPU the unrolled search recomputes each
    # step (twice the time), sorting both together takes five times as long, comparing all is O(N
    # M).
    gap = jnp.searchsorted(rising, atoms, side="right", method="scan")
    sums = jnp.cumsum(jax.ops.segment_sum(powers, gap, rising.size + 1), axis=0)
    return _Moments(*sums[:-1].T)


def sorted_quantile_regression(
    theta: jax.Array,
    tau: jax.Array,
    z: jax.Array,
    w: jax.Array,
    kappa: chex.Numeric,
    divide_by_kappa: bool,
) -> jax.Array:
    """`quantile_regression` by sorting, without checks; all arrays in float32 or wider.

    Only differentiable operations are used, so automatic differentiation gives derivatives of any
    order in any argument: gaps are piecewise constant, and the loss is continuous across them.
    """
    order = jnp.argsort(jax.lax.stop_gradient(theta))
    theta, tau = theta[order], tau[order]
    centre = jax.lax.stop_gradient(jnp.mean(z))
    x, t = z - centre, theta - centre
    powers = jnp.stack([jnp.ones_like(w), w, w * x, w * x * x], axis=1)
    every = _Moments(*jnp.sum(powers, axis=0))
    # Not centred: rounding must not turn an atom just below a value into a tie.
    below = _moments_below(theta, z, powers)

    def pinball():
        return tau * every.distance(t) - below.distance(t)

    def huber(k):
        low, high = _moments_below(t - k, x, powers), _moments_below(t + k, x, powers)
        over = high.minus(below).half_square(t) + k * every.minus(high).distance(t + 0.5 * k)
        under = below.minus(low).half_square(t) - k * low.distance(t - 0.5 * k)
        return tau * over + (1.0 - tau) * under

    return jnp.sum(penalty(kappa, pinball, huber, divide_by_kappa))
