"""Conversion of host tasks' rewards and flags to Python numbers, and checks for NaNs."""

from typing import Any

import numpy as np

from bellmax import UserError, must

LARGEST = float(np.finfo(np.float32).max)  # larger rewards are infinite in float32


def as_reward(value: Any, name: str) -> float:
    """Return a reward, a number or an array of one number, as a float.

    Raises:
      UserError: it is something else, such as None or text; name: of the task.
    """
    if type(value) is float:
        return value
    array = _array(value)
    if array.size != 1 or array.dtype.kind not in "biuf":
        raise UserError(must(f"the reward of {name}", "one number", _shown(value)))
    return float(array.reshape(()))


def as_flag(value: Any, field: str, name: str) -> bool:
    """Return `terminated` or `truncated` as a bool.

    Args:
      value: a bool, or an array of one bool.
      field: `terminated` or `truncated`.
      name: of the task.

    Raises:
      UserError: it is something else, such as None, 1.0 or "False".
    """
    if value is True or value is False:
        return value
    array = _array(value)
    if array.size != 1 or array.dtype != np.bool_:
        raise UserError(must(f"{field} of {name}", "True or False", _shown(value)))
    return bool(array.reshape(()))


def as_mask(value: Any, count: int, name: str) -> np.ndarray:
    """Return an action mask as an array [A] of bools; zeros and ones are taken.

    Args:
      value: the mask. count: A. name: of the task.

    Raises:
      UserError: it is something else.
    """
    array = _array(value)
    kind, known = array.dtype.kind, array.shape == (count,)
    if not known or kind not in "bui" or (kind != "b" and not np.isin(array, (0, 1)).all()):
        raise UserError(must(f"action_mask of {name}", f"{count} bools", _shown(value)))
    return array.astype(bool)


def not_finite(observation: np.ndarray, reward: float) -> str:
    """Return which entries of an observation, [...], or that the reward is not finite, in words."""
    if not -LARGEST <= reward <= LARGEST:
        return f"the reward was {reward:g}, which float32 cannot hold"
    places = np.argwhere(~np.isfinite(observation)).tolist()
    value = observation[tuple(places[0])]
    more = f" and {len(places) - 1} more entries" if len(places) > 1 else ""
    place = f" at {places[0]}" if places[0] else ""
    return f"the observation was {value:g}{place}{more}"


def _array(value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError:  # lists of different lengths
        return np.empty(0)


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
