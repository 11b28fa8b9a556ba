"""Tasks of dm_control's suite as host environments. Imported on first use."""

import functools
from typing import Any

import numpy as np

from bellmax import UserError, must
from bellmax.envs.adapters.dm_env import DmEnvTask, from_dm_env
from bellmax.envs.errors import in_words, making, without_warnings
from bellmax.envs.options import check_options, import_extra, unknown

OPTIONS = ("seconds",)
_HEIGHT, _WIDTH = 240, 320  # of a picture


def make(task: str, *, render: bool = False, **options: Any) -> DmEnvTask:
    """Makes a task of dm_control's suite, which is rebuilt for every seed.

    Args:
      task: `<domain>-<task>`, such as `cheetah-run` or `ball_in_cup-catch`.
      render: ignored: every task can draw, from camera 0, with the OpenGL backend that the
        environment variable MUJOCO_GL names; `egl` needs no display.
      **options: seconds, the simulated time after which an episode is truncated; the default is
        the task's.

    Raises:
      UserError: dm_control is not installed, it has no such task or option, or it cannot make the
        task.
    """
    del render
    with without_warnings():  # about a missing display
        suite: Any = import_extra("dm_control.suite", "dm-control")
    tasks = [f"{domain}-{name}" for domain, name in suite.ALL_TASKS]
    if task not in tasks:
        raise unknown("task", task, tasks, of="dm_control")
    name = f"dm_control/{task}"
    check_options(name, options, OPTIONS)
    seconds = options.get("seconds")
    if seconds is not None and not (type(seconds) in (int, float) and seconds > 0):
        raise UserError(must("seconds", "a number above 0", repr(seconds)))
    env_factory = functools.partial(_load, suite, task, seconds)
    with making(name, options):
        limit = _step_limit(env_factory(seed=None))
        return from_dm_env(env_factory, name, time_limit=limit, draw=_draw)


def _load(suite: Any, task: str, seconds: float | None, seed: int | None = None) -> Any:
    domain, _, name = task.partition("-")
    task_kwargs: dict[str, Any] = {"random": seed}
    if seconds is not None:
        task_kwargs["time_limit"] = seconds
    with without_warnings():  # about the models
        return suite.load(domain, name, task_kwargs=task_kwargs)


def _step_limit(env: Any) -> int | None:
    """Time limit in steps; dm_control has no public name for it."""
    limit = getattr(env, "_step_limit", np.inf)
    env.close()
    return int(np.ceil(limit)) if np.isfinite(limit) else None


def _draw(env: Any) -> np.ndarray:
    try:
        return env.physics.render(_HEIGHT, _WIDTH, camera_id=0)
    except Exception as error:  # the type of exception depends on the OpenGL backend
        raise UserError(
            f"dm_control cannot draw here ({in_words(error)}); set the environment variable "
            "MUJOCO_GL=egl before the program starts"
        ) from error
