"""Shared part of agents with a deterministic policy and continuous actions: TD3 minus its critics.

a' = clip(pi_target(s') + clip(noise)),  y from r + gamma q_target(s', a')
loss = critic_loss(q(s, a), y);  every `policy_delay` gradient steps  max_pi q(s, pi(s))

With K heads there are K policies and K values on shared trunks: the target of head k uses policy
k, and the actor of head k maximises value k.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from dm_env import specs

from bellmax import UserError, losses, must
from bellmax.agents.configs.actor_critic import ActorCriticConfig
from bellmax.agents.shared.base import (
    Act,
    ActInput,
    ActorOutput,
    Agent,
    Batch,
    LearnerState,
    LearnOutput,
    Memory,
    Params,
    ReplaySpec,
)
from bellmax.agents.shared.own import check_fields
from bellmax.envs import EnvSpec
from bellmax.networks import Network, action_bounds, make_actor, make_critics


class ActorCritic(NamedTuple):
    """A pair of pytrees: the actor's and the critics'."""

    actor: Any
    critics: Any


class CriticLoss(NamedTuple):
    """loss: [B], summed over critics and heads. error: [B] >= 0, for prioritised replay."""

    loss: jax.Array
    error: jax.Array


# (q_tm1 [B, C, K], r_t [B], discount_t [B] with gamma, q_t [B, C, K]) -> CriticLoss
CriticRule = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], CriticLoss]


class Components(NamedTuple):
    """Inputs of acting and learning. low, high: [D] bounds of an action, in the task's units."""

    config: ActorCriticConfig
    actor: Network
    critics: Network
    num_heads: int
    low: np.ndarray
    high: np.ndarray


def make_actor_critic_agent(
    config: ActorCriticConfig,
    spec: EnvSpec,
    critic_loss: CriticRule,
    *,
    num_critics: int = 1,
    num_heads: int = 1,
) -> Agent:
    """Makes an agent from the loss of its critics.

    Actions are stored in the task's units, clipped to its bounds. The critics are updated first;
    then the actor maximises the first of the updated critics. Targets are updated together with the
    actor, as in the official code. Time limits bootstrap.

    Args:
      config: the shared hyper-parameters.
      spec: the task; actions must be a vector with finite bounds.
      critic_loss: a `CriticRule`, differentiable in its first argument.
      num_critics: C.
      num_heads: K. If K > 1, the actor's memory is the index of the acting head, [N] int32.

    Returns:
      The agent. Its metrics are the critics' `loss` and the mean `q_value` of the taken actions.

    Raises:
      UserError: the actions are not a vector with finite bounds.
    """
    action = check_action(spec)
    actor = make_actor(config.network, spec.observation, action, num_heads)
    critics = make_critics(config.network, spec.observation, action, num_critics, num_heads)
    components = Components(config, actor, critics, num_heads, *action_bounds(action))
    adam = optax.adam(config.learning_rate)
    learn_critics = _make_learn_critics(components, adam, critic_loss)
    learn_actor = _make_learn_actor(components, adam)

    def init(key: jax.Array) -> LearnerState:
        actor_key, critic_key = jax.random.split(key)
        params = ActorCritic(actor.init(actor_key), critics.init(critic_key))
        opt_state = ActorCritic(adam.init(params.actor), adam.init(params.critics))
        target = jax.tree.map(jnp.copy, params)
        return LearnerState(params, target, opt_state, jnp.zeros((), jnp.int32))

    def learn(
        state: LearnerState, batch: Batch, key: jax.Array
    ) -> tuple[LearnerState, LearnOutput]:
        state, output = learn_critics(state, batch, key)
        if config.policy_delay == 1:
            return learn_actor(state, batch), output
        due = state.steps % config.policy_delay == 0
        return jax.lax.cond(due, learn_actor, lambda state, _: state, state, batch), output

    def initial_memory(batch_size: int) -> Memory:
        return () if num_heads == 1 else jnp.zeros(batch_size, jnp.int32)

    return Agent(
        init,
        lambda state: state.params.actor,
        initial_memory,
        _make_act(components),
        learn,
        ReplaySpec(sequence_length=2, batch_size=config.batch_size),
        schedules={"learning_rate": lambda gradient_steps, env_steps: config.learning_rate},
    )


def _make_act(components: Components) -> Act:
    config, low, high = components.config, components.low, components.high

    def act(params: Params, inputs: ActInput, *, evaluate: bool = False) -> ActorOutput:
        actions = components.actor.apply(params, inputs.observation)
        rows = jnp.arange(actions.shape[0])
        action = actions[:, 0] if components.num_heads == 1 else actions[rows, inputs.memory]
        if not evaluate:
            noise_key, random_key = jax.random.split(inputs.key)
            noise = config.exploration_noise * jax.random.normal(noise_key, action.shape)
            action = jnp.clip(action + (0.5 * (high - low))[None] * noise, low[None], high[None])
            random = jax.random.uniform(random_key, action.shape, minval=low, maxval=high)
            action = jnp.where(inputs.step < config.random_steps, random, action)
        return ActorOutput(action, inputs.memory, ())

    return act


def _own_values(
    components: Components, params: Params, observation: jax.Array, actions: jax.Array
) -> jax.Array:
    """Value k of action k, [B, C, K]; actions [B, K, D]."""
    if components.num_heads == 1:
        return components.critics.apply(params, observation, actions[:, 0])
    each = jax.vmap(components.critics.apply, in_axes=(None, None, 1), out_axes=3)(
        params, observation, actions
    )
    return jnp.diagonal(each, axis1=2, axis2=3)


def _target_values(
    components: Components, target: ActorCritic, observation: jax.Array, key: jax.Array
) -> jax.Array:
    """Target values of the smoothed target policies, [B, C, K]; heads share the noise."""
    config = components.config
    actions = components.actor.apply(target.actor, observation)
    noise = config.target_noise * jax.random.normal(key, actions[:, 0].shape)

    def smooth(action: jax.Array, noise: jax.Array) -> jax.Array:
        limits = {"minimum": components.low, "maximum": components.high}
        clip = config.target_noise_clip
        return losses.smoothed_target_action(action, noise, noise_clip=clip, **limits)

    smoothed = jax.vmap(jax.vmap(smooth), in_axes=(1, None), out_axes=1)(actions, noise)
    return _own_values(components, target.critics, observation, smoothed)


def _make_learn_critics(
    components: Components, adam: optax.GradientTransformation, critic_loss: CriticRule
) -> Callable[[LearnerState, Batch, jax.Array], tuple[LearnerState, LearnOutput]]:
    def learn_critics(state: LearnerState, batch: Batch, key: jax.Array):
        steps = jax.tree.map(lambda x: x[:, 0], batch.steps)
        mask = 1.0 - steps.is_last
        q_t = _target_values(components, state.target_params, batch.steps.observation[:, 1], key)
        discount = components.config.discount * steps.discount

        def loss_fn(params: Params) -> tuple[jax.Array, LearnOutput]:
            q_tm1 = components.critics.apply(params, steps.observation, steps.action)
            each = critic_loss(q_tm1, steps.reward, discount, q_t)
            shapes = dict.fromkeys(CriticLoss._fields, batch.weights.shape)
            check_fields(each, CriticLoss, shapes, critic_loss)
            loss = losses.masked_mean(each.loss * batch.weights, mask)
            q_value = losses.masked_mean(q_tm1.mean(axis=(1, 2)), mask)
            return loss, LearnOutput({"loss": loss, "q_value": q_value}, each.error * mask)

        gradients, output = jax.grad(loss_fn, has_aux=True)(state.params.critics)
        updates, opt_state = adam.update(gradients, state.opt_state.critics)
        critics = optax.apply_updates(state.params.critics, updates)
        state = state._replace(
            params=state.params._replace(critics=critics),
            opt_state=state.opt_state._replace(critics=opt_state),
            steps=state.steps + 1,
        )
        return state, output

    return learn_critics


def _make_learn_actor(
    components: Components, adam: optax.GradientTransformation
) -> Callable[[LearnerState, Batch], LearnerState]:
    """Makes the function that takes one gradient step of the actor and updates the targets."""

    def learn_actor(state: LearnerState, batch: Batch) -> LearnerState:
        observation = batch.steps.observation[:, 0]
        mask = 1.0 - batch.steps.is_last[:, 0]
        # Select the first critic's parameters: under vmap XLA would evaluate all critics.
        first = jax.tree.map(lambda x: x[:1], state.params.critics)

        def loss_fn(params: Params) -> jax.Array:
            actions = components.actor.apply(params, observation)
            values = _own_values(components, first, observation, actions)
            return -losses.masked_mean(values[:, 0].sum(axis=-1), mask)

        gradients = jax.grad(loss_fn)(state.params.actor)
        updates, opt_state = adam.update(gradients, state.opt_state.actor)
        params = state.params._replace(actor=optax.apply_updates(state.params.actor, updates))
        rate = components.config.target_rate
        return state._replace(
            params=params,
            target_params=optax.incremental_update(params, state.target_params, rate),
            opt_state=state.opt_state._replace(actor=opt_state),
        )

    return learn_actor


def check_action(spec: EnvSpec) -> specs.BoundedArray:
    """Return the task's action spec, a vector with finite bounds.

    Raises:
      UserError: the actions are of another kind.
    """
    action: Any = spec.action
    if isinstance(action, specs.DiscreteArray):
        raise UserError(must("env.name", "a task with continuous actions", spec.name))
    if not isinstance(action, specs.BoundedArray) or not np.isfinite(action_bounds(action)).all():
        raise UserError(must("env.name", "a task with bounded actions", spec.name))
    if len(action.shape) != 1:
        raise UserError(
            must(
                "env.name",
                "a task whose action is a vector",
                f"{spec.name} with shape {action.shape}",
            )
        )
    return action
