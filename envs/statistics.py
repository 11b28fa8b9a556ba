"""Running mean and variance of observations, updated batch by batch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

# A feature that was constant so far has variance 0; its first change must not be scaled to
# infinity. The bound is Stable-Baselines3's `clip_obs`.
NORMALISED_BOUND = 10.0
_EPSILON = 1e-8


class RunningStatistics(NamedTuple):
    """Mean and population variance of the observations so far.

    seen: [] float32, number of observations.
    mean: [...] float32, one observation's shape.
    variance: [...] float32.
    """

    seen: jax.Array
    mean: jax.Array
    variance: jax.Array


def initial_statistics(shape: tuple[int, ...]) -> RunningStatistics:
    """Statistics of no observations, mean 0 and variance 1: normalising changes only the dtype."""
    return RunningStatistics(
        jnp.float32(0), jnp.zeros(shape, jnp.float32), jnp.ones(shape, jnp.float32)
    )


def merge_statistics(statistics: RunningStatistics, batch: jax.Array) -> RunningStatistics:
    """Adds a batch [N, ...] of observations.

    The same update as `losses.running_moments_update` without a mask. Neither folder may import the
    other, and no library that bellmax uses has it as a pure function; a test compares the two.

    Source: Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance", eq. 2.1.
    Deviation: the variance is kept instead of the sum of squares, so float32 does not overflow.
    """
    batch = batch.astype(jnp.float32)
    total = statistics.seen + batch.shape[0]
    weight = batch.shape[0] / total
    delta = batch.mean(0) - statistics.mean
    spread = (1 - weight) * statistics.variance + weight * batch.var(0)
    return RunningStatistics(
        seen=total,
        mean=statistics.mean + weight * delta,
        variance=spread + weight * (1 - weight) * delta**2,
    )


def normalise(statistics: RunningStatistics, batch: jax.Array) -> jax.Array:
    """Normalises [N, ...] observations to float32 within +-NORMALISED_BOUND."""
    scale = jax.lax.rsqrt(statistics.variance + _EPSILON)
    centred = batch.astype(jnp.float32) - statistics.mean[None]
    return jnp.clip(centred * scale[None], -NORMALISED_BOUND, NORMALISED_BOUND)
