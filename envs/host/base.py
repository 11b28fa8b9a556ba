"""Protocols of host environments, without jax: a task's own process does not need it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from dm_env import specs

    from bellmax.envs.base import EnvSpec


class HostTimeStep(NamedTuple):
    """Result of one reset or step; in a batch every leaf has a leading [N].

    observation: [...] as the spec says.
    reward: [] float, what the action earned; 0 at a reset.
    terminated: [] bool, the task ended here: the value of this observation is 0.
    truncated: [] bool, a time limit cut the episode here: bootstrap from this observation.
    action_mask: [A] bool, which actions are legal; () unless the spec has `action_mask`.
    """

    observation: Any
    reward: Any
    terminated: Any
    truncated: Any
    action_mask: Any = ()


class HostEnvironment(Protocol):
    """One task, unbatched. It never resets itself."""

    @property
    def spec(self) -> "EnvSpec": ...

    def reset(self, seed: int | None) -> HostTimeStep:
        """Starts an episode; an int also re-seeds the task."""
        ...

    def step(self, action: np.ndarray) -> HostTimeStep: ...

    def render(self) -> np.ndarray:
        """Draw the state, [H, W, 3] uint8; UserError if the task cannot draw."""
        ...

    def close(self) -> None: ...


class HostBatch(Protocol):
    """N tasks that step in parallel; each starts its next episode at the step after its last one.

    faults: number of restarts of tasks, by reason: "raised", "timed out", "not finite".
    reset(seed): starts an episode in every task. Leaves [N, ...].
    step(action [N, ...]) -> (HostTimeStep, is_first [N] bool). Where `is_first` is True, an episode
        started: the action was ignored and the reward is 0. This happens at the step after the end
        of an episode, and when a task was restarted; the action before a restart has no successor.
    render(): draws task 0.
    """

    spec: "EnvSpec"
    num_envs: int
    faults: dict[str, int]

    def reset(self, seed: int) -> HostTimeStep: ...

    def step(self, action: np.ndarray) -> tuple[HostTimeStep, np.ndarray]: ...

    def render(self) -> np.ndarray: ...

    def close(self) -> None: ...


class Conversion(NamedTuple):
    """Conversion between a task's own observations or actions and the agent's.

    spec: spec of the agent's observation or action.
    convert: from task to agent for an observation, from agent to task for an action.
    """

    spec: "specs.Array"
    convert: Callable[[Any], Any]


def opening(observation: Any, action_mask: Any = ()) -> HostTimeStep:
    """The HostTimeStep of a reset with this observation."""
    return HostTimeStep(observation, 0.0, False, False, action_mask)


def within(dtype: Any, low: Any, high: Any) -> Callable[[Any], np.ndarray]:
    """The function that casts an action to a dtype and then clips it to [low, high].

    An agent's float32 action may lie outside bounds of float64: float32(0.1) is above 0.1.
    """
    low, high = np.asarray(low, dtype), np.asarray(high, dtype)
    return lambda action: np.clip(np.asarray(action, dtype), low, high)
