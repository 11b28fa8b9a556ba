"""Presentation of studies: curves with intervals as PNG and SVG, and cells of tables."""

from pathlib import Path

import numpy as np

from bellmax.launch.reporting.plot import COLOURS
from bellmax.launch.reporting.statistics import bootstrap_interval


def interval(values, digits: int = 3) -> str:
    """`mean [low, high]` with the 95 % bootstrap interval over MDPs."""
    low, high = bootstrap_interval(values)
    return f"{np.mean(values):.{digits}g} [{low:.{digits}g}, {high:.{digits}g}]"


def ratio(values, base, digits: int = 3) -> str:
    """Geometric mean of the paired ratios over MDPs, and its 95 % bootstrap interval."""
    logs = np.log(np.asarray(values) / np.asarray(base))
    low, high = np.exp(bootstrap_interval(logs))
    return f"{np.exp(logs.mean()):.{digits}g} [{low:.{digits}g}, {high:.{digits}g}]"


def median_of(counts, limit: float) -> str:
    """Median of counts and its 95 % interval, inf as the limit, and how many are finite."""
    counts = np.asarray(counts)
    low, high = bootstrap_interval(np.minimum(counts, limit), np.median)
    if np.isinf(np.median(counts)):
        return f"not reached ({np.isfinite(counts).sum()} of {len(counts)})"
    middle = f"{np.median(counts):,.0f} [{low:,.0f}, {high:,.0f}]"
    return f"{middle} ({np.isfinite(counts).sum()} of {len(counts)})"


def panels(rows: int, columns: int, width: float = 4.4, height: float = 3.4, share: bool = True):
    """A figure and its axes [rows, columns], with one vertical axis for all if they share."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, sharey=share)


def dress(axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize="medium")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.01)


def thousands(axes) -> None:
    """Engineering numbers on the horizontal axis."""
    from matplotlib.ticker import EngFormatter

    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def draw(axes, x, values, label: str, number: int, style: str = "-", marker: str = "") -> None:
    """The mean over MDPs or seeds of values [M, P], and its 95 % bootstrap interval as a band."""
    colour = COLOURS[number % len(COLOURS)]
    bands = np.array([bootstrap_interval(at) for at in np.asarray(values).T])
    axes.fill_between(x, *bands.T, color=colour, alpha=0.2, linewidth=0)
    middle = np.mean(values, axis=0)
    axes.plot(x, middle, style, color=colour, linewidth=1.6, label=label, marker=marker)


def legend(figure, axes, columns: int) -> None:
    """One legend for all panels, below them."""
    handles, labels = axes.get_legend_handles_labels()
    options = {"loc": "outside lower center", "ncols": columns, "frameon": False}
    figure.legend(handles, labels, **options)


def save(figure, folder: Path, name: str) -> None:
    """Write NAME.png and NAME.svg; equal numbers give an equal SVG."""
    import matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", dpi=130)
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
