"""The agent contract, and helpers that several agents share."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import optax
from dm_env import specs

from bellmax import UserError, must
from bellmax.envs import EnvSpec, Step

Params: TypeAlias = Any
Memory: TypeAlias = Any  # () for a feed-forward agent


class LearnerState(NamedTuple):
    """State of the learner, updated by every gradient step.

    params, target_params, opt_state, aux: pytrees defined by the agent.
    steps: [] int32, gradient steps taken; equal for all seeds of a run.
    """

    params: Params
    target_params: Params
    opt_state: Any
    steps: jax.Array
    aux: Any = ()


class Batch(NamedTuple):
    """Input of `learn`: sequences of steps and their weights.

    steps: every leaf is [B, T, ...].
    weights: [B] float32 importance weights, ones under uniform replay.
    memory: [B, ...] the actor's recurrent state before the first step; () from replay, which does
        not store it.
    aux: [B, ...] output of the agent's `prepare` for a rollout.
    """

    steps: Step
    weights: jax.Array
    memory: Memory = ()
    aux: Any = ()


class ActorOutput(NamedTuple):
    """action: [N] or [N, D]; memory: the next one; behaviour: stored in replay with the action."""

    action: jax.Array
    memory: Memory
    behaviour: Any


class LearnOutput(NamedTuple):
    """metrics: name -> [] float32. priorities: [B] float32 >= 0, for prioritised replay."""

    metrics: dict[str, jax.Array]
    priorities: jax.Array


class Outcome(NamedTuple):
    """Returns after a rollout's actions; leaves [L, N, ...], L vector steps of N environments.

    memory: as `act` returned it with the action.
    episode_return: [L, N] float32, raw and undiscounted, of the episode up to and including the
        action's reward.
    ended: [L, N] bool, the episode ended after this action: the return is complete.
    """

    memory: Memory
    episode_return: jax.Array
    ended: jax.Array


class ReplaySpec(NamedTuple):
    """sequence_length: T, in steps (an n-step method needs n + 1). batch_size: B, in sequences.

    on_policy: the agent uses no replay. A batch is a rollout of B environments: `rollout_length`
    steps and one more, whose action, reward and discount must be ignored. sequence_length is then
    the smallest supported length of a batch.
    transitions: `prepare` of an on-policy agent returns the rollout as single transitions, leaves
    [N L, ...], which are shuffled; batch_size counts these and not environments.
    """

    sequence_length: int
    batch_size: int
    on_policy: bool = False
    transitions: bool = False


class ActInput(NamedTuple):
    """Input of `act` for N environments.

    observation: [N, ...]. memory: recurrent state before the observation. is_first: [N] bool,
    whether the observation opens an episode. key: key of this step. step: [] int32, environment
    steps so far. The rest is () unless the agent's `sees` names it. reward: [N] float32, of the
    action before, 0 where `is_first`. action_mask: [N, A] bool, the legal actions.
    """

    observation: Any
    memory: Memory
    is_first: jax.Array
    key: jax.Array
    step: jax.Array
    reward: Any = ()
    action_mask: Any = ()


class Act(Protocol):
    def __call__(
        self, params: Params, inputs: ActInput, *, evaluate: bool = False
    ) -> ActorOutput: ...


class Agent(NamedTuple):
    """An algorithm as pure functions; all runners use only these.

    init(key) -> LearnerState
    actor_params(learner_state) -> the parameters that acting needs, and no others
    initial_memory(batch_size) -> recurrent state of the actor, () for a feed-forward agent
    act(params, ActInput, evaluate=) -> ActorOutput; `evaluate` turns off exploration
    learn(learner_state, batch, key) -> (learner_state, LearnOutput): one gradient step
    observe(learner_state, Outcome) -> learner_state, called after every rollout; None for an agent
        that learns only from replay
    prepare(learner_state, Batch, memory) -> (learner_state, Batch, memory), on-policy agents only:
        called once per rollout with all environments in the batch and their memory after the
        rollout; gradient steps then use minibatches of the returned batch
    values(params, observation [N, ...], memory, is_first [N]) -> named tuple of action values, with
        q_values [N, A] and the network's other outputs, such as quantiles [N, K, A]; params are
        those of `act`. None for an agent whose policy needs no action values
    score: from returns [E] of equally likely episodes to the objective [] that the agent maximises;
        None if it is their mean
    sees: further fields of a time step that `act` needs: reward, action_mask
    schedules: name -> function(gradient steps, environment steps) -> value, such as the learning
        rate; for the log only
    """

    init: Callable[[jax.Array], LearnerState]
    actor_params: Callable[[LearnerState], Params]
    initial_memory: Callable[[int], Memory]
    act: Act
    learn: Callable[[LearnerState, Batch, jax.Array], tuple[LearnerState, LearnOutput]]
    replay: ReplaySpec
    observe: Callable[[LearnerState, Outcome], LearnerState] | None = None
    prepare: Callable[[LearnerState, Batch, Memory], tuple[LearnerState, Batch, Memory]] | None = (
        None
    )
    values: Callable[[Params, Any, Memory, Any], Any] | None = None
    schedules: Mapping[str, Callable[[int, int], Any]] = MappingProxyType({})
    sees: tuple[str, ...] = ()
    score: Callable[[jax.Array], jax.Array] | None = None

    def extras(self, timestep: Any) -> dict[str, Any]:
        """Return the fields of a time step that `sees` names."""
        return {name: getattr(timestep, name) for name in self.sees}


def count_actions(spec: EnvSpec) -> int:
    """Return the number of discrete actions of a task.

    Raises:
      UserError: the task's actions are not discrete.
    """
    if not isinstance(spec.action, specs.DiscreteArray):
        raise UserError(must("env.name", "a task with discrete actions", spec.name))
    return spec.action.num_values


def update_target(
    params: Params, target_params: Params, steps: jax.Array, period: int, rate: float
) -> Params:
    """Moves the target by `rate` towards params at every `period`-th gradient step.

    Args:
      params: the learned parameters.
      target_params: pytree of the same structure.
      steps: [] int32, gradient steps taken, this one included.
      period: gradient steps between updates, static.
      rate: in (0, 1]; 1 copies the parameters, a smaller rate is Polyak averaging.
    """
    copies = isinstance(rate, float) and rate == 1.0
    moved = params if copies else optax.incremental_update(params, target_params, rate)
    if period == 1:
        return moved
    due = steps % period == 0
    return jax.tree.map(lambda new, old: jnp.where(due, new, old), moved, target_params)
