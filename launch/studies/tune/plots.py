"""Pictures of a search: returns by each key's values, and how much each key explains."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bellmax.launch.reporting.plot import COLOURS, save_figure
from bellmax.launch.studies.tune.space import Dimension
from bellmax.launch.studies.tune.trials import Trial

_WIDTH, _HEIGHT = 3.2, 3.0  # of a panel, in inches


def draw_search(
    out: Path, space: Sequence[Dimension], trials: Sequence[Trial], shares: Mapping[str, float]
) -> list[Path]:
    """Write slices.png and importance.png, each as SVG too; return the PNGs.

    Args:
      out: folder of the search.
      space, trials: of the search; there must be a complete trial.
      shares: share of the variance by key, greatest first; if empty, there is no importance.png.
    """
    written = [save_figure(_slices(space, trials), out / "slices")[0]]
    if shares:
        written.append(save_figure(_importance(shares), out / "importance")[0])
    return written


def _slices(space: Sequence[Dimension], trials: Sequence[Trial]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH * len(space), _HEIGHT), layout="constrained")
    panels = figure.subplots(1, len(space), sharey=True, squeeze=False)[0]
    for axes, dimension in zip(panels, space, strict=True):
        for state, colour, mark in (("complete", COLOURS[0], "o"), ("pruned", COLOURS[1], "x")):
            shown = [
                trial for trial in trials if trial.state == state and dimension.key in trial.values
            ]
            places = [_place(dimension, trial.values[dimension.key]) for trial in shown]
            returns = [trial.value for trial in shown]
            axes.scatter(places, returns, color=colour, marker=mark, s=18, label=state)
        if dimension.choices:
            axes.set_xticks(range(len(dimension.choices)), dimension.choices)
        elif dimension.log:
            axes.set_xscale("log")
        axes.set_xlabel(dimension.key)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("evaluation return")
    panels[0].legend(frameon=False)
    return figure


def _place(dimension: Dimension, text: str) -> float:
    return dimension.choices.index(text) if dimension.choices else float(text)


def _importance(shares: Mapping[str, float]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 0.6 + 0.4 * len(shares)), layout="constrained")
    axes = figure.subplots()
    names = [*shares][::-1]
    axes.barh(names, [shares[name] for name in names], color=COLOURS[0])
    axes.set_xlabel("share of the variance of returns (fANOVA)")
    axes.set_xlim(0, 1)
    return figure
