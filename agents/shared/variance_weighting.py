"""Agents from their TD errors, with Deep Variance Weighting if it is configured.

u = (Y(q_previous) - q_target(s, a))^2, regressed by the variance network, whose frozen copy gives
w = max(eta / variance(s, a), floor), and the q-network minimises w Huber(Y(q_target) - q(s, a))

q_previous is the target network before its last update. eta is learned by its own optimizer, so
that the mean of eta / variance is 1, and is updated before w is computed.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bellmax import UserError, losses, must
from bellmax.agents.configs.value_based import VarianceWeightingConfig
from bellmax.agents.shared.base import Agent, Params, count_actions, update_target
from bellmax.agents.shared.value_based import (
    Auxiliary,
    AuxiliaryLoss,
    Target,
    ValueLoss,
    make_value_agent,
    taken,
    td_loss,
)
from bellmax.envs import EnvSpec, Step
from bellmax.networks import Network, make_q_network


class TDErrors(NamedTuple):
    """TD errors of a batch of sequences, each [B]: their first transition is learned.

    td_error: target minus value, in units of return.
    q_value: of the action taken.
    mask: weight of the sequence; 0 where it starts at the last step of an episode.
    """

    td_error: jax.Array
    q_value: jax.Array
    mask: jax.Array


class TargetCopies(NamedTuple):
    """Target parameters: the current ones, and those before the last update."""

    current: Params
    previous: Params


class VarianceScale(NamedTuple):
    """The scale eta of the weights. log_scale: [] float32; opt_state: of its optimizer."""

    log_scale: jax.Array
    opt_state: Any


# (network, params, target_params, steps [B, T]) -> TDErrors
TDErrorFunction = Callable[[Network, Params, Params, Step], TDErrors]


def make_td_agent(
    config: VarianceWeightingConfig, spec: EnvSpec, td_errors: TDErrorFunction
) -> Agent:
    """Make a value-based agent from its TD errors.

    Raises:
      UserError: the task's actions are not discrete, the network does not fit, or the target
        network is not copied as a whole, which variance weighting needs.
    """
    weighted = config.variance_weighting

    def loss_function(
        network: Network, params: Params, target_params: Any, steps: Step
    ) -> ValueLoss:
        target = target_params.current if weighted else target_params
        return td_loss(*td_errors(network, params, target, steps), config.huber_delta)

    if not weighted:
        return make_value_agent(config, spec, loss_function)
    if not isinstance(config.target_rate, int | float) or config.target_rate != 1.0:
        raise UserError(
            must("agent.target_rate", "1 for agent.variance_weighting", config.target_rate)
        )
    return make_value_agent(
        config,
        spec,
        loss_function,
        target=make_copies(config.target_period),
        auxiliary=make_variance_network(config, spec, td_errors),
    )


def make_copies(period: int) -> Target:
    """Make the update rule of a target network and its previous parameters."""

    def init(params: Params) -> TargetCopies:
        return TargetCopies(*(jax.tree.map(jnp.copy, params) for _ in range(2)))

    def update(params: Params, copies: TargetCopies, steps: jax.Array) -> TargetCopies:
        # Both move at the same steps: the previous parameters get the current ones of before.
        previous = update_target(copies.current, copies.previous, steps, period, 1.0)
        return TargetCopies(update_target(params, copies.current, steps, period, 1.0), previous)

    return Target(init, update)


def make_variance_network(
    config: VarianceWeightingConfig, spec: EnvSpec, td_errors: TDErrorFunction
) -> Auxiliary:
    """Make the variance network, its loss, and the weights that it gives the agent's loss."""
    count = count_actions(spec)
    q_network = make_q_network(config.network, spec.observation, count)
    plain = replace(config.network, dueling=False)
    network = make_q_network(plain, spec.observation, count)
    optimizer = optax.adam(config.scale_learning_rate)

    def variances(params: Params, steps: Step) -> jax.Array:
        log_variance = network.apply(params, steps.observation[:, 0]).q_values
        return jnp.exp(taken(log_variance, steps.action[:, 0])) + config.variance_epsilon

    def init(key: jax.Array) -> tuple[dict[str, Params], VarianceScale]:
        log_scale = jnp.ones(())
        return {"variance": network.init(key)}, VarianceScale(log_scale, optimizer.init(log_scale))

    def loss(
        params: dict[str, Params],
        target_params: dict[str, Any],
        steps: Step,
        scale: VarianceScale,
        key: jax.Array,
    ) -> AuxiliaryLoss:
        copies = target_params["q"]
        errors = td_errors(q_network, copies.current, copies.previous, steps)
        target = jax.vmap(losses.variance_target)(errors.td_error)
        error = target - variances(params["variance"], steps)
        each = jax.vmap(losses.huber_loss)(error) * errors.mask
        frozen = jax.lax.stop_gradient(variances(target_params["variance"], steps))
        gradient = jax.grad(losses.variance_scale_loss)(scale.log_scale, frozen, errors.mask)
        updates, opt_state = optimizer.update(gradient, scale.opt_state)
        log_scale: Any = optax.apply_updates(scale.log_scale, updates)
        weights = losses.variance_weights(frozen, log_scale, floor=config.weight_floor)
        metrics = {
            "variance": losses.masked_mean(frozen, errors.mask),
            "variance_target": losses.masked_mean(target, errors.mask),
            "weight": losses.masked_mean(weights, errors.mask),
        }
        aux = VarianceScale(log_scale, opt_state)
        return AuxiliaryLoss(each, weight=weights, aux=aux, metrics=metrics)

    return Auxiliary(init, loss)
