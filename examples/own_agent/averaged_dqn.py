"""Averaged DQN (Anschel et al. 2017, arXiv:1611.01929): DQN against the mean of K target networks.

y = r + gamma max_a mean_k q_k(s', a), where q_1, ..., q_K are the K newest target networks
"""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Ge

from bellmax import losses
from bellmax.agents import (
    Agent,
    Target,
    ValueConfig,
    make_value_agent,
    taken,
    td_loss,
    transitions,
)
from bellmax.envs import EnvSpec


@dataclass(frozen=True)
class AveragedDQNConfig(ValueConfig):
    """Hyper-parameters of Averaged DQN."""

    # Target networks that are averaged.
    num_targets: Annotated[int, Ge(1)] = 5


def make_averaged_dqn(config: AveragedDQNConfig, spec: EnvSpec) -> Agent:
    """Make an Averaged DQN agent. It acts on the newest network, not on the mean."""
    k = config.num_targets

    def init(params):
        return jax.tree.map(lambda x: jnp.stack([x] * k), params)

    def update(params, targets, steps):
        number = (steps // config.target_period) % k
        due = steps % config.target_period == 0

        def replace(new, old):
            return jnp.where(due, old.at[number].set(new), old)

        return jax.tree.map(replace, params, targets)

    def loss_function(network, params, targets, steps):
        t = transitions(steps, config.discount)
        q_tm1 = network.apply(params, t.observation).q_values
        each = jax.vmap(network.apply, in_axes=(0, None))(targets, t.next_observation).q_values
        arguments = q_tm1, t.action, t.reward, t.discount, each.mean(axis=0)
        td_error = jax.vmap(losses.q_learning)(*arguments)
        return td_loss(td_error, taken(q_tm1, t.action), t.mask, config.huber_delta)

    return make_value_agent(config, spec, loss_function, target=Target(init, update))
