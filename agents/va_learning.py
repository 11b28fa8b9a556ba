"""VA-learning: value and advantage functions, both bootstrapped from the same target.

y = r_1 + ... + gamma^n (V_target(s_n) + max_a A_target(s_n, a)),   E_mu A = 0
loss = Huber(y - V(s)) + Huber(y - V_target(s) - A(s, a)) - log mu(a|s)
behaviour dueling: loss = Huber(y - V(s) - A(s, a)) - log mu(a|s)
"""

import jax
import jax.numpy as jnp

from bellmax import losses
from bellmax.agents.configs.value_based import VALearningConfig
from bellmax.agents.shared.base import Agent, Params
from bellmax.agents.shared.value_based import ValueLoss, apply_sequence, huber, make_value_agent
from bellmax.envs import EnvSpec, Step
from bellmax.networks import Network, va_head


def make_va_learning(config: VALearningConfig, spec: EnvSpec) -> Agent:
    """Makes a VA-learning agent.

    Not verified against the paper's full text, which was not available: the weights of the three
    losses (1 each), the baseline in A's target (V of the target network) and the network
    architecture.

    Raises:
      UserError: the task's actions are not discrete, or the network does not fit.
    """

    def make_target(after, selector, steps: Step) -> jax.Array:
        """Target [] of the window's first step; leaves of `after` are [K, ...]."""
        greedy = jnp.argmax(selector, axis=-1)
        q_t = after.value[:, None] + after.advantage
        v_t = jnp.take_along_axis(q_t, greedy[:, None], axis=-1)[:, 0]
        trace = 1.0 - steps.is_last[1:]
        if config.trace == "retrace":
            trace = trace * config.trace_decay * (steps.action[1:] == greedy)
        discount = config.discount * steps.discount[:-1]
        return losses.lambda_returns(steps.reward[:-1], discount, v_t, trace)[0]

    def loss_function(
        network: Network, params: Params, target_params: Params, steps: Step
    ) -> ValueLoss:
        online = network.apply(params, steps.observation[:, 0])
        after = apply_sequence(network, target_params, steps.observation[:, 1:])
        selector = after.advantage
        if config.double:
            selector = apply_sequence(network, params, steps.observation[:, 1:]).advantage
        target = jax.lax.stop_gradient(jax.vmap(make_target)(after, selector, steps))
        action = steps.action[:, 0]
        advantage = jnp.take_along_axis(online.advantage, action[:, None], axis=1)[:, 0]
        q_value = online.value + advantage
        if config.loss == "va":
            baseline = network.apply(target_params, steps.observation[:, 0]).value
            errors = jax.vmap(losses.va_errors)(
                online.value, online.advantage, action, baseline, target
            )
            loss = huber(errors.value, config.huber_delta)
            loss = loss + huber(errors.advantage, config.huber_delta)
        else:
            loss = huber(target - q_value, config.huber_delta)
        if config.behaviour == "learned":
            likelihood = jax.vmap(losses.behaviour_likelihood_loss)
            loss = loss + likelihood(online.behaviour_logits, action)
        mask = 1.0 - steps.is_last[:, 0].astype(jnp.float32)
        return ValueLoss(loss, jnp.abs(target - q_value), q_value, mask)

    head = va_head(uniform=config.behaviour == "uniform")
    return make_value_agent(config, spec, loss_function, head=head)
