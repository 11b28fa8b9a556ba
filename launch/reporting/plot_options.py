"""Appearance of a plot, from the options of `bellmax plot`."""

import math
from typing import NamedTuple

import numpy as np

from bellmax import UserError
from bellmax.launch.config.sentences import must


class Look(NamedTuple):
    """Appearance of a plot.

    title: None takes the name of the task. labels: None takes the settings that differ.
    size: width and height of a panel in inches. limits: of the vertical axis; None fits the data.
    smoothing: number of points in a running mean, 1 or more.
    group: dotted key; runs with the same value are one curve. None: runs that differ by seed are.
    pdf: whether to write a PDF too. log_scale: whether the vertical axis is logarithmic.
    """

    title: str | None = None
    labels: tuple[str, ...] | None = None
    size: tuple[float, float] = (6.4, 4.2)
    limits: tuple[float, float] | None = None
    smoothing: int = 1
    group: str | None = None
    pdf: bool = False
    log_scale: bool = False


def read_look(
    *,
    title: str | None = None,
    labels: str | None = None,
    size: str | None = None,
    limits: str | None = None,
    smoothing: int = 1,
    group: str | None = None,
    pdf: bool = False,
    log_scale: bool = False,
) -> Look:
    """Return the look for option values of the command line.

    Raises:
      UserError: a value has the wrong form.
    """
    words = None if labels is None else tuple(label.strip() for label in labels.split(","))
    inches = _pair("--size", size, "W,H in inches, each in [1, 100], such as 6.4,4.2")
    if inches and not all(1 <= side <= 100 for side in inches):
        raise UserError(must("--size", "W,H in inches, each in [1, 100]", size))
    ends = _pair("--range", limits, "LOW,HIGH such as 0,500")
    if ends and not ends[0] < ends[1]:
        raise UserError(must("--range", "LOW,HIGH with LOW < HIGH", limits))
    if ends and log_scale and ends[0] <= 0:
        raise UserError(must("--range", "LOW,HIGH with 0 < LOW with --log-scale", limits))
    group = group.replace("-", "_") if group else None
    return Look(title, words, inches or Look().size, ends, smoothing, group, pdf, log_scale)


def smooth(values: np.ndarray, points: int) -> np.ndarray:
    """Return the running mean [P] over the latest points, fewer at the start."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - points, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def _pair(option: str, text: str | None, allowed: str) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        first, second = (float(part) for part in text.split(","))
    except ValueError:
        first = second = math.nan
    if not (math.isfinite(first) and math.isfinite(second)):
        raise UserError(must(option, allowed, text))
    return first, second
