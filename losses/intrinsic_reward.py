"""Normalisation of intrinsic rewards by running statistics, as pairs of pure init and update.

| state | update | for |
|---|---|---|
| `RewardNormaliser` | `reward_normaliser_update` | BYOL-Explore: moving scale, clipped |
| `ReturnNormaliser` | `return_normaliser_update` | RND: scale of the discounted intrinsic return |
| `RunningMoments` | `running_moments_update` | RND: observations, through `standardise` |

These functions take a whole batch, because they compute its statistics. Set the mask to 0 where
there was no transition: such entries are excluded from the statistics and get reward 0. Rewards are
constants to the gradient. If data is sharded over devices, `axis_name` names the axis over which
statistics are summed, so that every device has the same state. States keep their initial dtype.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from bellmax.losses._checks import (
    NUMBER,
    Spec,
    check_arrays,
    check_scalars,
    promote,
    whole_number,
    widen,
)


class RewardNormaliser(NamedTuple):
    """Moving averages of raw rewards, each [] float; divide by `weight` to correct the start at 0.

    Attributes:
      mean: of raw rewards.
      mean_square: of their squares.
      threshold: of rewards divided by their scale; prioritised clipping subtracts it.
      weight: of the constant 1, so `1 - decay ** updates`.
    """

    mean: jax.Array
    mean_square: jax.Array
    threshold: jax.Array
    weight: jax.Array


class RunningMoments(NamedTuple):
    """Mean and variance of all entries so far.

    Attributes:
      seen: [] float, number of entries. In float32 it saturates once a batch is below 1e-7 of it.
      mean: [...] float, of one entry's shape.
      variance: [...] float, of one entry's shape; divided by `seen`.
    """

    seen: jax.Array
    mean: jax.Array
    variance: jax.Array


class ReturnNormaliser(NamedTuple):
    """Discounted sums of past intrinsic rewards, and their moments.

    Attributes:
      returns: [B] float, one per environment; carried across chunks and episode ends.
      moments: of all returns so far, scalar.
    """

    returns: jax.Array
    moments: RunningMoments


def _check_alike(**arrays: chex.Array) -> None:
    """Checks that all arrays have the same shape, and are floats, or numbers if they are masks."""
    first, *_ = arrays.values()
    axes = "abcdefghijklmnopqrstuvwxyz"[: np.ndim(first)]
    kinds = {"mask": NUMBER, "uncertainty": NUMBER}
    check_arrays(**{name: Spec(x, axes, kinds.get(name, float)) for name, x in arrays.items()})


def _cast_like(state, wanted):
    return jax.tree.map(lambda x, y: jnp.asarray(x, y.dtype), state, wanted)


def _sum(x: jax.Array, axis_name: str | None) -> jax.Array:
    return jax.lax.psum(x, axis_name) if axis_name else x


def reward_normaliser_init(dtype: jnp.dtype | type = jnp.float32) -> RewardNormaliser:
    """The initial state of `reward_normaliser_update`.

    Args:
      dtype: of every leaf.

    Returns:
      `RewardNormaliser` of zeros.

    Source: Guo et al. 2022, arXiv:2206.08332.
    """
    return RewardNormaliser(*jnp.zeros((4,), dtype))


def reward_normaliser_update(
    state: RewardNormaliser,
    uncertainty: chex.Array,
    mask: chex.Array,
    *,
    decay: chex.Numeric = 0.99,
    eps: chex.Numeric = 1e-8,
    clip: bool = True,
    axis_name: str | None = None,
) -> tuple[RewardNormaliser, jax.Array]:
    """Divides by the moving standard deviation, then clips below the moving mean.

    `scaled = uncertainty / sqrt(variance + eps)`, then `max(scaled - threshold, 0)`, where the
    threshold is the moving mean of `scaled`. Both averages include this batch, and both are
    bias-corrected for their start. The result is invariant to a constant factor on all rewards.

    Args:
      state: returned by the previous update.
      uncertainty: [...] float, raw rewards, at least 0; any shape, the whole batch.
      mask: [...] float, of the same shape; 0 excludes an entry. An all-zero mask leaves the state
        unchanged.
      decay: of the averages per batch, in [0, 1).
      eps: above 0, added to the variance, in units of uncertainty^2.
      clip: whether to clip ("prioritisation"); False gives `scaled`, without subtracting its mean.
      axis_name: axis of devices that hold parts of the batch.

    Returns:
      The next state, and the reward: [...] float32 or wider, at least 0, without a unit.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Guo et al. 2022, arXiv:2206.08332; the order of updates is that of public code.
    """
    _check_alike(uncertainty=uncertainty, mask=mask)
    check_arrays(**{name: Spec(value, "") for name, value in state._asdict().items()})
    in_unit = {"from_zero": ("decay",), "below_one": ("decay",)}
    check_scalars(decay=decay, eps=eps, above_zero=("eps",), **in_unit)
    valid = jnp.asarray(mask) != 0
    raw = jax.lax.stop_gradient(jnp.where(valid, widen(uncertainty), 0.0))
    count = _sum(jnp.sum(valid), axis_name)
    # Without valid entries the averages must not change.
    rate = jnp.where(count > 0, 1.0 - decay, 0.0)

    def average(old, x):
        mean = _sum(jnp.sum(x), axis_name) / jnp.maximum(count, 1)
        return old + rate * (mean - old)

    mean, mean_square = average(state.mean, raw), average(state.mean_square, jnp.square(raw))
    weight = state.weight + rate * (1.0 - state.weight)
    positive = jnp.where(weight > 0, weight, 1.0)
    variance = mean_square / positive - jnp.square(mean / positive)
    scaled = raw / jnp.sqrt(jnp.maximum(variance, 0.0) + eps)
    threshold = average(state.threshold, scaled)
    reward = jnp.maximum(scaled - threshold / positive, 0.0) if clip else scaled
    new_state = _cast_like(RewardNormaliser(mean, mean_square, threshold, weight), state)
    return new_state, jnp.where(valid, reward, 0.0)


def running_moments_init(
    shape: tuple[int, ...] = (), dtype: jnp.dtype | type = jnp.float32
) -> RunningMoments:
    """The initial state of `running_moments_update`.

    Args:
      shape: of one entry.
      dtype: of every leaf.

    Returns:
      `RunningMoments` of zeros.

    Source: Chan, Golub and LeVeque 1983.
    """
    return RunningMoments(jnp.zeros((), dtype), jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))


def running_moments_update(
    state: RunningMoments,
    x: chex.Array,
    mask: chex.Array,
    *,
    axis_name: str | None = None,
) -> RunningMoments:
    """Updates the moments with a batch; the result does not depend on the split into batches.

    Args:
      state: returned by the previous update.
      x: [..., *shape] float, the batch; its last axes are those of one entry.
      mask: [...] float, the leading axes of x; 0 excludes an entry.
      axis_name: axis of devices that hold parts of the batch.

    Returns:
      The next state. Gradients flow, to x too.

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: Chan et al. 1983; for RND, Burda et al. 2018, arXiv:1810.12894.
    """
    letters = "abcdefghijklmnopqrstuvwxyz"
    lead, entry = letters[: np.ndim(mask)], letters[::-1][: np.ndim(state.mean)]
    arrays = {"seen": Spec(state.seen, ""), "mean": Spec(state.mean, entry)}
    arrays |= {"variance": Spec(state.variance, entry), "mask": Spec(mask, lead, NUMBER)}
    check_arrays(**arrays, x=Spec(x, lead + entry))
    x, valid = widen(x), jnp.asarray(mask) != 0
    axes = tuple(range(jnp.ndim(mask)))
    valid = jnp.reshape(valid, valid.shape + (1,) * jnp.ndim(state.mean))
    x = jnp.where(valid, x, 0.0)

    new = _sum(jnp.sum(valid), axis_name)

    def average(y):
        return _sum(jnp.sum(jnp.where(valid, y, 0.0), axis=axes), axis_name) / jnp.maximum(new, 1)

    mean = average(x)
    # Around the batch's own mean: the difference of mean squares would lose precision.
    centre = jnp.reshape(mean, (1,) * len(axes) + mean.shape)
    variance = average(jnp.square(x - centre))
    seen = state.seen + new
    share = new / jnp.maximum(seen, 1)
    delta = mean - state.mean
    spread = jnp.square(delta) * share * (1.0 - share)
    variance = (1.0 - share) * state.variance + share * variance + spread
    return _cast_like(RunningMoments(seen, state.mean + share * delta, variance), state)


def standardise(
    state: RunningMoments,
    x: chex.Array,
    *,
    clip: chex.Numeric = 5.0,
    eps: chex.Numeric = 1e-8,
) -> jax.Array:
    """`(x - mean) / sqrt(variance + eps)`, clipped: the input of RND's two networks.

    Args:
      state: moments, initialised before learning starts (RND: with steps of a random policy).
      x: [*shape] float, one entry.
      clip: above 0, in standard deviations; inf for none.
      eps: above 0, in units of x^2.

    Returns:
      [*shape] float32 or wider in [-clip, clip].

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Burda et al. 2018, arXiv:1810.12894, which applies it to RND's input only.
    """
    _check_alike(mean=state.mean, variance=state.variance, x=x)
    check_scalars(clip=clip, eps=eps, above_zero=("clip", "eps"))
    standard = (widen(x) - state.mean) / jnp.sqrt(state.variance + eps)
    return jnp.clip(standard, -jnp.asarray(clip), clip)


def return_normaliser_init(
    environments: int, dtype: jnp.dtype | type = jnp.float32
) -> ReturnNormaliser:
    """The initial state of `return_normaliser_update`.

    Args:
      environments: B, number of parallel reward streams.
      dtype: of every leaf.

    Returns:
      `ReturnNormaliser` of zeros.

    Source: Burda et al. 2018, arXiv:1810.12894.
    """
    environments = whole_number("environments", environments)
    return ReturnNormaliser(jnp.zeros((environments,), dtype), running_moments_init((), dtype))


def return_normaliser_update(
    state: ReturnNormaliser,
    r_t: chex.Array,
    mask: chex.Array,
    *,
    discount: chex.Numeric = 0.99,
    eps: chex.Numeric = 1e-8,
    axis_name: str | None = None,
) -> tuple[ReturnNormaliser, jax.Array]:
    """Divides by the running standard deviation of the discounted intrinsic return.

    The return is a discounted sum of past rewards, `R <- discount * R + r_t`, per environment. It
    ignores episode ends and continues across chunks. No mean is subtracted and nothing is clipped.

    Args:
      state: returned by the previous update.
      r_t: [T, B] float, raw intrinsic rewards of one chunk, in time order.
      mask: [T, B] float; where it is 0 the return is unchanged and the reward is 0.
      discount: of the intrinsic return, in [0, 1).
      eps: above 0, added to the variance, in units of r_t^2.
      axis_name: axis of devices that hold parts of the environments.

    Returns:
      The next state, and the reward: [T, B] float32 or wider, without a unit.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Burda et al. 2018, arXiv:1810.12894, and its published code.
    """
    arrays = {"r_t": Spec(r_t, "TB", NUMBER), "mask": Spec(mask, "TB", NUMBER)}
    check_arrays(**arrays, returns=Spec(state.returns, "B"))
    in_unit = {"from_zero": ("discount",), "below_one": ("discount",)}
    check_scalars(discount=discount, eps=eps, above_zero=("eps",), **in_unit)
    valid = jnp.asarray(mask) != 0
    r_t = jax.lax.stop_gradient(jnp.where(valid, widen(r_t), 0.0))

    def step(returns, row):
        r, on = row
        returns = jnp.where(on, discount * returns + r, returns)
        return returns, returns

    start, r_t, discount = promote(state.returns, r_t, discount)
    last, returns = jax.lax.scan(step, start, (r_t, valid))
    moments = running_moments_update(state.moments, returns, mask, axis_name=axis_name)
    reward = r_t / jnp.sqrt(moments.variance + eps)
    return _cast_like(ReturnNormaliser(last, moments), state), reward
