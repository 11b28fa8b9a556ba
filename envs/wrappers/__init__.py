"""Wrappers of one unbatched JAX environment, and functions that find a task inside its wrappers."""

from bellmax.envs.wrappers.coverage import find_cells
from bellmax.envs.wrappers.frame_stack import FrameStack, stack_frames
from bellmax.envs.wrappers.pictures import find_drawing, picture_of
from bellmax.envs.wrappers.randomised import Randomised, RandomisedState
from bellmax.envs.wrappers.time_limit import TimeLimit, limit_time

__all__ = [
    "FrameStack",
    "Randomised",
    "RandomisedState",
    "TimeLimit",
    "find_cells",
    "find_drawing",
    "limit_time",
    "picture_of",
    "stack_frames",
]
