"""TD3: two critics; the target uses the smaller of their values.

y = r + gamma min_c q_target_c(s', a')
loss = sum_c (y - q_c(s, a))^2
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from annotated_types import Interval

from bellmax import losses
from bellmax.agents.actor_critic import ActorCriticConfig, CriticLoss, make_actor_critic_agent
from bellmax.agents.base import Agent
from bellmax.envs import EnvSpec


@dataclass(frozen=True)
class TD3Config(ActorCriticConfig):
    """Hyper-parameters of TD3 (Fujimoto et al. 2018, arXiv:1802.09477)."""

    # Number of critics; 1 is DDPG with target smoothing and delayed updates.
    num_critics: Annotated[int, Interval(ge=1, le=64)] = 2
    # How the target combines the critics: the smallest value, or their mean.
    reduce: Literal["min", "mean"] = "min"


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
