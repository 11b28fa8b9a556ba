"""A run's configuration: dataclass defaults, then a preset or YAML file, then the command line."""

import dataclasses
import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval

from bellmax import UserError
from bellmax.agents import registry
from bellmax.envs.config import EnvConfig
from bellmax.launch import schema
from bellmax.launch.overrides import merge, parse_overrides
from bellmax.launch.values import show
from bellmax.launch.yaml_files import dump_yaml, parse_yaml, read_yaml

STEP_LIMIT = 2**31 - 1  # environment steps are counted in int32


@dataclass(frozen=True)
class ReplayConfig:
    """What the learner remembers."""

    # Steps kept per learner, 2 or more. Mnih et al. 2015 keep 1,000,000 Atari frames.
    capacity: Annotated[int, Interval(ge=2, le=STEP_LIMIT)] = 100_000
    # Where steps are kept: `device`, the learner's own memory; or `host`, that beside the CPU,
    # from which batches are moved to the device, for environments that Python steps.
    memory: Literal["device", "host"] = "device"
    # Whether sequences are drawn by their TD error (arXiv:1511.05952) or uniformly.
    prioritised: bool = False
    # Exponent of the priority, 0 (uniform) to 1. PER's proportional variant: 0.6.
    priority_exponent: Annotated[float, Interval(ge=0, le=1)] = 0.6
    # Exponent of the importance weights, 0 (no correction) to 1. PER starts at 0.4.
    importance_exponent: Annotated[float, Interval(ge=0, le=1)] = 0.4
    # Share of the device's free memory that replay may take, in (0, 1].
    memory_fraction: Annotated[float, Interval(gt=0, le=1)] = 0.8


@dataclass(frozen=True)
class HostConfig:
    """How host environments are stepped; tasks that run on the device have no use for it."""

    # Threads that step environments; their number divides env.num_envs.
    actors: Annotated[int, Interval(ge=1, le=1024)] = 1
    # Whether actors and learner take turns: two runs are then equal to the bit. On-policy agents
    # always do.
    lock_step: bool = False
    # Rollouts of each actor that may wait for the learner, besides the one it is at; 1 or more.
    ahead: Annotated[int, Interval(ge=1, le=1024)] = 2
    # Number of the device on which actors choose actions, 0 or more; null: the learner's first.
    actor_device: Annotated[int, Ge(0)] | None = None


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run. `agent_name` is written `agent.name` in files and options."""

    # Name of the agent; it decides which keys `agent` has.
    agent_name: str = field(metadata={"key": "agent.name"})
    # Environment steps of the stream per seed, 1 to 2**31 - 1.
    steps: Annotated[int, Interval(ge=1, le=STEP_LIMIT)] = 100_000
    # Environment steps before the first gradient step, 0 or more.
    warmup_steps: Annotated[int, Interval(ge=0, le=STEP_LIMIT)] = 1_000
    # Vector steps between two learning phases, 1 or more.
    rollout_length: Annotated[int, Interval(ge=1, le=65536)] = 1
    # Gradient steps in a learning phase, 1 or more.
    updates_per_rollout: Annotated[int, Interval(ge=1, le=65536)] = 1
    # Seed of the first learner, 0 or more.
    seed: Annotated[int, Interval(ge=0, le=STEP_LIMIT)] = 0
    # Independent learners in one program (seed, seed + 1, ...), 1 or more.
    seeds: Annotated[int, Interval(ge=1, le=65536)] = 1
    # Devices that share environments, replay and each batch, 1 or more.
    devices: Annotated[int, Interval(ge=1, le=65536)] = 1
    # Environment steps between two lines of the log, 1 or more.
    log_every: Annotated[int, Ge(1)] = 10_000
    # Environment steps between two evaluations; 0 evaluates only at the end.
    evaluate_every: Annotated[int, Ge(0)] = 20_000
    # Episodes in an evaluation, per seed, 1 or more.
    evaluation_episodes: Annotated[int, Interval(ge=1, le=65536)] = 32
    # Vector steps after which unfinished evaluation episodes are cut and reported; null takes the
    # task's time limit, or 27,000 (30 minutes of Atari) where it has none.
    evaluation_max_steps: Annotated[int, Interval(ge=1, le=STEP_LIMIT)] | None = None
    # Environment steps between two checkpoints, which are evaluated too; 0 saves only at the end.
    checkpoint_every: Annotated[int, Ge(0)] = 50_000
    # Newest checkpoints that are kept, 1 or more; the best one is kept besides.
    keep_checkpoints: Annotated[int, Interval(ge=1, le=1000)] = 2
    # Whether TensorBoard files are written beside the JSON lines.
    tensorboard: bool = False
    # Weights & Biases project to report to; null reports to none.
    wandb: str | None = None
    # The agent's own configuration: the dataclass that `agent.name` chooses.
    agent: Any = None
    # Which task, how many copies, and what the agent sees of it.
    env: EnvConfig = field(default_factory=EnvConfig)
    # What the learner remembers.
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    # How environments that Python steps are run.
    host: HostConfig = field(default_factory=HostConfig)


def load(source: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Returns the configuration of a preset or file with command-line overrides on top.

    Args:
      source: the name of a preset (`<agent>/<task>`), a YAML file, or a run's folder.
      overrides: as typed, such as ["--agent.learning-rate", "1e-3", "--tensorboard"].

    Raises:
      UserError: anything in the source or the overrides that does not fit.
    """
    mapping, where = _read(str(source))
    extra = parse_overrides(overrides)
    if not extra:
        return _checked(mapping, where)
    # The file first and alone, so that each message says who is to blame.
    _from_mapping(mapping, where)
    return _checked(merge(mapping, extra), "")


def load_to_play(run: Path) -> RunConfig:
    """Returns the configuration of a run on one device, however many trained it.

    Raises:
      UserError: as `load`.
    """
    config = load(run)
    host = dataclasses.replace(config.host, actor_device=None)
    return dataclasses.replace(config, devices=1, host=host)


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Returns the configuration as plain values, laid out as `load` reads them."""
    plain = schema.to_dict(config)
    name, agent = plain.pop("agent_name"), plain.pop("agent")
    sections = {key: plain.pop(key) for key in ("env", "replay", "host")}
    return {**plain, "agent": {"name": name, **agent}, **sections}


def to_yaml(config: RunConfig) -> str:
    """Returns the configuration as the text of a file that `load` accepts."""
    return dump_yaml(to_dict(config))


def dump_value(value: Any) -> str:
    """Returns one plain value as YAML on one line, as an override would be typed."""
    return dump_yaml(value, one_line=True).removesuffix("...\n").strip()


def list_presets() -> list[str]:
    """Returns the names of the presets that come with the package, such as `dqn/cartpole`."""
    entries = importlib.resources.files("bellmax.configs").iterdir()
    folders = [d for d in entries if d.is_dir() and d.name != "uncertainty"]
    files = [(d.name, f.name) for d in folders for f in d.iterdir() if f.name.endswith(".yaml")]
    return sorted(f"{folder}/{name.removesuffix('.yaml')}" for folder, name in files)


def check_replay(
    config: RunConfig, *, sequence_length: int, batch_size: int, frame_stack: int = 1
) -> None:
    """Raises UserError where what the agent samples does not fit the run's replay.

    Args:
      config: the run's configuration.
      sequence_length: steps in a sequence of the agent's ReplaySpec.
      batch_size: sequences in a batch of the agent's ReplaySpec.
      frame_stack: frames in an observation that replay stacks when it samples.
    """
    n = config.env.num_envs
    history = frame_stack - 1
    if config.replay.capacity < (sequence_length + history) * n:
        before = f" and the {history} before them (env.frame_stack)" if history else ""
        raise UserError(
            f"replay.capacity must be at least {(sequence_length + history) * n}, sequences of "
            f"{sequence_length} steps{before} in each of env.num_envs = {n} environments, got "
            f"{config.replay.capacity}"
        )
    # The first step opens an episode: no sequence lacks what came before until replay is full.
    needed = sequence_length * n
    if config.warmup_steps < max(needed, batch_size):
        raise UserError(
            f"warmup_steps must be at least {max(needed, batch_size)}, so that replay holds a "
            f"batch of {batch_size} sequences of {sequence_length} steps from {n} environments, "
            f"got {config.warmup_steps}"
        )


def check_rollout(config: RunConfig, *, sequence_length: int, batch_size: int) -> None:
    """Raises UserError where the gradient steps of an on-policy agent do not fit the rollout.

    Args:
      config: the run's configuration.
      sequence_length: least steps of the agent's ReplaySpec, the one after the rollout included.
      batch_size: environments in a batch of the agent's ReplaySpec.
    """
    if config.rollout_length < sequence_length - 1:
        raise UserError(
            f"rollout_length must be at least {sequence_length - 1}, as the agent learns from "
            f"rollouts alone, got {config.rollout_length}"
        )
    n, updates = config.env.num_envs, config.updates_per_rollout
    if n % batch_size:
        raise UserError(
            f"agent.batch_size must divide env.num_envs = {n}, as a gradient step takes so many "
            f"environments, got {batch_size}"
        )
    if updates % (n // batch_size):
        raise UserError(
            f"updates_per_rollout must be a multiple of {n // batch_size} (env.num_envs = {n} over "
            f"agent.batch_size = {batch_size}), so that all environments count alike, got {updates}"
        )


def _read(source: str) -> tuple[Any, str]:
    presets = list_presets()
    if source in presets:
        folder, name = source.split("/")
        data = importlib.resources.files("bellmax.configs") / folder / f"{name}.yaml"
        return parse_yaml(data.read_bytes(), source), source
    path = Path(source)
    if path.is_dir() and (path / "config.yaml").exists():
        path = path / "config.yaml"
    if path.is_file():
        return read_yaml(path), str(path)
    if path.is_dir():
        raise UserError(f"{source} is a folder without config.yaml; name a preset or a YAML file")
    if path.suffix in (".yaml", ".yml"):
        raise UserError(f"there is no file {source}; `bellmax list presets` names the presets")
    raise schema.unknown("preset or file", source, presets)


def _from_mapping(mapping: Any, where: str) -> RunConfig:
    prefix = f"{where}: " if where else ""
    if not isinstance(mapping, Mapping):
        raise UserError(f"{prefix}the file must be a mapping of keys, got {show(mapping)}")
    agent = mapping.get("agent", {})
    if not isinstance(agent, Mapping):
        raise UserError(f"{prefix}agent must be a section of keys, got {show(agent)}")
    if "agent_name" in mapping or "agent-name" in mapping:
        raise UserError(f"{prefix}unknown key agent_name; did you mean agent.name?")
    name, names = agent.get("name"), registry.names()
    if name is None:
        raise UserError(f"{prefix}agent.name is missing; choose from {', '.join(names)}")
    if name not in names:
        error = schema.unknown("agent", str(name), names)
        raise UserError(f"{prefix}agent.name: {error}")
    rest = {key: value for key, value in agent.items() if key != "name"}
    mapping = {**mapping, "agent_name": name, "agent": rest}
    agent_class = registry.load(name)[0]
    return schema.build(RunConfig, mapping, where=where, sections={"agent": agent_class})


def _checked(mapping: Any, where: str) -> RunConfig:
    config = _from_mapping(mapping, where)
    prefix = f"{where}: " if where else ""
    n, rollout = config.env.num_envs, config.env.num_envs * config.rollout_length
    if config.steps < rollout:
        raise UserError(
            f"{prefix}steps must be at least env.num_envs * rollout_length = {rollout}, "
            f"got {config.steps}"
        )
    if config.warmup_steps >= config.steps:
        raise UserError(
            f"{prefix}warmup_steps must be below steps = {config.steps}, or nothing is learned, "
            f"got {config.warmup_steps}"
        )
    if config.replay.capacity < 2 * n:
        raise UserError(
            f"{prefix}replay.capacity must be at least 2 * env.num_envs = {2 * n}, "
            f"got {config.replay.capacity}"
        )
    if n % config.devices:
        raise UserError(f"{prefix}devices must divide env.num_envs = {n}, got {config.devices}")
    if n % config.host.actors:
        raise UserError(
            f"{prefix}host.actors must divide env.num_envs = {n}, got {config.host.actors}"
        )
    if config.seed + config.seeds - 1 > STEP_LIMIT:
        raise UserError(
            f"{prefix}seed + seeds - 1 must be at most {STEP_LIMIT}, got seed {config.seed}"
        )
    return config
