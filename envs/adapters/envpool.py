"""envpool's tasks, stepped by envpool's threads. Imported on first use."""

import functools
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
from dm_env import specs

from bellmax import UserError, must
from bellmax.envs.adapters.shared.gymnasium_spaces import convert_action, convert_observation
from bellmax.envs.base import EnvSpec
from bellmax.envs.errors import making, without_warnings
from bellmax.envs.host.pool import PoolBatch, check_pool
from bellmax.envs.joint import JointArray
from bellmax.envs.options import check_options, check_types, import_extra, unknown

_RESERVED = (
    "num_envs",
    "batch_size",
    "seed",
    "env_seed",
    "max_num_players",
    "base_path",
    "gym_reset_return_info",
    "reward_threshold",
)
_LONGEST = 2**30  # envpool counts in int32
# Beyond these envpool ends the whole program or runs out of memory.
_RANGES = {
    "num_threads": (0, 1024),  # 0: one per processor
    "max_episode_steps": (1, _LONGEST),
    "frame_skip": (1, _LONGEST),
    "noop_max": (1, _LONGEST),  # exclusive upper bound in envpool
    "stack_num": (1, 1024),
    "frame_stack": (1, 1024),
    "img_height": (1, 4096),
    "img_width": (1, 4096),
    "observation_vehicles_count": (1, 1024),
}
_PRIVILEGED = "privileged_state"  # of MuJoCo Playground: not observable on a real robot


def make_batch(
    task: str,
    num_envs: int,
    *,
    time_limit: int | None = None,
    timeout: float | None = None,
    render: bool = False,
    **options: Any,
) -> PoolBatch:
    """Makes several copies of an envpool task, such as `CartPole-v1`, `HalfCheetah-v5`, `Pong-v5`.

    Float and integer observations become float32, discrete ones a one-hot float32, images uint8
    with channels last, a single frame each; `HostVector` stacks frames. Several float observations,
    as in dm_control's tasks, are concatenated into one vector, sorted by name, without
    `privileged_state`.

    Args:
      task: one of `list_tasks()`.
      num_envs: N >= 1.
      time_limit: truncates episodes after this number of agent steps; the task's own limit applies
        if it is shorter.
      timeout: must be None, because the tasks run in threads of one process.
      render: whether pictures of task 0 can be drawn. MuJoCo tasks cannot draw.
      **options: options of envpool.make, such as max_episode_steps or an Atari task's noop_max;
        num_threads is by default the number of tasks or of processors, whichever is smaller.

    Raises:
      UserError: envpool is not installed, it has no such task or option, it cannot make the task,
        the task is multi-player, or bellmax does not support its observation or action.
    """
    name = f"envpool/{task}"
    envpool = import_extra("envpool", "envpool")
    tasks = list_tasks()
    if task not in tasks:
        raise unknown("task", task, tasks, of="envpool")
    check_pool(name, num_envs, time_limit, timeout)
    with making(name, {}):  # a task's dependencies may be missing
        defaults = envpool.make_spec(task).config
    _check(name, options, defaults)
    failing = functools.partial(making, name, options)
    threads = min(num_envs, os.cpu_count() or 1)
    options = {"num_threads": threads, **_single_frame(defaults), **options}
    with without_warnings(), failing():
        spec = envpool.make_spec(task, **options)
        seen = _find_conversion(spec.gymnasium_observation_space, name)
        action = convert_action(spec.gymnasium_action_space, name).spec
        if isinstance(action, JointArray):
            raise UserError(must(f"{name}'s action space", "Discrete or a Box of floats", action))
    limit = _limit(spec.config)
    if limit is not None:
        options["max_episode_steps"] = limit + 2  # PoolBatch enforces the time limit
    if render:
        _check_pictures(envpool, task)
        options["render_mode"] = "rgb_array"
    pool = _Pool(envpool, task, num_envs, options, seen.convert, failing)
    return PoolBatch(pool, EnvSpec(name, seen.spec, action, limit), num_envs, time_limit=time_limit)


def list_tasks() -> list[str]:
    """envpool's tasks, without the prefix `envpool/`."""
    return list(import_extra("envpool", "envpool").list_all_envs())


class _Pool:
    """The thread pool of envpool. It can only be seeded when made, so `reset` makes a new one."""

    def __init__(
        self,
        envpool: Any,
        task: str,
        num_envs: int,
        options: dict[str, Any],
        convert: Callable[[Any], np.ndarray],
        failing: Callable[[], AbstractContextManager[None]],
    ):
        self._envpool, self._task, self._num_envs = envpool, task, num_envs
        self._options, self._convert, self._failing = options, convert, failing
        self._envs: Any = None

    def reset(self, seeds: np.ndarray) -> np.ndarray:
        self.close()
        with without_warnings(), self._failing():
            self._envs = self._envpool.make(
                self._task,
                env_type="gymnasium",
                num_envs=self._num_envs,
                seed=seeds.tolist(),
                **self._options,
            )
            return self._convert(self._envs.reset()[0])

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        observation, reward, terminated, truncated, _ = self._envs.step(actions)
        return self._convert(observation), reward, terminated, truncated

    def restart(self, mask: np.ndarray) -> np.ndarray:
        opened = self._convert(self._envs.reset(options={"reset_mask": mask})[0])
        observation = np.zeros((self._num_envs, *opened.shape[1:]), opened.dtype)
        observation[mask] = opened
        return observation

    def render(self) -> np.ndarray:
        if self._envs is None or "render_mode" not in self._options:
            raise UserError(
                "envpool draws only after a reset, and only tasks made with render=True"
            )
        try:
            return self._envs.render()[0]
        except RuntimeError as error:
            raise UserError(f"envpool/{self._task} cannot draw pictures: {error}") from error

    def close(self) -> None:
        if self._envs is not None:
            self._envs.close()
        self._envs = None  # the destructor ends the threads


class _Seen(NamedTuple):
    """Spec of one observation, and a function from envpool's batch of them to arrays [N, ...].

    The caller may write to the arrays that `convert` returns.
    """

    spec: specs.Array
    convert: Callable[[Any], np.ndarray]


def _find_conversion(space: Any, name: str) -> _Seen:
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        return _join_parts(space, name)
    spec = convert_observation(space, name).spec
    if isinstance(space, spaces.Discrete):
        start = int(space.start)
        if not spec.shape:  # too many for one-hot vectors
            return _Seen(spec, lambda value: (value - start).astype(np.int32))
        numbers = np.arange(int(space.n))
        return _Seen(spec, lambda value: (value[:, None] - start == numbers).astype(np.float32))
    shape = spec.shape
    if spec.dtype == np.uint8 and len(shape) == 3 and shape[0] < min(shape[1:]):
        shape = (*shape[1:], shape[0])
        image = specs.BoundedArray(shape, np.uint8, 0, 255, "observation")
        return _Seen(image, lambda value: np.ascontiguousarray(np.moveaxis(value, 1, -1)))
    return _Seen(spec, lambda value: value.astype(spec.dtype, copy=False))


def _join_parts(space: Any, name: str) -> _Seen:
    keys = sorted(key for key in space if key != _PRIVILEGED)
    dtypes = [getattr(space[key], "dtype", None) for key in keys]
    if not all(dtype in (np.float32, np.float64) for dtype in dtypes):
        raise UserError(must(f"{name}'s observations", "all floats to be joined", ", ".join(keys)))
    size = sum(int(np.prod(space[key].shape)) for key in keys)

    def convert(value: dict[str, np.ndarray]) -> np.ndarray:
        parts = [value[key].reshape(len(value[key]), -1) for key in keys]
        return np.concatenate(parts, axis=1, dtype=np.float32, casting="same_kind")

    return _Seen(specs.Array((size,), np.float32, "observation"), convert)


def _limit(config: Any) -> int | None:
    """Time limit in agent steps; envpool writes "no limit" as 0 or as the largest int32."""
    limit = getattr(config, "max_episode_steps", 0)
    return limit if 0 < limit <= _LONGEST else None


def _single_frame(defaults: Any) -> dict[str, int]:
    return {"stack_num": 1} if hasattr(defaults, "stack_num") else {}


def _check(name: str, options: dict[str, Any], defaults: Any) -> None:
    """Raises UserError if an option is unknown, has a wrong type or is out of range."""
    if defaults.max_num_players > 1:
        raise UserError(must(name, "a single-player task", f"{defaults.max_num_players} players"))
    check_options(name, options, [key for key in defaults._fields if key not in _RESERVED])
    check_types(options, defaults._asdict())
    for option, value in options.items():
        if option in _RANGES:
            least, most = _RANGES[option]
            if not least <= value <= most:
                raise UserError(must(option, f"from {least} to {most}", value))


def _check_pictures(envpool: Any, task: str) -> None:
    """Refuse MuJoCo tasks: envpool ends the whole program unless OpenGL was opened before."""
    if envpool.registration.registry.specs[task][0].startswith("envpool.mujoco"):
        raise UserError(f"envpool/{task} cannot draw pictures; use gymnasium/{task} if it exists")
