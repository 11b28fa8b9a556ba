"""Waiting for actors, whose environments may hang."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from bellmax.launch.runners.base import ActorTimeoutError

STUCK_SECONDS = 60.0  # a longer wait is reported to the user
GIVE_UP_SECONDS = 10.0  # longest wait for a rollout after the run was asked to stop
_POLL_SECONDS = 0.1
_PREFIX = "actor-"


class ActorWaiter:
    """Waits for actor threads, reports long waits, and gives up when the run is to stop.

    Attributes:
      say: called with a sentence for the user; ignored until it is set.
    """

    def __init__(self):
        self.say: Callable[[str], None] = lambda _: None
        self._stop_time: float | None = None
        self._gave_up, self._reported = False, False

    @property
    def stopping(self) -> bool:
        """Whether the run was asked to stop."""
        return self._stop_time is not None

    def stop(self) -> None:
        """Ask the run to stop. Safe in a signal handler: it only stores the time."""
        if self._stop_time is None:
            self._stop_time = time.monotonic()

    def take(self, queues: Sequence[Any]) -> list[Any]:
        """Return one item of every actor's queue.

        Raises:
          ActorTimeoutError: the run was asked to stop and an item is missing after 10 s.
          BaseException: an item of a queue that is an exception.
        """
        self._reported, started, taken = False, time.monotonic(), []
        for number in range(len(queues)):
            try:
                item = self._next(queues, number, started)
            except BaseException:  # a second signal is raised as an exception
                self._gave_up = True
                raise
            if isinstance(item, BaseException):
                raise item
            taken.append(item)
        return taken

    def end(self, threads: Sequence[threading.Thread]) -> list[bool]:
        """Wait for threads to end; return for each whether it ended in time."""

        seconds = STUCK_SECONDS if self._stop_time is None else GIVE_UP_SECONDS
        until = time.monotonic() + (1.0 if self._gave_up else seconds)
        for thread in threads:
            thread.join(max(until - time.monotonic(), 0))
        return [not thread.is_alive() for thread in threads]

    def _next(self, queues: Sequence[Any], number: int, started: float) -> Any:
        while True:
            try:
                return queues[number].get(timeout=_POLL_SECONDS)
            except queue.Empty:
                now = time.monotonic()
            if self._stop_time is not None and now - self._stop_time > GIVE_UP_SECONDS:
                late = _late(queues, number)
                self.say(f"no rollout arrived from {late}; its last rollout is discarded")
                raise ActorTimeoutError(late)
            if not self._reported and now - started > STUCK_SECONDS:
                self._reported = True
                self.say(
                    f"no rollout from {_late(queues, number)} for {STUCK_SECONDS:.0f} s; with "
                    "env.timeout an environment that hangs is restarted"
                )


def make_thread(number: int, target: Callable[..., Any], *arguments: Any) -> threading.Thread:
    """Return a thread for actor `number`; it ends with the process even if it hangs."""
    name = f"{_PREFIX}{number}"
    return threading.Thread(target=target, args=(number, *arguments), daemon=True, name=name)


def are_left_behind() -> bool:
    """Return whether a thread of an actor is still alive."""
    return any(thread.name.startswith(_PREFIX) for thread in threading.enumerate())


def _late(queues: Sequence[Any], first: int) -> str:
    """Name the actors whose queues, from `first` on, have no item."""
    rest = range(first + 1, len(queues))
    late = [first, *(i for i in rest if queues[i].empty())]
    numbers = ", ".join(str(i + 1) for i in late)
    return f"actor{'s' * (len(late) > 1)} {numbers} of {len(queues)}"
