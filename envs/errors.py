"""Conversion of exceptions in other code to sentences, and suppression of its warnings."""

import contextlib
import functools
import importlib
import inspect
import logging
import os
import sysconfig
import threading
import traceback
import warnings
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import bellmax
from bellmax import UserError

_WARNINGS = threading.Lock()  # warning filters are global to the process
_LONGEST = 300  # characters of an exception's message
# Folders whose code is not the user's own, and parts of the paths of installed packages.
_OTHERS = tuple(
    os.path.join(path, "")
    for path in (os.path.dirname(bellmax.__file__), sysconfig.get_path("stdlib"))
)
_INSTALLED = ("site-packages", "dist-packages")


def in_words(error: BaseException) -> str:
    """Return an exception's type and the first line of its message, shortened.

    If that line ends in a colon, the last line is added: the message contains a traceback.
    """
    lines = str(error).strip().splitlines() or ["without a message"]
    last = lines[1:][-1:] if lines[0].endswith(":") else []
    text = " ".join([lines[0], *last])
    text = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
    return f"{type(error).__name__}: {text}"


def described(error: BaseException, otherwise: str = "") -> str:
    """Return `in_words` with the file and line of the user's own code that raised.

    Args:
      error: the exception.
      otherwise: follows the words if no code of the user's own raised, such as a `place`.
    """
    frames = [(f.f_code.co_filename, line) for f, line in traceback.walk_tb(error.__traceback__)]
    own = [(file, line) for file, line in frames if _is_own(file)]
    # The message of a SyntaxError has file and line, that of a UserError says what to do.
    if isinstance(error, SyntaxError | UserError):
        return in_words(error)
    return in_words(error) + (_file_and_line(*own[-1]) if own else otherwise)


def place(function: Any) -> str:
    """Return ` (file, line N)`, where a user's own function is defined; "" for other functions."""
    function = inspect.unwrap(function)
    while isinstance(function, functools.partial):
        function = inspect.unwrap(function.func)
    code = getattr(function, "__code__", None)
    if code is None:  # a class, or an object with __call__
        called = function.__init__ if isinstance(function, type) else type(function).__call__
        code = getattr(called, "__code__", None)
    if code is None or not _is_own(code.co_filename):
        return ""
    return _file_and_line(code.co_filename, code.co_firstlineno)


def _file_and_line(file: str, line: int) -> str:
    near = os.path.relpath(file)
    return f" ({file if near.startswith('..') else near}, line {line})"


@contextlib.contextmanager
def in_a_sentence(start: str, otherwise: str = "") -> Iterator[None]:
    """Turn any exception into a UserError: `start: exception (file, line)`.

    Args:
      start: of the sentence.
      otherwise: as in `described`.

    Raises:
      UserError: instead of any other exception, `SystemExit` included.
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{start}: {described(error, otherwise)}") from error


def making(name: str, options: Mapping[str, Any]) -> contextlib.AbstractContextManager[None]:
    """Turn any exception raised while a task is made into a UserError of one sentence.

    Args:
      name: of the task.
      options: the options given by the user.
    """
    given = ", ".join(f"{option} {value!r}" for option, value in options.items())
    return in_a_sentence(f"{name} cannot be made{' with ' if given else ''}{given}")


def import_own(module: str, what: str) -> ModuleType:
    """Import a module of the user's own, which `what` needs.

    Raises:
      UserError: there is no such module, or it raises an exception.
    """
    with in_a_sentence(f"the module {module!r} cannot be imported"):
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            if not f"{module}.".startswith(f"{error.name}."):
                raise  # one that the module imports
            raise UserError(
                f"{what} needs the module {error.name!r}; install it or add its folder to "
                "PYTHONPATH"
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


def _is_own(file: str) -> bool:
    """Whether a file is the user's own code: of no installed package, nor Python or bellmax."""
    installed = set(_INSTALLED) & set(file.split(os.sep))
    return not (file.startswith(("<", *_OTHERS)) or installed)
