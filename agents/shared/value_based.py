"""Shared part of value-based agents with discrete actions: everything but the loss."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bellmax import losses
from bellmax.agents.configs.value_based import ValueConfig
from bellmax.agents.shared.acting import apply_step, make_network
from bellmax.agents.shared.base import (
    Agent,
    Batch,
    LearnerState,
    LearnOutput,
    Params,
    ReplaySpec,
    count_actions,
    update_target,
)
from bellmax.agents.shared.epsilon_greedy import (
    make_epsilon_greedy,
    make_schedules,
    with_schedule,
)
from bellmax.agents.shared.own import check_fields, check_metrics
from bellmax.agents.shared.recurrent import cut_windows, mix_priorities
from bellmax.envs import EnvSpec, Step
from bellmax.networks import Head, Network, RecurrentQNetwork, mask_outputs

# On a CPU a window is processed step by step if one step of the batch has at least this many
# values: allocating activations for a whole window of images costs as much as the computation.
CPU_VALUES = 200_000
_LOSS_FIELDS: tuple[str, ...] = ("loss", "priority", "q_value", "mask")  # of a ValueLoss, [B]
_PER_SEQUENCE = "one value for each sequence of the batch; the mean is taken afterwards"


class Transition(NamedTuple):
    """A batch of transitions over up to n steps; leaves are [B, ...].

    discount: gamma^m times the product of the steps' discounts, m <= n.
    mask: [B] float32, 0 where the window starts at the last step of an episode.
    """

    observation: jax.Array
    action: jax.Array
    reward: jax.Array
    discount: jax.Array
    next_observation: jax.Array
    mask: jax.Array


class ValueLoss(NamedTuple):
    """Output of an agent's loss function for a batch of sequences; the first four [B] float32.

    loss: before importance weights, mask and mean.
    priority: at least 0, for prioritised replay.
    q_value: of the action taken, for the logs.
    mask: weight of the sequence; 0 where it starts at the last step of an episode.
    metrics: name -> [] float32, for the log, such as the parts of the loss.
    """

    loss: jax.Array
    priority: jax.Array
    q_value: jax.Array
    mask: jax.Array
    metrics: dict[str, jax.Array] = {}


def transitions(steps: Step, discount: float) -> Transition:
    """Converts sequences [B, n + 1] to n-step transitions that stop at the end of an episode.

    A window that contains the last step of an episode bootstraps from that step's observation (its
    discount is already 0 if the environment terminated) and excludes later rewards.

    It does not use `losses.n_step_returns`, which needs values at every step: here the network is
    applied only to the observation that a window bootstraps from.
    """
    length = steps.reward.shape[1] - 1
    reward = steps.reward[:, 0]
    total_discount = discount * steps.discount[:, 0]
    is_open = jnp.ones_like(steps.is_last[:, 0])
    last = jnp.ones_like(steps.action[:, 0], dtype=jnp.int32)
    for i in range(1, length):
        is_open = is_open & ~steps.is_last[:, i]
        reward = reward + jnp.where(is_open, total_discount * steps.reward[:, i], 0.0)
        factor = jnp.where(is_open, discount * steps.discount[:, i], 1.0)
        total_discount = total_discount * factor
        last = last + is_open
    rows = jnp.arange(last.shape[0])
    next_observation = steps.observation[:, 1] if length == 1 else steps.observation[rows, last]
    mask = 1.0 - steps.is_last[:, 0]
    first = steps.observation[:, 0], steps.action[:, 0]
    return Transition(*first, reward, total_discount, next_observation, mask)


# (network, params, target_params, steps), and a key if `make_value_agent` has `takes_key`.
LossFunction = Callable[..., ValueLoss]


class Target(NamedTuple):
    """Update rule of an agent's target parameters, which may have any structure.

    init(params) -> target_params, which share no buffer with params
    update(params, target_params, steps []) -> target_params, after gradient step number `steps`
    """

    init: Callable[[Params], Any]
    update: Callable[[Params, Any, jax.Array], Any]


class AuxiliaryLoss(NamedTuple):
    """Output of an auxiliary loss for a batch of sequences.

    loss: [B] float32, before importance weights, differentiable in the parameters.
    bonus: [B, T] or a number, added to the rewards that the agent's own loss sees; no gradient.
    aux: the next auxiliary state.
    metrics: name -> [] float32, for the log.
    weight: [B] or a number, factor of the agent's own loss and not of its priorities; no gradient.
    """

    loss: jax.Array
    bonus: Any = 0.0
    aux: Any = ()
    metrics: dict[str, jax.Array] = {}
    weight: Any = 1.0


class Auxiliary(NamedTuple):
    """Networks in addition to the q-network, with a loss and state of their own.

    init(key) -> (params, aux): parameters by name, none of which is "q", and the initial state.
    loss(params, target_params, steps [B, T], aux, key) -> AuxiliaryLoss. Both parameters are
        mappings by name; those of the q-network have the name "q". config.target_period and
        config.target_rate apply to the targets of the others too.
    """

    init: Callable[[jax.Array], tuple[dict[str, Params], Any]]
    loss: Callable[[dict[str, Params], dict[str, Any], Step, Any, jax.Array], AuxiliaryLoss]


def td_loss(td_error: jax.Array, q_value: jax.Array, mask: jax.Array, delta: float) -> ValueLoss:
    """The Huber loss of a TD error as a ValueLoss; all [B]."""
    return ValueLoss(huber(td_error, delta), jnp.abs(td_error), q_value, mask)


def make_value_agent(
    config: ValueConfig,
    spec: EnvSpec,
    loss_function: LossFunction,
    *,
    head: Head | None = None,
    takes_key: bool = False,
    keep_log_prob: bool = False,
    optimizer: optax.GradientTransformation | None = None,
    target: Target | None = None,
    auxiliary: Auxiliary | None = None,
    wrap_network: Callable[[Network], Network] | None = None,
) -> Agent:
    """Make an epsilon-greedy agent from its loss.

    Args:
      config: the shared hyper-parameters.
      spec: the task; actions must be discrete.
      loss_function: (network, params, target_params, steps [B, T]) -> ValueLoss, whose `loss` is
        differentiable in params.
      head: network head with the outputs that the loss needs; None for q-values only.
      takes_key: whether `loss_function` takes the gradient step's random key as fifth argument.
      keep_log_prob: whether replay stores the log-probability of the action under the actor, as
        `steps.behaviour` [B, T].
      optimizer: for all parameters; None is `make_optimizer(config)`.
      target: update rule of the q-network's target parameters; None is a copy or Polyak average
        with config.target_period and config.target_rate.
      auxiliary: further networks, whose loss is added to the agent's.
      wrap_network: changes what a feed-forward network sees or returns.

    Returns:
      The agent. `learn` minimises the mean loss, weighted by the batch's importance weights. With
      an auxiliary, the learner state has the q-network's parameters under "q", and `loss_function`
      receives only these.

    Raises:
      UserError: the action space is not discrete, or the network does not fit.
    """
    network = make_network(config, spec, head, own_target=target is not None)
    if wrap_network is not None:
        assert isinstance(network, Network)
        network = wrap_network(network)
    schedules = make_schedules(config)
    if optimizer is None:
        optimizer = make_optimizer(config)
    else:
        del schedules["learning_rate"]
    keep = (lambda output, log_prob: log_prob) if keep_log_prob else None
    follow = functools.partial(update_target, period=config.target_period, rate=config.target_rate)
    target = target or Target(lambda params: jax.tree.map(jnp.copy, params), follow)
    parts = _Learner(
        config, network, loss_function, takes_key, optimizer, target, follow, auxiliary
    )
    recurrent = isinstance(network, RecurrentQNetwork)
    length = config.sequence_length if recurrent else config.n_step + 1
    return Agent(
        functools.partial(_init, parts),
        lambda state: state.params if auxiliary is None else state.params["q"],
        network.initial_memory if recurrent else lambda batch_size: (),
        make_epsilon_greedy(config, network, count_actions(spec), keep),
        functools.partial(_learn, parts),
        ReplaySpec(sequence_length=length, batch_size=config.batch_size),
        values=lambda *inputs: apply_step(network, *inputs)[0],
        schedules=schedules,
        sees=("action_mask",) if spec.action_mask else (),
    )


class _Learner(NamedTuple):
    """Arguments of `make_value_agent` without None. follow: the update of the default target."""

    config: ValueConfig
    network: Network | RecurrentQNetwork
    loss_function: LossFunction
    takes_key: bool
    optimizer: optax.GradientTransformation
    target: Target
    follow: Callable[[Any, Any, jax.Array], Any]
    auxiliary: Auxiliary | None


def _init(parts: _Learner, key: jax.Array) -> LearnerState:
    params, aux, steps = parts.network.init(key), (), jnp.zeros((), jnp.int32)
    targets = parts.target.init(params)
    if parts.auxiliary is not None:
        others, aux = parts.auxiliary.init(jax.random.fold_in(key, 1))
        targets = {"q": targets, **jax.tree.map(jnp.copy, others)}
        params = {"q": params, **others}
    return LearnerState(params, targets, parts.optimizer.init(params), steps, aux)


def _own_loss(
    parts: _Learner,
    params: Params,
    target_params: Any,
    steps: Step,
    weights: jax.Array,
    key: jax.Array,
) -> tuple[jax.Array, tuple[jax.Array, dict[str, jax.Array], Any]]:
    """Return the loss of the q-network, and (priorities [B], metrics, no auxiliary state)."""
    network, batch = parts.network, len(weights)
    given = network, params, target_params, steps
    if isinstance(network, RecurrentQNetwork):
        given = cut_windows(network, parts.config, params, target_params, steps)
        weights = jnp.repeat(weights, len(given.steps.reward) // batch)
    elif not isinstance(steps.action_mask, tuple):
        given = _masked(network, params, target_params, steps)
    keys = (jax.random.fold_in(key, 1),) if parts.takes_key else ()
    each = parts.loss_function(*given, *keys)
    shapes = dict.fromkeys(_LOSS_FIELDS, weights.shape)
    check_fields(each, ValueLoss, shapes, parts.loss_function, hint=_PER_SEQUENCE)
    check_metrics(each.metrics, parts.loss_function)
    loss = losses.masked_mean(each.loss * weights, each.mask)
    q_value = losses.masked_mean(each.q_value, each.mask)
    priority = each.priority * each.mask
    if isinstance(network, RecurrentQNetwork):
        priority = mix_priorities(priority, each.mask, parts.config.priority_share, batch)
    return loss, (priority, {"loss": loss, "q_value": q_value, **each.metrics}, ())


def _masked(
    network: Network, params: Params, target_params: Any, steps: Step
) -> tuple[Network, Params, Any, Step]:
    """Return the arguments of a loss whose network masks the illegal actions of each step.

    An observation becomes the number of its step, from which the network finds observation and
    mask.
    """
    numbers = jnp.arange(steps.reward.size).reshape(steps.reward.shape)
    seen, mask = (
        x.reshape(steps.reward.size, *x.shape[2:]) for x in (steps.observation, steps.action_mask)
    )

    def apply(params: Params, number: jax.Array, *inputs: jax.Array) -> Any:
        return mask_outputs(network.apply(params, seen[number], *inputs), mask[number])

    cut = steps._replace(observation=numbers, action_mask=())
    return Network(network.init, apply), params, target_params, cut


def _loss(
    parts: _Learner, params: Params, target_params: Any, batch: Batch, aux: Any, key: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, dict[str, jax.Array], Any]]:
    """Return the loss of all parameters, and (priorities [B], metrics, auxiliary state)."""
    if parts.auxiliary is None:
        return _own_loss(parts, params, target_params, batch.steps, batch.weights, key)
    function = parts.auxiliary.loss
    other = function(params, target_params, batch.steps, aux, key)
    shapes = {"loss": batch.weights.shape}
    if jnp.ndim(getattr(other, "bonus", 0.0)):
        shapes["bonus"] = batch.steps.reward.shape
    if jnp.ndim(getattr(other, "weight", 1.0)):
        shapes["weight"] = batch.weights.shape
    check_fields(other, AuxiliaryLoss, shapes, function, hint=_PER_SEQUENCE)
    check_metrics(other.metrics, function)
    steps, bonus = batch.steps, jax.lax.stop_gradient(other.bonus)
    steps = steps._replace(reward=steps.reward + bonus)
    weights = batch.weights * jax.lax.stop_gradient(other.weight)
    own = params["q"], target_params["q"], steps, weights, key
    loss, (priority, metrics, _) = _own_loss(parts, *own)
    added = jnp.mean(other.loss * batch.weights)
    metrics = {**metrics, "loss": loss + added, "auxiliary_loss": added, **other.metrics}
    return loss + added, (priority, metrics, other.aux)


def _move_target(parts: _Learner, params: Params, target_params: Any, steps: jax.Array) -> Any:
    if parts.auxiliary is None:
        return parts.target.update(params, target_params, steps)
    moved = parts.follow({**params, "q": ()}, {**target_params, "q": ()}, steps)
    return {**moved, "q": parts.target.update(params["q"], target_params["q"], steps)}


def _learn(
    parts: _Learner, state: LearnerState, batch: Batch, key: jax.Array
) -> tuple[LearnerState, LearnOutput]:
    def loss(params: Params) -> Any:
        return _loss(parts, params, state.target_params, batch, state.aux, key)

    gradients, (priority, metrics, aux) = jax.grad(loss, has_aux=True)(state.params)
    updates, opt_state = parts.optimizer.update(gradients, state.opt_state, state.params)
    params: Any = optax.apply_updates(state.params, updates)
    steps = state.steps + 1
    targets = _move_target(parts, params, state.target_params, steps)
    if parts.config.max_gradient_norm is not None:  # it costs 5 % of a small step on a CPU
        metrics = {**metrics, "gradient_norm": optax.tree.norm(gradients)}
    return LearnerState(params, targets, opt_state, steps, aux), LearnOutput(metrics, priority)


def make_optimizer(config: ValueConfig) -> optax.GradientTransformation:
    """Adam, with linear decay of the learning rate and gradient clipping if configured."""
    return with_schedule(config, functools.partial(optax.adam, eps=config.adam_epsilon))


def huber(error: jax.Array, delta: float) -> jax.Array:
    """Huber loss of errors [B]; half the squared error if delta is 0."""
    if isinstance(delta, (int, float)):
        delta = delta or jnp.inf
    else:  # a traced value
        delta = jnp.where(delta == 0, jnp.inf, delta)
    return losses.batched(losses.huber_loss, delta=delta)(error)


def taken(q_values: jax.Array, action: jax.Array) -> jax.Array:
    """Values [B] of the taken actions [B]; q_values [B, A]."""
    return jnp.take_along_axis(q_values, action[:, None], axis=1)[:, 0]


def apply_sequence(network: Network, params: Params, observation: jax.Array) -> Any:
    """Apply the network to observations [B, T, ...]; the output's leaves are [B, T, ...]."""
    batch, length = observation.shape[:2]

    def at_once(params: Params, observation: jax.Array) -> Any:
        output = network.apply(params, observation.reshape(batch * length, *observation.shape[2:]))
        return jax.tree.map(lambda x: x.reshape(batch, length, *x.shape[1:]), output)

    def by_step(params: Params, observation: jax.Array) -> Any:
        # A Python loop: in an XLA loop the gradient of a convolution takes nine times as long.
        each = [network.apply(params, observation[:, t]) for t in range(length)]
        return jax.tree.map(lambda *x: jnp.stack(x, axis=1), *each)

    if length == 1 or observation.size < length * CPU_VALUES:
        return at_once(params, observation)
    return jax.lax.platform_dependent(params, observation, cpu=by_step, default=at_once)
