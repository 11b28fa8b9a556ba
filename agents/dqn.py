"""DQN with double Q-learning, dueling heads and n-step returns: the baseline agent.

y = r_1 + ... + gamma^{n-1} r_n + gamma^n max_a q_target(s_n, a)            (double: argmax of q)
loss = Huber(y - q(s_0, a_0))                 (variance_weighting: weighted, see shared/)
"""

import jax

from bellmax import losses
from bellmax.agents.configs.value_based import DQNConfig
from bellmax.agents.shared.base import Agent, Params
from bellmax.agents.shared.value_based import taken, transitions
from bellmax.agents.shared.variance_weighting import TDErrors, make_td_agent
from bellmax.envs import EnvSpec, Step
from bellmax.networks import Network


def make_dqn(config: DQNConfig, spec: EnvSpec) -> Agent:
    """Makes a DQN agent. Learning curves: docs/results/discrete.md.

    Deviations from the paper: Adam instead of RMSProp, time limits bootstrap.

    Raises:
      UserError: the task's actions are not discrete, or the network does not fit.
    """

    def td_errors(network: Network, params: Params, target_params: Params, steps: Step) -> TDErrors:
        t = transitions(steps, config.discount)
        q_tm1 = network.apply(params, t.observation).q_values
        q_t = network.apply(target_params, t.next_observation).q_values
        if config.double:
            selector = network.apply(params, t.next_observation).q_values
            td_error = jax.vmap(losses.double_q_learning)(
                q_tm1, t.action, t.reward, t.discount, q_t, selector
            )
        else:
            td_error = jax.vmap(losses.q_learning)(q_tm1, t.action, t.reward, t.discount, q_t)
        return TDErrors(td_error, taken(q_tm1, t.action), t.mask)

    return make_td_agent(config, spec, td_errors)
