"""Gymnasium's tasks as host environments. Imported on first use."""

import copy
import dataclasses
import inspect
from typing import Any

import numpy as np

from bellmax import UserError, must
from bellmax.envs.adapters.shared.gymnasium_spaces import convert_action, convert_observation
from bellmax.envs.base import EnvSpec
from bellmax.envs.errors import import_own, in_words, making, without_warnings
from bellmax.envs.host.base import Conversion, HostTimeStep, opening
from bellmax.envs.host.values import as_flag, as_reward
from bellmax.envs.options import check_options, unknown


def make(
    task: str,
    *,
    render: bool = False,
    observation_key: str | int | None = None,
    action_mask: bool = False,
    **options: Any,
) -> "GymnasiumTask":
    """Makes a task that is registered with Gymnasium, without Gymnasium's checking wrappers.

    Args:
      task: its id, such as `CartPole-v1`, or `module:id`, which imports the module that registers
        it.
      render: whether the task can draw pictures.
      observation_key: the entry of a Dict observation that the agent sees.
      action_mask: whether info["action_mask"] of the task says which actions are legal.
      **options: arguments of gymnasium.make, such as max_episode_steps, and of the task.

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
    return from_gymnasium(env, name, observation_key=observation_key, action_mask=action_mask)


def from_gymnasium(
    env: Any,
    name: str,
    *,
    observation_key: str | int | None = None,
    action_mask: bool = False,
) -> "GymnasiumTask":
    """Wraps a gymnasium.Env as a host environment.

    Args:
      env: the environment, in any wrappers except automatic resets.
      name: name in the spec and in messages.
      observation_key: the entry of a Dict observation that the agent sees.
      action_mask: whether info["action_mask"] says which actions are legal.

    Raises:
      UserError: bellmax does not support its spaces.
    """
    _check_interface(env, name)
    observation = convert_observation(env.observation_space, name, key=observation_key)
    action = convert_action(env.action_space, name)
    with without_warnings():
        time_limit = getattr(env.spec, "max_episode_steps", None)
    if not isinstance(action_mask, bool):
        raise UserError(must("env.options.action_mask", "true or false", repr(action_mask)))
    spec = EnvSpec(name, observation.spec, action.spec, time_limit, action_mask=action_mask)
    return GymnasiumTask(env, spec, observation, action)


@dataclasses.dataclass(frozen=True, eq=False)
class GymnasiumTask:
    """A HostEnvironment of a gymnasium.Env. At the time limit a termination takes precedence."""

    env: Any
    spec: EnvSpec
    observation: Conversion
    action: Conversion

    def reset(self, seed: int | None) -> HostTimeStep:
        result = self.env.reset(seed=seed)
        if not isinstance(result, tuple) or len(result) != 2:
            raise self._interface("reset", "(observation, info)", result)
        return opening(self.observation.convert(result[0]), self._mask(result[1]))

    def step(self, action: np.ndarray) -> HostTimeStep:
        result = self.env.step(self.action.convert(action))
        if type(result) is not tuple or len(result) != 5:
            allowed = "(observation, reward, terminated, truncated, info)"
            raise self._interface("step", allowed, result)
        observation, reward, terminated, truncated, info = result
        observation = self.observation.convert(observation)
        if type(terminated) is not bool or type(truncated) is not bool:
            terminated = as_flag(terminated, "terminated", self.spec.name)
            truncated = as_flag(truncated, "truncated", self.spec.name)
        if type(reward) is not float:
            reward = as_reward(reward, self.spec.name)
        truncated = truncated and not terminated
        return HostTimeStep(observation, reward, terminated, truncated, self._mask(info))

    def _mask(self, info: Any) -> Any:
        if not self.spec.action_mask:
            return ()
        if "action_mask" not in info:
            where, hint = f"info of {self.spec.name}", "leave out env.options.action_mask"
            raise UserError(must(where, "the key 'action_mask'", list(info), hint, verb="have"))
        return info["action_mask"]

    def _interface(self, where: str, allowed: str, result: Any) -> UserError:
        came = (
            f"{len(result)} values" if isinstance(result, tuple) else f"a {type(result).__name__}"
        )
        hint = "this is Gymnasium's interface, that of gym before 0.26 differs"
        return UserError(must(f"{where} of {self.spec.name}", allowed, came, hint, verb="return"))

    def render(self) -> np.ndarray:
        """Draw the state, [H, W, 3] uint8.

        Raises:
          UserError: the task was made without `render=True`, or cannot draw.
        """
        if getattr(self.env, "render_mode", None) != "rgb_array":
            how = "make it with render=True"
            if not self.spec.name.startswith("gymnasium/"):
                how = (
                    "its render_mode must be 'rgb_array': give its factory the argument "
                    "render_mode, which `bellmax record` sets"
                )
            raise UserError(f"{self.spec.name} cannot draw pictures; {how}")
        try:
            with without_warnings():
                picture = self.env.render()
        except Exception as error:  # a missing package or display raises many kinds
            raise UserError(
                f"{self.spec.name} cannot draw here ({in_words(error)}); without a display "
                "MuJoCo needs the environment variable MUJOCO_GL=egl, set before the program starts"
            ) from error
        if not isinstance(picture, np.ndarray) or picture.ndim != 3:
            raise UserError(f"{self.spec.name} cannot draw pictures")
        return np.asarray(picture, np.uint8)

    def close(self) -> None:
        self.env.close()


def _check_interface(env: Any, name: str) -> None:
    """Raises UserError if `reset` takes no seed."""
    try:
        parameters = inspect.signature(env.unwrapped.reset).parameters
    except (AttributeError, TypeError, ValueError):  # not a gymnasium.Env, or no signature
        return
    if "seed" not in parameters and all(p.kind is not p.VAR_KEYWORD for p in parameters.values()):
        raise UserError(
            must(
                f"reset of {name}",
                "the arguments seed and options",
                f"({', '.join(parameters)})",
                "this is Gymnasium's interface, that of gym before 0.26 differs",
                verb="take",
            )
        )


def _find_spec(gymnasium: Any, task: str) -> Any:
    """A copy of Gymnasium's EnvSpec of the task; imports its module if the id names one."""
    module, _, task_id = task.rpartition(":")
    if module:
        import_own(module, f"gymnasium/{task}")
    try:
        spec = copy.deepcopy(gymnasium.spec(task_id))
    except gymnasium.error.Error as error:
        raise unknown("task", task_id, gymnasium.registry, of="gymnasium") from error
    spec.order_enforce = False
    return spec


def _check_options(gymnasium: Any, name: str, spec: Any, options: dict[str, Any]) -> None:
    """Checks option names if the task's signature lists them; else making the task raises."""
    creator = spec.entry_point
    if isinstance(creator, str):
        creator = gymnasium.envs.registration.load_env_creator(creator)
    parameters = inspect.signature(creator).parameters.values()
    if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
        taken = [parameter.name for parameter in parameters]
        own = ["action_mask", "max_episode_steps", "observation_key", "render_mode"]
        check_options(name, options, [*own, *(word for word in taken if word not in own)])
