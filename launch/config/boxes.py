"""Uncertainty boxes: published or user-given ranges of a task's parameters, and grids over them."""

import importlib.resources
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from bellmax import UserError, must
from bellmax.envs.options import unknown
from bellmax.launch.config.sentences import show
from bellmax.launch.config.yaml_files import parse_yaml

UpperEnd = Literal["included", "excluded"]
UPPER_ENDS: tuple[str, ...] = get_args(UpperEnd)
FOLDER = "uncertainty"  # below configs/; not a folder of presets
MAX_PARAMETERS = 3
MAX_CELLS = 100_000


class Box(NamedTuple):
    """ranges: (low, high) with low < high by parameter, in the parameter's own unit."""

    name: str
    ranges: dict[str, tuple[float, float]]


def published_boxes() -> dict[str, dict[str, Box]]:
    """Return the boxes in configs/uncertainty by task and by name; their files give the sources."""
    folder = importlib.resources.files("bellmax.configs") / FOLDER
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=str)
    contents = [parse_yaml(f.read_bytes(), f.name) for f in files]
    return {
        content["task"]: {
            name: Box(name, {p: (float(low), float(high)) for p, (low, high) in ranges.items()})
            for name, ranges in content["boxes"].items()
        }
        for content in contents
    }


def published_box(task: str, name: str) -> Box:
    """Return the published box `name` of a task.

    Raises:
      UserError: the task has no published box, or no box of this name.
    """
    boxes = published_boxes()
    if task not in boxes:
        raise UserError(
            f"{task} has no published uncertainty box, only {', '.join(boxes)} have one; give "
            "ranges of your own with --parameter NAME=LOW,HIGH"
        )
    if name not in boxes[task]:
        raise unknown("box", name, boxes[task], of=task)
    return boxes[task][name]


def own_box(texts: Sequence[str]) -> Box:
    """Parse 1 to 3 ranges such as `torso_mass=0.1,3` into a box named after its parameters.

    Raises:
      UserError: a text is not NAME=LOW,HIGH with LOW < HIGH, or the texts are too many.
    """
    ranges: dict[str, tuple[float, float]] = {}
    for text in texts:
        name, low, high = _parse(text)
        if name in ranges:
            raise UserError(must("--parameter", "given once for each name", f"{name} twice"))
        if not low < high:
            raise UserError(
                must(f"--parameter {name}", "LOW < HIGH", f"{low:g},{high:g}", verb="have")
            )
        ranges[name] = low, high
    if not 1 <= len(ranges) <= MAX_PARAMETERS:
        raise UserError(must("--parameter", f"given 1 to {MAX_PARAMETERS} times", len(ranges)))
    return Box("-".join(ranges), ranges)


def make_axes(box: Box, points: int, upper_end: UpperEnd = "included") -> dict[str, np.ndarray]:
    """Return the grid points of each parameter, [P] float64, ascending.

    Args:
      box: the ranges.
      points: P >= 2.
      upper_end: "included" spaces P points from low to high, as M2TD3's code does; "excluded" takes
        low + i (high - low) / P for i < P, as RRLS's code does, so high is never evaluated.

    Raises:
      UserError: fewer than 2 points, or more than 100,000 cells.
    """
    check_points(points)
    cells = points ** len(box.ranges)
    if cells > MAX_CELLS:
        got = f"{points}: {cells:,} cells of {len(box.ranges)} parameters"
        raise UserError(must("--points", f"low enough for at most {MAX_CELLS:,} cells", got))
    return {
        name: np.linspace(low, high, points, endpoint=upper_end == "included")
        for name, (low, high) in box.ranges.items()
    }


def check_points(points: int) -> None:
    """Raise UserError if a parameter would have fewer than 2 points."""
    if points < 2:
        raise UserError(must("--points", "at least 2", points))


def make_cells(axes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return all combinations of the points, [C] float64 by parameter; the last varies fastest."""
    columns = zip(*itertools.product(*axes.values()), strict=True)
    return {name: np.array(column) for name, column in zip(axes, columns, strict=True)}


def _parse(text: str) -> tuple[str, float, float]:
    name, _, numbers = text.partition("=")
    try:
        low, high = (float(number) for number in numbers.split(","))
    except ValueError:
        low = high = math.nan
    if not (name.strip() and math.isfinite(low) and math.isfinite(high)):
        raise UserError(must("--parameter", "NAME=LOW,HIGH such as torso_mass=0.1,3", show(text)))
    return name.strip(), low, high
