"""IQN: the quantile function of the return as a network of the fraction, which is drawn at random.

y_j = r_1 + ... + gamma^{n-1} r_n + gamma^n Z_target(s_n, a*; tau'_j)
a* = argmax_a mean over k of Z_target(s_n, a; midpoint k)
loss = sum over i, mean over j of the quantile Huber loss of y_j - Z(s_0, a_0; tau_i), over kappa

M-IQN (`munchausen`) bootstraps with the softmax policy of the same means, inside each tau'_j, and
adds the clipped log-policy to the reward.
"""

import jax
import jax.numpy as jnp

from bellmax import losses
from bellmax.agents.configs.value_based import IQNConfig
from bellmax.agents.shared.base import Agent, Params
from bellmax.agents.shared.value_based import (
    ValueLoss,
    apply_sequence,
    make_value_agent,
    taken,
    transitions,
)
from bellmax.envs import EnvSpec, Step
from bellmax.networks import Network, implicit_quantile_head


def make_iqn(config: IQNConfig, spec: EnvSpec) -> Agent:
    """Makes an IQN agent; `munchausen` makes it M-IQN.

    Deviations from the papers: action values are means over fixed midpoints instead of random
    fractions, so acting and evaluation are deterministic; time limits bootstrap; M-IQN with n_step
    > 1 unrolls as Munchausen DQN does (docs/agents/iqn.md), where the paper has only n_step = 1.

    Raises:
      UserError: the task's actions are not discrete, or the network does not fit.
    """
    hyper = {"temperature": config.temperature, "alpha": config.alpha, "clip": config.clip}
    huber = {"huber_kappa": config.huber_delta, "divide_by_kappa": True}

    def loss_function(
        network: Network, params: Params, target_params: Params, steps: Step, key: jax.Array
    ) -> ValueLoss:
        if config.munchausen:
            steps = with_soft_rewards(config, network, target_params, steps)
        t = transitions(steps, config.discount)
        # Drawn apart: equal fractions in both networks would bias the gradient.
        keys, batch = jax.random.split(key), t.reward.shape[0]
        tau_tm1 = draw_fractions(keys[0], batch, config.num_quantiles)
        tau_t = draw_fractions(keys[1], batch, config.num_target_quantiles)
        dist_q_tm1 = network.apply(params, t.observation, tau_tm1).quantiles
        dist_q_t = network.apply(target_params, t.next_observation, tau_t).quantiles
        policy = network.apply(target_params, t.next_observation).quantiles
        arrays = dist_q_tm1, tau_tm1, t.action, t.reward, t.discount
        if config.munchausen:
            before = network.apply(target_params, t.observation).quantiles
            rule = losses.batched(losses.munchausen_quantile_q_learning, **hyper, **huber)
            loss = rule(*arrays, before, dist_q_t, target_dist_q_t_policy=policy)
        else:
            rule = losses.batched(losses.quantile_q_learning, **huber)
            loss = rule(*arrays, dist_q_t, dist_q_t_selector=policy)
        q_value = taken(dist_q_tm1.mean(axis=1), t.action)
        return ValueLoss(loss, jnp.abs(jax.lax.stop_gradient(loss)), q_value, t.mask)

    return make_value_agent(
        config,
        spec,
        loss_function,
        head=implicit_quantile_head(config.num_policy_quantiles, config.embedding_size),
        takes_key=True,
    )


def draw_fractions(key: jax.Array, batch: int, count: int) -> jax.Array:
    """Draw the fractions [B, N] of a batch, uniform in [0, 1)."""
    return jax.random.uniform(key, (batch, count))


def with_soft_rewards(
    config: IQNConfig, network: Network, target_params: Params, steps: Step
) -> Step:
    """Steps [B, n + 1] whose rewards after the first have their Munchausen term and entropy bonus.

    The first reward stays: the loss adds its Munchausen term, and its action was given. Later
    actions stand for the policy's expectation, `q - tau log pi`.
    """
    later = slice(1, steps.reward.shape[1] - 1)
    if later.start == later.stop:
        return steps
    q_values = apply_sequence(network, target_params, steps.observation[:, later]).q_values
    action, hyper = steps.action[:, later], {"temperature": config.temperature}

    def soft_reward(q_value: jax.Array, action: jax.Array) -> jax.Array:
        log_pi = losses.scaled_log_policy(q_value, **hyper)[action]
        term = losses.munchausen_term(q_value, action, clip=config.clip, **hyper)
        return config.alpha * term - log_pi

    added = jax.vmap(jax.vmap(soft_reward))(q_values, action)
    return steps._replace(reward=steps.reward.at[:, later].add(added))
