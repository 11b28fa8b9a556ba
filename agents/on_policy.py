"""A recurrent actor-critic trained on its own rollouts by V-MPO or PPO, with optional curiosity.

A rollout is prepared once: values and intrinsic rewards of all environments, advantages and
targets. Each gradient step then uses a subset of the environments and recomputes the memory from
the start of the rollout. There is a single value function, of the sum of extrinsic and intrinsic
rewards.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bellmax import losses
from bellmax.agents.configs.on_policy import OnPolicyConfig
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
    count_actions,
)
from bellmax.agents.shared.intrinsic import (
    NO_BONUS,
    Chunk,
    Intrinsic,
    IntrinsicConfig,
    Normaliser,
    make_normaliser,
    transition_mask,
)
from bellmax.agents.shared.own import check_array
from bellmax.envs import EnvSpec, Step
from bellmax.networks import (
    RecurrentMemory,
    RecurrentNetwork,
    RecurrentParams,
    make_recurrent_network,
    mask_logits,
)

_REWARDS = "rewards [S, B] of the function"


class OnPolicyParams(NamedTuple):
    """intrinsic: the bonus' parameters. duals: [2], V-MPO's temperature and alpha before softplus,
    or () for PPO."""

    network: RecurrentParams
    intrinsic: Any
    duals: Any


class OnPolicyAux(NamedTuple):
    """bonus, normaliser: their states, () without curiosity. scale: [2], moving averages of
    squared advantages and of 1 (to correct the bias of the first)."""

    bonus: Any
    normaliser: Any
    scale: jax.Array


class OnPolicyMemory(NamedTuple):
    """Recurrent states of the actor, of the bonus (intrinsic) and of the normaliser (returns)."""

    actor: RecurrentMemory
    intrinsic: Memory
    returns: Memory


class Prepared(NamedTuple):
    """advantage: [B, S], divided by the moving scale. target: [B, S], value targets. reward: [B,
    S], normalised intrinsic rewards before weighting."""

    advantage: jax.Array
    target: jax.Array
    reward: jax.Array


class Components(NamedTuple):
    """Configuration and functions that acting and learning use."""

    config: OnPolicyConfig
    network: RecurrentNetwork
    intrinsic: Intrinsic
    normaliser: Normaliser
    scale: float


def make_on_policy(config: OnPolicyConfig, spec: EnvSpec) -> Agent:
    """Makes the actor-critic without curiosity.

    Raises:
      UserError: the task's actions are not discrete, or the torso does not fit its observations.
    """
    unpaid = IntrinsicConfig(scale=0.0, normaliser="none")
    return make_on_policy_agent(config, spec, NO_BONUS, unpaid)


def make_on_policy_agent(
    config: OnPolicyConfig, spec: EnvSpec, intrinsic: Intrinsic, reward: IntrinsicConfig
) -> Agent:
    """Makes the actor-critic with an exploration bonus.

    Deviations from V-MPO: advantages are divided by a moving scale (the paper uses PopArt), the old
    policy is the acting one, and the same optimiser updates the dual variables. Deviation from PPO:
    the moving scale replaces the batch's standard deviation, which would amplify noise once
    advantages are small.

    Args:
      config: the actor-critic's hyper-parameters.
      spec: the task.
      intrinsic: the bonus.
      reward: normalisation and weight of the bonus.

    Raises:
      UserError: the task's actions are not discrete, or the torso does not fit its observations.
    """
    num_actions = count_actions(spec)
    network = make_recurrent_network(config.network, spec.observation, num_actions)
    components = Components(config, network, intrinsic, make_normaliser(reward), reward.scale)
    adam = optax.adam(config.learning_rate, eps=config.adam_epsilon)

    def init(key: jax.Array) -> LearnerState:
        network_key, bonus_key = jax.random.split(key)
        net = network.init(network_key)
        own, state = intrinsic.init(bonus_key, net.encoder)
        duals = jnp.zeros(2) if config.policy_loss == "vmpo" else ()
        params = OnPolicyParams(net, own, duals)
        aux = OnPolicyAux(state, components.normaliser.init(), jnp.zeros(2))
        return LearnerState(params, (), adam.init(params), jnp.zeros((), jnp.int32), aux)

    def initial_memory(batch_size: int) -> Memory:
        return OnPolicyMemory(
            network.initial_memory(batch_size),
            intrinsic.initial_memory(batch_size),
            components.normaliser.initial_memory(batch_size),
        )

    def learn(
        state: LearnerState, batch: Batch, key: jax.Array
    ) -> tuple[LearnerState, LearnOutput]:
        del key
        gradients, metrics = jax.grad(_loss, argnums=1, has_aux=True)(
            components, state.params, state.aux, batch
        )
        if config.max_gradient_norm is not None:
            metrics["gradient_norm"] = optax.tree.norm(gradients)
        gradients = _clip(gradients, config.max_gradient_norm)
        updates, opt_state = adam.update(gradients, state.opt_state, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        bonus = intrinsic.update(params.intrinsic, state.aux.bonus, params.network.encoder)
        aux = state.aux._replace(bonus=bonus)
        new = LearnerState(params, (), opt_state, state.steps + 1, aux)
        return new, LearnOutput(metrics, jnp.zeros(batch.weights.shape))

    return Agent(
        init,
        lambda state: state.params.network,
        initial_memory,
        _make_act(network),
        learn,
        ReplaySpec(sequence_length=3, batch_size=config.batch_size, on_policy=True),
        prepare=lambda state, batch, memory: _prepare(components, state, batch, memory),
        schedules={"learning_rate": lambda gradient_steps, env_steps: config.learning_rate},
        sees=("action_mask",) if spec.action_mask else (),
    )


def _clip(gradients: OnPolicyParams, norm: Any) -> OnPolicyParams:
    """Clips by global norm, a bonus' gradients separately from the policy's."""
    if norm is None:
        return gradients
    clip: Any = optax.clip_by_global_norm(norm)
    own, _ = clip.update(gradients.intrinsic, optax.EmptyState())
    rest, _ = clip.update(gradients._replace(intrinsic=()), optax.EmptyState())
    return rest._replace(intrinsic=own)


def _make_act(network: RecurrentNetwork) -> Act:
    def act(params: Params, inputs: ActInput, *, evaluate: bool = False) -> ActorOutput:
        memory = inputs.memory
        latents = network.encode(params.encoder, inputs.observation)
        belief = network.step(params.cell, latents, inputs.is_first, memory.actor)
        logits, _ = network.heads(params.heads, belief)
        logits = mask_logits(logits, inputs.action_mask)
        if evaluate:
            action = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        else:
            action = jax.random.categorical(inputs.key, logits).astype(jnp.int32)
        memory = memory._replace(actor=RecurrentMemory(belief, action))
        return ActorOutput(action, memory, jax.nn.log_softmax(logits))

    return act


def _prepare(
    components: Components, state: LearnerState, batch: Batch, memory: OnPolicyMemory
) -> tuple[LearnerState, Batch, OnPolicyMemory]:
    """Rewards, advantages and targets of a rollout, under the parameters that collected it."""
    config, params, before = components.config, state.params, state.aux
    chunk = _unroll(components, params.network, batch)
    _, values = components.network.heads(params.network.heads, chunk.beliefs)
    steps, mask = chunk.steps, transition_mask(chunk.steps)
    bonus_state, carried, raw = components.intrinsic.reward(
        params.intrinsic, before.bonus, params.network.encoder, chunk
    )
    check_array(raw, mask.shape, components.intrinsic.reward, what=_REWARDS)
    normaliser, returns, reward = components.normaliser.update(
        before.normaliser, memory.returns, raw, mask
    )
    rule = functools.partial(losses.generalised_advantages, lambda_=config.advantage_decay)
    advantage = jax.vmap(rule, in_axes=1, out_axes=1)(
        values[:-1],
        config.extrinsic_scale * steps.reward[:-1] + components.scale * reward,
        config.discount * steps.discount[:-1],
        values[1:],
        1.0 - steps.is_last[1:],
    )
    target = advantage + values[:-1]
    if config.center_advantages:
        advantage = advantage - losses.masked_mean(advantage, mask)
    square = jnp.stack([losses.masked_mean(jnp.square(advantage), mask), jnp.ones(())])
    scale = before.scale + (1.0 - config.scale_decay) * (square - before.scale)
    unit = jnp.sqrt(scale[0] / scale[1]) + 1e-8
    prepared = Prepared((advantage / unit).T, target.T, reward.T)
    memory = memory._replace(intrinsic=carried, returns=returns)
    aux = OnPolicyAux(bonus_state, normaliser, scale)
    return state._replace(aux=aux), batch._replace(aux=prepared), memory


def _unroll(components: Components, network: RecurrentParams, batch: Batch) -> Chunk:
    """The time-major batch with the network's latents and beliefs."""
    steps: Step = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), batch.steps)
    latents = components.network.encode(network.encoder, steps.observation)
    memory = batch.memory
    beliefs = components.network.unroll(
        network.cell, latents, steps.action, steps.is_first, memory.actor
    )
    return Chunk(steps, memory.intrinsic, latents, beliefs)


def _loss(
    components: Components, params: OnPolicyParams, aux: OnPolicyAux, batch: Batch
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss of policy, value and bonus for a subset of the environments of a prepared rollout."""
    config = components.config
    chunk = _unroll(components, params.network, batch)
    logits, values = components.network.heads(params.network.heads, chunk.beliefs[:-1])
    steps, mask = chunk.steps, transition_mask(chunk.steps)
    if not isinstance(steps.action_mask, tuple):
        logits = mask_logits(logits, steps.action_mask[:-1])
    prepared: Prepared = jax.tree.map(jnp.transpose, batch.aux)
    policy_loss, kl = _policy_loss(config, params.duals, logits, steps, prepared.advantage, mask)
    value_loss = 0.5 * losses.masked_mean(jnp.square(values - prepared.target), mask)
    entropy = losses.masked_mean(jax.vmap(jax.vmap(losses.categorical_entropy))(logits), mask)
    intrinsic_loss = components.intrinsic.loss(params.intrinsic, aux.bonus, chunk)
    check_array(intrinsic_loss, (), components.intrinsic.loss)
    loss = policy_loss + config.value_cost * value_loss - config.entropy_cost * entropy
    loss = loss + intrinsic_loss
    metrics = {
        "loss": loss,
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": entropy,
        "kl": kl,
        "intrinsic_loss": intrinsic_loss,
        "intrinsic_reward": losses.masked_mean(prepared.reward, mask),
    }
    return loss, metrics


def _policy_loss(
    config: OnPolicyConfig,
    duals: Any,
    logits: jax.Array,
    steps: Step,
    advantage: jax.Array,
    mask: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Policy loss and the KL from the acting policy, both []; logits [S, B, A]."""
    action, old = steps.action[:-1], steps.behaviour[:-1]
    new = jax.nn.log_softmax(logits)
    kl = jnp.sum(jnp.exp(old) * (old - new), axis=-1)
    taken = jax.nn.one_hot(action, new.shape[-1])
    log_pi, log_mu = (jnp.sum(x * taken, axis=-1) for x in (new, old))
    if config.policy_loss == "ppo":
        rule = jax.vmap(
            lambda *row: losses.clipped_surrogate_loss(*row, epsilon=config.clip_epsilon)
        )
        return losses.masked_mean(
            jax.vmap(rule)(log_pi, log_mu, advantage), mask
        ), losses.masked_mean(kl, mask)
    temperature, alpha = jax.nn.softplus(duals) + 1e-6
    vmpo = losses.vmpo_loss(
        log_pi.reshape(-1),
        advantage.reshape(-1),
        kl.reshape(-1),
        temperature,
        alpha,
        mask.reshape(-1),
        epsilon_temperature=config.epsilon_temperature,
        epsilon_alpha=config.epsilon_alpha,
    )
    return jnp.mean(vmpo.loss), losses.masked_mean(kl, mask)
