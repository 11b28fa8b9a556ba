"""Exceptions and warnings of other people's code, turned into sentences or silence."""

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from bellmax import UserError

_WARNINGS = threading.Lock()  # warning filters are global to the process


def in_words(error: BaseException) -> str:
    """An exception's type and first line of message; also the last line if the first ends in
    ':'."""
    lines = str(error).strip().splitlines() or ["without a message"]
    last = lines[1:][-1:] if lines[0].endswith(":") else []  # the message contains a traceback
    return f"{type(error).__name__}: {' '.join([lines[0], *last])}"


@contextlib.contextmanager
def making(name: str, options: Mapping[str, Any]) -> Iterator[None]:
    """Turns any exception of a package that fails to make a task into a UserError of one sentence.

    Args:
      name: of the task.
      options: the options given by the user.

    Raises:
      UserError: instead of any other exception.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        given = ", ".join(f"{option} {value!r}" for option, value in options.items())
        raise UserError(
            f"{name} cannot be made{' with ' if given else ''}{given}: {in_words(error)}"
        ) from error


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Suppress warnings while tasks are made, such as of newer versions or a missing display."""
    logger = logging.getLogger("absl")
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = logger.level
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(before)
