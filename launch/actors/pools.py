"""The pool: all actors of a run, and how they and the learner wait for each other.

In lock-step an actor waits for the learner and acts by its newest parameters, so that a run repeats
exactly. Otherwise actors go on while the learner learns, at most `ahead` rollouts ahead of it, by
the parameters that were newest when each rollout began.
"""

import functools
import queue
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from bellmax.agents import Memory
from bellmax.launch.actors.actor import Acting, Collector, HostRollout, RolloutSums
from bellmax.launch.actors.waiter import ActorWaiter, make_thread


class Waits(NamedTuple):
    """Seconds that the learner waited for actors, and that an actor waited for it, on average."""

    learner: float
    actors: float


class Pool:
    """Actors, each in a thread of its own: the learner can leave one behind that hangs.

    Args:
      actors: one a thread.
      ahead: rollouts of each actor that may wait for the learner; None is lock-step.
      memory: the memory of all environments at the start, [N, ...].
      now: the vector step that they start at.
      waiter: how the learner waits for them.
    """

    def __init__(
        self,
        actors: Sequence[Collector],
        *,
        ahead: int | None,
        memory: Memory,
        now: int,
        waiter: ActorWaiter | None = None,
    ):
        self._actors, self._patience = actors, waiter or ActorWaiter()
        self._lock_step = ahead is None
        # An actor collects a rollout for each ticket: () goes on, (memory, now) starts from there,
        # None ends. Not queue.Queue, whose locks are Python's: they are slow for short rollouts.
        self._tickets = [queue.SimpleQueue() for _ in actors]
        self._rollouts = [queue.SimpleQueue() for _ in actors]
        self._spare = 0 if ahead is None else ahead + 1  # tickets that wait for parameters
        self._acting: Acting = None
        self._closed = False
        self._learner_waited, self._actors_waited = 0.0, [0.0] * len(actors)
        parts = enumerate(_shares(memory, actors))
        self._threads = [make_thread(i, self._run, part, now) for i, part in parts]
        for thread in self._threads:
            thread.start()

    def publish(self, acting: Acting) -> None:
        """Gives the actors new parameters; a rollout that was begun ends by the old ones.

        Without lock-step it waits until they are computed: an actor that had them before would
        wait itself.
        """
        # One program made the leaves: they come together. Waiting lets go of Python's lock.
        for leaf in [] if self._lock_step else jax.tree.leaves(acting)[-1:]:
            if not leaf.is_ready():
                leaf.block_until_ready()
        self._acting = acting
        while self._spare:
            self._spare -= 1
            self._hand_out([()] * len(self._actors))

    def take(self, memory: Memory, now: int) -> tuple[HostRollout, RolloutSums]:
        """The oldest rollout of every actor.

        Args:
          memory: in lock-step, the memory [N, ...] of all environments before the rollout.
          now: in lock-step, the vector step that it starts at.

        Raises:
          ActorTimeoutError: the run was asked to stop and an actor hangs.
          Exception: what stopped an actor.
        """
        started = time.perf_counter()
        if self._lock_step:
            self._hand_out([(part, now) for part in _shares(memory, self._actors)])
        taken = self._patience.take(self._rollouts)
        if not self._lock_step:
            self._hand_out([()] * len(self._actors))
        self._learner_waited += time.perf_counter() - started
        return join(taken)

    def waits(self) -> Waits:
        """Since the last call; in lock-step only the learner's are counted."""
        waits = Waits(self._learner_waited, sum(self._actors_waited) / len(self._actors))
        self._learner_waited, self._actors_waited = 0.0, [0.0] * len(self._actors)
        return waits

    def close(self) -> None:
        """Stops the threads and frees the environments, but for those that hang."""
        self._closed = True
        self._hand_out([None] * len(self._actors))
        at_rest = self._patience.end(self._threads)
        # An environment cannot be closed in the middle of a step.
        for actor, rests in zip(self._actors, at_rest, strict=True):
            if rests:
                actor.close()

    def _hand_out(self, tickets: Sequence[Any]) -> None:
        for waiting, ticket in zip(self._tickets, tickets, strict=True):
            waiting.put(ticket)

    def _run(self, number: int, memory: Memory, now: int) -> None:
        actor = self._actors[number]
        item: Any = None
        while True:
            started = time.perf_counter()
            ticket = self._tickets[number].get()
            if ticket is None or self._closed:
                return
            if item is not None and not self._lock_step:
                self._actors_waited[number] += time.perf_counter() - started
            memory, now = ticket or (memory, now)
            if not isinstance(item, BaseException):
                try:
                    item = actor.collect(self._acting, memory, now)
                    memory, now = item[0].memory, now + len(item[0].records.reward)
                except BaseException as error:  # the learner's thread raises it
                    item = error
            self._rollouts[number].put(item)


def join(taken: Sequence[tuple[HostRollout, RolloutSums]]) -> tuple[HostRollout, RolloutSums]:
    """The rollouts of several actors as one of all environments."""
    if len(taken) == 1:
        return taken[0]
    parts = [collected for collected, _ in taken]

    def along(axis: int, name: str) -> Any:
        trees = [getattr(part, name) for part in parts]
        return jax.tree.map(lambda *x: np.concatenate([np.asarray(a) for a in x], axis), *trees)

    axes = {"records": 1, "before": 0, "after": 0, "memory": 0, "outcome": 1, "raw": 1}
    whole = HostRollout(**{name: along(axis, name) for name, axis in axes.items()})
    return whole, functools.reduce(RolloutSums.plus, (sums for _, sums in taken))


def _shares(memory: Memory, actors: Sequence[Collector]) -> list[Memory]:
    """The memory [N, ...] of all environments as that of each actor's."""
    if len(actors) == 1:
        return [memory]
    size = actors[0].num_envs
    firsts = range(0, size * len(actors), size)
    return [jax.tree.map(lambda x, i=i: x[i : i + size], memory) for i in firsts]


def faults(actors: Sequence[Collector]) -> dict[str, int]:
    """How often environments were restarted, and actors replaced, by reason."""
    counts: Counter[str] = Counter()
    for actor in actors:
        counts.update(actor.faults)
    return dict(counts)
