"""PQN: parallel Q-learning on the rollouts of many environments, without replay or target network.

G_t = r_{t+1} + gamma ((1 - lambda) max_a q(s_{t+1}, a) + lambda G_{t+1})
loss = 1/2 (G_t - q(s_t, a_t))^2

The returns are computed once for a rollout, from the values by which its actions were chosen; then
the network takes several passes over its transitions, in shuffled minibatches. A recurrent network
takes them over its environments, and recomputes the memory from the start of the rollout.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bellmax import UserError, losses, must
from bellmax.agents.configs.value_based import PQNConfig
from bellmax.agents.shared.acting import apply_step
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
from bellmax.agents.shared.epsilon_greedy import (
    make_epsilon_greedy,
    make_schedules,
    with_schedule,
)
from bellmax.agents.shared.value_based import apply_sequence, huber, taken
from bellmax.envs import EnvSpec, Step
from bellmax.networks import (
    Network,
    RecurrentQNetwork,
    make_q_network,
    make_recurrent_q_network,
    mask_outputs,
    quantile_head,
)

AnyNetwork = Network | RecurrentQNetwork


def make_pqn(config: PQNConfig, spec: EnvSpec) -> Agent:
    """Makes a PQN agent. Equations, options and evidence: docs/agents/pqn.md.

    Deviations from the authors' code: time limits bootstrap from the final observation, and epsilon
    decays within rollouts too.

    Raises:
      UserError: the task's actions are not discrete, the network does not fit, or options
        contradict each other.
    """
    if config.munchausen and config.num_quantiles is not None:
        allowed, hint = "null for agent.munchausen", "the two are not combined"
        raise UserError(must("agent.num_quantiles", allowed, config.num_quantiles, hint))
    num_actions = count_actions(spec)
    head = None if config.num_quantiles is None else quantile_head(config.num_quantiles)
    recurrent = config.network.memory != "none"
    make_network = make_recurrent_q_network if recurrent else make_q_network
    network = make_network(config.network, spec.observation, num_actions, head)
    optimizer = with_schedule(config, optax.radam)

    def init(key: jax.Array) -> LearnerState:
        params = network.init(key)
        aux = () if head is None else jax.random.fold_in(key, 1)  # of the targets' draws
        return LearnerState(params, (), optimizer.init(params), jnp.zeros((), jnp.int32), aux)

    def learn(
        state: LearnerState, batch: Batch, key: jax.Array
    ) -> tuple[LearnerState, LearnOutput]:
        del key
        loss = functools.partial(_loss, config, network, batch=batch)
        gradients, metrics = jax.grad(loss, has_aux=True)(state.params)
        if config.max_gradient_norm is not None:
            metrics["gradient_norm"] = optax.tree.norm(gradients)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        state = state._replace(params=params, opt_state=opt_state, steps=state.steps + 1)
        return state, LearnOutput(metrics, jnp.zeros(batch.weights.shape))

    return Agent(
        init,
        lambda state: state.params,
        network.initial_memory if isinstance(network, RecurrentQNetwork) else lambda size: (),
        _make_act(config, network, num_actions),
        learn,
        ReplaySpec(2, config.batch_size, on_policy=True, transitions=not recurrent),
        prepare=functools.partial(_prepare, config, network),
        values=lambda *inputs: apply_step(network, *inputs)[0],
        schedules=make_schedules(config),
        sees=("action_mask",) if spec.action_mask else (),
    )


def _make_act(config: PQNConfig, network: AnyNetwork, num_actions: int) -> Act:
    """Make an epsilon-greedy `act` that keeps the values it chose by."""
    act = make_epsilon_greedy(config, network, num_actions, lambda output, _: _values(output))
    if isinstance(network, Network):
        return act

    def without_memory(params: Params, inputs: ActInput, *, evaluate: bool = False) -> ActorOutput:
        output = act(params, inputs, evaluate=evaluate)
        return output._replace(behaviour=output.behaviour.own)

    return without_memory


def _values(output: Any) -> jax.Array:
    """What targets are made of: q-values [N, A], or quantiles [N, K, A] where there are some."""
    return getattr(output, "quantiles", output.q_values)


def _prepare(
    config: PQNConfig, network: AnyNetwork, state: LearnerState, batch: Batch, memory: Memory
) -> tuple[LearnerState, Batch, Memory]:
    """Turn a rollout [N, L + 1] into rows with their targets.

    The rows are its transitions, [N L, 1]; with a recurrent network its environments, [N, L].
    """
    steps = batch.steps
    mask = steps.action_mask
    end = steps.observation[:, -1], memory, steps.is_first[:, -1]
    end = *end, mask if isinstance(mask, tuple) else mask[:, -1]
    last = _values(apply_step(network, state.params, *end)[0])
    values = jnp.concatenate([steps.behaviour[:, :-1], last[:, None]], axis=1)
    if config.num_quantiles is None:
        continues = jnp.full(steps.reward[:, 1:].shape, config.trace_decay)
    else:
        key = jax.random.fold_in(state.aux, state.steps)
        draws = jax.random.bernoulli(key, config.trace_decay, steps.reward[:, 1:].shape)
        continues = draws.astype(jnp.float32)
    targets = jax.vmap(functools.partial(make_targets, config))(steps, values, continues)
    steps = jax.tree.map(lambda x: x[:, :-1], steps._replace(behaviour=()))
    if isinstance(network, RecurrentQNetwork):
        return state, batch._replace(steps=steps, aux=targets), memory
    rows = jax.tree.map(lambda x: x.reshape(-1, 1, *x.shape[2:]), (steps, targets))
    return state, Batch(rows[0], jnp.ones(rows[0].reward.shape[0]), aux=rows[1]), memory


def make_targets(
    config: PQNConfig, steps: Step, values: jax.Array, continues: jax.Array
) -> jax.Array:
    """The targets of the L transitions of one environment's rollout: [L], or [L, K] quantiles.

    The return of a quantile head is a mixture over the step at which it bootstraps. Its atoms here
    are those of one draw of that step: the loss is linear in the target, so that its gradient is
    unbiased, at the cost of a single bootstrap.

    Args:
      config: the agent's.
      steps: leaves [L + 1, ...].
      values: q-values [L + 1, A] or quantiles [L + 1, K, A] of the network that acted.
      continues: [L], lambda; for quantiles drawn, 1 with probability lambda and else 0.
    """
    reward = config.reward_scale * steps.reward[:-1]
    discount = config.discount * steps.discount[:-1]
    trace = continues * (1.0 - steps.is_last[1:])
    if config.munchausen:
        hyper = {"temperature": config.temperature, "alpha": config.alpha, "clip": config.clip}
        window = steps.action[:-1], reward, discount, values[:-1], values[1:], trace
        return losses.munchausen_lambda_returns(*window, **hyper)
    if config.num_quantiles is None:
        return losses.lambda_returns(reward, discount, values[1:].max(axis=-1), trace)
    greedy = values[1:].mean(axis=1).argmax(axis=-1)
    atoms = jnp.take_along_axis(values[1:], greedy[:, None, None], axis=-1)[..., 0]
    target = losses.distributional_n_step_target(reward, discount, atoms, trace, anchor="every")
    return target.atoms


def _loss(
    config: PQNConfig, network: AnyNetwork, params: Params, batch: Batch
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean loss of sequences [B, T] with targets, without the last steps of episodes."""
    steps = batch.steps
    flat = functools.partial(jax.tree.map, lambda x: x.reshape(-1, *x.shape[2:]))
    action, is_last, target, mask = flat(
        (steps.action, steps.is_last, batch.aux, steps.action_mask)
    )
    if isinstance(network, RecurrentQNetwork):
        seen = steps.observation, steps.action, steps.is_first, batch.memory
        output = network.head(params, flat(network.unroll(params, *seen)[0]))
    else:
        output = flat(apply_sequence(network, params, steps.observation))
    output = mask_outputs(output, mask)
    counts = 1.0 - is_last
    q_value = taken(output.q_values, action)
    if config.num_quantiles is None:
        each = huber(target - q_value, config.huber_delta)
    else:
        dist = jnp.take_along_axis(output.quantiles, action[:, None, None], axis=-1)[..., 0]
        tau = losses.quantile_midpoints(config.num_quantiles)
        rule = losses.batched(
            losses.quantile_regression, tau_tm1=tau, huber_kappa=config.huber_delta
        )
        each = rule(dist_tm1=dist, target=target)
    loss = losses.masked_mean(each, counts)
    return loss, {"loss": loss, "q_value": losses.masked_mean(q_value, counts)}
