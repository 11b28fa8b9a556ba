"""Intrinsic rewards: the interface of an exploration bonus, and its normalisation.

A bonus is an `Intrinsic`, a named tuple of pure functions that any agent can use. RND, ICM, counts
and BYOL-Explore each define one in a file of their own.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bellmax import losses
from bellmax.agents.configs.on_policy import IntrinsicConfig
from bellmax.agents.shared.base import Memory, Params
from bellmax.envs import Step


class Chunk(NamedTuple):
    """Steps of B environments, time-major: T = S + 1 steps with S transitions.

    steps: leaves [T, B, ...]; action, reward and discount of the last step must be ignored.
    memory: [B, ...] the bonus' own recurrent state before the first step.
    latents, beliefs: [T, B, ...] the agent's, for a bonus that shares its representation; else ().
    """

    steps: Step
    memory: Memory = ()
    latents: Any = ()
    beliefs: Any = ()


class Intrinsic(NamedTuple):
    """An exploration bonus.

    init(key, encoder) -> (params, state): parameters trained by gradients, and all other state.
        `encoder`: the agent's encoder parameters, for a bonus that shares them.
    initial_memory(B) -> recurrent state per environment, () for most bonuses.
    reward(params, state, encoder, chunk) -> (state, memory, raw rewards [S, B]): called once per
        chunk, in order. Row t belongs to the transition from t to t + 1; rows whose step is the
        last of an episode are undefined.
    loss(params, state, chunk) -> []: loss on a chunk of any subset of the environments.
    update(params, state, encoder) -> state: called after each gradient step.
    """

    init: Callable[[jax.Array, Params], tuple[Params, Any]]
    initial_memory: Callable[[int], Memory]
    reward: Callable[[Params, Any, Params, Chunk], tuple[Any, Memory, jax.Array]]
    loss: Callable[[Params, Any, Chunk], jax.Array]
    update: Callable[[Params, Any, Params], Any]


class Normaliser(NamedTuple):
    """Functions that normalise raw intrinsic rewards.

    init() -> state
    initial_memory(B) -> state per environment
    update(state, memory, raw [S, B], mask [S, B]) -> (state, memory, rewards [S, B])
    """

    init: Callable[[], Any]
    initial_memory: Callable[[int], Memory]
    update: Callable[[Any, Memory, jax.Array, jax.Array], tuple[Any, Memory, jax.Array]]


def make_normaliser(config: IntrinsicConfig) -> Normaliser:
    """Makes the normaliser of a config; masked entries become 0."""

    def moving(state: Any, memory: Memory, raw: jax.Array, mask: jax.Array):
        state, reward = losses.reward_normaliser_update(
            state,
            raw,
            mask,
            decay=config.normaliser_decay,
            eps=config.normaliser_epsilon,
            clip=config.normaliser == "clipped",
        )
        return state, memory, reward

    def by_return(moments: Any, returns: jax.Array, raw: jax.Array, mask: jax.Array):
        state = losses.ReturnNormaliser(returns, moments)
        state, reward = losses.return_normaliser_update(
            state,
            raw,
            mask,
            discount=config.normaliser_discount,
            eps=config.normaliser_epsilon,
        )
        return state.moments, state.returns, reward

    def none(state: Any, memory: Memory, raw: jax.Array, mask: jax.Array):
        return state, memory, jax.lax.stop_gradient(raw) * mask

    if config.normaliser == "none":
        return Normaliser(lambda: (), no_memory, none)
    if config.normaliser == "return":
        return Normaliser(losses.running_moments_init, jnp.zeros, by_return)
    return Normaliser(losses.reward_normaliser_init, no_memory, moving)


def transition_mask(steps: Step) -> jax.Array:
    """Return the mask of transitions, [S, B] float32: 0 if step t closes an episode, else 1."""
    return 1.0 - steps.is_last[:-1].astype(jnp.float32)


def no_memory(batch_size: int) -> Memory:
    """The empty memory of a stateless bonus or normaliser."""
    del batch_size
    return ()


# A bonus whose reward is always 0.
NO_BONUS = Intrinsic(
    init=lambda key, encoder: ((), ()),
    initial_memory=no_memory,
    reward=lambda params, state, encoder, chunk: ((), (), jnp.zeros(chunk.steps.reward[:-1].shape)),
    loss=lambda params, state, chunk: jnp.zeros(()),
    update=lambda params, state, encoder: (),
)
