"""The agent contract and what value-based agents share: schedules, target updates, transitions."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import optax
from dm_env import specs

from bellmax import UserError
from bellmax.envs import EnvSpec, Step

Params: TypeAlias = Any
Memory: TypeAlias = Any  # () for a feed-forward agent


class LearnerState(NamedTuple):
    """All that learning changes.

    params, target_params, opt_state, extra: pytrees, the agent's own.
    steps: [] int32, gradient steps taken; the same for every seed of a run.
    """

    params: Params
    target_params: Params
    opt_state: Any
    steps: jax.Array
    extra: Any = ()


class Batch(NamedTuple):
    """What `learn` gets: sequences of steps, and how much each counts.

    steps: every leaf is [B, T, ...].
    weights: [B] float32 importance weights, ones under uniform replay.
    memory: [B, ...] the actor's before the first step; () from replay, which does not keep it.
    extra: [B, ...] what the agent's `prepare` made of a rollout.
    """

    steps: Step
    weights: jax.Array
    memory: Memory = ()
    extra: Any = ()


class ActorOutput(NamedTuple):
    """action: [N] or [N, D]; memory: as given; behaviour: what replay keeps with the action."""

    action: jax.Array
    memory: Memory
    behaviour: Any


class LearnOutput(NamedTuple):
    """metrics: name -> [] float32. priorities: [B] float32 >= 0, for prioritised replay."""

    metrics: dict[str, jax.Array]
    priorities: jax.Array


class Outcome(NamedTuple):
    """What became of a rollout's actions; leaves [L, N, ...], L vector steps of N environments.

    memory: as `act` returned it with the action.
    episode_return: [L, N] float32, raw and undiscounted, of the episode up to the step's reward.
    ended: [L, N] bool, the step was its episode's last: the return is complete.
    """

    memory: Memory
    episode_return: jax.Array
    ended: jax.Array


class ReplaySpec(NamedTuple):
    """sequence_length: T, in steps (an n-step method needs n + 1). batch_size: B, in sequences.

    on_policy: there is no replay. A batch is a rollout of B environments, of the run's
    `rollout_length` steps and the one after them, whose action, reward and discount mean nothing;
    sequence_length is the least that will do.
    """

    sequence_length: int
    batch_size: int
    burn_in: int = 0
    on_policy: bool = False


class Act(Protocol):
    def __call__(
        self,
        params: Params,
        observation: jax.Array,
        memory: Memory,
        is_first: jax.Array,
        key: jax.Array,
        step: jax.Array,
        *,
        evaluate: bool = False,
    ) -> ActorOutput: ...


class Agent(NamedTuple):
    """An algorithm as pure functions; every way of running calls these and nothing else.

    init(key) -> LearnerState
    actor_params(learner_state) -> what acting needs, and no more
    initial_memory(batch_size) -> recurrent memory, () for a feed-forward agent
    act(params, observation [N, ...], memory, is_first [N], key, step [], evaluate=) -> ActorOutput;
        `step` counts environment steps so far; `evaluate` switches exploration off
    learn(learner_state, batch, key) -> (learner_state, LearnOutput): one gradient step
    observe(learner_state, Outcome) -> learner_state, after every rollout; None for an agent that
        learns from its replay alone
    prepare(learner_state, Batch, memory) -> (learner_state, Batch, memory), on-policy only: once a
        rollout, with all environments in the batch and their memory after it, before gradient steps
        on parts of what it returns
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


def count_actions(spec: EnvSpec) -> int:
    """The number of discrete actions of a task.

    Raises:
      UserError: its actions are not discrete.
    """
    if not isinstance(spec.action, specs.DiscreteArray):
        raise UserError(f"env.name: {spec.name} has continuous actions; this agent needs discrete")
    return spec.action.num_values


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of values where mask, of the same shape, is 1; 0 if it is 1 nowhere."""
    return jnp.sum(values * mask) / jnp.maximum(jnp.sum(mask), 1.0)


def update_target(
    params: Params, target_params: Params, steps: jax.Array, period: int, rate: float
) -> Params:
    """Moves the target by `rate` towards params at every `period`-th gradient step, else not.

    Args:
      params: what is learnt.
      target_params: same structure.
      steps: [] int32, gradient steps taken, this one included.
      period: gradient steps between updates, static.
      rate: in (0, 1]; 1 copies, smaller is Polyak averaging.
    """
    copies = isinstance(rate, float) and rate == 1.0
    moved = params if copies else optax.incremental_update(params, target_params, rate)
    if period == 1:
        return moved
    due = steps % period == 0
    return jax.tree.map(lambda new, old: jnp.where(due, new, old), moved, target_params)
