"""Observations that are one of n numbers: one-hot vectors, or numbers for an embedding."""

from typing import Any

import numpy as np
from dm_env import specs

from bellmax import UserError, must
from bellmax.envs.host.base import Conversion

MAX_ONE_HOT = 4096  # 16 kB a step; more values stay a number, which the network embeds


def convert_discrete(count: int, start: int, name: str) -> Conversion:
    """Conversion of a number in [start, start + count) to a one-hot float32 vector [count].

    With more than `MAX_ONE_HOT` values, to a number in [0, count), [] int32.

    Args:
      count: number of values, 1 or more.
      start: the smallest value.
      name: of the task, for messages.
    """

    def index(value: Any) -> np.ndarray:
        found = np.asarray(value).reshape(()) - start
        if not 0 <= found < count:
            raise UserError(
                must(f"observations of {name}", f"from {start} to {start + count - 1}", repr(value))
            )
        return found.astype(np.int32)

    def row(value: Any) -> np.ndarray:
        vector = np.zeros(count, np.float32)
        vector[index(value)] = 1
        return vector

    if count > MAX_ONE_HOT:
        return Conversion(specs.DiscreteArray(count, np.int32, "observation"), index)
    one_hot = specs.BoundedArray((count,), np.float32, 0.0, 1.0, "observation")
    return Conversion(one_hot, row)
