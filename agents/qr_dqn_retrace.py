"""QR-DQN-Retrace: return quantiles learned from multi-step off-policy targets.

nu_k = law of r_1 + ... + gamma^{k-1} r_k + gamma^k Z_target(s_k, A),  A ~ pi
target = sum_k c_1 ... c_{k-1} (nu_k - c_k nu_k with A = a_k),  c = lambda min(1, pi / mu)
loss = quantile Huber(target, Z(s_0, a_0))
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from bellmax import UserError, losses, must
from bellmax.agents.configs.value_based import QRDQNRetraceConfig
from bellmax.agents.shared.base import Agent, Params
from bellmax.agents.shared.objective import read_objective, see_stock, stock_spec, with_stock
from bellmax.agents.shared.traces import epsilon_greedy, trace_coefficients
from bellmax.agents.shared.value_based import ValueLoss, apply_sequence, make_value_agent
from bellmax.envs import EnvSpec, Step
from bellmax.networks import Network, quantile_head


def make_qr_dqn_retrace(config: QRDQNRetraceConfig, spec: EnvSpec) -> Agent:
    """Makes a QR-DQN-Retrace agent; `trace: one_step` makes it QR-DQN.

    Not verified against the paper's full text, which was not available: selector, window, trace
    decay and anchor.

    Raises:
      UserError: actions are not discrete, the network does not fit, or options contradict each
        other.
    """
    _check_rule(config)
    tau = losses.quantile_midpoints(config.num_quantiles)

    def loss_one(dist_tm1: jax.Array, target: losses.WeightedAtoms) -> jax.Array:
        weights, kappa = target.weights, config.huber_delta
        return losses.quantile_regression(
            dist_tm1, tau, target.atoms, weights=weights, huber_kappa=kappa
        )

    def loss_function(
        network: Network, params: Params, target_params: Params, steps: Step
    ) -> ValueLoss:
        # Steps that are updated, and the successor of each transition.
        anchors = -1 if config.anchor == "every" else 1
        before = jax.tree.map(lambda x: x[:, :anchors], steps)
        after = jax.tree.map(lambda x: x[:, 1:], steps)
        online = apply_sequence(network, params, before.observation)
        led_to = apply_sequence(network, target_params, after.observation)
        if config.munchausen:
            targets = munchausen_targets(config, network, target_params, steps, led_to.quantiles)
        else:
            selector = led_to.q_values
            if config.selector == "online":
                selector = apply_sequence(network, params, after.observation).q_values
            targets = window_targets(
                config, steps, led_to.quantiles, selector, masked=spec.action_mask
            )
        dist_tm1 = jnp.take_along_axis(online.quantiles, before.action[:, :, None, None], axis=-1)
        dist_tm1 = dist_tm1[..., 0]
        each = jax.vmap(jax.vmap(loss_one))(dist_tm1, targets)
        open_steps = 1.0 - before.is_last
        mask = jnp.mean(open_steps, axis=1)
        loss = jnp.mean(each * open_steps, axis=1) / jnp.maximum(mask, 1e-6)
        q_value = jnp.mean(dist_tm1.mean(axis=-1) * open_steps, axis=1)
        q_value = q_value / jnp.maximum(mask, 1e-6)
        return ValueLoss(loss, jnp.abs(jax.lax.stop_gradient(loss)), q_value, mask)

    head, keep = quantile_head(config.num_quantiles), needs_behaviour(config)
    objective = read_objective(config.objective, config.return_range)
    if objective is None:
        return make_value_agent(config, spec, loss_function, head=head, keep_log_prob=keep)
    _check_objective(config)
    agent = make_value_agent(
        config,
        stock_spec(spec),
        loss_function,
        head=head,
        keep_log_prob=keep,
        wrap_network=lambda network: see_stock(network, objective),
    )
    discount, returns = config.discount, config.return_range
    return with_stock(agent, objective, discount=discount, return_range=returns)


def _check_rule(config: QRDQNRetraceConfig) -> None:
    """Raise UserError if the options of the target contradict each other."""
    if config.trace == "one_step" and config.n_step != 1:
        raise UserError(must("agent.n_step", "1 for agent.trace one_step", config.n_step))
    if config.trace in ("uncorrected", "one_step") and config.target_epsilon:
        raise UserError(
            must("agent.target_epsilon", f"0 for agent.trace {config.trace}", config.target_epsilon)
        )
    rule = config.trace, config.selector, config.anchor
    if config.munchausen and rule != ("one_step", "target", "first"):
        raise UserError(
            must(
                "agent.trace, agent.selector and agent.anchor",
                "one_step, target and first for agent.munchausen",
                ", ".join(rule),
            )
        )


def _check_objective(config: QRDQNRetraceConfig) -> None:
    """Raise UserError if an option contradicts an objective other than the mean."""
    network, objective = config.network, f"agent.objective {config.objective}"
    torso = "mlp" if network.module else network.torso
    for key, allowed, value in (
        ("agent.munchausen", False, config.munchausen),
        ("agent.network.memory", "none", network.memory),
        ("agent.network.torso", "mlp", torso),
    ):
        if value != allowed:
            raise UserError(must(key, f"{str(allowed).lower()} for {objective}", value))
    if isinstance(config.discount, int | float) and config.discount == 0:
        raise UserError(must("agent.discount", f"above 0 for {objective}", config.discount))


def window_targets(
    config: QRDQNRetraceConfig,
    steps: Step,
    dist_q: jax.Array,
    selector: jax.Array,
    *,
    masked: bool = False,
) -> losses.WeightedAtoms:
    """Targets of the T updated steps, leaves [B, T, M].

    dist_q: [B, K, N, A], quantiles at the successors of the K transitions. selector: [B, K, A],
    values that choose the greedy action there. masked: whether illegal ones are -inf.
    """
    after = jax.tree.map(lambda x: x[:, 1:], steps)
    anchor = 0 if config.anchor == "first" else "every"
    targets = jax.vmap(lambda *window: make_target(config, anchor, *window, masked=masked))(
        steps.reward[:, :-1],
        config.discount * steps.discount[:, :-1],
        dist_q,
        selector,
        after.action,
        after.behaviour,
        1.0 - after.is_last,
    )
    return jax.tree.map(lambda x: x[:, None], targets) if anchor == 0 else targets


def munchausen_targets(
    config: QRDQNRetraceConfig,
    network: Network,
    target_params: Params,
    steps: Step,
    dist_t: jax.Array,
) -> losses.WeightedAtoms:
    """M-QR-DQN's targets, leaves [B, 1, N]; dist_t [B, 1, N, A]: quantiles at the second step."""
    hyper = {"temperature": config.temperature, "alpha": config.alpha, "clip": config.clip}
    atoms = jax.vmap(functools.partial(losses.munchausen_quantile_target, **hyper))(
        steps.action[:, 0],
        steps.reward[:, 0],
        config.discount * steps.discount[:, 0],
        network.apply(target_params, steps.observation[:, 0]).quantiles,
        dist_t[:, 0],
    )
    weights = jnp.full_like(atoms, 1.0 / config.num_quantiles)
    return losses.WeightedAtoms(atoms[:, None], weights[:, None])


def needs_behaviour(config: QRDQNRetraceConfig) -> bool:
    """Whether the loss needs the actor's action probabilities; a greedy target does not."""
    return config.trace == "retrace" and config.target_epsilon > 0


def make_target(
    config: QRDQNRetraceConfig,
    anchor: Any,
    reward: jax.Array,
    discount: jax.Array,
    dist_q: jax.Array,
    selector: jax.Array,
    action: jax.Array,
    log_prob: Any,
    trace: jax.Array,
    *,
    masked: bool = False,
) -> losses.WeightedAtoms:
    """The target of a window of K transitions.

    Args:
      anchor: index of the step that is updated, or "every".
      reward, discount: [K], of each transition, gamma included.
      dist_q, selector: [K, N, A] and [K, A], at the successor of each transition.
      action, log_prob: [K], action taken at the successor and its log-probability under the actor;
        log_prob is () if not stored.
      trace: [K], 0 where the successor is the last step of its episode.
      masked: whether illegal actions have values of -inf.
    """
    window = reward, discount, dist_q, action, trace
    decay = config.trace_decay
    one_bootstrap = isinstance(decay, float) and decay == 1.0
    greedy_retrace = config.trace == "retrace" and not needs_behaviour(config)
    if greedy_retrace and not one_bootstrap:
        return losses.greedy_distributional_retrace_target(
            *window, q_t_selector=selector, lambda_=decay, anchor=anchor
        )
    greedy = jnp.argmax(selector, axis=-1)
    if greedy_retrace or config.trace in ("uncorrected", "one_step"):
        # Greedy Retrace with lambda 1 is an n-step target that bootstraps at the first action that
        # is not greedy: N atoms, of which greedy_distributional_retrace_target would return K N.
        cut = trace * (action == greedy) if greedy_retrace else trace
        dist_v = jnp.take_along_axis(dist_q, greedy[:, None, None], axis=-1)[..., 0]
        return losses.distributional_n_step_target(reward, discount, dist_v, cut, anchor=anchor)
    pi = epsilon_greedy(selector, config.target_epsilon, masked=masked)
    c = trace_coefficients(config.trace, action, pi, log_prob, trace, lambda_=decay)
    return losses.distributional_retrace_target(
        reward, discount, dist_q, action, pi, c, trace, anchor=anchor
    )
