"""The Python API: train, resume, evaluate and plot runs from a script or a notebook.

It prints nothing, changes no settings of jax, and writes no file outside the run's folder.
"""

import io
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bellmax import UserError, must
from bellmax.launch.config.overrides import flatten, override
from bellmax.launch.config.run_config import RunConfig, Source, load, read_source, resolve, to_dict
from bellmax.launch.distributed.remote import check_local
from bellmax.launch.reporting.loggers import Logger, check_logger
from bellmax.launch.reporting.metrics import read_metrics
from bellmax.launch.reporting.plot import draw_runs, save_figure
from bellmax.launch.studies.evaluate import Evaluation, evaluate_run
from bellmax.launch.studies.export import export_run
from bellmax.launch.studies.record import record_run
from bellmax.launch.studies.share import pull_run, push_run
from bellmax.launch.training import train as training
from bellmax.launch.training.folders import check_new, check_steps, check_writable, run_folder
from bellmax.launch.training.policy import Policy, load_policy

_HOW_TO_NAME = "a run's folder keeps the name, so the code must be in a module that can be imported"
OnInterval = Callable[[int, dict[str, float]], object]
AnyLogger = Logger | str


class Run:
    """A run in a folder. `bellmax.train` and `bellmax.load_run` make one.

    path: the folder.
    """

    def __init__(self, path: Path, *, temporary: bool = False, trust: bool = False):
        self.path = path
        self._trust = trust
        if temporary:
            weakref.finalize(self, shutil.rmtree, path, ignore_errors=True)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def config(self) -> RunConfig:
        """The resolved configuration."""
        return load(self.path, trust=self._trust)

    def metrics(self, kind: str = "train") -> Any:
        """Return the rows of the log, one row per step and seed.

        Args:
          kind: "train" or "evaluation".

        Returns:
          A pandas DataFrame where pandas is installed, otherwise a dict of NumPy arrays by column.
          With `vmap` the key of each value is a column, such as `agent.learning_rate`.
          Numbers that are missing at a step, or were not finite, are NaN.

        Raises:
          UserError: there is no log, or `kind` is not allowed.
        """
        if kind not in ("train", "evaluation"):
            raise UserError(must("kind", "train or evaluation", f"{kind!r}"))
        rows = [row for row in read_metrics(self.path) if row["kind"] == kind]
        flat = [{**row, **row.get("vmap", {}), **row.get("timing", {})} for row in rows]
        names = dict.fromkeys(name for row in flat for name in row)
        columns = {
            name: np.array([np.nan if row.get(name) is None else row[name] for row in flat])
            for name in names
            if name not in ("kind", "timing", "vmap")
        }
        try:
            import pandas
        except ImportError:
            return columns
        return pandas.DataFrame(columns)

    def evaluate(
        self, episodes: int = 32, checkpoint: str | int = "latest", seed: int | None = None
    ) -> Evaluation:
        """Play episodes of the greedy policies and return an `Evaluation`.

        Args:
          episodes: episodes per seed.
          checkpoint: "latest", "best" or a step.
          seed: seed of one learner to evaluate; None evaluates all.

        Raises:
          UserError: there is no such checkpoint or seed.
        """
        evaluation = evaluate_run(self.path, episodes, checkpoint, seed, trust=self._trust)
        if evaluation.warning:
            warnings.warn(evaluation.warning, stacklevel=2)
        return evaluation

    def plot(self, path: str | Path | None = None, metric: str = "episode_return") -> Any:
        """Draw the learning curve.

        Args:
          path: path of the files to write, as PNG and SVG; None writes none.
          metric: a column of the evaluation rows, or of the training rows if those lack it.

        Returns:
          A matplotlib Figure, which a notebook shows.

        Raises:
          UserError: there is no such metric.
        """
        figure = draw_runs([self.path], metric)
        if path is not None:
            save_figure(figure, Path(path))

        def to_png() -> bytes:
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png")
            return buffer.getvalue()

        figure._repr_png_ = to_png  # notebooks show figures by themselves only with pyplot
        return figure

    def policy(
        self,
        seed: int | None = None,
        *,
        point: str | Mapping[str, float] | None = None,
        best: bool = False,
    ) -> Policy:
        """Return the greedy policy of a seed, by default the first; see `bellmax.load_policy`."""
        return load_policy(self.path, seed, point=point, best=best, trust=self._trust)

    def export(
        self,
        out: str | Path | None = None,
        *,
        format: str = "stablehlo",
        checkpoint: str | int = "latest",
        seed: int | None = None,
    ) -> Path:
        """Write the greedy policy of a learner to a file that runs without bellmax.

        Args:
          out: the file; None writes `policy.stablehlo` or `policy.onnx` to the run's folder.
          format: "stablehlo", or "onnx" with the extra `onnx`.
          checkpoint: "latest", "best" or a step.
          seed: of the learner; None takes the first.

        Returns:
          The file.

        Raises:
          UserError: there is no such checkpoint or seed, or the format lacks an operation.
        """
        return export_run(
            self.path,
            None if out is None else Path(out),
            format=format,
            checkpoint=checkpoint,
            seed=seed,
            trust=self._trust,
        )

    def push(self, repo: str, *, private: bool = False) -> str:
        """Share the run on the Hugging Face Hub, as `bellmax push`; needs the extra `hub`.

        Args:
          repo: `owner/name`; it is made if it is missing.
          private: whether a new repository is private.

        Returns:
          The address of the repository.

        Raises:
          UserError: the run has no policy, or the repository cannot be written.
        """
        return push_run(self.path, repo, private=private)

    def resume(
        self,
        steps: int | None = None,
        *,
        on_interval: OnInterval | None = None,
        progress: bool = False,
        loggers: Sequence[AnyLogger] = (),
        **overrides: Any,
    ) -> "Run":
        """Continue training from the last checkpoint; return this run.

        Args:
          steps: environment steps per seed at the end; None keeps the configuration's.
          on_interval, progress, loggers, overrides: as in `train`.

        Raises:
          UserError: an override changes a key that a resumed run must keep, or no checkpoint is
            intact.
        """
        overrides |= {} if steps is None else {"steps": steps}
        check_steps(self.path, flatten(overrides).get("steps"))
        reports = on_interval, progress, loggers
        config, output = _prepare(self.path, overrides, *reports, trust=self._trust)
        training.resume(self.path, config, output=output)
        return self

    def record(
        self,
        out: str | Path | None = None,
        *,
        episodes: int = 1,
        checkpoint: str | int = "latest",
        seed: int | None = None,
        fps: int | None = None,
        max_steps: int | None = None,
        log: bool = False,
    ) -> Path:
        """Write a video of episodes of the greedy policy; needs the extra `video`.

        Args:
          out: a .gif or .mp4 file; None writes `episodes.gif` to the run's folder.
          episodes: number of episodes.
          checkpoint: "latest", "best" or a step.
          seed: of the learner; None takes the first.
          fps: frames per second; None takes the task's default.
          max_steps: environment steps after which an episode is cut.
          log: whether the video is given to the run's loggers too.

        Returns:
          The file.

        Raises:
          UserError: there is no such checkpoint or seed, or the task draws no pictures.
        """
        return record_run(
            self.path,
            episodes=episodes,
            checkpoint=checkpoint,
            seed=seed,
            out=None if out is None else Path(out),
            fps=fps,
            max_steps=max_steps,
            log=log,
            trust=self._trust,
        )


def load_config(
    source: str | Path | Mapping[str, Any] | RunConfig, *, trust: bool = False, **overrides: Any
) -> RunConfig:
    """Return a resolved configuration.

    Args:
      source: a preset's name, a YAML file, a run's folder, a mapping laid out as such a file, or a
        configuration.
      trust: whether to import code, `module:name`, that the configuration in a run's folder names;
        sources of other kinds are always trusted.
      overrides: values on top, nested or by dotted key: `steps=1000`, `agent={"n_step": 3}`,
        `**{"agent.n_step": 3}`.

    Raises:
      UserError: one line for each mistake.
    """
    return _resolve(source, overrides, trust=trust)


def _resolve(
    source: str | Path | Mapping[str, Any] | RunConfig,
    overrides: Mapping[str, Any],
    *,
    trust: bool,
    loggers: Sequence[str] = (),
) -> RunConfig:
    if isinstance(source, RunConfig):
        source = to_dict(source)
    if isinstance(source, Mapping):
        read = Source(override({}, flatten(source)), "")
    else:
        read = read_source(source)
    typed = flatten(overrides)
    given = flatten(read.mapping) if isinstance(read.mapping, Mapping) else {}
    for key, value in [*given.items(), *typed.items()]:
        if callable(value):
            raise UserError(must(key, "text, module:name", _code(value), _HOW_TO_NAME))
    arrays = np.generic, np.ndarray
    plain = {k: v.tolist() if isinstance(v, arrays) else v for k, v in typed.items()}
    return resolve(read, plain, trust=trust, loggers=loggers)


def _code(value: Any) -> str:
    """Return the kind of a function or class, and its name in the form `module:name`."""
    kind = "class" if isinstance(value, type) else "function"
    name = getattr(value, "__qualname__", type(value).__name__)
    return f"the {kind} {getattr(value, '__module__', None)}:{name}"


def train(
    preset_or_config: str | Path | Mapping[str, Any] | RunConfig,
    out: str | Path | None = None,
    *,
    on_interval: OnInterval | None = None,
    progress: bool = False,
    loggers: Sequence[AnyLogger] = (),
    trust: bool = False,
    **overrides: Any,
) -> Run:
    """Train an agent; return when the run is finished.

    Args:
      preset_or_config: source of the configuration, as in `load_config`.
      out: a new or empty folder for the run. None takes a temporary one, which is removed with the
        returned Run; if training fails or is interrupted, the folder is kept and named in a note of
        the exception.
      on_interval: called as on_interval(step, metrics) after every interval and every evaluation,
        with the metrics that loggers get. An exception in it ends the run and propagates.
      progress: whether to print the progress.
      loggers: Logger objects, and names `module:factory`, which become part of the configuration.
      trust, overrides: as in `load_config`.

    Raises:
      UserError: the configuration is wrong, the folder is not usable, or a loss was not finite.
      KeyboardInterrupt: Ctrl-C; a checkpoint was saved, and `Run.resume` continues from it.
    """
    reports = on_interval, progress, loggers
    config, output = _prepare(preset_or_config, overrides, *reports, trust=trust)
    if out is None:
        folder = Path(tempfile.mkdtemp(prefix="bellmax-"))
    else:
        check_local(out, "out")
        folder = Path(out)
        check_writable(folder)
        check_new(folder)
    try:
        training.train(config, folder, output=output)
    except BaseException as error:
        if out is None:
            if any(folder.iterdir()):
                error.add_note(f"the run is kept in {folder}; bellmax.load_run opens it")
            else:  # it failed at its start
                folder.rmdir()
        raise
    return Run(folder, temporary=out is None, trust=True)


def load_run(path: str | Path, *, trust: bool = False) -> Run:
    """Return the run in a folder.

    Args:
      path: the folder.
      trust: whether the run's configuration may name code of the user's own, which is imported.

    Raises:
      UserError: the folder is not a run, or its configuration is invalid or names code.
    """
    run = Run(run_folder(str(path)), trust=trust)
    load(run.path, trust=trust)
    return run


def pull(repo: str, out: str | Path | None = None, *, trust: bool = False) -> Run:
    """Fetch a shared run from the Hugging Face Hub to a new folder; needs the extra `hub`.

    Args:
      repo: `owner/name`, with `@revision` for a branch, tag or commit.
      out: a new or empty folder; None takes runs/NAME.
      trust: as in `load_run`.

    Returns:
      The run, which can be evaluated, recorded and exported; it has no checkpoint to resume from.

    Raises:
      UserError: the repository cannot be read or holds no run, or `out` is not empty.
    """
    return load_run(pull_run(repo, None if out is None else Path(out)), trust=trust)


def _prepare(
    source: str | Path | Mapping[str, Any] | RunConfig,
    overrides: Mapping[str, Any],
    on_interval: OnInterval | None,
    progress: bool,
    loggers: Sequence[AnyLogger],
    *,
    trust: bool,
) -> tuple[RunConfig, training.Output]:
    names = [one for one in loggers if isinstance(one, str)]
    objects = [(type(one).__name__, one) for one in loggers if not isinstance(one, str)]
    for _, one in objects:
        check_logger("loggers", one)
    config = _resolve(source, overrides, trust=trust, loggers=names)
    return config, training.Output(progress, objects, on_interval, warnings.warn)
