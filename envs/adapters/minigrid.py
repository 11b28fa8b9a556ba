"""MiniGrid's tasks as host environments. Imported on first use."""

import dataclasses
from typing import Any

import numpy as np
from dm_env import specs

from bellmax import UserError, must
from bellmax.envs.base import EnvSpec
from bellmax.envs.host.base import HostTimeStep, opening
from bellmax.envs.options import check_choice, check_options, import_extra, unknown

ENCODINGS = ("one_hot", "ids")
NUM_OBJECTS, NUM_COLOURS, NUM_STATES = 11, 6, 3  # number of ids in each of the image's three layers
_PREFIX = "MiniGrid-"  # its BabyAI tasks need the mission's text
_NO_FILES = "MiniGrid-WFC-"  # need files that its wheel lacks


def make(
    task: str, *, encoding: str = "one_hot", render: bool = False, **options: Any
) -> "MinigridTask":
    """Makes a MiniGrid task, such as `MiniGrid-DoorKey-16x16-v0`, or `DoorKey-16x16` for short.

    Args:
      task: one of `list_tasks()`. A name without version means the newest.
      encoding: of the observation, `one_hot` or `ids`, see `MinigridTask`.
      render: ignored: every task can draw.
      **options: max_steps, the time limit in environment steps, at least 1. The default is the
        task's.

    Raises:
      UserError: minigrid is not installed, or it has no such task or option.
    """
    del render
    full_name = _find(task)
    check_options(f"minigrid/{task}", options, ("encoding", "max_steps"))
    check_choice("encoding", encoding, ENCODINGS)
    for name, value in options.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(must(name, "a whole number of at least 1", repr(value)))
    from gymnasium.envs.registration import load_env_creator, registry

    # gymnasium.make would wrap the task and warn of newer versions.
    registered = registry[full_name]
    env = load_env_creator(str(registered.entry_point))(**registered.kwargs | options)
    return MinigridTask(full_name, env, encoding)


def list_tasks() -> list[str]:
    """MiniGrid's tasks, without the prefix `minigrid/`."""
    import_extra("minigrid", "minigrid")  # registers them
    from gymnasium import registry

    return sorted(n for n in registry if n.startswith(_PREFIX) and not n.startswith(_NO_FILES))


@dataclasses.dataclass(frozen=True, eq=False)
class MinigridTask:
    """One MiniGrid task as a HostEnvironment, without wrappers.

    Observations are MiniGrid's image, the 7 x 7 cells in front of the agent: the first axis is the
    column, the second the row. The agent is at (3, 6) and looks up; that cell shows the object it
    carries. In most tasks cells behind walls are hidden. The observation does not contain the
    agent's direction, nor the mission's text, without which some tasks (Fetch, GoToDoor,
    GoToObject, PutNear) cannot be solved. `one_hot`: [7, 7, 20] bool, 11 channels for the object
    (`OBJECT_TO_IDX`), 6 for its colour (`COLOR_TO_IDX`), 3 for its state (`STATE_TO_IDX`). `ids`:
    [7, 7, 3] uint8, the ids that MiniGrid returns.

    Actions: 0 turn left, 1 turn right, 2 forward, 3 pick up, 4 drop, 5 toggle, 6 done; tasks with
      moving obstacles have only the first three. Success in step t is rewarded with 1 - 0.9 t /
      max_steps and terminates. A failure terminates with reward 0, or -1 for a collision with an
      obstacle. max_steps truncates, unless that step terminates.

    task: MiniGrid's name of the task. env: MiniGrid's object. encoding: `one_hot` or `ids`.
    """

    task: str
    env: Any
    encoding: str = "one_hot"

    @property
    def spec(self) -> EnvSpec:
        view = self.env.observation_space["image"].shape[:2]
        if self.encoding == "ids":
            shape, high = (*view, 3), NUM_OBJECTS - 1
            observation = specs.BoundedArray(shape, np.uint8, 0, high, "observation")
        else:
            shape = (*view, NUM_OBJECTS + NUM_COLOURS + NUM_STATES)
            observation = specs.BoundedArray(shape, np.bool_, False, True, "observation")
        low, high = self.env.reward_range
        return EnvSpec(
            name=f"minigrid/{self.task}",
            observation=observation,
            action=specs.DiscreteArray(int(self.env.action_space.n), np.int32, "action"),
            time_limit=self.env.max_steps,
            reward_range=(float(low), float(high)),
        )

    def reset(self, seed: int | None) -> HostTimeStep:
        return opening(self._observe(self.env.reset(seed=seed)[0]["image"]))

    def step(self, action: np.ndarray) -> HostTimeStep:
        observation, reward, terminated, truncated, _ = self.env.step(int(action))
        image = self._observe(observation["image"])
        return HostTimeStep(image, float(reward), bool(terminated), truncated and not terminated)

    def render(self) -> np.ndarray:
        """Draw the whole grid, 32 pixels per cell, [H, W, 3] uint8."""
        return np.asarray(self.env.get_frame(), np.uint8)

    def close(self) -> None:
        self.env.close()

    def _observe(self, image: np.ndarray) -> np.ndarray:
        """Encode MiniGrid's image [7, 7, 3] as the observation."""
        if self.encoding == "ids":
            return image
        sizes = (NUM_OBJECTS, NUM_COLOURS, NUM_STATES)
        planes = [image[..., i, None] == np.arange(size) for i, size in enumerate(sizes)]
        return np.concatenate(planes, axis=-1)


def _find(task: str) -> str:
    """MiniGrid's full name of the task."""
    tasks = list_tasks()
    if task in tasks:
        return task
    versions = {}  # by name without prefix and version; the newest overwrites older ones
    for name in sorted(tasks, key=lambda name: int(name.rpartition("-v")[2])):
        versions[name.removeprefix(_PREFIX).rpartition("-v")[0]] = name
    short = task.removeprefix(_PREFIX)
    if short in versions:
        return versions[short]
    if _PREFIX + short in tasks:
        return _PREFIX + short
    raise unknown("task", task, [*versions, *tasks], of="minigrid")
