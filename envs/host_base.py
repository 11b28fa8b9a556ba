"""What a host environment is. Imports no jax: the process of a single task needs nothing else."""

import contextlib
import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from bellmax import UserError

if TYPE_CHECKING:
    from dm_env import specs

    from bellmax.envs.base import EnvSpec

_WARNINGS = threading.Lock()  # filters belong to the whole process


class HostTimeStep(NamedTuple):
    """What one reset or step returns; a batch has a leading [N] everywhere.

    observation: [...] as the spec says.
    reward: [] float, what the action earned; 0 at a reset.
    terminated: [] bool, the task ended here: no return lies beyond.
    truncated: [] bool, a time limit cut the episode here: returns lie beyond, unseen.
    """

    observation: Any
    reward: Any
    terminated: Any
    truncated: Any


class HostEnvironment(Protocol):
    """One task, unbatched. It never resets itself."""

    @property
    def spec(self) -> "EnvSpec": ...

    def reset(self, seed: int | None) -> HostTimeStep:
        """Opens an episode; a number starts the task's randomness anew from it."""
        ...

    def step(self, action: np.ndarray) -> HostTimeStep: ...

    def render(self) -> np.ndarray:
        """A picture of the state, [H, W, 3] uint8; UserError if the task has none."""
        ...

    def close(self) -> None: ...


class HostBatch(Protocol):
    """N tasks that step together; each opens its next episode at the step after its last.

    faults: how often tasks had to be restarted, by reason: "raised", "timed out", "not finite".
    reset(seed): opens an episode everywhere. Leaves [N, ...].
    step(action [N, ...]) -> (HostTimeStep, is_first [N] bool). Where `is_first` an episode opened:
        the action was ignored and the reward is 0. That is so at the step after an episode's end,
        and where the task had to be restarted, whose action then led nowhere.
    render(): of task 0.
    """

    spec: "EnvSpec"
    num_envs: int
    faults: dict[str, int]

    def reset(self, seed: int) -> HostTimeStep: ...

    def step(self, action: np.ndarray) -> tuple[HostTimeStep, np.ndarray]: ...

    def render(self) -> np.ndarray: ...

    def close(self) -> None: ...


class Conversion(NamedTuple):
    """What an agent sees of a task's own observations, or gives for its actions.

    spec: of the agent's side.
    convert: to the agent's side for an observation, to the task's for an action.
    """

    spec: "specs.Array"
    convert: Callable[[Any], Any]


def opening(observation: Any) -> HostTimeStep:
    """What a reset returns that shows this observation."""
    return HostTimeStep(observation, 0.0, terminated=False, truncated=False)


def in_words(error: BaseException) -> str:
    """An exception's type and the first line of its message, and the last one after a colon."""
    lines = str(error).strip().splitlines() or ["without a message"]
    last = lines[1:][-1:] if lines[0].endswith(":") else []  # of a traceback from elsewhere
    return f"{type(error).__name__}: {' '.join([lines[0], *last])}"


@contextlib.contextmanager
def making(name: str, options: Mapping[str, Any]) -> Iterator[None]:
    """Says in a sentence why a package does not make a task: of wrong options it raises anything.

    Args:
      name: of the task.
      options: that the user gave.

    Raises:
      UserError: in the place of any other exception.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        given = ", ".join(f"{option} {value!r}" for option, value in options.items())
        raise UserError(
            f"{name} cannot be made{' with ' if given else ''}{given}: {in_words(error)}"
        ) from error


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """For making tasks: their packages warn of newer versions, of a missing screen and the like."""
    logger = logging.getLogger("absl")
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = logger.level
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(before)
