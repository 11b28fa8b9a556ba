"""Pools: all actors of a run, and how they and the learner wait for each other.

In lock-step an actor waits for the learner and acts by its newest parameters, so that a run repeats
exactly. Otherwise actors are threads that go on while the learner learns, at most `ahead` rollouts
ahead of it, by the parameters that were newest when each rollout began.
"""

import contextlib
import functools
import queue
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from bellmax.agents import Memory
from bellmax.launch.actors.actor import Acting, Collected, Collector, Episodes
from bellmax.launch.actors.waiter import Patience, make_thread


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
        # Not queue.Queue(ahead): its locks are Python's, and take a while where rollouts are short.
        self._queues = [queue.SimpleQueue() for _ in actors]
        self._room = [queue.SimpleQueue() for _ in actors]
        for room in self._room:
            for _ in range(ahead):
                room.put(None)
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
        for leaf in jax.tree.leaves(acting)[-1:]:  # one program made them: they come together
            if not leaf.is_ready():  # to wait lets go of Python's lock
                leaf.block_until_ready()
        self._acting = acting
        if not self._given.is_set():  # to set it takes ten calls of Python
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
        for room in self._room:
            room.put(None)
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
            with contextlib.suppress(queue.Empty):
                self._room[number].get(timeout=0.1)
                self._actors_waited[number] += time.perf_counter() - started
                self._queues[number].put(item)
                return True
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
