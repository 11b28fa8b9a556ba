"""Exponential-weights bandit that chooses one of K settings, such as levels of pessimism.

An arm is drawn at the start of an episode and used until its end; the feedback is the increase of
the return over the previous episode. The state is a NamedTuple held by the caller, one per
environment or seed under `jax.vmap`. There are two updates: `bandit_update`, as in the papers, for
feedback of magnitude about 1, and `bandit_update_windowed`, as in published code, which normalises
feedback of any size.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from bellmax.losses._checks import NUMBER, Spec, check_arrays, check_scalars, whole_number, widen
from bellmax.losses.value import softmax


class BanditState(NamedTuple):
    """State of a bandit; its policy is `softmax(weights)`.

    Attributes:
      weights: [K] float, log-preferences of the arms.
      recent: [W] float, the latest feedback values, newest last.
      filled: [] int, number of valid entries of `recent`, at most W.
    """

    weights: jax.Array
    recent: jax.Array
    filled: jax.Array


def bandit_init(num_arms: int, *, window: int = 5) -> BanditState:
    """Returns a bandit with equal weights.

    Args:
      num_arms: K, at least 1.
      window: W, at least 1; number of feedback values over which `bandit_update_windowed`
        normalises.

    Returns:
      `BanditState`.

    Raises:
      ValueError: a number is below 1; names the argument.

    Source: Moskovitz et al. 2021, arXiv:2102.03765, whose code has a window of 5.
    """
    num_arms, window = whole_number("num_arms", num_arms), whole_number("window", window)
    return BanditState(jnp.zeros(num_arms), jnp.zeros(window), jnp.zeros((), jnp.int32))


def bandit_sample(state: BanditState, key: chex.PRNGKey) -> jax.Array:
    """Draws an arm from `softmax(state.weights)`.

    Args:
      state: the bandit.
      key: consumed.

    Returns:
      [] int32 in [0, K).

    Raises:
      ValueError: the weights have another rank or dtype; names the argument.

    Source: Moskovitz et al. 2021, arXiv:2102.03765.
    """
    check_arrays(weights=Spec(state.weights, "K"))
    return jax.random.categorical(key, widen(state.weights)).astype(jnp.int32)


def _check(state: BanditState, arm: chex.Numeric, feedback: chex.Numeric) -> None:
    check_arrays(
        weights=Spec(state.weights, "K"),
        recent=Spec(state.recent, "W"),
        filled=Spec(state.filled, "", int),
        arm=Spec(arm, "", int),
        feedback=Spec(feedback, "", NUMBER),
    )


def bandit_update(
    state: BanditState,
    arm: chex.Numeric,
    feedback: chex.Numeric,
    *,
    step_size: chex.Numeric = 0.1,
    floor: chex.Numeric = 0.0,
) -> BanditState:
    """The papers' rule: `weights[arm] += step_size * feedback / max(p[arm], floor)`.

    Division by the probability makes the expected step of every arm proportional to its expected
    feedback. Large feedback, such as raw returns in the hundreds, makes the policy deterministic
    after one update: scale it first.

    Args:
      state: the bandit.
      arm: [] int in [0, K), the arm that was played.
      feedback: [] float, the return minus that of the previous episode.
      step_size: above 0, in units of 1 / feedback.
      floor: lower bound of the divisor, in [0, 1]; the papers have none.

    Returns:
      `BanditState`; `recent` and `filled` are unchanged.

    Raises:
      ValueError: a rank, dtype or range differs from the above; names the argument.

    Source: Moskovitz et al. 2021, arXiv:2102.03765; Clavier et al. 2024, arXiv:2406.04081.
    """
    _check(state, arm, feedback)
    check_scalars(
        step_size=step_size,
        floor=floor,
        above_zero=("step_size",),
        from_zero=("floor",),
        up_to_one=("floor",),
    )
    weights = widen(state.weights)
    divisor = jnp.maximum(softmax(weights)[arm], floor)
    step = jnp.asarray(step_size * widen(feedback) / divisor, weights.dtype)
    return BanditState(weights.at[arm].add(step), widen(state.recent), state.filled)


def _normalised(recent: jax.Array, filled: jax.Array) -> jax.Array:
    """The newest feedback, standardised over the window."""
    held = jnp.arange(recent.size) >= recent.size - filled
    # Relative to the newest value: equal values then have offsets of exactly 0, where a rounding
    # error would be amplified by the division.
    offsets = jnp.where(held, recent - recent[-1], 0.0)
    mean = jnp.sum(offsets) / filled
    variance = jnp.sum(jnp.where(held, (offsets - mean) ** 2, 0.0)) / filled
    differ = variance > 0.0
    return jnp.where(differ, -mean / jnp.sqrt(jnp.where(differ, variance, 1.0)), 0.0)


def bandit_update_windowed(
    state: BanditState,
    arm: chex.Numeric,
    feedback: chex.Numeric,
    *,
    step_size: chex.Numeric = 0.1,
    decay: chex.Numeric = 0.9,
    floor: chex.Numeric = 1e-4,
) -> BanditState:
    """The rule of the TOP code: normalise over a window, decay the played arm, then update it.

    Let z be the feedback standardised over the last W values (including itself). The weight `w =
    decay * weights[arm]` becomes `w + step_size * z / max(exp(w), floor)`. The divisor is *not*
    the arm's probability: the exponential is not normalised. Other arms keep their weights. z is 0
    if all values in the window are equal.

    Args:
      state: the bandit.
      arm: [] int in [0, K), the arm that was played.
      feedback: [] float, in any unit.
      step_size: above 0; TOP uses 0.1.
      decay: in [0, 1].
      floor: lower bound of the divisor, above 0.

    Returns:
      `BanditState`.

    Raises:
      ValueError: a rank, dtype or range differs from the above; names the argument.

    Source: code of Moskovitz et al. 2021, arXiv:2102.03765. Deviation: z = 0 for equal values,
      where that code divides by 0.
    """
    _check(state, arm, feedback)
    check_scalars(
        step_size=step_size,
        decay=decay,
        floor=floor,
        above_zero=("step_size", "floor"),
        from_zero=("decay",),
        up_to_one=("decay",),
    )
    weights, recent = widen(state.weights), widen(state.recent)
    recent = jnp.roll(recent, -1).at[-1].set(jnp.asarray(feedback, recent.dtype))
    filled = jnp.minimum(state.filled + 1, recent.size)
    decayed = decay * weights[arm]
    step = step_size * _normalised(recent, filled) / jnp.maximum(jnp.exp(decayed), floor)
    weights = weights.at[arm].set(jnp.asarray(decayed + step, weights.dtype))
    return BanditState(weights, recent, filled)
