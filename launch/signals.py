"""Ctrl-C and SIGTERM, which clouds send before they take a machine back, at a moment that suits."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def signals_held(asked: Callable[[], None] = lambda: None) -> Iterator[list[int]]:
    """Puts off what the first signal does to the end of the block; a second one does not wait.

    A signal that is ignored, as Ctrl-C is in the background of a script, stays so.

    Args:
      asked: called when the first signal comes, in the main thread, between any two instructions.

    Yields:
      The signals that came, a list that grows.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # it alone has signals
        yield came
        return

    def hold(number: int, _: Any) -> None:
        came.append(number)
        restore()
        asked()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    handlers = {number: signal.getsignal(number) for number in _NUMBERS}
    # None: of a handler that Python did not set and cannot put back.
    before = {n: h for n, h in handlers.items() if h not in (signal.SIG_IGN, None)}
    try:
        for number in before:
            signal.signal(number, hold)
        yield came
    finally:
        restore()
        for number in came:
            signal.raise_signal(number)
