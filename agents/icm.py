"""ICM: the bonus is the error of predicting the next latent; an inverse model trains the latents.

inverse loss = -log p(a | z, z'),  forward loss = |f(z, a) - z'|^2 / 2,  the raw reward
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bellmax import losses
from bellmax.agents.configs.on_policy import ICMConfig
from bellmax.agents.on_policy import make_on_policy_agent
from bellmax.agents.shared.base import Agent, Params, count_actions
from bellmax.agents.shared.intrinsic import Chunk, Intrinsic, no_memory, transition_mask
from bellmax.envs import EnvSpec
from bellmax.networks import check_arrays, make_torso


def make_icm(config: ICMConfig, spec: EnvSpec) -> Agent:
    """Makes the actor-critic with ICM's bonus.

    Deviation: the forward loss does not train the encoder, which could otherwise reduce it by
      shrinking the latents.

    Raises:
      UserError: the task's actions are not discrete, or the torso does not fit its observations.
    """
    return make_on_policy_agent(config, spec, icm_bonus(config, spec), config.intrinsic)


class ForwardInverse(nn.Module):
    """Observations and next observations [B, ...], actions [B] -> action logits [B, A], predicted
    and actual next latents [B, D]."""

    config: ICMConfig
    num_actions: int

    @nn.compact
    def __call__(
        self, before: jax.Array, after: jax.Array, action: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        config = self.config
        both = jnp.concatenate([before, after], axis=0)
        features = make_torso(config.network.torso, config.icm_hidden, jnp.float32)(both)
        z_tm1, z_t = jnp.split(nn.Dense(config.icm_latent_size)(features), 2)

        def model(x: jax.Array, y: jax.Array, size: int) -> jax.Array:
            joined = jnp.concatenate([x, y], axis=-1)
            hidden = nn.relu(nn.Dense(config.icm_model_hidden)(joined))
            return nn.Dense(size)(hidden)

        taken = jax.nn.one_hot(action, self.num_actions)
        logits = model(z_tm1, z_t, self.num_actions)
        return logits, model(jax.lax.stop_gradient(z_tm1), taken, config.icm_latent_size), z_t


def icm_bonus(config: ICMConfig, spec: EnvSpec) -> Intrinsic:
    """Makes the ICM bonus, which any agent can use."""
    check_arrays(spec.observation, "ICM")
    num_actions, shape = count_actions(spec), spec.observation.shape
    model = ForwardInverse(config, num_actions)

    def init(key: jax.Array, encoder: Params) -> tuple[Params, Any]:
        del encoder
        seen = jnp.zeros((1, *shape))
        return model.init(key, seen, seen, jnp.zeros(1, jnp.int32)), ()

    def evaluate(params: Params, chunk: Chunk) -> losses.IntrinsicCuriosity:
        """Losses and rewards of a chunk; leaves [S, B]."""
        steps = chunk.steps
        lead, action = steps.action[:-1].shape, steps.action[:-1].reshape(-1)
        pair = (x.reshape(-1, *shape) for x in (steps.observation[:-1], steps.observation[1:]))
        outputs: Any = model.apply(params, *pair, action)
        logits, predicted, z_t = outputs

        def one(logits: jax.Array, action: jax.Array, predicted: jax.Array, z_t: jax.Array):
            weight = config.forward_weight
            return losses.intrinsic_curiosity(logits, action, predicted, z_t, beta=weight, eta=1.0)

        each = jax.vmap(one)(logits, action, predicted, z_t)
        return jax.tree.map(lambda x: x.reshape(lead), each)

    def reward(params: Params, state: Any, encoder: Params, chunk: Chunk):
        del encoder
        return state, (), evaluate(params, chunk).reward

    def loss(params: Params, state: Any, chunk: Chunk) -> jax.Array:
        del state
        return losses.masked_mean(evaluate(params, chunk).loss, transition_mask(chunk.steps))

    return Intrinsic(init, no_memory, reward, loss, lambda params, state, encoder: state)
