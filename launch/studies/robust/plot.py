"""Figures of robust evaluations: a curve over one parameter, heat maps over two or three."""

from typing import Any

import numpy as np

from bellmax.launch.reporting.plot import COLOURS
from bellmax.launch.reporting.statistics import spread, spread_name
from bellmax.launch.studies.robust.run import Robustness

_COLUMNS = 5  # of heat maps, one for each value of a third parameter
_LABEL = "episode return"


def draw(result: Robustness) -> Any:
    """Draw the mean over seeds of every cell, and mark the nominal task.

    One parameter: a curve with its 95 % bootstrap interval, or the range of fewer than five
    seeds. Two: a heat map. Three: a heat map for each value of the third, all with the same colour
    scale; the nominal task is marked in the map of the nearest value.

    Returns:
      A matplotlib Figure.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    last = list(result.axes.values())[-1] if len(result.axes) == 3 else np.zeros(1)
    columns = min(len(last), _COLUMNS)
    rows = -(-len(last) // columns)
    size = (6.4, 4.2) if len(last) == 1 else (2.9 * columns + 1.2, 2.7 * rows + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    panels = np.ravel(figure.subplots(rows, columns, sharex=True, sharey=True))
    for spare in panels[len(last) :]:
        spare.set_visible(False)
    if len(result.axes) == 1:
        _draw_curve(panels[0], result)
        panels[0].set_title(_title(result))
        return figure
    _draw_maps(figure, panels[: len(last)], result, last)
    if len(result.axes) == 3:
        figure.suptitle(_title(result))
    else:
        panels[0].set_title(_title(result))
    return figure


def _title(result: Robustness) -> str:
    count = len(result.seeds)
    return f"{result.task}, box {result.box.name}, {count} seed{'s' * (count > 1)}"


def _draw_curve(axes: Any, result: Robustness) -> None:
    (name, points), returns = next(iter(result.axes.items())), result.returns
    colour, many = COLOURS[0], len(returns) > 1
    for one in returns if many else []:
        axes.plot(points, one, color=colour, linewidth=0.6, alpha=0.25)
    if many:
        bands = np.array([spread(column) for column in returns.T])
        axes.fill_between(points, *bands.T, color=colour, alpha=0.2, linewidth=0)
    axes.plot(points, returns.mean(axis=0), color=colour, linewidth=1.8, marker="o", markersize=4)
    nominal = result.nominal[name], result.nominal_returns.mean()
    axes.axvline(nominal[0], color="0.6", linewidth=0.8, linestyle="--", zorder=0)
    axes.plot(*nominal, "*", color=COLOURS[1], markersize=12, label="nominal", linestyle="none")
    axes.set_xlabel(name)
    band = f"(mean over seeds, {spread_name(len(returns))})"
    axes.set_ylabel(f"{_LABEL}\n{band}" if many else _LABEL)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")


def _draw_maps(figure: Any, panels: Any, result: Robustness, last: np.ndarray) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    (x_name, x), (y_name, y) = list(result.axes.items())[:2]
    maps = result.returns.mean(axis=0).reshape(len(x), len(y), len(last))
    finite = maps[np.isfinite(maps)]
    scale = Normalize(*((finite.min(), finite.max()) if finite.size else (0.0, 1.0)))
    third = list(result.axes)[2] if len(result.axes) == 3 else None
    home = int(np.abs(last - result.nominal[third]).argmin()) if third else 0
    worst = int(np.where(np.isfinite(maps), maps, -np.inf).argmin())
    worst_x, worst_y, worst_panel = np.unravel_index(worst, maps.shape)
    colours = colormaps["viridis"].with_extremes(bad="0.6")  # returns that are not finite
    image = None
    for i, axes in enumerate(panels):
        values = np.ma.masked_invalid(maps[:, :, i].T)
        image = axes.pcolormesh(x, y, values, norm=scale, cmap=colours, shading="nearest")
        if i == worst_panel:
            _mark(axes, (x[worst_x], y[worst_y]), "X", "worst")
        if i == home:
            _mark(axes, (result.nominal[x_name], result.nominal[y_name]), "*", "nominal")
        if third:
            axes.set_title(f"{third} {last[i]:.3g}", fontsize="medium")
        axes.set_xlabel(x_name)
        axes.set_ylabel(y_name)
        axes.label_outer()
    many = len(result.seeds) > 1
    figure.colorbar(image, ax=list(panels), label=_LABEL + " (mean over seeds)" * many)
    handles = {h.get_label(): h for axes in panels for h in axes.get_legend_handles_labels()[0]}
    place = {"loc": "outside lower right", "ncols": 2, "fontsize": "small", "frameon": False}
    figure.legend(handles=list(handles.values()), **place)


def _mark(axes: Any, place: tuple[float, float], marker: str, label: str) -> None:
    style = {"markeredgecolor": "black", "markerfacecolor": "white", "clip_on": False}
    axes.plot(*place, marker, markersize=10, linestyle="none", label=label, **style)
