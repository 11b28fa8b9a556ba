"""Actors: they step host environments by the parameters they are given and hand over rollouts.

In lock-step an actor waits for the learner and acts by its newest parameters, so that a run repeats
exactly. Otherwise actors are threads that go on while the learner learns, at most `queue` rollouts
ahead of it, by the parameters that were newest when each rollout began.
"""

import functools
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from bellmax.agents import Memory
from bellmax.agents.base import Outcome
from bellmax.envs import Step
from bellmax.envs.host import HostVector
from bellmax.envs.vector import VectorTimeStep
from bellmax.launch.patience import Patience, make_thread

Acting = Any  # what acting needs: the agent's actor_params and the observations' statistics


class Acted(NamedTuple):
    """observation: as the agent saw it, [E, ...]; the rest as in ActorOutput."""

    observation: Any
    action: Any
    memory: Memory
    behaviour: Any


# act(acting, observation [E, ...], memory, is_first [E], now) -> Acted; `now` is the vector step.
Act = Callable[[Acting, Any, Memory, Any, Any], Acted]


class Episodes(NamedTuple):
    """Sums over rollouts: environment steps; of the episodes that ended number, return, length."""

    env_steps: int
    episodes: int
    episode_return: float
    episode_length: int

    def plus(self, other: "Episodes") -> "Episodes":
        """Both together."""
        sums: Any = [a + b for a, b in zip(self, other, strict=True)]
        return Episodes(*sums)


class Collected(NamedTuple):
    """A rollout of L vector steps, arrays of numpy or of jax.

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


class Collector(Protocol):
    """What collects rollouts for a pool: an `Actor`, or one in another process.

    num_envs: E, its environments.
    faults: how often something of it had to be made anew, by reason.
    """

    @property
    def num_envs(self) -> int: ...

    @property
    def faults(self) -> Mapping[str, int]: ...

    def collect(self, acting: Acting, memory: Memory, now: int) -> tuple[Collected, Episodes]:
        """Steps L times from vector step `now` on; memory [E, ...] is that before it."""
        ...

    def close(self) -> None:
        """Frees its environments."""
        ...


# hire(key, seed, now): one that lives elsewhere, from vector step `now` on. key: of its acting.
# seed(now, replaced): of its environments, when it was replaced so many times.
Hire = Callable[[jax.Array, Callable[[int, int], int], int], Collector]


class Actor:
    """One stream of environments and who acts in it.

    Args:
      env: its environments, E of them.
      act: compiled.
      length: L, vector steps in a rollout.
      observes: whether the agent wants outcomes.
      normalised: whether the agent sees other observations than the environments show.
      frames: whether only the newest frame of each observation is handed over.
      seed: of the environments.
      seen: the last time step of an actor that is no more and whose place this one takes, [E, ...]:
        it is this one's first, as of a step whose action led nowhere. None takes nobody's place.
    """

    def __init__(
        self,
        env: HostVector,
        act: Act,
        *,
        length: int,
        observes: bool,
        normalised: bool,
        frames: bool = False,
        seed: int,
        seen: VectorTimeStep | None = None,
    ):
        self._env = env
        self._act, self._length = act, length
        self._observes, self._normalised, self._frames = observes, normalised, frames
        opening = env.reset(seed)
        self._seen, self._frame = opening, env.frame
        self._opening = None
        if seen is not None:
            self._seen, self._opening = seen, opening
            if frames:
                self._frame = seen.observation[..., -env.frame.shape[-1] :]

    @property
    def num_envs(self) -> int:
        """E."""
        return self._env.num_envs

    @property
    def faults(self) -> Mapping[str, int]:
        """How often environments were restarted, by reason."""
        return self._env.faults

    def collect(self, acting: Acting, memory: Memory, now: int) -> tuple[Collected, Episodes]:
        """Steps L times from vector step `now` on; memory [E, ...] is that before it."""
        seen, before = self._seen, memory
        records, outcomes, raw = [], [], []
        env_steps, ended, total, length = 0, 0, 0.0, 0
        for i in range(self._length):
            acted = self._act(acting, seen.observation, memory, seen.is_first, np.int32(now + i))
            action: Any = np.asarray(acted.action)
            shown = acted.observation if self._normalised else seen.observation
            if self._frames:
                shown = self._frame
            memory, timestep = acted.memory, self._step(action)
            # A task that was restarted: nothing came of the action.
            lost = np.asarray(timestep.is_first) & ~np.asarray(seen.is_last)
            nothing = seen.is_last | lost
            record = Step(
                shown,
                action,
                timestep.reward,
                timestep.discount,
                seen.is_first,
                nothing,
                acted.behaviour,
            )
            records.append(record)
            is_last: Any = timestep.is_last
            if self._observes:
                outcomes.append(Outcome(memory, timestep.episode_return, is_last))
            if self._normalised:
                raw.append(seen.observation)
            env_steps += int(np.sum(~nothing))
            if is_last.any():
                ended += int(is_last.sum())
                total += float(np.sum(np.asarray(timestep.episode_return)[is_last]))
                length += int(np.sum(np.asarray(timestep.episode_length)[is_last]))
            seen = timestep
        self._seen = seen
        outcome = _stack(outcomes) if self._observes else ()
        raw = np.stack(raw) if self._normalised else ()
        collected = Collected(_stack(records), before, seen, memory, outcome, raw)
        return collected, Episodes(env_steps, ended, total, length)

    def close(self) -> None:
        """Frees the environments."""
        self._env.close()

    def _step(self, action: np.ndarray) -> VectorTimeStep:
        opening, self._opening = self._opening, None
        timestep = self._env.step(action) if opening is None else opening
        self._frame = self._env.frame
        return timestep


class Waits(NamedTuple):
    """Seconds that the learner waited for actors, and that an actor waited for it, on average."""

    learner: float
    actors: float


class LockStep:
    """Actors that wait for the learner: every rollout is by the newest parameters.

    Each has a thread, so that the learner can leave one behind that hangs.

    Args:
      actors: one a thread.
      patience: how the learner waits for them.
    """

    def __init__(self, actors: Sequence[Collector], patience: Patience | None = None):
        self._actors, self._patience = actors, patience or Patience()
        self._calls = [queue.SimpleQueue() for _ in actors]
        self._answers = [queue.SimpleQueue() for _ in actors]
        self._acting: Acting = None
        self._waited = 0.0
        self._threads = [make_thread(i, self._run) for i in range(len(actors))]
        for thread in self._threads:
            thread.start()

    def publish(self, acting: Acting) -> None:
        """Gives the actors new parameters."""
        self._acting = acting

    def take(self, memory: Memory, now: int) -> tuple[Collected, Episodes]:
        """The rollout from vector step `now` on of all environments; memory [N, ...] before it.

        Raises:
          GivenUpError: the run was asked to stop and an actor hangs.
          Exception: what stopped an actor.
        """
        started = time.perf_counter()
        for calls, part in zip(self._calls, _shares(memory, self._actors), strict=True):
            calls.put((self._acting, part, now))
        taken = self._patience.take(self._answers)
        self._waited += time.perf_counter() - started
        return join(taken)

    def waits(self) -> Waits:
        """Since the last call."""
        waited, self._waited = self._waited, 0.0
        return Waits(waited, 0.0)

    def close(self) -> None:
        """Stops the threads and frees the environments, but for those that hang."""
        for calls in self._calls:
            calls.put(None)
        _close(self._actors, self._patience.end(self._threads))

    def _run(self, number: int) -> None:
        while (call := self._calls[number].get()) is not None:
            try:
                answer = self._actors[number].collect(*call)
            except BaseException as error:  # the learner's thread raises it
                answer = error
            self._answers[number].put(answer)


class Threads:
    """Actors that go on by themselves, each at most `ahead` rollouts ahead of the learner.

    Args:
      actors: one a thread.
      ahead: rollouts that wait for the learner, of each actor.
      memory: the memory of all environments at the start, [N, ...].
      now: the vector step that they start at.
      patience: how the learner waits for them.
    """

    def __init__(
        self,
        actors: Sequence[Collector],
        *,
        ahead: int,
        memory: Memory,
        now: int,
        patience: Patience | None = None,
    ):
        self._actors, self._patience = actors, patience or Patience()
        self._queues = [queue.Queue(ahead) for _ in actors]
        self._acting: Acting = None
        self._given = threading.Event()
        self._stopping = threading.Event()
        self._learner_waited, self._actors_waited = 0.0, [0.0] * len(actors)
        parts = enumerate(_shares(memory, actors))
        self._threads = [make_thread(i, self._run, part, now) for i, part in parts]
        for thread in self._threads:
            thread.start()

    def publish(self, acting: Acting) -> None:
        """Gives the actors new parameters; a rollout that was begun ends by the old ones.

        Waits until they are computed: an actor that had them before would wait itself.
        """
        self._acting = jax.block_until_ready(acting)
        self._given.set()

    def take(self, memory: Memory, now: int) -> tuple[Collected, Episodes]:
        """The oldest rollout of every actor.

        Raises:
          GivenUpError: the run was asked to stop and an actor hangs.
          Exception: what stopped an actor.
        """
        del memory, now  # the actors go by their own
        started = time.perf_counter()
        taken = self._patience.take(self._queues)
        self._learner_waited += time.perf_counter() - started
        return join(taken)

    def waits(self) -> Waits:
        """Since the last call."""
        waits = Waits(self._learner_waited, sum(self._actors_waited) / len(self._actors))
        self._learner_waited, self._actors_waited = 0.0, [0.0] * len(self._actors)
        return waits

    def close(self) -> None:
        """Stops the threads and frees the environments, but for those that hang."""
        self._stopping.set()
        self._given.set()
        _close(self._actors, self._patience.end(self._threads))

    def _run(self, number: int, memory: Memory, now: int) -> None:
        self._given.wait()
        actor = self._actors[number]
        item: Any = None
        while not self._stopping.is_set():
            if not isinstance(item, BaseException):
                try:
                    item = actor.collect(self._acting, memory, now)
                    memory, now = item[0].memory, now + len(item[0].records.reward)
                except BaseException as error:  # the learner's thread raises it
                    item = error
            if not self._put(number, item):
                return

    def _put(self, number: int, item: Any) -> bool:
        """Waits for room; False when the run is over."""
        started = time.perf_counter()
        while not self._stopping.is_set():
            try:
                self._queues[number].put(item, timeout=0.1)
                self._actors_waited[number] += time.perf_counter() - started
                return True
            except queue.Full:
                continue
        return False


def join(taken: Sequence[tuple[Collected, Episodes]]) -> tuple[Collected, Episodes]:
    """The rollouts of several actors as one of all environments."""
    if len(taken) == 1:
        return taken[0]
    parts = [collected for collected, _ in taken]

    def along(axis: int, name: str) -> Any:
        trees = [getattr(part, name) for part in parts]
        return jax.tree.map(lambda *x: np.concatenate([np.asarray(a) for a in x], axis), *trees)

    axes = {"records": 1, "before": 0, "after": 0, "memory": 0, "outcome": 1, "raw": 1}
    whole = Collected(**{name: along(axis, name) for name, axis in axes.items()})
    return whole, functools.reduce(Episodes.plus, (sums for _, sums in taken))


def _shares(memory: Memory, actors: Sequence[Collector]) -> list[Memory]:
    """The memory [N, ...] of all environments as that of each actor's."""
    if len(actors) == 1:
        return [memory]
    size = actors[0].num_envs
    firsts = range(0, size * len(actors), size)
    return [jax.tree.map(lambda x, i=i: x[i : i + size], memory) for i in firsts]


def _close(actors: Sequence[Collector], at_rest: Sequence[bool]) -> None:
    """Closes those at rest: an environment cannot be closed in the middle of a step."""
    for actor, rests in zip(actors, at_rest, strict=True):
        if rests:
            actor.close()


def faults(actors: Sequence[Collector]) -> dict[str, int]:
    """How often environments were restarted, and actors replaced, by reason."""
    counts: Counter[str] = Counter()
    for actor in actors:
        counts.update(actor.faults)
    return dict(counts)


def _stack(trees: list[Any]) -> Any:
    """Leaves [L, ...] of L trees, on the host."""
    if len(trees) == 1:
        return jax.tree.map(lambda x: np.asarray(x)[None], trees[0])
    return jax.tree.map(lambda *x: np.stack([np.asarray(a) for a in x]), *trees)
