"""The environment's part of a run's configuration. Importing this module does not import jax."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, cast

from annotated_types import Gt, Interval

from bellmax import UserError

if TYPE_CHECKING:
    from bellmax.envs.base import Environment, Parametric
    from bellmax.envs.host.vector import HostVector
    from bellmax.envs.vector import VectorEnv


@dataclass(frozen=True)
class EnvConfig:
    """The task, the number of copies of it, and how observations and rewards are processed."""

    # Task. JAX environments: bellmax/<Task>, gymnax/<Task>, brax/<task>, xminigrid/<Task>,
    # craftax/<Task>. Host environments, stepped in Python: ale/<Game>, bsuite/<id>/<number>,
    # dm_control/<domain>-<task>, envpool/<Task>, gymnasium/<Task>, minigrid/<Task>. Your own, of
    # either kind: module.path:factory.
    name: str = "bellmax/CartPole"
    # Environments that are stepped in parallel.
    num_envs: Annotated[int, Interval(ge=1, le=65536)] = 8
    # Time limit: episodes are truncated after this number of environment steps; None keeps the
    # task's own limit.
    time_limit: Annotated[int, Interval(ge=1)] | None = None
    # Rewards are clipped to plus or minus this value in training, in reward units; None does not
    # clip.
    reward_clip: Annotated[float, Gt(0)] | None = None
    # Whether observations are normalised by their running mean and standard deviation.
    normalise_observations: bool = False
    # Whether the log has `coverage`, the number of distinct cells visited in training, for tasks
    # whose states map to cells: bellmax/DeepSea, bellmax/NoisyGrid, xminigrid.
    coverage: bool = False
    # Latest observations that are concatenated on the last axis; 1 is no stacking.
    frame_stack: Annotated[int, Interval(ge=1, le=64)] = 1
    # Options of the task, by name, such as size: 20 for bellmax/DeepSea.
    options: dict[str, int | float | bool | str] = field(default_factory=dict)
    # Domain randomisation: parameters of the task, by name, that are drawn uniformly from low,high
    # at the start of each episode (in the parameter's own unit, low <= high), such as friction:
    # [0.1, 3] for brax/hopper. Evaluation episodes are randomised too. All other parameters keep
    # their nominal value.
    randomise: dict[str, tuple[float, float]] = field(default_factory=dict)
    # Seconds that a host environment may take for a step or a reset before it is recreated; each
    # environment then runs in its own process. None sets no timeout and steps in the run's process.
    timeout: Annotated[float, Gt(0)] | None = None


def is_host_env(config: EnvConfig) -> bool:
    """Whether `make_host_vector` makes the task, a host environment; else `make_vector_env` does.

    Raises:
      UserError: the task or an option of it does not exist.
    """
    from bellmax.envs.registry import is_host

    return is_host(config.name, **config.options)


def make_task(config: EnvConfig) -> "Environment":
    """Make the unbatched JAX environment of a configuration, with randomised parameters if set.

    Raises:
      UserError: the task, an option or a parameter of it does not exist, or it is a host
        environment.
    """
    from bellmax.envs.registry import make
    from bellmax.envs.wrappers.randomised import Randomised

    env = make(config.name, **config.options)
    return Randomised(cast("Parametric", env), config.randomise) if config.randomise else env


def make_vector_env(
    config: EnvConfig,
    *,
    num_envs: int | None = None,
    evaluation: bool = False,
    env: "Environment | None" = None,
) -> "VectorEnv":
    """Make the vectorised JAX environment of a configuration.

    Args:
      config: the task and its wrappers.
      num_envs: overrides config.num_envs.
      evaluation: rewards stay unclipped and normalisation is frozen: pass the training state's
        `statistics` to `reset`.
      env: overrides config.name, config.options and config.randomise.

    Raises:
      UserError: the task, an option or a parameter of it does not exist, a value is out of range,
        or the task is a host environment.
    """
    from bellmax.envs.vector import vectorise

    if config.timeout is not None:
        raise UserError(
            f"env.timeout must be left out for {config.name}; only host environments have one"
        )
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
    """Make the vectorised host environment of a configuration.

    Args:
      config: the task and its wrappers.
      num_envs: overrides config.num_envs.
      evaluation: rewards stay unclipped.
      render: whether the tasks can draw pictures.

    Raises:
      UserError: the task or an option of it does not exist, a value is out of range, or a field is
        set that only JAX environments support.
    """
    from bellmax.envs.host.vector import HostVector
    from bellmax.envs.registry import make_batch

    for name in ("randomise", "coverage"):
        if getattr(config, name):
            raise UserError(
                f"env.{name} must be left out for {config.name}; only JAX environments have it"
            )
    for name in ("num_envs", "time_limit", "timeout", "render"):
        if name in config.options:
            raise UserError(f"env.options has no {name!r}; set env.{name} instead")
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
