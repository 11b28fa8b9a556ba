"""Munchausen DQN: DQN with the scaled log-probability of the taken action added to the reward.

pi = softmax(q_target / tau)
y = r + alpha max(l0, tau log pi(a|s))
      + gamma sum_a' pi(a'|s') (q_target(s', a') - tau log pi(a'|s'))
loss = Huber(y - q(s, a))
"""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Gt, Interval, Le

from bellmax import losses
from bellmax.agents.base import Agent, Params
from bellmax.agents.value_based import (
    ValueConfig,
    ValueLoss,
    apply_sequence,
    make_value_agent,
    taken,
    td_loss,
)
from bellmax.envs import EnvSpec, Step
from bellmax.networks import Network


@dataclass(frozen=True)
class MunchausenDQNConfig(ValueConfig):
    """Hyper-parameters of M-DQN (Vieillard et al. 2020, arXiv:2007.14430)."""

    # Tau, temperature of the softmax policy, in reward units (paper: 0.03, for rewards in [-1,
    # 1]).
    temperature: Annotated[float, Gt(0)] = 0.03
    # Alpha, weight of the log-policy in the reward (paper: 0.9).
    alpha: Annotated[float, Interval(ge=0, le=1)] = 0.9
    # l0, lower clip of the scaled log-policy tau log pi, in reward units (paper: -1).
    clip: Annotated[float, Le(0)] = -1.0


def make_munchausen_dqn(config: MunchausenDQNConfig, spec: EnvSpec) -> Agent:
    """Makes a Munchausen DQN agent. Learning curves: docs/results.md.

    Deviations from the paper: time limits bootstrap; n_step > 1 unrolls Munchausen value iteration
    (docs/munchausen.md), where the paper has only n_step = 1.

    Raises:
      UserError: the task's actions are not discrete, or the network does not fit.
    """
    hyper = {"temperature": config.temperature, "alpha": config.alpha, "clip": config.clip}

    def loss_function(
        network: Network, params: Params, target_params: Params, steps: Step
    ) -> ValueLoss:
        q_tm1 = network.apply(params, steps.observation[:, 0]).q_values
        target_q = apply_sequence(network, target_params, steps.observation).q_values
        window = (
            steps.action[:, :-1],
            steps.reward[:, :-1],
            config.discount * steps.discount[:, :-1],
            target_q[:, :-1],
            target_q[:, 1:],
            1.0 - steps.is_last[:, 1:],
        )
        td_error = jax.vmap(lambda *arrays: losses.n_step_munchausen_q_learning(*arrays, **hyper))(
            q_tm1, *window
        )
        mask = 1.0 - steps.is_last[:, 0].astype(jnp.float32)
        return td_loss(td_error, taken(q_tm1, steps.action[:, 0]), mask, config.huber_delta)

    return make_value_agent(config, spec, loss_function)
