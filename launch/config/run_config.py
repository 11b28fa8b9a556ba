"""A run's configuration: dataclass defaults, then a preset or YAML file, then the command line."""

import dataclasses
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from annotated_types import Ge, Interval

from bellmax import UserError
from bellmax.agents import registry
from bellmax.envs import EnvConfig
from bellmax.envs.options import did_you_mean
from bellmax.launch.config.fitted import fitted
from bellmax.launch.config.options import read_overrides
from bellmax.launch.config.overrides import flatten, override
from bellmax.launch.config.points import check_one_point, mistakes_in_points
from bellmax.launch.config.sentences import INT32, NOTHING, ConfigError, must, show
from bellmax.launch.config.trust import check_trusted, is_of_run, modules_in
from bellmax.launch.config.yaml_files import dump_yaml, parse_yaml, read_yaml


@dataclass(frozen=True)
class ReplayConfig:
    """The replay buffer."""

    # Steps kept per learner. Mnih et al. 2015 keep 1,000,000 Atari frames.
    capacity: Annotated[int, Ge(2)] = 100_000
    # Where steps are kept: `device`, the memory of the learner's device; or `host`, host memory,
    # from which batches are copied to the device (host environments only).
    memory: Literal["device", "host"] = "device"
    # Whether sequences are drawn by their TD error (arXiv:1511.05952) or uniformly.
    prioritised: bool = False
    # Exponent of the priority; 0 is uniform. PER's proportional variant: 0.6.
    priority_exponent: Annotated[float, Interval(ge=0, le=1)] = 0.6
    # Exponent of the importance weights; 0 corrects nothing. PER starts at 0.4.
    importance_exponent: Annotated[float, Interval(ge=0, le=1)] = 0.4
    # Share of the device's free memory that replay may take.
    memory_fraction: Annotated[float, Interval(gt=0, le=1)] = 0.8


@dataclass(frozen=True)
class HostConfig:
    """How host environments are stepped; tasks that run on the device ignore it."""

    # Threads that step environments; their number divides env.num_envs.
    actors: Annotated[int, Interval(ge=1, le=1024)] = 1
    # Whether actors and learner take turns, which makes runs reproducible bit for bit. On-policy
    # agents always do.
    lock_step: bool = False
    # Finished rollouts of each actor that may wait for the learner.
    ahead: Annotated[int, Interval(ge=1, le=1024)] = 2
    # Number of the device on which actors choose actions; null: the learner's first.
    actor_device: Annotated[int, Ge(0)] | None = None


@dataclass(frozen=True)
class RunConfig:
    """Configuration of a run. `agent_name` is written `agent.name` in files and options."""

    # Name of the agent, or module:make_agent of your own; it decides which keys `agent` has.
    agent_name: str = field(metadata={"key": "agent.name"})
    # Environment steps of training per seed.
    steps: Annotated[int, Ge(1)] = 100_000
    # Environment steps before the first gradient step.
    warmup_steps: Annotated[int, Ge(0)] = 1_000
    # Vector steps between two learning phases.
    rollout_length: Annotated[int, Interval(ge=1, le=65536)] = 1
    # Gradient steps in a learning phase.
    updates_per_rollout: Annotated[int, Interval(ge=1, le=65536)] = 1
    # Seed of the first learner.
    seed: Annotated[int, Ge(0)] = 0
    # Independent learners in one program (seed, seed + 1, ...).
    seeds: Annotated[int, Interval(ge=1, le=65536)] = 1
    # Numbers of the agent that one program trains in all combinations: agent.discount: [0.9, 0.99].
    vmap: dict[str, tuple[float, ...]] = field(default_factory=dict)
    # Devices that share environments, replay and each batch.
    devices: Annotated[int, Interval(ge=1, le=65536)] = 1
    # Precision of the agent's matrix products and convolutions in float32, where the device offers
    # several (TPU: 1, 3 or 6 passes of bfloat16; GPU: TF32 or float32). `default` is jax's.
    precision: Literal["default", "high", "highest"] = "default"
    # Environment steps between two lines of the log.
    log_every: Annotated[int, Ge(1)] = 10_000
    # Environment steps between two evaluations; 0 evaluates only at the end.
    evaluate_every: Annotated[int, Ge(0)] = 20_000
    # Episodes in an evaluation, per seed.
    evaluation_episodes: Annotated[int, Interval(ge=1, le=65536)] = 32
    # Vector steps after which unfinished evaluation episodes are cut and reported; null takes the
    # task's time limit, or 27,000 (30 minutes of Atari) where it has none.
    evaluation_max_steps: Annotated[int, Ge(1)] | None = None
    # Environment steps between two checkpoints, which are evaluated too; 0 saves only at the end.
    checkpoint_every: Annotated[int, Ge(0)] = 50_000
    # Newest checkpoints that are kept; the best one is kept in addition.
    keep_checkpoints: Annotated[int, Interval(ge=1, le=1000)] = 2
    # Whether TensorBoard files are written in addition to the JSON lines.
    tensorboard: bool = False
    # Weights & Biases project to report to; null reports to none.
    wandb: str | None = None
    # Loggers: csv, trackio=PROJECT, mlflow=EXPERIMENT, or your own module:factory.
    loggers: tuple[str, ...] = ()
    # The agent's own configuration: the dataclass that `agent.name` chooses.
    agent: Any = None
    # The task, the number of copies, and the wrappers around it.
    env: EnvConfig = field(default_factory=EnvConfig)
    # The replay buffer.
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    # How host environments are stepped.
    host: HostConfig = field(default_factory=HostConfig)

    @property
    def stored_frame_stack(self) -> int:
        """Frames of a stack that replay stores once each; 1 stores stacks whole."""
        # Normalisation changes from step to step, so a frame differs from stack to stack.
        return 1 if self.env.normalise_observations else self.env.frame_stack


class Source(NamedTuple):
    """The keys of a preset, a file or a run (`mapping`), and its name in messages (`where`).

    of_run: whether it is the configuration in a run's folder, which may come from someone else.
    fits: whether it is only the name of an agent, so that `fitted` chooses all other defaults.
    """

    mapping: Any
    where: str
    of_run: bool = False
    fits: bool = False


def load(
    source: str | Path,
    overrides: Sequence[str] = (),
    *,
    trust: bool = False,
    loggers: Sequence[str] = (),
) -> RunConfig:
    """Return the configuration of a preset or file with command-line overrides on top.

    Args:
      source: the name of a preset (`<agent>/<task>`) or of an agent, a YAML file, or a run's
        folder.
      overrides: as typed, such as ["--agent.learning-rate", "1e-3", "--tensorboard"].
      trust: whether a run's own configuration may name code, see `trust.py`.
      loggers: of the user, as module:factory.

    Raises:
      UserError: mistakes in the source or in the overrides, one line each.
    """
    return resolve(read_source(source), read_overrides(overrides), trust=trust, loggers=loggers)


def resolve(
    source: Source,
    typed: Mapping[str, Any],
    *,
    trust: bool = False,
    loggers: Sequence[str] = (),
) -> RunConfig:
    """Return the configuration of a source after overrides.

    Args:
      source: from `read_source`.
      typed: overrides, values by dotted key.
      trust, loggers: as in `load`.

    Raises:
      ConfigError: one line for each mistake.
    """
    modules = modules_in({**typed, "loggers": [*loggers, *_as_list(typed.get("loggers"))]})
    checks = source.of_run and not trust
    if checks and isinstance(source.mapping, Mapping):
        # Agents are imported to be validated.
        agent = source.mapping.get("agent")
        name = agent.get("name") if isinstance(agent, Mapping) else None
        check_trusted({"agent.name": name}, source.where, modules)
    # Without overrides first, so that messages name the source for its own mistakes.
    config = _from_mapping(source.mapping, source.where)
    mapping = override(source.mapping, typed) if typed else source.mapping
    if typed:
        config = _from_mapping(mapping, "")
    if source.fits:
        defaults = fitted(config, set(flatten(mapping)))
        config = _from_mapping(override(override(source.mapping, defaults), typed), "")
    config = _check(config, "" if typed else source.where)
    if checks:
        check_trusted(to_dict(config), source.where, modules)
    return dataclasses.replace(config, loggers=tuple(dict.fromkeys([*config.loggers, *loggers])))


def json_schema(agent: str) -> dict[str, Any]:
    """Return the JSON schema of the files that configure runs of an agent."""
    from bellmax.launch.config import schema  # imports pydantic

    result = schema.json_schema(RunConfig, {"agent": registry.config_class(agent)})
    properties = result["properties"]
    name = {**properties.pop("agent.name"), "title": "Name", "const": agent}
    result["required"] = ["agent"]
    section = result["$defs"][properties["agent"]["$ref"].rpartition("/")[2]]
    section["properties"] = {"name": name, **section["properties"]}
    section["required"] = ["name"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **result}


def load_to_play(run: Path, *, trust: bool = False, every_point: bool = False) -> RunConfig:
    """Return the configuration of a run with `devices` 1, to play its policies.

    Args:
      run: the run's folder.
      trust: whether its configuration may name code.
      every_point: whether the run may have `vmap`.

    Raises:
      UserError: as in `load`.
    """
    config = load(run, trust=trust)
    if not every_point:
        check_one_point(run, config)
    host = dataclasses.replace(config.host, actor_device=None)
    return dataclasses.replace(config, devices=1, host=host)


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Return the configuration as plain values, laid out as `load` reads them."""
    plain = json.loads(json.dumps(dataclasses.asdict(config)))  # tuples become lists
    plain["agent"] = {"name": plain.pop("agent_name"), **plain["agent"]}
    return plain


def to_yaml(config: RunConfig, *, unicode: bool = True) -> str:
    """Return the configuration as YAML text that `load` accepts; `unicode` as in `dump_yaml`."""
    return dump_yaml(to_dict(config), unicode=unicode)


def list_presets() -> list[str]:
    """Return the names of the presets that come with the package, such as `dqn/cartpole`."""
    entries = importlib.resources.files("bellmax.configs").iterdir()
    folders = [d for d in entries if d.is_dir() and d.name != "uncertainty"]
    files = [(d.name, f.name) for d in folders for f in d.iterdir() if f.name.endswith(".yaml")]
    return sorted(f"{folder}/{name.removesuffix('.yaml')}" for folder, name in files)


def check_replay(
    config: RunConfig, *, sequence_length: int, batch_size: int, frame_stack: int = 1
) -> None:
    """Raise UserError if the agent's batches do not fit the run's replay.

    Args:
      config: the run's configuration.
      sequence_length: steps in a sequence of the agent's ReplaySpec.
      batch_size: sequences in a batch of the agent's ReplaySpec.
      frame_stack: frames in an observation that replay stacks when it samples.
    """
    n, history = config.env.num_envs, frame_stack - 1
    least = (sequence_length + history) * n
    if config.replay.capacity < least:
        before = f" and the {history} before them (env.frame_stack)" if history else ""
        allowed = (
            f"at least {least}, sequences of {sequence_length} steps{before} in each of "
            f"env.num_envs = {n} environments"
        )
        raise UserError(must("replay.capacity", allowed, config.replay.capacity))
    # The first step opens an episode, so every sequence is complete until replay is full.
    least = max(sequence_length * n, batch_size)
    if config.warmup_steps < least:
        allowed = (
            f"at least {least}, so that replay holds a batch of {batch_size} sequences of "
            f"{sequence_length} steps from {n} environments"
        )
        raise UserError(must("warmup_steps", allowed, config.warmup_steps))


def check_rollout(
    config: RunConfig, *, sequence_length: int, batch_size: int, transitions: bool = False
) -> None:
    """Raise UserError if the gradient steps of an on-policy agent do not fit the rollout.

    Args:
      config: the run's configuration.
      sequence_length: minimum of the agent's ReplaySpec, including the step after the rollout.
      batch_size: environments or transitions in a batch of the agent's ReplaySpec.
      transitions: whether it counts transitions.
    """
    n, updates = config.env.num_envs, config.updates_per_rollout
    if config.rollout_length < sequence_length - 1:
        allowed = f"at least {sequence_length - 1}, as the agent learns from rollouts alone"
        raise UserError(must("rollout_length", allowed, config.rollout_length))
    rows, name, what = n, f"env.num_envs = {n}", "environments"
    if transitions:
        rows, what = n * config.rollout_length, "transitions"
        name = f"env.num_envs * rollout_length = {rows}"
    if rows % batch_size:
        reason = "split into equal batches" if transitions else "as a batch is whole environments"
        allowed = f"a divisor of {name}, {reason}"
        raise UserError(must("agent.batch_size", allowed, batch_size))
    if updates % (rows // batch_size):
        allowed = (
            f"a multiple of {rows // batch_size} ({name} over agent.batch_size = {batch_size}), so "
            f"that all {what} count alike"
        )
        raise UserError(must("updates_per_rollout", allowed, updates))


def read_source(source: str | Path) -> Source:
    """Read a preset, a file or a run's folder.

    Raises:
      UserError: there is no such source, or it is not YAML.
    """
    source = str(source)
    presets = list_presets()
    if source in presets:
        folder, name = source.split("/")
        data = importlib.resources.files("bellmax.configs") / folder / f"{name}.yaml"
        return Source(parse_yaml(data.read_bytes(), source), source)
    path, of_run = Path(source), False
    try:
        path.exists()
    except (OSError, ValueError) as error:  # a name that is too long, or has a NUL in it
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{show(source)} cannot be read: {reason}") from None
    if path.is_dir() and (path / "config.yaml").exists():
        path, of_run = path / "config.yaml", True
    if path.is_file():
        return Source(read_yaml(path), str(path), of_run or is_of_run(path))
    if path.is_dir():
        raise UserError(f"{source} is a folder without config.yaml; name a preset or a YAML file")
    if path.suffix in (".yaml", ".yml"):
        raise UserError(f"there is no file {source}; `bellmax list presets` names the presets")
    if source in registry.names():
        return Source({"agent": {"name": source}}, source, fits=True)
    if registry.is_known(source):
        hint = f"this names an agent of your own: type a preset and `--agent.name {source}`"
        raise UserError(
            must("PRESET|FILE", "a preset, a built-in agent or a file", source, hint=hint)
        )
    hint = did_you_mean(source, [*presets, *registry.names()])
    hint = hint or "`bellmax list presets` and `bellmax list agents` name them"
    raise UserError(f"unknown preset, agent or file {show(source)}; {hint}")


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _from_mapping(mapping: Any, where: str) -> RunConfig:
    from bellmax.launch.config.schema import build  # imports pydantic

    if not isinstance(mapping, Mapping):
        raise ConfigError([must("the file", "a mapping of keys", mapping)], where)
    agent, names = mapping.get("agent", {}), registry.names()
    name = names[0]  # `agent` is not a section of keys; validation reports it
    if isinstance(agent, Mapping):
        name, agent = agent.get("name", NOTHING), {k: v for k, v in agent.items() if k != "name"}
    known = isinstance(name, str) and registry.is_known(name)
    own = known and name not in names
    # The keys of an unknown agent are unknown, but the other sections can be validated.
    types = {
        "agent_name": str if own else Literal[tuple(names)],
        "agent": registry.config_class(name) if known else Any,
    }
    values = {**mapping, "agent.name": name, "agent": agent}
    if isinstance(values.get("vmap"), Mapping):
        values["vmap"] = flatten(values["vmap"])
    return build(RunConfig, values, where=where, types=types)


def _check(c: RunConfig, where: str) -> RunConfig:
    """Return a configuration after checking that its values are consistent with each other."""
    n, rollout = c.env.num_envs, c.env.num_envs * c.rollout_length
    last_seed, divisor = c.seed + c.seeds - 1, f"a divisor of env.num_envs = {n}"
    one_rollout = f"at least env.num_envs * rollout_length = {rollout}"
    # key: (whether it fits, what is allowed, the value)
    checks = {
        "steps": (c.steps >= rollout, one_rollout, c.steps),
        "warmup_steps": (
            c.warmup_steps < c.steps,
            f"below steps = {c.steps}, or nothing is learned",
            c.warmup_steps,
        ),
        "replay.capacity": (
            c.replay.capacity >= 2 * n,
            f"at least 2 * env.num_envs = {2 * n}",
            c.replay.capacity,
        ),
        "devices": (n % c.devices == 0, divisor, c.devices),
        "host.actors": (n % c.host.actors == 0, divisor, c.host.actors),
        "seed + seeds - 1": (last_seed <= INT32, f"at most {INT32}", last_seed),
    }
    lines = [must(key, allowed, got) for key, (fits, allowed, got) in checks.items() if not fits]
    plain = {**to_dict(c), "vmap": {}}
    lines = lines or mistakes_in_points(
        c, lambda key, value: _from_mapping(override(plain, {key: value}), "")
    )
    if lines:
        raise ConfigError(lines, where)
    return c
