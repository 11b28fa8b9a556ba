"""Count-based bonus: a reference for other bonuses in tasks with few distinct observations.

reward of reaching o = 1 / sqrt(visits of o)
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bellmax import losses
from bellmax.agents.configs.on_policy import CountBonusConfig
from bellmax.agents.on_policy import make_on_policy_agent
from bellmax.agents.shared.base import Agent, Params
from bellmax.agents.shared.intrinsic import Chunk, Intrinsic, no_memory, transition_mask
from bellmax.envs import EnvSpec


def make_count_bonus(config: CountBonusConfig, spec: EnvSpec) -> Agent:
    """Makes the actor-critic with a count-based bonus.

    Raises:
      UserError: the task's actions are not discrete, or the torso does not fit its observations.
    """
    return make_on_policy_agent(config, spec, count_bonus(config, spec), config.intrinsic)


def count_bonus(config: CountBonusConfig, spec: EnvSpec) -> Intrinsic:
    """Makes the count-based bonus, which any agent can use; its state is the table of counters.

    Visits of a chunk are counted before its rewards are computed: all visits to one observation
    within a chunk earn the same reward.
    """
    size = int(np.prod(spec.observation.shape))

    def row(observation: jax.Array) -> jax.Array:
        """Index of the counter of each observation [S, B, ...]: [S, B] int32."""
        flat = observation.reshape(*observation.shape[:2], size).astype(jnp.float32)
        words = jax.lax.bitcast_convert_type(flat, jnp.uint32)
        # Hash: a random odd multiplier per number; the mixing makes every bit of the sum matter.
        factors = np.random.default_rng(0).integers(2**32, size=size, dtype=np.uint32) | 1
        mixed = jnp.sum((words ^ (words >> 15)) * jnp.asarray(factors)[None, None], axis=-1)
        mixed = (mixed ^ (mixed >> 16)) * jnp.uint32(0x9E3779B1)
        return (mixed >> (32 - config.hash_bits)).astype(jnp.int32)

    def init(key: jax.Array, encoder: Params) -> tuple[Params, Any]:
        del key, encoder
        return (), jnp.zeros(2**config.hash_bits)

    def reward(params: Params, state: Any, encoder: Params, chunk: Chunk):
        del params, encoder
        rows, mask = row(chunk.steps.observation[1:]), transition_mask(chunk.steps)
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
