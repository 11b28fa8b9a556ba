"""Counts: the reference for every bonus, where observations can be told apart one by one.

reward of reaching o = 1 / sqrt(visits of o)
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bellmax import losses
from bellmax.agents.base import Agent, Params
from bellmax.agents.configs.on_policy import CountBonusConfig
from bellmax.agents.intrinsic import (
    Chunk,
    Intrinsic,
    no_memory,
    transitions,
)
from bellmax.agents.on_policy import make_on_policy_agent
from bellmax.envs import EnvSpec


def make_count_bonus(config: CountBonusConfig, spec: EnvSpec) -> Agent:
    """Makes the actor-critic with the bonus of counts.

    Raises:
      UserError: the task's actions are not discrete, or the torso does not fit its observations.
    """
    return make_on_policy_agent(config, spec, count_bonus(config, spec), config.intrinsic)


def count_bonus(config: CountBonusConfig, spec: EnvSpec) -> Intrinsic:
    """Counts as a bonus of its own, which any agent can call; the state is the table of visits.

    A chunk is counted before it is rewarded: all visits of it to one observation earn the same.
    """
    size = int(np.prod(spec.observation.shape))

    def row(observation: jax.Array) -> jax.Array:
        """[S, B] int32, the counter of each observation [S, B, ...]."""
        flat = observation.reshape(*observation.shape[:2], size).astype(jnp.float32)
        words = jax.lax.bitcast_convert_type(flat, jnp.uint32)
        # A random odd multiplier for each number, the sum mixed so that every bit of it counts.
        factors = np.random.default_rng(0).integers(2**32, size=size, dtype=np.uint32) | 1
        mixed = jnp.sum((words ^ (words >> 15)) * jnp.asarray(factors)[None, None], axis=-1)
        mixed = (mixed ^ (mixed >> 16)) * jnp.uint32(0x9E3779B1)
        return (mixed >> (32 - config.hash_bits)).astype(jnp.int32)

    def init(key: jax.Array, encoder: Params) -> tuple[Params, Any]:
        del key, encoder
        return (), jnp.zeros(2**config.hash_bits)

    def reward(params: Params, state: Any, encoder: Params, chunk: Chunk):
        del params, encoder
        rows, mask = row(chunk.steps.observation[1:]), transitions(chunk.steps)
        visits = state.at[rows].add(mask)
        bonus = jax.vmap(jax.vmap(losses.count_bonus))(jnp.maximum(visits[rows], 1.0))
        return visits, (), bonus

    return Intrinsic(
        init,
        no_memory,
        reward,
        loss=lambda params, state, chunk: jnp.zeros(()),
        update=lambda params, state, encoder: state,
    )
