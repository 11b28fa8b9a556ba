"""bellmax: modern value-based reinforcement learning in JAX, as a library and as a program."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bellmax.launch import Run, load_config, load_policy, load_run, pull, train

    __version__: str

_LONGEST = 2_000  # characters of a line of a message
__all__ = ["Run", "UserError", "load_config", "load_policy", "load_run", "pull", "train"]


class UserError(ValueError):
    """Something that the user can put right; its message is one sentence that says how.

    The command line prints the message without a traceback and exits with code 2. A value in it
    may be of any length: what is between the ends of a very long line is left out.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__("\n".join(map(_shorten, message.split("\n"))))


def _shorten(line: str) -> str:
    half = _LONGEST // 2
    return line if len(line) <= _LONGEST else f"{line[:half]} ... {line[-half:]}"


def must(field: str, allowed: str, got: Any, hint: str = "", *, verb: str = "be") -> str:
    """Return the sentence of a mistake: `FIELD must be ALLOWED, got VALUE; HINT`."""
    return f"{field} must {verb} {allowed}, got {got}" + (f"; {hint}" if hint else "")


def _version() -> str:
    """Return the installed version: that of the git tag, and the commits since."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("bellmax")
    except PackageNotFoundError:  # a tree on the import path
        return "0+unknown"


def __getattr__(name: str) -> Any:
    """Return a name of the Python API, which lives in `bellmax.launch`; it is loaded on first use."""
    if name == "__version__":
        return _version()
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("bellmax.launch"), name)
