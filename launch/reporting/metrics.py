"""Where a run's numbers go: JSON lines always, TensorBoard and Weights & Biases on request."""

import contextlib
import json
import math
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from bellmax import UserError
from bellmax.launch.distributed.files import write_whole

FILE = "metrics.jsonl"
Row = dict[str, Any]


class _Sink(NamedTuple):
    write: Callable[[Row], Any]
    close: Callable[[], Any]


class MetricsLog:
    """Writes rows to every sink. A sink that fails is reported once and then left out.

    A row is `{"kind": "train" | "evaluation", "step": int, "seed": int, ...scalars}`; figures that
    depend on the clock go under "timing", so that all else is equal when a run is repeated. NaN and
    infinities become null, which JSON has; float32 values come back exactly.

    Args:
      folder: the run's folder; `metrics.jsonl` and `tensorboard/` go there.
      tensorboard: write event files too.
      wandb: a Weights & Biases project, or None.
      config: resolved configuration, for the sinks that show it.
      resume_step: rows of later steps are dropped first; None starts the file afresh.
      report: takes the sentence about a sink that failed; stderr by default.

    Raises:
      UserError: a sink that was asked for cannot be opened.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tensorboard: bool,
        wandb: str | None,
        config: dict[str, Any],
        resume_step: int | None,
        report: Callable[[str], None] | None = None,
    ):
        self._report = report or _to_stderr
        self._sinks: dict[str, _Sink] = {}
        if wandb is not None:
            self._sinks["Weights & Biases"] = _open_wandb(folder, wandb, config, resume_step)
        if tensorboard:
            self._sinks["TensorBoard"] = _open_tensorboard(folder, resume_step)
        self._sinks[FILE] = _open_json_lines(folder / FILE, resume_step)

    def write(self, row: Row) -> None:
        """Writes one row to every sink that still works; never raises on a sink's account."""
        row = _plain(row)
        for name in list(self._sinks):
            self._try(name, self._sinks[name].write, row)

    def close(self) -> None:
        """Flushes and closes the sinks."""
        for name in list(self._sinks):
            self._try(name, self._sinks[name].close)
        self._sinks.clear()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _try(self, name: str, action: Callable[..., Any], *arguments: Any) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a sink's own deprecations are not the user's
                action(*arguments)
        except Exception as error:
            sink = self._sinks.pop(name, None)
            if sink is None:
                return
            reason = str(error) or type(error).__name__
            with contextlib.suppress(Exception):  # stderr may be gone too: nobody left to tell
                self._report(f"{name} failed ({reason}); training goes on without it")
            self._try(name, sink.close)


def read_metrics(folder: Path) -> list[Row]:
    """The rows of a run, in the order written.

    A last line cut short by a killed process is left out.

    Raises:
      UserError: the folder has no metrics, or a line other than the last is not JSON.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise UserError(f"there is no {FILE} in {folder}; is it the folder of a run?")
    lines = path.read_bytes().splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("not an object")
        except ValueError as error:
            if number == len(lines):
                break
            raise UserError(f"line {number} of {path} is not a row of metrics") from error
        rows.append(row)
    return rows


def _open_json_lines(path: Path, resume_step: int | None):
    kept: list[Row] = []
    if resume_step is not None and path.exists():
        kept = [row for row in read_metrics(path.parent) if row.get("step", 0) <= resume_step]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, b"".join(map(_line, kept)))
        # Unbuffered: a row is in the file when `write` returns, and a failed one is not retried.
        stream = path.open("ab", buffering=0)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror})") from error

    def write(row: Row) -> None:
        line = _line(row)
        if stream.write(line) != len(line):
            raise OSError("the disk is full")

    return _Sink(write, stream.close)


def _open_tensorboard(folder: Path, resume_step: int | None):
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise UserError("TensorBoard needs tensorboardX: pip install tensorboardX") from error
    purge = None if resume_step is None else resume_step + 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        writer = SummaryWriter(str(folder / "tensorboard"), purge_step=purge)

    def write(row: Row) -> None:
        for name, value in _scalars(row).items():
            writer.add_scalar(name, value, row["step"])
        writer.flush()

    return _Sink(write, writer.close)


def _open_wandb(folder: Path, project: str, config: dict[str, Any], resume_step: int | None):
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            'Weights & Biases is not installed: pip install "bellmax[wandb]"'
        ) from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
        kept_id = folder / "wandb_run_id"
        known = kept_id.read_text() if resume_step is not None and kept_id.exists() else None
        options: dict[str, Any] = {"id": known, "resume": "allow"} if known else {}
        run = wandb.init(
            project=project, name=folder.name, dir=str(folder), config=config, **options
        )
        kept_id.write_text(run.id)
        run.define_metric("*", step_metric="step")
    except Exception as error:
        raise UserError(f"Weights & Biases could not start ({error})") from error

    def write(row: Row) -> None:
        # Rows of several seeds share a step and W&B's own step only rises: ours is a column.
        run.log({**_scalars(row), "step": row["step"]})

    return _Sink(write, run.finish)


def _scalars(row: Row) -> dict[str, float]:
    """`kind/name/seed_k` -> value, for sinks that take one number at a time."""
    flat = {**row, **{f"timing/{name}": v for name, v in row.get("timing", {}).items()}}
    return {
        f"{row['kind']}/{name}/seed_{row['seed']}": value
        for name, value in flat.items()
        if name not in ("step", "seed") and isinstance(value, int | float)
    }


def _plain(value: Any) -> Any:
    """JSON values only: numpy and jax scalars become Python's, what is not finite becomes None."""
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
