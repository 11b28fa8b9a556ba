"""What a runner and an evaluator are, and what the host runner asks of actors."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax

from bellmax.agents import Memory, Params
from bellmax.envs import Step, VectorTimeStep
from bellmax.launch.runners.train_state import IntervalMetrics, TrainState

Advance = Callable[[TrainState, Any, Any], tuple[TrainState, IntervalMetrics]]


class Runner(Protocol):
    """What trains an agent: both runners keep the same `TrainState` and are called alike.

    traces: a list that grows by an entry whenever a learning program is compiled.
    resumes_episodes: whether the episodes in flight are part of the state, so that a resumed run
      continues them; otherwise it begins new ones.
    """

    @property
    def traces(self) -> Sequence[int]: ...

    @property
    def resumes_episodes(self) -> bool: ...

    @property
    def init(self) -> Callable[[jax.Array], TrainState]:
        """init(seeds [S] int32) -> TrainState of one learner a seed."""
        ...

    @property
    def advance(self) -> Callable[..., tuple[TrainState, IntervalMetrics]]:
        """advance(state, warmup, rollouts): `warmup` rollouts without learning, `rollouts` with it.

        It donates the state and returns early at a loss that is not finite.
        """
        ...

    @property
    def place(self) -> Callable[[TrainState], TrainState]:
        """place(state) -> the state on the devices where `advance` wants it."""
        ...

    def compile(self, state: TrainState) -> Callable[..., tuple[TrainState, IntervalMetrics]]:
        """Return `advance`, compiled for the shapes of a state."""
        ...

    def restarts(self) -> dict[str, int]:
        """Return how often environments and actors were restarted in the whole run, by reason."""
        ...

    def resume_restarts(self, restarts: Mapping[str, int]) -> None:
        """Count on from `restarts`, those of the run that this one resumes."""
        ...

    def report(self) -> dict[str, float]:
        """Return columns for the log: seconds waited since the last call, restarts so far."""
        ...

    def on_message(self, say: Callable[[str], None]) -> None:
        """Set the function that takes a sentence for the user."""
        ...

    def stop(self) -> None:
        """Ask `advance` to return early if it can; called by a signal handler."""
        ...

    def close(self) -> None:
        """Free what the environments hold."""
        ...


class Episodes(NamedTuple):
    """One episode an environment: leaves [S, E].

    episode_return: raw and undiscounted; of a cut episode, what it had earned by then.
    episode_length: environment steps. cut: [S, E] bool, the evaluation ended before the episode.
    """

    episode_return: jax.Array
    episode_length: jax.Array
    cut: jax.Array


class Evaluator(Protocol):
    """What plays whole episodes of greedy policies."""

    def __call__(
        self, params: Params, statistics: Any, seeds: jax.Array, step: jax.Array
    ) -> Episodes | None:
        """Return episodes [S, E], or None if the run was asked to stop before they ended.

        Args:
          params: of the policies, with a leading [S].
          statistics: of observations, with a leading [S]; () where they are not normalised.
          seeds: [S] int32. step: [] int32. Each seed and step has episodes of its own.
        """
        ...

    def report(self) -> dict[str, int]:
        """Return columns for the log of the last evaluation."""
        ...

    def close(self) -> None:
        """Free what the environments hold."""
        ...


class PolicyInputs(NamedTuple):
    """What acting needs of a state. statistics: of observations, () if they are not normalised."""

    params: Params
    statistics: Any


class ActorInputs(NamedTuple):
    """What actors receive from the learner: to act by, and the memory [N, ...] in the state."""

    policy: PolicyInputs
    memory: Memory


class RolloutSums(NamedTuple):
    """Sums over rollouts: environment steps; of the episodes that ended number, return, length."""

    env_steps: int
    episodes: int
    episode_return: float
    episode_length: int

    def plus(self, other: "RolloutSums") -> "RolloutSums":
        """Return the sums over both."""
        sums: Any = [a + b for a, b in zip(self, other, strict=True)]
        return RolloutSums(*sums)


class HostRollout(NamedTuple):
    """A rollout of L vector steps on the host, arrays of numpy or of jax.

    records: leaves [L, N, ...], the observations newest frames alone where replay keeps no more.
    before, memory: the memory before and after it, [N, ...]. after: the next step, as it was shown.
    outcome: leaves [L, N, ...], or () if the agent does not observe.
    raw: [L, N, ...] observations before normalisation, or ().
    """

    records: Step
    before: Memory
    after: VectorTimeStep
    memory: Memory
    outcome: Any
    raw: Any


class Waits(NamedTuple):
    """Seconds that the learner waited for actors, and that an actor waited for it, on average."""

    learner: float
    actors: float


class ActorTimeoutError(Exception):
    """No rollout came within a while after the run was asked to stop."""


class RolloutSource(Protocol):
    """The actors of a run, as the host runner sees them.

    stopping: whether the run was asked to stop.
    """

    @property
    def stopping(self) -> bool: ...

    def start(self, act_key: jax.Array, env_key: jax.Array, memory: Memory, now: int) -> None:
        """Make the actors. Does nothing if they exist.

        Args:
          act_key: of acting. env_key: of the environments' seeds.
          memory: of all environments at the start, [N, ...].
          now: the vector step that they start at.
        """
        ...

    def publish(self, policy: PolicyInputs) -> None:
        """Give the actors new parameters; a rollout that was begun ends by the old ones."""
        ...

    def take(self, memory: Memory, now: int) -> tuple[HostRollout, RolloutSums]:
        """Return the next rollout of all environments.

        Args:
          memory: in lock-step, the memory [N, ...] before the rollout.
          now: in lock-step, the vector step that it starts at.

        Raises:
          ActorTimeoutError: the run was asked to stop and an actor hangs.
          Exception: what stopped an actor.
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
