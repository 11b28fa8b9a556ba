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

Rounding: the two forms differ by about 1e-6 of the loss and of the largest gradient, whatever the
range of the atoms and the threshold. The atoms within kappa of a value enter by their moments, and
sums of moments about one point would lose these atoms to rounding where others are far away. So
moments are about the middle of a cell, a few kappa wide, and only differences of sums over the same
gaps are taken. `_Cells` has the grids. Atoms of weight 0 do not set the scale, unless gradients
flow to the weights.
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

TINY = 1e-30


def sorting_pays(n: int, m: int, *, cpu: bool) -> bool:
    """Whether the sorted form is expected to be faster for N values and M atoms."""
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


class _Cells(NamedTuple):
    """Two grids of cells; each interval of length k lies within a cell of one of them.

    Grid 0 has the centre in the middle of a cell; the cells of grid 1 begin in the middle of those.

    Attributes:
      size: [] float, at least 4 k: a power of two, so that the position in a cell is exact.
      centre: [] float.
    """

    size: jax.Array
    centre: jax.Array

    def locate(self, v: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Position from the begin of the cell of grid 0, and from the middle of both cells."""
        half = 0.5 * self.size
        v_from, origin = self._from_zero(v), self._from_zero(self.centre) - half
        origin = jnp.where(origin < 0.0, origin + self.size, origin)
        position = jnp.where(v_from < origin, v_from - origin + self.size, v_from - origin)
        offset = v - self.centre
        near = jnp.abs(offset) < 0.5 * half
        first = jnp.where(near, offset, position - half)
        return position, (first, jnp.where(position < half, position, position - self.size))

    def _from_zero(self, v: jax.Array) -> jax.Array:
        return v - jnp.floor(v / self.size) * self.size


def _gaps(rising: jax.Array, atoms: jax.Array, terms: list[jax.Array]) -> jax.Array:
    """[N + 1, K] sums of K terms, each [M], over the atoms in each gap between values."""
    rising, atoms = jax.lax.stop_gradient((rising, atoms))
    # The default method, named explicitly. Under vmap on a CPU the unrolled search recomputes each
    # step (twice the time), sorting both together takes five times as long, comparing all is O(N
    # M).
    gap = jnp.searchsorted(rising, atoms, side="right", method="scan")
    return jax.ops.segment_sum(jnp.stack(terms, axis=1), gap, rising.size + 1)


def _half_square(grid: jax.Array, t: tuple[jax.Array, jax.Array], sums: jax.Array) -> jax.Array:
    """The sum of `weight * (atom - t)**2 / 2`, from [5, N]: mass, then two moments in each grid."""
    mass, *moments = sums
    first, second = (jnp.where(grid == 0, *moments[i::2]) for i in (0, 1))
    here = jnp.where(grid == 0, *t)
    return 0.5 * (second - 2.0 * here * first + here * here * mass)


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
    order = jnp.argsort(jax.lax.stop_gradient(theta), stable=False)
    theta, tau = theta[order], tau[order]
    size = jnp.abs(w)
    centre = jnp.sum(size * z) / jnp.maximum(jnp.sum(size), TINY)
    centre, middle = jax.lax.stop_gradient((centre, theta[theta.size // 2]))
    x, t = z - centre, theta - centre

    def pinball():
        gaps = _gaps(theta, z, [w, w * x])
        mass, first, mass_above, first_above = _cumulative(gaps, gaps)
        return tau * (first_above - t * mass_above) - (1.0 - tau) * (first - t * mass)

    def huber(k):
        # No error is larger than the range of values and atoms: beyond it k makes no difference.
        span = jnp.maximum(theta[-1], jnp.max(z)) - jnp.minimum(theta[0], jnp.min(z))
        k = jnp.minimum(k, jax.lax.stop_gradient(span))
        length = jax.lax.stop_gradient(k)
        cells = _Cells(_power_of_two(6.2 * length), middle)
        _, y = cells.locate(z)
        terms = [w, *(term for each in y for term in (w * each, w * each * each)), w * x]
        bounds = _bound(theta, -length), theta, _bound(theta, length)
        low, below, high = (_gaps(rising, z, terms) for rising in bounds)
        # Atoms from t - k to t, from t to t + k, below t - k and above t + k.
        windows = jnp.concatenate(
            [(below - low)[:, :5], (high - below)[:, :5], low[:, ::5]], axis=1
        )
        sums = _cumulative(windows, high[:, ::5])
        mass, first, mass_above, first_above = sums[10:]
        position, s = cells.locate(theta)
        under = jnp.where(position > 1.03 * length, 0, 1)
        over = jnp.where(position < cells.size - 1.03 * length, 0, 1)
        beneath = _half_square(under, s, sums[:5]) - k * (first - (t - 0.5 * k) * mass)
        above = _half_square(over, s, sums[5:10])
        above = above + k * (first_above - (t + 0.5 * k) * mass_above)
        return tau * above + (1.0 - tau) * beneath

    return jnp.sum(penalty(kappa, pinball, huber, divide_by_kappa))


def _cumulative(below: jax.Array, above: jax.Array) -> jax.Array:
    """Sums over the gaps below each value, and over those above: [K, N] from [N + 1, K]."""
    sums = jnp.cumsum(jnp.concatenate([below[:-1], above[:0:-1]], axis=1), axis=0)
    split = below.shape[1]
    return jnp.concatenate([sums[:, :split], sums[::-1, split:]], axis=1).T


def _bound(theta: jax.Array, k: jax.Array) -> jax.Array:
    """The smallest number whose difference to theta is not below k, as a difference is rounded."""
    theta = jax.lax.stop_gradient(theta)
    bound = theta + k
    return jnp.where(bound - theta < k, jnp.nextafter(bound, jnp.full_like(bound, jnp.inf)), bound)


def _power_of_two(x: jax.Array) -> jax.Array:
    """A power of two from `x / 1.5` to `x * 4 / 3`; 1 for 0."""
    bits = jnp.finfo(x.dtype)
    return jax.lax.reduce_precision(jnp.where(x > 0.0, x, 1.0), bits.nexp, 0)
