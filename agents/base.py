"""The agent contract and what value-based agents share: schedules, target updates, transitions."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax

from bellmax.envs import Step

Params: TypeAlias = Any
Memory: TypeAlias = Any  # () for a feed-forward agent


class LearnerState(NamedTuple):
    """All that learning changes. `steps` is [] int32, gradient steps taken."""

    params: Params
    target_params: Params
    opt_state: Any
    steps: jax.Array
    extra: Any = ()


class Batch(NamedTuple):
    """What `learn` gets: sequences of steps, and how much each counts.

    steps: every leaf is [B, T, ...].
    weights: [B] float32 importance weights, ones under uniform replay.
    """

    steps: Step
    weights: jax.Array


class ActorOutput(NamedTuple):
    """action: [N] or [N, D]; memory: as given; behaviour: what replay keeps with the action."""

    action: jax.Array
    memory: Memory
    behaviour: Any


class LearnOutput(NamedTuple):
    """metrics: name -> [] float32. priorities: [B] float32 >= 0, for prioritised replay."""

    metrics: dict[str, jax.Array]
    priorities: jax.Array


class ReplaySpec(NamedTuple):
    """sequence_length: T, in steps (an n-step method needs n + 1). batch_size: B, in sequences."""

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
    """

    init: Callable[[jax.Array], LearnerState]
    actor_params: Callable[[LearnerState], Params]
    initial_memory: Callable[[int], Memory]
    act: Act
    learn: Callable[[LearnerState, Batch, jax.Array], tuple[LearnerState, LearnOutput]]
    replay: ReplaySpec
