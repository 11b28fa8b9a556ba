"""Intrinsic rewards: what a bonus for exploring is made of, and how it becomes a reward.

A bonus is an `Intrinsic`, a named tuple of pure functions that any agent can call: RND, ICM and
counts are here, the world model of BYOL-Explore in `byol_explore.py`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bellmax import losses
from bellmax.agents.base import Memory, Params
from bellmax.agents.configs.on_policy import IntrinsicConfig
from bellmax.envs import Step


class Chunk(NamedTuple):
    """Streams of B environments, time-major: T = S + 1 steps, of which S were acted on.

    steps: leaves [T, B, ...]; action, reward and discount of the last step mean nothing.
    memory: [B, ...] the bonus' own, before the first step.
    latents, beliefs: [T, B, ...] the agent's, for a bonus that shares its representation; else ().
    """

    steps: Step
    memory: Memory = ()
    latents: Any = ()
    beliefs: Any = ()


class Intrinsic(NamedTuple):
    """A bonus for exploring.

    init(key, encoder) -> (params, state): what gradients move, and what else there is to carry.
        `encoder` are the agent's parameters, for a bonus that shares them.
    initial_memory(B) -> what is carried for each environment, () for most.
    reward(params, state, encoder, chunk) -> (state, memory, raw rewards [S, B]): once for each
        chunk, in order; of the step from t to t + 1 in row t. Rows of steps that close an episode
        mean nothing.
    loss(params, state, chunk) -> []: to be minimised, on any part of the environments.
    update(params, state, encoder) -> state: after each gradient step.
    """

    init: Callable[[jax.Array, Params], tuple[Params, Any]]
    initial_memory: Callable[[int], Memory]
    reward: Callable[[Params, Any, Params, Chunk], tuple[Any, Memory, jax.Array]]
    loss: Callable[[Params, Any, Chunk], jax.Array]
    update: Callable[[Params, Any, Params], Any]


class Normaliser(NamedTuple):
    """From raw rewards to rewards without a unit.

    init() -> state
    initial_memory(B) -> what is carried for each environment
    update(state, memory, raw [S, B], mask [S, B]) -> (state, memory, rewards [S, B])
    """

    init: Callable[[], Any]
    initial_memory: Callable[[int], Memory]
    update: Callable[[Any, Memory, jax.Array, jax.Array], tuple[Any, Memory, jax.Array]]


def make_normaliser(config: IntrinsicConfig) -> Normaliser:
    """The normaliser that a config names; masked entries get 0."""

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


def transitions(steps: Step) -> jax.Array:
    """[S, B] float32, 1 where step t + 1 follows from step t, 0 where step t closes an episode."""
    return 1.0 - steps.is_last[:-1].astype(jnp.float32)


def no_memory(batch_size: int) -> Memory:
    """The memory of what carries nothing for an environment."""
    del batch_size
    return ()


# Pays nothing.
NO_BONUS = Intrinsic(
    init=lambda key, encoder: ((), ()),
    initial_memory=no_memory,
    reward=lambda params, state, encoder, chunk: ((), (), jnp.zeros(chunk.steps.reward[:-1].shape)),
    loss=lambda params, state, chunk: jnp.zeros(()),
    update=lambda params, state, encoder: (),
)
