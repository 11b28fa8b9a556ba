"""What the benchmarks share: sides that take turns, their ratios, and a table of results."""

import statistics
import time


def alternate(sides, rounds):
    """Calls each side in turn, `rounds` times: name -> seconds of each call."""
    seconds = {name: [] for name in sides}
    for _ in range(rounds):
        for name, go in sides.items():
            started = time.perf_counter()
            go()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def ratios(base, other):
    """How many times faster `other` is than `base`: median, and the range over rounds."""
    each = [b / o for b, o in zip(base, other, strict=True)]
    return {"ratio": statistics.median(each), "ratio_min": min(each), "ratio_max": max(each)}


def table(rows):
    """The rows as a markdown table: numbers with thousands separators, lists left out."""
    columns = list(dict.fromkeys(c for row in rows for c in row if not _is_nested(row[c])))
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(_show(row.get(c, "")) for c in columns) + " |" for row in rows]
    return "\n".join(lines)


def _is_nested(value):
    return isinstance(value, list | dict)


def _show(value):
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
