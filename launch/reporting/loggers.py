"""Loggers: TensorBoard, Weights & Biases, and the user's own."""

import importlib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bellmax import UserError, must
from bellmax.envs.errors import in_a_sentence
from bellmax.envs.options import install_command, load_callable
from bellmax.launch.config.overrides import flatten
from bellmax.launch.config.points import point_name
from bellmax.launch.config.run_config import RunConfig, to_dict


class Logger(Protocol):
    """A destination of a run's metrics.

    log(step, metrics): called after every interval of training and after every evaluation. `step`
        is in environment steps per seed and never decreases; an interval and an evaluation may
        have the same step. `metrics` maps names such as `train/loss` to numbers, see `summarise`.
    close(): called once when the run ends or stops.

    If either raises, the exception is reported once, and the run continues without the logger.
    """

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Reduce rows over seeds to the metrics for loggers: one number for each name.

    Args:
      rows: rows of one kind and step, one for each seed, as `MetricsLog.write` takes them.

    Returns:
      `train/loss` or `evaluation/episode_return` -> the mean over the seeds that have a finite
      value; with several seeds `train/loss_std` -> the standard deviation over them, for all
      columns except counts; `timing/seconds` -> the same for all seeds. A name without a finite
      value is left out. With `vmap` each point has names of its own,
      `train/loss/learning_rate=0.001`.
    """
    points: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        points.setdefault(point_name(row["vmap"]) if "vmap" in row else "", []).append(row)
    metrics: dict[str, float] = {}
    for point, group in points.items():
        found = _over_seeds(group)
        metrics |= {f"{name}/{point}" if point else name: x for name, x in found.items()}
    timing = {name: _finite([value]) for name, value in rows[0].get("timing", {}).items()}
    return metrics | {f"timing/{name}": float(v[0]) for name, v in timing.items() if v.size}


def _over_seeds(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    first = rows[0]
    names = [name for name in first if name not in ("step", "seed", "timing", "vmap")]
    metrics = {}
    for name in names:
        values = _finite(row.get(name) for row in rows)
        if not values.size:
            continue
        metrics[f"{first['kind']}/{name}"] = float(values.mean())
        if len(rows) > 1 and not all(isinstance(row.get(name), int) for row in rows):
            metrics[f"{first['kind']}/{name}_std"] = float(values.std())
    return metrics


def _finite(values: Iterable[Any]) -> np.ndarray:
    """Return the finite numbers among values that may be text or None."""
    numbers = [value for value in values if isinstance(value, int | float)]
    found = np.array(numbers, np.float64)
    return found[np.isfinite(found)]


def check_loggers(config: RunConfig) -> None:
    """Raise UserError if a logger of a configuration cannot be imported."""
    for name in config.loggers:
        _factory(name)
    if config.tensorboard:
        _import("tensorboardX", "TensorBoard needs tensorboardX: pip install tensorboardX")
    if config.wandb is not None:
        _import("wandb", f"Weights & Biases is not installed: {install_command('wandb')}")


def open_loggers(
    folder: Path, config: RunConfig, resume_step: int | None = None
) -> list[tuple[str, Logger]]:
    """Open the loggers of a configuration.

    Args:
      folder: the run's folder.
      config: names the loggers; each of them gets it.
      resume_step: step of the checkpoint that the run resumes from; None starts new logs.

    Returns:
      (name, logger) of each.

    Raises:
      UserError: one of them cannot be opened.
    """
    check_loggers(config)
    shown, opened = to_dict(config), []
    if config.wandb is not None:
        run = WandbLogger(folder, shown, project=config.wandb, resume_step=resume_step)
        opened.append(("Weights & Biases", run))
    if config.tensorboard:
        opened.append(("TensorBoard", TensorBoardLogger(folder, shown, resume_step=resume_step)))
    for name in config.loggers:
        with in_a_sentence(f"loggers: {name} cannot be opened"):
            logger = _factory(name)(folder, shown)
        check_logger(f"loggers: {name}", logger)
        opened.append((name, logger))
    return opened


def check_logger(field: str, logger: Any) -> None:
    """Raise UserError if an object lacks the methods of a Logger; `field`: its name in messages."""
    kind = f"the class {logger.__name__}" if isinstance(logger, type) else type(logger).__name__
    methods = [getattr(logger, name, None) for name in ("log", "close")]
    if isinstance(logger, type) or not all(map(callable, methods)):
        allowed = "an object with log(step, metrics) and close(), or a name module:factory"
        raise UserError(must(field, allowed, kind))


class TensorBoardLogger:
    """Writes event files to `tensorboard/` in the run's folder, with the configuration as
    hyper-parameters."""

    def __init__(self, folder: Path, config: Mapping[str, Any], *, resume_step: int | None = None):
        from tensorboardX import SummaryWriter
        from tensorboardX.summary import hparams

        # Hides the events of later steps, which the resumed run writes again.
        purge = None if resume_step is None else resume_step + 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # from its dependencies
            self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=purge)
            flat = {key: _scalar(value) for key, value in flatten(config).items()}
            events: Any = self._writer.file_writer
            for summary in hparams(flat, {"evaluation/episode_return": 0.0}):
                events.add_summary(summary)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write one point of every metric's chart."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


class WandbLogger:
    """Reports to a project of Weights & Biases; a resumed run continues its run there."""

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        *,
        project: str,
        resume_step: int | None = None,
    ):
        import wandb  # pyright: ignore[reportMissingImports]

        try:
            folder.mkdir(parents=True, exist_ok=True)
            kept_id = folder / "wandb_run_id"
            known = kept_id.read_text() if resume_step is not None and kept_id.exists() else None
            options: dict[str, Any] = {"id": known, "resume": "allow"} if known else {}
            self._run = wandb.init(
                project=project, name=folder.name, dir=str(folder), config=config, **options
            )
            kept_id.write_text(self._run.id)
            self._run.define_metric("*", step_metric="step")
        except Exception as error:
            raise UserError(f"Weights & Biases could not start ({error})") from error

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send one point of every metric's chart."""
        # An evaluation and an interval can have the same step, but W&B's own step must increase.
        self._run.log({**metrics, "step": step})

    def close(self) -> None:
        """Wait until everything is sent."""
        self._run.finish()


def _factory(name: str) -> Callable[[Path, dict[str, Any]], Logger]:
    return load_callable(name, "loggers", "makes a logger")


def _import(module: str, otherwise: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise UserError(otherwise) from error


def _scalar(value: Any) -> bool | int | float | str:
    return value if isinstance(value, bool | int | float | str) else str(value)
