"""Munchausen DQN: DQN with the scaled log-probability of the taken action added to the reward.

pi = softmax(q_target / tau)
y = r + alpha max(l0, tau log pi(a|s))
      + gamma sum_a' pi(a'|s') (q_target(s', a') - tau log pi(a'|s'))
loss = Huber(y - q(s, a))                     (variance_weighting: weighted, see shared/)
"""

import jax
import jax.numpy as jnp

from bellmax import losses
from bellmax.agents.configs.value_based import MunchausenDQNConfig
from bellmax.agents.shared.base import Agent, Params
from bellmax.agents.shared.value_based import apply_sequence, taken
from bellmax.agents.shared.variance_weighting import TDErrors, make_td_agent
from bellmax.envs import EnvSpec, Step
from bellmax.networks import Network


def make_munchausen_dqn(config: MunchausenDQNConfig, spec: EnvSpec) -> Agent:
    """Makes a Munchausen DQN agent. Learning curves: docs/results/discrete.md.

    Deviations from the paper: time limits bootstrap; n_step > 1 unrolls Munchausen value iteration
    (docs/agents/munchausen_dqn.md), where the paper has only n_step = 1.

    Raises:
      UserError: the task's actions are not discrete, or the network does not fit.
    """
    hyper = {"temperature": config.temperature, "alpha": config.alpha, "clip": config.clip}

    def td_errors(network: Network, params: Params, target_params: Params, steps: Step) -> TDErrors:
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
        return TDErrors(td_error, taken(q_tm1, steps.action[:, 0]), mask)

    return make_td_agent(config, spec, td_errors)
