"""The process that measures: it runs one section after the other, as it is told.

The process that writes the page never imports jax, so a section that hangs or crashes ends only
this process, and another one measures the sections that are left.
"""

import importlib
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple


class Work(NamedTuple):
    """What a section is given.

    Attributes:
      small: sizes for a CPU.
      until: `time.monotonic()` at which its limit ends.
      out: folder of the run.
      rejax: the interpreter that has rejax; None if there is none.
      rows: rows of the sections before, by name.
      programs: compiled programs that a later section uses again.
    """

    small: bool
    until: float
    out: Path
    rejax: str | None
    rows: dict[str, list[dict[str, Any]]]
    programs: dict[Any, Any]

    def left(self) -> float:
        """Seconds to the limit."""
        return self.until - time.monotonic()


def fits(work: Work, taken: list[float]) -> bool:
    """Whether another measurement fits, if it takes as long as the slowest of those `taken`."""
    return work.left() > max(taken, default=0.0)


def serve(pipe: Connection, small: bool, out: Path, rejax: str | None = None) -> None:
    """Run the sections that come as (function, seconds, rows) until the other end closes.

    A section yields a dict (a row), a string (a sentence) or a pair ("facts", dict). Each is sent
    at once as (kind, value), and at last ("end", None) or ("failed", sentence).
    """
    programs: dict[Any, Any] = {}
    while True:
        try:
            function, seconds, rows = pipe.recv()
        except EOFError:
            return
        work = Work(small, time.monotonic() + seconds, out, rejax, rows, programs)
        try:
            module, _, name = function.partition(":")
            for found in getattr(importlib.import_module(module), name)(work):
                pipe.send(_labelled(found))
        except (Exception, SystemExit) as error:  # a peer that stops exits
            pipe.send(("failed", sentence(error)))
        else:
            pipe.send(("end", None))


def _labelled(found: Any) -> tuple[str, Any]:
    if isinstance(found, tuple):
        return found
    return ("note" if isinstance(found, str) else "row"), found


def sentence(error: BaseException) -> str:
    """The kind and first line of an error; messages of XLA have hundreds."""
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first[:300]}"


def quiet_peer() -> None:
    """Let processes that this one starts take a part of the device's memory only."""
    os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] = "0.2"
