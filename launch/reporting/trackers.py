"""Loggers for trackers: TensorBoard, Weights & Biases, Trackio, MLflow, and a CSV file."""

import csv
import io
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bellmax import UserError
from bellmax.launch.config.overrides import flatten
from bellmax.launch.distributed.files import write_whole

_VIDEOS = (".gif", ".mp4")


class TensorBoardLogger:
    """Writes event files to `tensorboard/` in the run's folder, with the configuration as
    hyper-parameters. Of files it shows .png and .gif, as images."""

    def __init__(self, folder: Path, config: Mapping[str, Any], *, resume_step: int | None = None):
        from tensorboardX import SummaryWriter
        from tensorboardX.summary import hparams

        # Hides the events of later steps, which the resumed run writes again.
        purge = None if resume_step is None else resume_step + 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # from its dependencies
            self._writer = SummaryWriter(
                str(folder / "tensorboard"),
                purge_step=purge,
                filename_suffix=f".{time.time_ns()}",  # else two of one second are one file
            )
            events: Any = self._writer.file_writer
            for summary in hparams(_flat(config), {"evaluation/episode_return": 0.0}):
                events.add_summary(summary)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write one point of every metric's chart."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def log_file(self, step: int, name: str, path: Path) -> None:
        """Write a picture; a .gif is animated."""
        from tensorboardX.proto import summary_pb2

        if not (size := _size(data := path.read_bytes())):
            return  # TensorBoard shows no .mp4
        proto: Any = summary_pb2
        picture = proto.Summary.Image(width=size[0], height=size[1], encoded_image_string=data)
        events: Any = self._writer.file_writer
        value = proto.Summary.Value(tag=name, image=picture)
        events.add_summary(proto.Summary(value=[value]), step)
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
            known = _known_id(folder, "wandb_run_id", resume_step)
            options: dict[str, Any] = {"id": known, "resume": "allow"} if known else {}
            self._run = wandb.init(
                project=project, name=folder.name, dir=str(folder), config=config, **options
            )
            _keep_id(folder, "wandb_run_id", self._run.id)
            self._run.define_metric("*", step_metric="step")
        except Exception as error:
            raise UserError(f"Weights & Biases could not start ({error})") from error

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send one point of every metric's chart."""
        # An evaluation and an interval can have the same step, but W&B's own step must increase.
        self._run.log({**metrics, "step": step})

    def log_file(self, step: int, name: str, path: Path) -> None:
        """Send a picture or a video to the run's page."""
        import wandb  # pyright: ignore[reportMissingImports]

        kind: Any = wandb.Video if path.suffix in _VIDEOS else wandb.Image
        self._run.log({name: kind(str(path)), "step": step})

    def close(self) -> None:
        """Wait until everything is sent."""
        self._run.finish()


class TrackioLogger:
    """Reports to a project of Trackio, which keeps it on this machine; see its TRACKIO_DIR."""

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        *,
        project: str | None = None,
        resume_step: int | None = None,
    ):
        import trackio  # pyright: ignore[reportMissingImports]

        known = _known_id(folder, "trackio_run", resume_step)
        # Names are the identity of its runs.
        name = known or f"{folder.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        self._run = trackio.init(
            project=project or "bellmax",
            name=name,
            config=_flat(config),
            resume="allow" if known else "never",
            embed=False,
        )
        _keep_id(folder, "trackio_run", name)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Store one point of every metric's chart."""
        self._run.log(dict(metrics), step=step)

    def log_file(self, step: int, name: str, path: Path) -> None:
        """Store a picture or a video."""
        import trackio  # pyright: ignore[reportMissingImports]

        kind = trackio.Video if path.suffix in _VIDEOS else trackio.Image
        self._run.log({name: kind(str(path))}, step=step)

    def close(self) -> None:
        """Wait until everything is stored."""
        self._run.finish()


class MLflowLogger:
    """Reports to an experiment of MLflow, at MLFLOW_TRACKING_URI or MLflow's own default."""

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        *,
        project: str | None = None,
        resume_step: int | None = None,
    ):
        import mlflow  # pyright: ignore[reportMissingImports]

        self._client, self._entities = mlflow.MlflowClient(), mlflow.entities
        known = _known_id(folder, "mlflow_run_id", resume_step)
        if known:
            self._id = known
            self._client.update_run(known, status="RUNNING")
            return
        name = project or "bellmax"
        experiment = self._client.get_experiment_by_name(name)
        of = experiment.experiment_id if experiment else self._client.create_experiment(name)
        self._id = self._client.create_run(of, run_name=folder.name).info.run_id
        _keep_id(folder, "mlflow_run_id", self._id)
        settings = [self._entities.Param(k, str(v)[:500]) for k, v in _flat(config).items()]
        for first in range(0, len(settings), 100):  # as many as one call takes
            self._client.log_batch(self._id, params=settings[first : first + 100])

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send one point of every metric's chart."""
        now = int(1000 * time.time())
        points = [self._entities.Metric(k, value, now, step) for k, value in metrics.items()]
        self._client.log_batch(self._id, metrics=points)

    def log_file(self, step: int, name: str, path: Path) -> None:
        """Send a file to the run's artifacts."""
        self._client.log_artifact(self._id, str(path))

    def close(self) -> None:
        """Mark the run as finished."""
        self._client.set_terminated(self._id)


class CSVLogger:
    """Writes `metrics.csv` to the run's folder: a line for each interval and each evaluation.

    A column is added when its name comes for the first time; cells without a value are empty.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        *,
        project: str | None = None,
        resume_step: int | None = None,
    ):
        self._path = folder / "metrics.csv"
        rows = self._read() if resume_step is not None else []
        kept = [row for row in rows if int(row["step"]) <= (resume_step or 0)]
        self._names = [*dict.fromkeys(["step", *(name for row in kept for name in row)])]
        self._rewrite(kept)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write a line."""
        new = [name for name in metrics if name not in self._names]
        if new:
            self._names += new
            self._rewrite(self._read())
        line = io.StringIO()
        self._writer(line).writerow({"step": step, **metrics})
        with self._path.open("a", newline="", encoding="utf-8") as file:
            file.write(line.getvalue())

    def close(self) -> None:
        """Do nothing: every line is written at once."""

    def _read(self) -> list[dict[str, str]]:
        if not self._path.is_file():
            return []
        text = self._path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]  # a kill may have cut the last line short
        rows = list(csv.DictReader(io.StringIO(whole), restval=""))
        return [row for row in rows if row.get("step", "").isdecimal() and None not in row]

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        file = io.StringIO()
        writer = self._writer(file)
        writer.writeheader()
        writer.writerows(rows)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._path, file.getvalue().encode())

    def _writer(self, file: io.StringIO) -> Any:
        return csv.DictWriter(file, self._names, restval="", lineterminator="\n")


def _known_id(folder: Path, name: str, resume_step: int | None) -> str | None:
    path = folder / name
    return path.read_text() if resume_step is not None and path.exists() else None


def _keep_id(folder: Path, name: str, value: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / name, value.encode())


def _size(data: bytes) -> tuple[int, int] | None:
    """Return width and height of a PNG or a GIF, None for other data."""
    if data.startswith(b"\x89PNG"):
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if data.startswith(b"GIF8"):
        return int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")
    return None


def _flat(config: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    flat = flatten(config)
    plain = bool, int, float, str
    return {key: x if isinstance(x, plain) else str(x) for key, x in flat.items()}
