"""Evaluation over ranges of a task's parameters."""

from bellmax.launch.config.boxes import Box, own_box, published_boxes
from bellmax.launch.studies.robust.run import (
    Robustness,
    Summary,
    evaluate_robust,
    make_cell_evaluator,
    summarise,
)

__all__ = [
    "Box",
    "Robustness",
    "Summary",
    "evaluate_robust",
    "make_cell_evaluator",
    "own_box",
    "published_boxes",
    "summarise",
]
