"""The environment's part of a run's configuration. Reading it imports no jax."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, cast

from annotated_types import Gt, Interval

if TYPE_CHECKING:
    from bellmax.envs.base import Environment, Parametric
    from bellmax.envs.vector import VectorEnv


@dataclass(frozen=True)
class EnvConfig:
    """Which task, how many copies of it, and what its agent gets to see."""

    # Task: bellmax/<Task>, gymnax/<Task>, brax/<task>, xminigrid/<Task>, craftax/<Task>, or
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
      UserError: the task, an option or a parameter of it does not exist, or a value is out of
        range.
    """
    from bellmax.envs.randomised import Randomised
    from bellmax.envs.registry import make
    from bellmax.envs.vector import vectorise

    if env is None:
        env = make(config.name, **config.options)
        if config.randomise:
            env = Randomised(cast("Parametric", env), config.randomise)
    return vectorise(
        env,
        config.num_envs if num_envs is None else num_envs,
        time_limit=config.time_limit,
        reward_clip=None if evaluation else config.reward_clip,
        normalise_observations=config.normalise_observations,
        frame_stack=config.frame_stack,
        update_statistics=not evaluation,
        coverage=config.coverage and not evaluation,
    )
