"""Grids of trials."""

import itertools
from collections.abc import Iterable
from typing import Any

from benchmarks.claims.study import Trial


def grid(**values: Iterable[Any]) -> tuple[Trial, ...]:
    """Every combination of the values; numbers rounded to three digits, to be read and written."""
    rows = itertools.product(*values.values())
    return tuple(
        {name: _short(value) for name, value in zip(values, row, strict=True)} for row in rows
    )


def _short(value: Any) -> Any:
    if isinstance(value, str | bool | int):
        return value
    return float(f"{float(value):.3g}")
