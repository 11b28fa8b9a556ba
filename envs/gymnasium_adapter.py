"""Gymnasium's tasks as host environments. Imported when a task is made."""

import copy
import dataclasses
import importlib
import inspect
from typing import Any

import numpy as np

from bellmax import UserError
from bellmax.envs.base import EnvSpec
from bellmax.envs.gymnasium_spaces import convert_action, convert_observation
from bellmax.envs.host_base import (
    Conversion,
    HostTimeStep,
    in_words,
    making,
    opening,
    without_warnings,
)
from bellmax.envs.registry import check_options, suggest


def make(
    task: str,
    *,
    render: bool = False,
    observation_key: str | int | None = None,
    **options: Any,
) -> "GymnasiumTask":
    """A task that is registered with Gymnasium, without its checking wrappers.

    Args:
      task: its id, such as `CartPole-v1`, or `module:id`, which imports the module that registers
        it.
      render: whether it can draw pictures.
      observation_key: which entry of a Dict of observations is shown.
      **options: of gymnasium.make, such as max_episode_steps, and of the task.

    Raises:
      UserError: Gymnasium has no such task or option, it cannot make the task, or the task's spaces
        are none that bellmax takes.
    """
    import gymnasium

    name = f"gymnasium/{task}"
    drawing: dict[str, Any] = {"render_mode": "rgb_array"} if render else {}
    with without_warnings():
        spec = _find_spec(gymnasium, task)
        with making(name, options):
            _check_options(gymnasium, name, spec, options)
            env = gymnasium.make(spec, disable_env_checker=True, **options | drawing)
    return from_gymnasium(env, name, observation_key=observation_key)


def from_gymnasium(
    env: Any, name: str, *, observation_key: str | int | None = None
) -> "GymnasiumTask":
    """A gymnasium.Env as a host environment.

    Args:
      env: of any wrappers, but none that resets by itself.
      name: for the spec and for messages.
      observation_key: which entry of a Dict of observations is shown.

    Raises:
      UserError: its spaces are none that bellmax takes.
    """
    observation = convert_observation(env.observation_space, name, key=observation_key)
    action = convert_action(env.action_space, name)
    with without_warnings():
        time_limit = getattr(env.spec, "max_episode_steps", None)
    spec = EnvSpec(name, observation.spec, action.spec, time_limit)
    return GymnasiumTask(env, spec, observation, action)


@dataclasses.dataclass(frozen=True, eq=False)
class GymnasiumTask:
    """A HostEnvironment of a gymnasium.Env. A step that both ends and is late is a termination."""

    env: Any
    spec: EnvSpec
    observation: Conversion
    action: Conversion

    def reset(self, seed: int | None) -> HostTimeStep:
        observation, _ = self.env.reset(seed=seed)
        return opening(self.observation.convert(observation))

    def step(self, action: np.ndarray) -> HostTimeStep:
        observation, reward, terminated, truncated, _ = self.env.step(self.action.convert(action))
        observation = self.observation.convert(observation)
        return HostTimeStep(
            observation, float(reward), bool(terminated), bool(truncated and not terminated)
        )

    def render(self) -> np.ndarray:
        """A picture of the state, [H, W, 3] uint8.

        Raises:
          UserError: the task was made without `render=True`, or draws no pictures.
        """
        if getattr(self.env, "render_mode", None) != "rgb_array":
            raise UserError(f"{self.spec.name} draws no pictures: make it with render=True.")
        try:
            with without_warnings():
                picture = self.env.render()
        except Exception as error:  # whatever a missing package or screen makes it raise
            raise UserError(
                f"{self.spec.name} cannot draw here ({in_words(error)}); MuJoCo's tasks need the "
                "variable MUJOCO_GL=egl, set before the program starts, where there is no screen."
            ) from error
        if not isinstance(picture, np.ndarray) or picture.ndim != 3:
            raise UserError(f"{self.spec.name} draws no pictures.")
        return np.asarray(picture, np.uint8)

    def close(self) -> None:
        self.env.close()


def _find_spec(gymnasium: Any, task: str) -> Any:
    """Gymnasium's EnvSpec of the task, a copy; imports its module if the id names one."""
    module, _, task_id = task.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        spec = copy.deepcopy(gymnasium.spec(task_id))
    except ModuleNotFoundError as error:
        raise UserError(
            f"gymnasium/{task} needs the module {error.name!r}, which Python cannot find."
        ) from error
    except gymnasium.error.Error as error:
        near = suggest(task_id, gymnasium.registry)
        raise UserError(f"Gymnasium has no task {task_id!r}{near}.") from error
    spec.order_enforce = False
    return spec


def _check_options(gymnasium: Any, name: str, spec: Any, options: dict[str, Any]) -> None:
    """Checks names where the task says which it takes; others raise when it is made."""
    creator = spec.entry_point
    if isinstance(creator, str):
        creator = gymnasium.envs.registration.load_env_creator(creator)
    parameters = inspect.signature(creator).parameters.values()
    if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
        taken = [parameter.name for parameter in parameters]
        own = ["max_episode_steps", "observation_key", "render_mode"]
        check_options(name, options, [*own, *(word for word in taken if word not in own)])
