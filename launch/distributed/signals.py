"""Handling of Ctrl-C and SIGTERM, so that a run saves first. Clouds send SIGTERM to preempt."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from bellmax import UserError


class Interrupted(UserError):
    """Ctrl-C or SIGTERM arrived; the message says how to resume.

    Args:
      number: number of the signal.
      rest: rest of the sentence; may be empty.
    """

    def __init__(self, number: int, rest: str = ""):
        what = "terminated" if number == signal.SIGTERM else "interrupted"
        super().__init__(f"{what}; {rest}" if rest else what)
        self.exit_code = 128 + number


@contextlib.contextmanager
def interruptible(rest: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Raise Interrupted at Ctrl-C or SIGTERM; inside the block both raise KeyboardInterrupt.

    Any other exception after the signal is treated as the signal, because compiled extensions
    replace an exception of Python code that they call by a SystemError.

    A signal that was ignored before stays ignored. A second SIGTERM is ignored, so that open files
    can be closed.

    Args:
      rest: returns the rest of the sentence; called at the end.

    Raises:
      Interrupted: a signal arrived.
    """
    came: list[int] = []

    def stop(number: int, _: Any) -> NoReturn:
        came.append(number)
        if number == signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = _current_handlers()
    try:
        for number in before:
            signal.signal(number, stop)
        yield
    except (KeyboardInterrupt, Exception) as error:
        if not came and isinstance(error, Exception):
            raise
        raise Interrupted((came or [signal.SIGINT])[0], rest()) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def signals_held(asked: Callable[[], None] | None = None) -> Iterator[list[int]]:
    """Delay the first signal to the end of the block; a second signal acts at once.

    A signal that was ignored before, such as Ctrl-C in a background job, stays ignored.

    Args:
      asked: called at the first signal, in the main thread, which it interrupts anywhere.


    Yields:
      The signals received, a list that grows.
    """
    came: list[int] = []

    def hold(number: int, _: Any) -> None:
        came.append(number)
        restore()
        if asked:
            asked()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = _current_handlers()
    try:
        for number in before:
            signal.signal(number, hold)
        yield came
    finally:
        restore()
        for number in came:
            signal.raise_signal(number)


def _current_handlers() -> dict[int, Any]:
    """Return the handlers of signals that are not ignored; {} outside the main thread."""
    # Only the main thread receives signals.
    if threading.current_thread() is not threading.main_thread():
        return {}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # None is a handler that Python did not set and cannot restore.
    return {n: h for n, h in handlers.items() if h not in (signal.SIG_IGN, None)}
