"""Ctrl-C and SIGTERM, which clouds send before they take a machine back, at a moment that suits."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from bellmax import UserError


class Interrupted(UserError):
    """Ctrl-C or SIGTERM came; the message says how to go on.

    Args:
      number: of the signal.
      rest: of the sentence; empty for none.
    """

    def __init__(self, number: int, rest: str = ""):
        what = "terminated" if number == signal.SIGTERM else "interrupted"
        super().__init__(f"{what}; {rest}" if rest else what)
        self.exit_code = 128 + number


@contextlib.contextmanager
def interruptible(rest: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Ends the block by Interrupted when Ctrl-C or SIGTERM comes, a KeyboardInterrupt inside it.

    An error of any other kind that comes after the signal is taken for it: compiled extensions
    report an exception in Python code that they call as a SystemError of their own.

    A signal that is ignored stays so, and a second SIGTERM is: let what is open be closed.

    Args:
      rest: the rest of the sentence, asked for at the end.

    Raises:
      Interrupted: a signal came.
    """
    came: list[int] = []

    def stop(number: int, _: Any) -> NoReturn:
        came.append(number)
        if number == signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = _heeded()
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
    """Puts off what the first signal does to the end of the block; a second one does not wait.

    A signal that is ignored, as Ctrl-C is in the background of a script, stays so.

    Args:
      asked: called when the first signal comes, in the main thread, between any two instructions.

    Yields:
      The signals that came, a list that grows.
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

    before = _heeded()
    try:
        for number in before:
            signal.signal(number, hold)
        yield came
    finally:
        restore()
        for number in came:
            signal.raise_signal(number)


def _heeded() -> dict[int, Any]:
    """The handlers of the signals that are not ignored, by number; none outside the main thread."""
    if threading.current_thread() is not threading.main_thread():  # it alone has signals
        return {}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # None: of a handler that Python did not set and cannot put back.
    return {n: h for n, h in handlers.items() if h not in (signal.SIG_IGN, None)}
