"""The metrics of a run: written as JSON lines, reported to loggers, and read back."""

import contextlib
import json
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bellmax import UserError
from bellmax.envs.errors import described
from bellmax.launch.config.run_config import RunConfig
from bellmax.launch.distributed.files import write_whole
from bellmax.launch.reporting.loggers import Logger, open_loggers, summarise

FILE = "metrics.jsonl"
Row = dict[str, Any]


class _Sink(NamedTuple):
    name: str
    write: Callable[[Sequence[Row]], object]
    close: Callable[[], object]
    write_file: Callable[[int, str, Path], object] = lambda *_: None


class MetricsLog:
    """Writes rows to `metrics.jsonl` and reports their summary to loggers.

    A row is `{"kind": "train" | "evaluation", "step": int, "seed": int, ...scalars}`; numbers that
    depend on the clock go under "timing", so that all others are equal when a run is repeated. NaN
    and infinities become null, because JSON has neither; float32 values are read back exactly. A
    file or a logger that fails is reported once and not used again.

    Args:
      folder: the run's folder.
      loggers: (name, logger) of each.
      on_metrics: called like `Logger.log`, after all loggers; its exceptions are not caught.
      resume_step: rows of later steps are removed first; None starts a new file.
      report: called with the sentence about a failure; by default it prints to stderr.

    Raises:
      UserError: the file cannot be opened.
    """

    def __init__(
        self,
        folder: Path,
        *,
        loggers: Sequence[tuple[str, Logger]] = (),
        on_metrics: Callable[[int, dict[str, float]], object] | None = None,
        resume_step: int | None = None,
        report: Callable[[str], object] | None = None,
    ):
        self._on_metrics, self._report = on_metrics, report or _to_stderr
        lines = _open_json_lines(folder / FILE, resume_step, self._report)
        self._sinks = [lines, *map(_to_logger, loggers)]

    def write(self, rows: Sequence[Row]) -> None:
        """Write the rows of one kind and step, one row for each seed."""
        rows = [_plain(row) for row in rows]
        for sink in [*self._sinks]:
            self._try(sink, lambda sink=sink: sink.write(rows))
        if self._on_metrics:
            self._on_metrics(rows[0]["step"], summarise(rows))

    def write_file(self, step: int, name: str, path: Path) -> None:
        """Give a picture or a video to the loggers that take files."""
        for sink in [*self._sinks]:
            self._try(sink, lambda sink=sink: sink.write_file(step, name, path))

    def close(self) -> None:
        """Flush and close the file and the loggers."""
        for sink in [*self._sinks]:
            self._try(sink, sink.close)
        self._sinks.clear()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _try(self, sink: _Sink, action: Callable[[], object]) -> None:
        """Call `action`; if it raises, report the exception and drop the sink."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a logger's own deprecations are not the user's
                action()
        except (Exception, SystemExit) as error:
            self._sinks.remove(sink)
            reason = described(error)
            with contextlib.suppress(Exception):  # stderr may be closed too
                self._report(f"{sink.name} failed ({reason}); training continues without it")
            with contextlib.suppress(Exception, SystemExit):
                sink.close()


def log_file(folder: Path, config: RunConfig, name: str, path: Path) -> list[str]:
    """Give a picture or a video to the loggers of a run that has ended.

    Returns:
      The names of the loggers that the configuration has.

    Raises:
      UserError: a logger cannot be opened, or the run has no metrics.
    """
    last = max((row.get("step", 0) for row in read_metrics(folder)), default=0)
    loggers = open_loggers(folder, config, resume_step=last)
    for sink in map(_to_logger, loggers):
        try:
            sink.write_file(last, name, path)
        finally:
            sink.close()
    return [title for title, _ in loggers]


def read_metrics(folder: Path, report: Callable[[str], object] | None = None) -> list[Row]:
    """Return the rows of a run, in the order written.

    A last line that a killed process left incomplete is ignored.

    Args:
      folder: the run's folder.
      report: takes a sentence about other damaged lines, which are ignored; None warns.

    Raises:
      UserError: the folder has no metrics.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise UserError(f"there is no {FILE} in {folder}; is it the folder of a run?")
    lines = path.read_bytes().splitlines()
    rows = [_read_row(line) for line in lines]
    bad = [str(number) for number, row in enumerate(rows[:-1], start=1) if row is None]
    if bad:
        numbers = ", ".join(bad[:5]) + ("..." if len(bad) > 5 else "")
        words = f"{path}: line {numbers} is damaged and ignored"
        report(words) if report else warnings.warn(words, stacklevel=2)
    return [row for row in rows if row is not None]


def last_evaluation(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of a log's last evaluation, one for each seed that has a return."""
    found = [row for row in rows if row["kind"] == "evaluation"]
    last = max((row["step"] for row in found), default=None)
    each = {row["seed"]: row for row in found if row["step"] == last}
    return [row for row in each.values() if row.get("episode_return") is not None]


def _read_row(line: bytes) -> Row | None:
    """Return a row, None if the line is damaged."""
    try:
        row = json.loads(line)
        numbers = [row[name] for name in ("step", "seed") if name in row]
        whole = all(type(number) is int for number in numbers)
        return row if isinstance(row["kind"], str) and whole else None
    except (ValueError, TypeError, KeyError, RecursionError):  # not JSON, or not a row
        return None


def _open_json_lines(path: Path, resume_step: int | None, report: Callable[[str], object]) -> _Sink:
    kept: list[Row] = []
    if resume_step is not None and path.exists():
        rows = read_metrics(path.parent, report)
        kept = [row for row in rows if row.get("step", 0) <= resume_step]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, b"".join(map(_line, kept)))
        # Unbuffered: a row is in the file when `write` returns, and a failed write is not retried.
        stream = path.open("ab", buffering=0)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror})") from error

    def write(rows: Sequence[Row]) -> None:
        for line in map(_line, rows):
            if stream.write(line) != len(line):
                raise OSError("the disk is full")

    return _Sink(path.name, write, stream.close)


def _to_logger(named: tuple[str, Logger]) -> _Sink:
    name, logger = named

    def write(rows: Sequence[Row]) -> None:
        logger.log(rows[0]["step"], summarise(rows))

    files = getattr(logger, "log_file", None)
    return _Sink(name, write, logger.close, *([files] if callable(files) else []))


def _plain(value: Any) -> Any:
    """Convert numpy and jax scalars to Python numbers, and numbers that are not finite to None."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _line(row: Row) -> bytes:
    return (json.dumps(row, allow_nan=False) + "\n").encode()


def _to_stderr(sentence: str) -> None:
    print(sentence, file=sys.stderr)
