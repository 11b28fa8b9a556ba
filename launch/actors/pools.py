"""The pool of all actors of a run: their threads, and the synchronisation with the learner.

In lock-step an actor waits for the learner and acts with its newest parameters, so that runs are
reproducible. Otherwise actors keep acting while the learner learns, at most `ahead` rollouts ahead
of it; each rollout uses the parameters that were newest when it began.
"""

import functools
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from bellmax.agents import Memory
from bellmax.launch.actors.actor import ActorFactory, Collector
from bellmax.launch.actors.waiter import ActorWaiter, make_thread
from bellmax.launch.runners.base import HostRollout, PolicyInputs, RolloutSums, Waits
from bellmax.launch.runners.random import numpy_seeds


class ActorPool:
    """Actors, each in its own thread, so that the learner can abandon an actor that hangs.

    It is the `RolloutSource` of a host runner.

    Args:
      make_actor: makes one actor.
      num_actors: number of actors, which share the environments equally.
      ahead: finished rollouts of each actor that may wait for the learner; None is lock-step.
      device: device on which actors act; None is the learner's.
    """

    def __init__(
        self, make_actor: ActorFactory, num_actors: int, *, ahead: int | None, device: Any = None
    ):
        self._make_actor, self._num_actors, self._device = make_actor, num_actors, device
        self._waiter = ActorWaiter()
        self._lock_step = ahead is None
        self._actors: list[Collector] = []
        self._threads: list[threading.Thread] = []
        # An actor collects one rollout per ticket: () continues, (memory, now) starts from these,
        # None ends the actor. SimpleQueue is the faster one for short rollouts.
        self._tickets = [queue.SimpleQueue() for _ in range(num_actors)]
        # SimpleQueue's `get` may wait for ever if a signal's handler ends past the timeout.
        self._rollouts = [queue.Queue() for _ in range(num_actors)]
        self._spare = 0 if ahead is None else ahead + 1  # tickets per actor, not yet given out
        self._policy: Any = None
        self._closed = False
        self._reported = False  # the first fault
        self._learner_waited, self._actors_waited = 0.0, [0.0] * num_actors

    @property
    def stopping(self) -> bool:
        """Whether the run was asked to stop."""
        return self._waiter.stopping

    def start(self, act_key: jax.Array, env_key: jax.Array, memory: Memory, now: int) -> None:
        """Make the actors and start their threads.

        Args:
          act_key: key of the actions. env_key: key of the environments' seeds.
          memory: initial memory of all environments, [N, ...].
          now: the vector step at which the actors start.
        """
        for i in range(self._num_actors):
            key = act_key if self._num_actors == 1 else jax.random.fold_in(act_key, i)
            self._actors.append(self._make_actor(key, functools.partial(_seed, env_key, i), now))
        parts = enumerate(_split_memory(self._put(memory), self._actors))
        self._threads = [make_thread(i, self._run, part, now) for i, part in parts]
        for thread in self._threads:
            thread.start()

    def publish(self, policy: PolicyInputs) -> None:
        """Give the actors new parameters; a rollout in progress is finished with the old ones.

        Without lock-step it waits until they are computed, so that actors need not wait for them.
        """
        # One program computes all leaves, so it is enough to wait for one; that releases the GIL.
        for leaf in [] if self._lock_step else jax.tree.leaves(policy)[-1:]:
            if not leaf.is_ready():
                leaf.block_until_ready()
        self._policy = self._put(policy)
        while self._spare:
            self._spare -= 1
            self._hand_out([()] * self._num_actors)

    def take(self, memory: Memory, now: int) -> tuple[HostRollout, RolloutSums]:
        """Return the oldest rollout of every actor, joined into one of all environments.

        Args:
          memory: in lock-step, the memory [N, ...] of all environments before the rollout.
          now: in lock-step, the vector step that it starts at.

        Raises:
          ActorTimeoutError: the run was asked to stop and an actor hangs.
          Exception: the exception that stopped an actor.
        """
        started = time.perf_counter()
        if self._lock_step:
            parts = _split_memory(self._put(memory), self._actors)
            self._hand_out([(part, now) for part in parts])
        taken = self._waiter.take(self._rollouts)
        if not self._lock_step:
            self._hand_out([()] * self._num_actors)
        self._learner_waited += time.perf_counter() - started
        rollout, sums = join(taken)
        if self._device is not None:  # the learner's device may differ
            before, after = jax.device_get((rollout.before, rollout.memory))
            rollout = rollout._replace(before=before, memory=after)
        return rollout, sums

    def waits(self) -> Waits:
        """Return the seconds waited since the last call; in lock-step only the learner's count."""
        waits = Waits(self._learner_waited, sum(self._actors_waited) / self._num_actors)
        self._learner_waited, self._actors_waited = 0.0, [0.0] * self._num_actors
        return waits

    def faults(self) -> dict[str, int]:
        """Return the number of restarted environments and replaced actors, by reason.

        The first fault is reported to the user once.
        """
        counts: Counter[str] = Counter()
        for actor in self._actors:
            counts.update(actor.faults)
        first = next((a.first_fault for a in self._actors if a.first_fault), "")
        if first and not self._reported:
            self._reported = True
            self._waiter.say(
                f"an environment broke and was recreated: {first}; further faults are only counted"
            )
        return dict(counts)

    def on_message(self, say: Callable[[str], None]) -> None:
        """Set the function that takes a sentence for the user."""
        self._waiter.say = say

    def stop(self) -> None:
        """Ask the actors to stop; called by a signal handler."""
        self._waiter.stop()

    def close(self) -> None:
        """Stop the threads and free the environments, except those that hang."""
        self._closed = True
        self._hand_out([None] * self._num_actors)
        ended = self._waiter.end(self._threads) if self._threads else [True] * len(self._actors)
        # An environment cannot be closed during a step.
        for actor, has_ended in zip(self._actors, ended, strict=True):
            if has_ended:
                actor.close()
        self._actors, self._threads = [], []

    def _put(self, tree: Any) -> Any:
        return tree if self._device is None else jax.device_put(tree, self._device)

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
                    item = actor.collect(self._policy, memory, now)
                    memory, now = item[0].memory, now + len(item[0].records.reward)
                except BaseException as error:  # raised again by `take`, in the learner's thread
                    item = error
            self._rollouts[number].put(item)


def join(taken: Sequence[tuple[HostRollout, RolloutSums]]) -> tuple[HostRollout, RolloutSums]:
    """Join the rollouts of several actors into one of all environments."""
    if len(taken) == 1:
        return taken[0]
    parts = [collected for collected, _ in taken]

    def along(axis: int, name: str) -> Any:
        trees = [getattr(part, name) for part in parts]
        return jax.tree.map(lambda *x: np.concatenate([np.asarray(a) for a in x], axis), *trees)

    axes = {"records": 1, "before": 0, "after": 0, "memory": 0, "outcome": 1, "raw": 1}
    whole = HostRollout(**{name: along(axis, name) for name, axis in axes.items()})
    return whole, functools.reduce(RolloutSums.plus, (sums for _, sums in taken))


def _split_memory(memory: Memory, actors: Sequence[Collector]) -> list[Memory]:
    """Split the memory [N, ...] of all environments into the parts of the actors."""
    if len(actors) == 1:
        return [memory]
    size = actors[0].num_envs
    firsts = range(0, size * len(actors), size)
    return [jax.tree.map(lambda x, i=i: x[i : i + size], memory) for i in firsts]


def _seed(key: jax.Array, number: int, now: int, replaced: int = 0) -> int:
    """Return the environment seed of actor `number` for a start at vector step `now`."""
    # The step is included, so that a resumed run does not repeat its first episodes.
    (seed,) = numpy_seeds(key, 1, now, number, *([replaced] if replaced else []))
    return seed
