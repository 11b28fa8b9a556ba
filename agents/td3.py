"""TD3: two critics; the target uses the smaller of their values.

y = r + gamma min_c q_target_c(s', a')
loss = sum_c (y - q_c(s, a))^2
"""

import jax
import jax.numpy as jnp

from bellmax import losses
from bellmax.agents.configs.actor_critic import TD3Config
from bellmax.agents.shared.actor_critic import CriticLoss, make_actor_critic_agent
from bellmax.agents.shared.base import Agent
from bellmax.envs import EnvSpec


def make_td3(config: TD3Config, spec: EnvSpec) -> Agent:
    """Makes a TD3 agent.

    Raises:
      UserError: the task's actions are not a vector with finite bounds.
    """

    def critic_loss(
        q_tm1: jax.Array, r_t: jax.Array, discount_t: jax.Array, q_t: jax.Array
    ) -> CriticLoss:
        errors = jax.vmap(
            lambda *arrays: losses.clipped_double_q_learning(*arrays, reduce=config.reduce)
        )(q_tm1[:, :, 0], r_t, discount_t, q_t[:, :, 0])
        error = jax.lax.stop_gradient(jnp.abs(errors).mean(axis=1))
        return CriticLoss(jnp.sum(errors**2, axis=1), error)

    return make_actor_critic_agent(config, spec, critic_loss, num_critics=config.num_critics)
