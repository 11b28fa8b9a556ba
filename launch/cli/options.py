"""Options of each `bellmax` command: one dataclass each, whose comments are the help texts."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval, MinLen

_Text = Annotated[str, MinLen(1)]
_COUNT = Interval(ge=1, le=65536)
Checkpoint = Literal["latest", "best"] | Annotated[int, Ge(0)]


def argument(metavar: str) -> Any:
    """Return a field for a positional argument."""
    return field(metadata={"key": metavar})


def option(metavar: str = "", default: Any = None) -> Any:
    """Return a field for an option `--field METAVAR`."""
    return field(default=default, metadata={"option": metavar})


@dataclass(frozen=True, kw_only=True)
class Trusting:
    """Trust in a run that may come from someone else."""

    # Import the code, module:name, that a run's configuration names; for runs that you trust.
    trust: bool = option(default=False)


@dataclass(frozen=True, kw_only=True)
class Overridden(Trusting):
    """A preset or file, and values on top of it."""

    # A preset's name, an agent's name, or a YAML file.
    source: str = argument("PRESET|FILE")


@dataclass(frozen=True, kw_only=True)
class OfRun(Trusting):
    """A run."""

    # The folder of a run.
    run: str = argument("RUN")


@dataclass(frozen=True, kw_only=True)
class Where:
    """How and where a run trains."""

    # Use deterministic GPU operations only: bitwise repeatable, slower.
    deterministic: bool = option(default=False)
    # For a run of several processes: ADDRESS:PORT of the first, or auto in a cluster.
    coordinator: str | None = option("ADDRESS")
    # Number of processes.
    processes: int | None = option("N")
    # Index of this process, from 0.
    process: int | None = option("I")
    # Ray processes step the environments: ray on this machine, or ray://HOST:PORT.
    actors: str | None = option("ADDRESS")
    # A logger in addition to those of the configuration: csv, trackio=PROJECT, mlflow=EXPERIMENT,
    # or module:factory of your own; can be repeated.
    logger: tuple[str, ...] = option("LOGGER", ())


@dataclass(frozen=True, kw_only=True)
class Train(Where, Overridden):
    """Train an agent: a preset or file, then overrides."""

    # Folder of the run; default: runs/PRESET-DATE-TIME.
    out: _Text | None = option("DIR")
    # Continue the run in DIR if there is one: for jobs that are started again.
    resume: bool = option(default=False)


@dataclass(frozen=True, kw_only=True)
class Resume(Where, OfRun):
    """Continue a run exactly where it stopped."""


@dataclass(frozen=True, kw_only=True)
class Sweep(Overridden):
    """Train all combinations of values: --seed 0,1."""

    # Folder of the sweep; an existing sweep is continued.
    out: _Text | None = option("DIR")
    # Runs at once on this machine, ray, or ray://HOST:PORT for a cluster; default: 1.
    jobs: str = option("N", "1")


@dataclass(frozen=True, kw_only=True)
class Tune(Overridden):
    """Search for the best values of keys: --space FILE."""

    # YAML file: for each key a list of values, or {low: X, high: Y}, with log: true or step: Z.
    space: _Text | None = option("FILE")
    # Trials, those of earlier starts included; default: 20.
    trials: Annotated[int, Interval(ge=1, le=10_000)] = option("N", 20)
    # Folder of the search; an existing search is continued; default: runs/tune-PRESET.
    out: _Text | None = option("DIR")
    # Trials at once on this machine, ray, or ray://HOST:PORT for a cluster; default: 1.
    jobs: str = option("N", "1")
    # Best trials that are trained again with new seeds; default: 3.
    check: Annotated[int, Interval(ge=1, le=1000)] = option("N", 3)
    # Run every trial to its end, however poor its evaluations are.
    no_pruning: bool = option(default=False)


@dataclass(frozen=True, kw_only=True)
class Evaluate(OfRun):
    """Play a trained agent without exploration."""

    # Episodes per seed (default 100); with --robust, episodes per grid cell and seed (default 10).
    episodes: Annotated[int, _COUNT] | None = option("N")
    # latest (default), best, or a step.
    checkpoint: Checkpoint = option("WHICH", "latest")
    # Evaluate only the learner with this seed; default: all.
    seed: int | None = option("SEED")
    # Print the result as JSON.
    json: bool = option(default=False)
    # Play on a grid of perturbed tasks: mean, worst case and CVaR over its cells.
    robust: bool = option(default=False)
    # A published uncertainty box of the task: 1d, 2d (default), 3d, ...
    box: str | None = option("NAME")
    # A range of your own instead of --box, such as torso_mass=0.1,3; 1 to 3 of them.
    parameter: tuple[str, ...] = option("NAME=LOW,HIGH", ())
    # Grid points of each parameter, 2 or more; default: 10.
    points: Annotated[int, Ge(2)] | None = option("N")
    # included (default): both ends are grid points, as in M2TD3's code; excluded: the upper end is
    # not, as in RRLS's code.
    upper_end: Literal["included", "excluded"] | None = option("WHICH")
    # Table and pictures of --robust, without a suffix; default: RUN/robust-BOX.
    out: _Text | None = option("FILE")


@dataclass(frozen=True, kw_only=True)
class Record(OfRun):
    """Make a video of a trained agent."""

    # Episodes; default: 1.
    episodes: Annotated[int, _COUNT] = option("N", 1)
    # latest (default), best, or a step.
    checkpoint: Checkpoint = option("WHICH", "latest")
    # Seed of the learner; default: the run's first.
    seed: int | None = option("SEED")
    # A .gif, or an .mp4 with the extra `video`; default: RUN/episodes.gif.
    out: _Text | None = option("FILE")
    # Pictures per second; default: 30, and 10 for tasks that show boards or screens.
    fps: int | None = option("N")
    # Environment steps after which an episode is cut; default: the limit of the run's evaluations.
    max_steps: Annotated[int, Ge(1)] | None = option("N")
    # Give the video to the run's loggers too.
    log: bool = option(default=False)


@dataclass(frozen=True, kw_only=True)
class Export(OfRun):
    """Write a trained policy to a file that runs without bellmax."""

    # stablehlo (default): for jax alone; onnx: for ONNX Runtime, with the extra `onnx`.
    format: Literal["stablehlo", "onnx"] = option("FORMAT", "stablehlo")
    # latest (default), best, or a step.
    checkpoint: Checkpoint = option("WHICH", "latest")
    # Seed of the learner; default: the run's first.
    seed: int | None = option("SEED")
    # The file; default: RUN/policy.stablehlo or RUN/policy.onnx.
    out: _Text | None = option("FILE")


@dataclass(frozen=True, kw_only=True)
class Push:
    """Share a run on the Hugging Face Hub."""

    # The folder of a run.
    run: str = argument("RUN")
    # owner/name of the repository; it is made if it is missing.
    repo: str = argument("REPO")
    # Make a new repository private.
    private: bool = option(default=False)


@dataclass(frozen=True, kw_only=True)
class Pull:
    """Fetch a shared run from the Hugging Face Hub."""

    # owner/name of the repository, with @REVISION for a branch, tag or commit.
    repo: str = argument("REPO")
    # A new folder for the run; default: runs/NAME.
    out: _Text | None = option("DIR")


@dataclass(frozen=True, kw_only=True)
class Plot:
    """Draw the learning curves of runs."""

    # Folders of runs.
    runs: tuple[str, ...] = argument("RUN")
    # File to write, without a suffix; default: RUN/curve, or curves for several runs.
    out: _Text | None = option("FILE")
    # Column of the evaluations or of the training log; default: episode_return.
    metric: str | None = option("NAME")
    # Title of the picture.
    title: str | None = option("TEXT")
    # Labels of the curves, in order, with commas between them.
    labels: str | None = option("A,B")
    # Width and height of a panel in inches; default: 6.4,4.2.
    size: str | None = option("W,H")
    # Range of the vertical axis.
    range: str | None = option("LOW,HIGH")
    # Make the vertical axis logarithmic.
    log_scale: bool = option(default=False)
    # Number of points in a running mean of each curve; default: 1.
    smoothing: Annotated[int, Ge(1)] = option("N", 1)
    # Key such as agent.name: runs with the same value are pooled into one curve.

    group: str | None = option("KEY")
    # Write a PDF too.
    pdf: bool = option(default=False)


@dataclass(frozen=True, kw_only=True)
class Merge(Trusting):
    """Average the parameters of runs into one policy."""

    # Folders of two or more runs of one agent, task and network.
    runs: tuple[str, ...] = argument("RUN")
    # Folder of the merged policy.
    out: str | None = option("DIR")
    # linear (default): the mean; spherical: along arcs from --start, as in WARP.
    method: Literal["linear", "spherical"] = option("HOW", "linear")
    # The run from which the others started; needed by spherical and --eta.
    start: str | None = option("RUN")
    # Interpolates from --start (0) to the merged policy (1, default).
    eta: Annotated[float, Interval(ge=0, le=1)] | None = option("X")
    # latest (default), best, or a step, of every run.
    checkpoint: Checkpoint = option("WHICH", "latest")


@dataclass(frozen=True, kw_only=True)
class List:
    """List agents, environments or presets."""

    # What to list.
    kind: Literal["agents", "envs", "presets"] = argument("agents|envs|presets")


@dataclass(frozen=True, kw_only=True)
class ShowConfig(Overridden):
    """Print a resolved configuration."""


@dataclass(frozen=True, kw_only=True)
class Schema:
    """Print the JSON schema of configuration files, for editors."""

    # A preset's name, or an agent's.
    name: str = argument("PRESET|AGENT")


@dataclass(frozen=True, kw_only=True)
class CheckEnv:
    """Check an environment and report its faults; options: --env.options.NAME VALUE."""

    # suite/Task or module.path:factory.
    name: str = argument("NAME")


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Report installed packages and devices."""
