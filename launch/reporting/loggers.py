"""Loggers: which a configuration names, and what they get."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bellmax import UserError, must
from bellmax.envs.errors import in_a_sentence
from bellmax.envs.options import did_you_mean, import_extra, load_callable
from bellmax.launch.config.points import point_name
from bellmax.launch.config.run_config import RunConfig, to_dict
from bellmax.launch.reporting import trackers

# Loggers of bellmax by name: the class, and the package that it needs, of the extra of that name.
_OWN: dict[str, tuple[Callable[..., Any], str | None]] = {
    "csv": (trackers.CSVLogger, None),
    "trackio": (trackers.TrackioLogger, "trackio"),
    "mlflow": (trackers.MLflowLogger, "mlflow"),
}


class Logger(Protocol):
    """A destination of a run's metrics.

    log(step, metrics): called after every interval of training and after every evaluation. `step`
        is in environment steps per seed and never decreases; an interval and an evaluation may
        have the same step. `metrics` maps names such as `train/loss` to numbers, see `summarise`.
    close(): called once when the run ends or stops.
    log_file(step, name, path): optional; called with `curve`, a PNG, when the run ends, and with
        `episodes`, a .gif or .mp4, by `bellmax record RUN --log`.

    If one raises, the exception is reported once, and the run continues without the logger.
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
    if config.wandb is not None:
        import_extra("wandb", "wandb")


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
        run = trackers.WandbLogger(folder, shown, project=config.wandb, resume_step=resume_step)
        opened.append(("Weights & Biases", run))
    if config.tensorboard:
        board = trackers.TensorBoardLogger(folder, shown, resume_step=resume_step)
        opened.append(("TensorBoard", board))
    for name in config.loggers:
        with in_a_sentence(f"loggers: {name} cannot be opened"):
            make = _factory(name)
            own = {} if ":" in name else {"resume_step": resume_step}
            logger = make(folder, shown, **own)
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


def _factory(name: str) -> Callable[..., Logger]:
    """Return what makes a logger: factory(folder, config), and `resume_step` for those of ours."""
    own, _, project = name.partition("=")
    if ":" in name:
        return load_callable(name, "loggers", "makes a logger")
    if own not in _OWN:
        allowed = "of the form module.path:name, or csv, trackio=PROJECT or mlflow=EXPERIMENT"
        raise UserError(must("loggers", allowed, repr(name), did_you_mean(own, _OWN)))
    make, package = _OWN[own]
    if package:
        import_extra(package, own)
    return functools.partial(make, project=project or None)
