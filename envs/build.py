"""Builds the environments that a configuration describes. Importing it does not import jax."""

from typing import TYPE_CHECKING, cast

from bellmax import UserError, must
from bellmax.envs.config import EnvConfig
from bellmax.envs.registry import is_host, is_own, make, make_batch

if TYPE_CHECKING:
    from bellmax.envs.base import Environment, EnvSpec, Parametric
    from bellmax.envs.host.vector import HostVector
    from bellmax.envs.vector import VectorEnv

# Options that change a task's own time limit, by suite or task.
_OWN_LIMITS = {
    "bellmax/CartPole": "time-limit",
    "bellmax/NoisyGrid": "time-limit",
    "bellmax/Pendulum": "time-limit",
    "brax": "time-limit",
    "gymnasium": "max-episode-steps",
    "gymnax": "max-steps-in-episode",
    "jumanji": "time-limit",
    "navix": "max-steps",
    "playground": "episode-length",
}


def is_host_env(config: EnvConfig) -> bool:
    """Whether `make_host_vector` makes the task, a host environment; else `make_vector_env` does.

    A factory of the user's own is called to see what it returns, unless there is a timeout, which
    only host environments have.

    Raises:
      UserError: the task or an option of it does not exist.
    """
    if config.timeout is not None and is_own(config.name):
        return True
    return is_host(config.name, **config.options)


def make_task(config: EnvConfig) -> "Environment":
    """Make the unbatched JAX environment of a configuration, with randomised parameters if set.

    Raises:
      UserError: the task, an option or a parameter of it does not exist, or it is a host
        environment.
    """
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
        allowed, hint = f"left out for {config.name}", "only host environments have one"
        raise UserError(must("env.timeout", allowed, config.timeout, hint))
    if env is None:
        env = make_task(config)
        _check_time_limit(config, env.spec)
    return vectorise(
        env,
        config.num_envs if num_envs is None else num_envs,
        time_limit=config.time_limit,
        reward_clip=None if evaluation else config.reward_clip,
        normalise_observations=config.normalise_observations,
        frame_stack=config.frame_stack,
        update_statistics=not evaluation,
        coverage=config.coverage and not evaluation,
        optimistic_resets=config.optimistic_resets,
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

    for name, default in (("randomise", {}), ("coverage", False), ("optimistic_resets", 1)):
        if (value := getattr(config, name)) != default:
            allowed, hint = f"left out for {config.name}", "only JAX environments have it"
            raise UserError(must(f"env.{name}", allowed, value, hint))
    for name in ("num_envs", "time_limit", "timeout", "render"):
        if name in config.options:
            value = config.options[name]
            raise UserError(must(f"env.options.{name}", "left out", value, f"set env.{name}"))
    batch = make_batch(
        config.name,
        config.num_envs if num_envs is None else num_envs,
        time_limit=config.time_limit,
        timeout=config.timeout,
        render=render,
        **config.options,
    )
    try:
        _check_time_limit(config, batch.spec)
        clip = None if evaluation else config.reward_clip
        return HostVector(batch, reward_clip=clip, frame_stack=config.frame_stack)
    except UserError:
        batch.close()
        raise


def _check_time_limit(config: EnvConfig, spec: "EnvSpec") -> None:
    """Raise UserError if the task's own time limit is shorter, so that the given one does nothing.

    Args:
      spec: of the task, or of tasks that have the shorter of both limits.
    """
    own, given = spec.time_limit, config.time_limit
    if own is None or given is None or own >= given:
        return
    hint = "the task's own limit comes first"
    for name in (config.name, config.name.partition("/")[0]):
        if name in _OWN_LIMITS:
            hint = f"{hint}; --env.options.{_OWN_LIMITS[name]} changes it"
    raise UserError(must("env.time_limit", f"at most {own} for {config.name}", given, hint))
