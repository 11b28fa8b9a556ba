"""The environment's part of a run's configuration. Reading it imports no jax."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, cast

from annotated_types import Gt, Interval

from bellmax import UserError

if TYPE_CHECKING:
    from bellmax.envs.base import Environment, Parametric
    from bellmax.envs.host import HostVector
    from bellmax.envs.vector import VectorEnv


@dataclass(frozen=True)
class EnvConfig:
    """Which task, how many copies of it, and what its agent gets to see."""

    # Task: bellmax/<Task>, gymnax/<Task>, brax/<task>, xminigrid/<Task>, craftax/<Task>; one that
    # Python steps, a host environment: ale/<Game>, bsuite/<id>/<number>,
    # dm_control/<domain>-<task>, envpool/<Task>, gymnasium/<Task>, minigrid/<Task>; or
    # module.path:factory of your own.
    name: str = "bellmax/CartPole"
    # Environments that step together, 1 to 65536.
    num_envs: Annotated[int, Interval(ge=1, le=65536)] = 8
    # Episodes are truncated after so many environment steps, 1 or more; None keeps the task's own
    # limit.
    time_limit: Annotated[int, Interval(ge=1)] | None = None
    # Rewards are clipped to plus or minus this in training, above 0, in reward units; None does
    # not clip.
    reward_clip: Annotated[float, Gt(0)] | None = None
    # Whether observations are shifted and scaled by their running mean and deviation.
    normalise_observations: bool = False
    # Whether the log counts the different cells that training has visited, `coverage`, for tasks
    # whose states can be counted: bellmax/DeepSea, bellmax/NoisyGrid, xminigrid.
    coverage: bool = False
    # Observations joined on the last axis, 1 (only the newest) to 64.
    frame_stack: Annotated[int, Interval(ge=1, le=64)] = 1
    # Options of the task itself, by name, such as size: 20 for bellmax/DeepSea.
    options: dict[str, int | float | bool | str] = field(default_factory=dict)
    # Parameters of the task, by name, that are drawn anew each episode, uniformly within low,high
    # (in the parameter's own unit, low <= high), such as friction: [0.1, 3] for brax/hopper.
    # Evaluations draw too. The others keep their nominal value.
    randomise: dict[str, tuple[float, float]] = field(default_factory=dict)
    # Seconds, above 0, that a host environment may take for a step or a reset before it is made
    # anew; each then has a process of its own. None waits for ever, in the run's own process.
    timeout: Annotated[float, Gt(0)] | None = None


def is_host_env(config: EnvConfig) -> bool:
    """Whether `make_host_vector` makes the task; `make_vector_env` makes it otherwise.

    Raises:
      UserError: the task or an option of it does not exist.
    """
    from bellmax.envs.registry import is_host

    return is_host(config.name, **config.options)


def make_task(config: EnvConfig) -> "Environment":
    """The unbatched task of jax that a configuration describes, randomised if it says so.

    Raises:
      UserError: the task, an option or a parameter of it does not exist, or Python steps it.
    """
    from bellmax.envs.randomised import Randomised
    from bellmax.envs.registry import make

    env = make(config.name, **config.options)
    return Randomised(cast("Parametric", env), config.randomise) if config.randomise else env


def make_vector_env(
    config: EnvConfig,
    *,
    num_envs: int | None = None,
    evaluation: bool = False,
    env: "Environment | None" = None,
) -> "VectorEnv":
    """The vector environment that a configuration describes.

    Args:
      config: the task and what is done to it.
      num_envs: takes the place of config.num_envs.
      evaluation: rewards stay unclipped and normalisation is frozen: give `reset` the training
        state's `statistics`.
      env: takes the place of config.name, config.options and config.randomise.

    Raises:
      UserError: the task, an option or a parameter of it does not exist, a value is out of range,
        or Python steps the task.
    """
    from bellmax.envs.vector import vectorise

    if config.timeout is not None:
        raise UserError(f"env.timeout is for host environments; leave it out for {config.name}.")
    return vectorise(
        make_task(config) if env is None else env,
        config.num_envs if num_envs is None else num_envs,
        time_limit=config.time_limit,
        reward_clip=None if evaluation else config.reward_clip,
        normalise_observations=config.normalise_observations,
        frame_stack=config.frame_stack,
        update_statistics=not evaluation,
        coverage=config.coverage and not evaluation,
    )


def make_host_vector(
    config: EnvConfig,
    *,
    num_envs: int | None = None,
    evaluation: bool = False,
    render: bool = False,
) -> "HostVector":
    """The stream of host environments that a configuration describes.

    Args:
      config: the task and what is done to it.
      num_envs: takes the place of config.num_envs.
      evaluation: rewards stay unclipped.
      render: whether the tasks can draw pictures.

    Raises:
      UserError: the task or an option of it does not exist, a value is out of range, or the
        configuration asks for what only environments of jax have.
    """
    from bellmax.envs.host import HostVector
    from bellmax.envs.registry import make_batch

    for name in ("randomise", "coverage"):
        if getattr(config, name):
            raise UserError(
                f"env.{name} is for environments of jax; leave it out for {config.name}."
            )
    for name in ("num_envs", "time_limit", "timeout", "render"):
        if name in config.options:
            raise UserError(f"{name} is no option of the task: set env.{name} instead of it.")
    batch = make_batch(
        config.name,
        config.num_envs if num_envs is None else num_envs,
        time_limit=config.time_limit,
        timeout=config.timeout,
        render=render,
        **config.options,
    )
    clip = None if evaluation else config.reward_clip
    return HostVector(batch, reward_clip=clip, frame_stack=config.frame_stack)
