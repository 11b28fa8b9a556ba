"""Protocols of runners and evaluators, and of the actors that the host runner uses."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from bellmax.agents import Agent, Memory, Params
from bellmax.envs import Step, VectorTimeStep
from bellmax.launch.runners.train_state import IntervalMetrics, TrainState

Advance = Callable[[TrainState, Any, Any], tuple[TrainState, IntervalMetrics]]


class Varied(NamedTuple):
    """Hyper-parameters in which the S learners of a run differ.

    values: by dotted key, [S] float32. make: makes the agent from the values of one learner, by
      dotted key, which may be traced.
    """

    values: Mapping[str, np.ndarray]
    make: Callable[[Mapping[str, Any]], Agent]


class Runner(Protocol):
    """Trains an agent. Both runners fulfil this protocol and keep the same `TrainState`.

    traces: a list that grows by an entry whenever a learning program is compiled.
    resumes_episodes: whether unfinished episodes are part of the state, so that a resumed run
      continues them; otherwise it starts new ones.
    """

    @property
    def traces(self) -> Sequence[int]: ...

    @property
    def resumes_episodes(self) -> bool: ...

    @property
    def init(self) -> Callable[[jax.Array], TrainState]:
        """init(seeds [S] int32) -> TrainState with one learner per seed."""
        ...

    @property
    def advance(self) -> Callable[..., tuple[TrainState, IntervalMetrics]]:
        """advance(state, warmup, rollouts): `warmup` rollouts without learning, `rollouts` with it.

        It donates the state, and returns early if a loss is not finite.
        """
        ...

    @property
    def place(self) -> Callable[[TrainState], TrainState]:
        """place(state) -> the state on the devices that `advance` uses."""
        ...

    def compile(self, state: TrainState) -> Callable[..., tuple[TrainState, IntervalMetrics]]:
        """Return `advance`, compiled for the shapes of a state."""
        ...

    def restarts(self) -> dict[str, int]:
        """Return the number of restarts of environments and actors in the whole run, by reason."""
        ...

    def resume_restarts(self, restarts: Mapping[str, int]) -> None:
        """Add `restarts`, those before this run was resumed, to the counts."""
        ...

    def report(self) -> dict[str, float]:
        """Return columns for the log: seconds waited since the last call, and restarts so far."""
        ...

    def on_message(self, say: Callable[[str], None]) -> None:
        """Set the function that takes a sentence for the user."""
        ...

    def stop(self) -> None:
        """Ask `advance` to return early if it can; called by a signal handler."""
        ...

    def close(self) -> None:
        """Free the environments."""
        ...


class Episodes(NamedTuple):
    """Episodes of an evaluation, one per environment; leaves [S, E].

    episode_return: raw and undiscounted, up to the cut if the episode was cut.
    episode_length: environment steps. cut: [S, E] bool, the evaluation ended before the episode.
    """

    episode_return: jax.Array
    episode_length: jax.Array
    cut: jax.Array


class Evaluator(Protocol):
    """Plays complete episodes with greedy policies."""

    def __call__(
        self,
        params: Params,
        statistics: Any,
        seeds: jax.Array,
        step: jax.Array,
        values: Mapping[str, Any] = MappingProxyType({}),
    ) -> Episodes | None:
        """Return episodes [S, E], or None if the run was asked to stop before they ended.

        Args:
          params: parameters of the policies, with a leading [S].
          statistics: of observations, with a leading [S]; () if they are not normalised.
          seeds: [S] int32. step: [] int32. Each seed and step has different episodes.
          values: those of `Varied`, if the policies have it.
        """
        ...

    def report(self) -> dict[str, int]:
        """Return columns for the log of the last evaluation."""
        ...

    def close(self) -> None:
        """Free the environments."""
        ...


class PolicyInputs(NamedTuple):
    """Inputs of a policy; statistics: () if observations are not normalised."""

    params: Params
    statistics: Any


class ActorInputs(NamedTuple):
    """Inputs of actors from the learner: the policy, and the memory [N, ...] of the state."""

    policy: PolicyInputs
    memory: Memory


class RolloutSums(NamedTuple):
    """Sums over rollouts: environment steps, and number, return and length of ended episodes."""

    env_steps: int
    episodes: int
    episode_return: float
    episode_length: int

    def plus(self, other: "RolloutSums") -> "RolloutSums":
        """Return the sums of both."""
        sums: Any = [a + b for a, b in zip(self, other, strict=True)]
        return RolloutSums(*sums)


class HostRollout(NamedTuple):
    """A rollout of L vector steps on the host, arrays of numpy or of jax.

    records: leaves [L, N, ...]; observations are only the newest frames if replay stores those.
    before, memory: the memory [N, ...] before and after the rollout. after: the next time step.
    outcome: leaves [L, N, ...], or () if the agent has no `observe`.
    raw: [L, N, ...] observations before normalisation, or ().
    """

    records: Step
    before: Memory
    after: VectorTimeStep
    memory: Memory
    outcome: Any
    raw: Any


class Waits(NamedTuple):
    """Seconds that the learner waited for actors, and an actor for the learner on average."""

    learner: float
    actors: float


class ActorTimeoutError(Exception):
    """No rollout arrived in time after the run was asked to stop."""


class RolloutSource(Protocol):
    """The actors of a run, as the host runner sees them.

    stopping: whether the run was asked to stop.
    """

    @property
    def stopping(self) -> bool: ...

    def start(self, act_key: jax.Array, env_key: jax.Array, memory: Memory, now: int) -> None:
        """Make the actors, unless they exist already.

        Args:
          act_key: key of the actions. env_key: key of the environments' seeds.
          memory: initial memory of all environments, [N, ...].
          now: the vector step at which the actors start.
        """
        ...

    def publish(self, policy: PolicyInputs) -> None:
        """Give the actors new parameters; a rollout in progress is finished with the old ones."""
        ...

    def take(self, memory: Memory, now: int) -> tuple[HostRollout, RolloutSums]:
        """Return the next rollout of all environments.

        Args:
          memory: in lock-step, the memory [N, ...] before the rollout.
          now: in lock-step, the vector step that it starts at.

        Raises:
          ActorTimeoutError: the run was asked to stop and an actor hangs.
          Exception: the exception that stopped an actor.
        """
        ...

    def waits(self) -> Waits:
        """Return the seconds waited since the last call."""
        ...

    def faults(self) -> dict[str, int]:
        """Return how often environments and actors were restarted, by reason."""
        ...

    def on_message(self, say: Callable[[str], None]) -> None:
        """Set the function that takes a sentence for the user."""
        ...

    def stop(self) -> None:
        """Ask the actors to stop; called by a signal handler."""
        ...

    def close(self) -> None:
        """Stop the actors and free their environments."""
        ...
