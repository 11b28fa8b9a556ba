"""Actions of several numbers as one: a joint action for agents with discrete actions.

A task's own process needs no jax for this.
"""

import math
from typing import Any

import numpy as np
from dm_env import specs

from bellmax import UserError, must

MAX_JOINT = 256  # joint actions; a network has one output for each
_ALLOWED = f"1 to {MAX_JOINT} joint actions"


class JointArray(specs.DiscreteArray):
    """Spec of an action of several numbers, each one of a few, as one number: [] int32.

    Number i of the action, in row-major order, takes `counts[i]` values from `starts[i]` on. Joint
    action 0 has all of them at their start, and the last number changes fastest, as
    `numpy.unravel_index` counts: of counts (2, 3), joint action 4 is (1, 1).

    Args:
      counts: [...] integers, 1 or more, in the shape of one action.
      starts: [...] integers, the smallest values; None is 0 for all.

    Raises:
      UserError: there are more than `MAX_JOINT` joint actions.
    """

    def __init__(self, counts: Any, starts: Any = None):
        self.counts = np.asarray(counts, int)
        self.starts = np.zeros_like(self.counts) if starts is None else np.asarray(starts, int)
        number = _count(self.counts)
        if not 1 <= number <= MAX_JOINT:
            raise UserError(must("a JointArray", _ALLOWED, f"{number:,}", verb="have"))
        super().__init__(number, np.int32, "action")

    def split(self, action: Any) -> Any:
        """The numbers [..., *counts.shape] of joint actions [...], arrays of NumPy or jax."""
        counts, starts = (x.ravel().tolist() for x in (self.counts, self.starts))
        numbers = []
        for count, start in zip(reversed(counts), reversed(starts), strict=True):
            numbers.append(action % count + start)
            action = action // count
        numbers.reverse()
        pack: Any = np
        if not isinstance(action, np.ndarray | np.generic | int):
            import jax.numpy as pack
        stacked = pack.stack(numbers, axis=-1)
        return stacked.reshape(*stacked.shape[:-1], *self.counts.shape)

    def __repr__(self) -> str:
        starts = f" from {self.starts.tolist()}" if self.starts.any() else ""
        return f"one of {self.num_values} joint actions of {self.counts.tolist()}{starts}"

    def __eq__(self, other: Any) -> bool:
        ours = (self.counts.tolist(), self.starts.tolist())
        return isinstance(other, JointArray) and ours == (
            other.counts.tolist(),
            other.starts.tolist(),
        )

    __hash__ = None

    def __reduce__(self) -> Any:
        return JointArray, (self.counts, self.starts)


def joint_spec(counts: Any, starts: Any, what: str, shown: str, hint: str) -> JointArray:
    """A JointArray for a task's own space or spec.

    Args:
      counts, starts: as there.
      what, shown: the task's action and its space, for the message.
      hint: what to do if it has too many joint actions.

    Raises:
      UserError: there is no number in an action, or more than `MAX_JOINT` joint actions.
    """
    number = _count(counts)
    if not 1 <= number <= MAX_JOINT:
        raise UserError(must(what, _ALLOWED, f"{shown} with {number:,}", hint, verb="have"))
    return JointArray(counts, starts)


def _count(counts: Any) -> int:
    """Number of joint actions, 0 if there is no number in an action."""
    flat = np.ravel(counts).tolist()
    return math.prod(flat) if flat else 0
