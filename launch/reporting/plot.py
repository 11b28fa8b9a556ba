"""Learning curves of one or several runs, as PNG and SVG."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bellmax import UserError, must
from bellmax.envs.options import unknown
from bellmax.launch.config.overrides import flatten
from bellmax.launch.config.yaml_files import read_yaml
from bellmax.launch.reporting.metrics import Row, read_metrics
from bellmax.launch.reporting.plot_options import Look, smooth
from bellmax.launch.reporting.statistics import interquartile_mean, mean, spread, spread_name

# The colours of Okabe and Ito without yellow: distinct under every common colour blindness.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", ":", "-.")
# Keys that may differ between runs of one experiment.
_LOGGING = {
    *("log_every", "checkpoint_every", "keep_checkpoints"),
    *("tensorboard", "wandb", "loggers"),
}
_IGNORED_KEYS = {"seed", "seeds"} | _LOGGING
_LABELS = {"episode_return": "episode return", "episode_length": "episode length (steps)"}


LOOK = Look()


class Curve(NamedTuple):
    """A learning curve; seeds: ([P] steps, [P] values) of each seed, both float64."""

    label: str
    env: str
    seeds: list[tuple[np.ndarray, np.ndarray]]


class Source(NamedTuple):
    """Settings of a run, or of one point of its `vmap`, as dotted keys, and its curves by seed."""

    folder: Path
    settings: dict[str, Any]
    seeds: list[tuple[np.ndarray, np.ndarray]]
    kind: str


def plot_runs(
    runs: Sequence[Path],
    out: Path | None = None,
    metric: str = "episode_return",
    look: Look = LOOK,
) -> list[Path]:
    """Draw the learning curves of runs, one panel for each task.

    Runs whose configurations differ only by seed form one curve: the mean over seeds, or the
    interquartile mean if every curve has four or more seeds, with its 95 % bootstrap interval, or
    the range of fewer than five seeds.

    Args:
      runs: folders with `metrics.jsonl` and `config.yaml`.
      out: path of the files; its suffix is replaced. None is `RUN/curve` for one run, `./curves`
        for several.
      metric: a column of the evaluation rows, or of the training rows if those lack it.
      look: titles, sizes and groups.

    Returns:
      The PNG and the SVG written, and the PDF if it is asked for.

    Raises:
      UserError: a folder is not a run, or no run has the metric.
    """
    figure = draw_runs(runs, metric, look)
    default = Path(runs[0]) / "curve" if len(runs) == 1 else Path("curves")
    return save_figure(figure, default if out is None else Path(out), pdf=look.pdf)


def draw_runs(runs: Sequence[Path], metric: str = "episode_return", look: Look = LOOK) -> Any:
    """Return the matplotlib Figure that `plot_runs` writes; arguments as there."""
    if not runs:
        raise UserError("there is nothing to plot; name the folder of a run")
    sources = [source for run in runs for source in _read(Path(run), metric)]
    kinds = {source.kind for source in sources}
    label = _LABELS.get(metric, metric.replace("_", " "))
    curves = _apply_look(_pool(sources, look.group), look)
    lowest = min(values.min() for curve in curves for _, values in curve.seeds)
    if look.log_scale and lowest <= 0:
        raise UserError(must("--log-scale", f"left out for {metric}", f"values from {lowest:g}"))
    return _draw(curves, f"{kinds.pop()} {label}" if len(kinds) == 1 else label, look)


def save_figure(figure: Any, out: Path, *, pdf: bool = False) -> list[Path]:
    """Write a figure as PNG and SVG; return the files.

    Args:
      figure: a matplotlib Figure.
      out: path of the files; a suffix .png, .svg or .pdf is replaced.
      pdf: whether to write a PDF too; always with the suffix .pdf.
    """
    pdf = pdf or out.suffix == ".pdf"
    stem = out.with_suffix("") if out.suffix in (".png", ".svg", ".pdf") else out
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(f"{stem.name}.{suffix}") for suffix in ("png", "svg")]
    figure.savefig(paths[0], dpi=200)
    figure.savefig(paths[1], metadata={"Date": None})  # equal runs give an equal file
    if pdf:
        paths.append(stem.with_name(f"{stem.name}.pdf"))
        figure.savefig(paths[2], metadata={"CreationDate": None})
    return paths


def _apply_look(curves: list[Curve], look: Look) -> list[Curve]:
    """Return the curves, labelled and smoothed as the look says."""
    labels = [curve.label for curve in curves] if look.labels is None else look.labels
    if len(labels) != len(curves):
        names = ", ".join(curve.label for curve in curves)
        allowed = f"{len(curves)} curves ({names})"
        raise UserError(must("--labels", allowed, len(labels), verb="name"))
    return [
        curve._replace(
            label=label, seeds=[(steps, smooth(y, look.smoothing)) for steps, y in curve.seeds]
        )
        for label, curve in zip(labels, curves, strict=True)
    ]


def _read(folder: Path, metric: str) -> list[Source]:
    rows = read_metrics(folder)
    if not (folder / "config.yaml").is_file():
        raise UserError(f"there is no config.yaml in {folder}; is it the folder of a run?")
    settings = flatten(read_yaml(folder / "config.yaml"))
    for kind in ("evaluation", "train"):
        found = [row for row in rows if row["kind"] == kind and row.get(metric) is not None]
        if found:
            return _by_point(Source(folder, settings, [], kind), found, metric)
    names = sorted({name for row in rows for name, value in row.items() if _is_number(value)})
    choices = ", ".join(name for name in names if name not in ("step", "seed")) or "no metrics yet"
    raise UserError(f"there is no {metric} in the metrics of {folder}; it has {choices}")


def _by_point(run: Source, rows: list[Row], metric: str) -> list[Source]:
    """Return a source for each point, whose settings are those of a run of that point alone."""
    plain = {key: value for key, value in run.settings.items() if not key.startswith("vmap")}
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(repr(row.get("vmap", {})), []).append(row)
    return [
        run._replace(settings=plain | group[0].get("vmap", {}), seeds=_by_seed(group, metric))
        for group in groups.values()
    ]


def _by_seed(rows: list[Row], metric: str) -> list[tuple[np.ndarray, np.ndarray]]:
    seeds = sorted({row["seed"] for row in rows})
    curves = ({row["step"]: row[metric] for row in rows if row["seed"] == seed} for seed in seeds)
    return [
        (np.array(sorted(curve), np.float64), np.array([curve[s] for s in sorted(curve)], float))
        for curve in curves
    ]


def _pool(sources: list[Source], key: str | None = None) -> list[Curve]:
    """Group runs into curves.

    Without a key, a group is the runs that differ only by seed, labelled by the settings in which
    it differs from other groups. With a key, it is the runs of a task with the same value of it.
    """
    groups: dict[str, list[Source]] = {}
    if key is not None:
        known = sorted({name for source in sources for name in source.settings})
        if key not in known:
            raise unknown("key", key, known, [])
        for source in sources:
            env = str(source.settings.get("env.name", ""))
            groups.setdefault(f"{source.settings.get(key)}\n{env}", []).append(source)
        pooled = [[seed for source in group for seed in source.seeds] for group in groups.values()]
        names = [name.split("\n") for name in groups]
        return [Curve(n[0], n[1], seeds) for n, seeds in zip(names, pooled, strict=True)]
    for source in sources:
        compared = {k: v for k, v in source.settings.items() if k not in _IGNORED_KEYS}
        groups.setdefault(repr(sorted(compared.items())), []).append(source)
    return [
        Curve(
            _label(group[0], [other[0] for other in groups.values()]),
            str(group[0].settings.get("env.name", "")),
            [seed for source in group for seed in source.seeds],
        )
        for group in groups.values()
    ]


def _label(source: Source, all_sources: list[Source]) -> str:
    def get(other: Source, key: str) -> Any:
        return other.settings.get(key)

    agent = str(get(source, "agent.name") or source.folder.name)
    same = [
        other
        for other in all_sources
        if all(get(other, key) == get(source, key) for key in ("agent.name", "env.name"))
    ]
    differing = [
        key
        for key in source.settings
        if key not in _IGNORED_KEYS and any(get(s, key) != get(source, key) for s in same)
    ]
    if not differing:
        return agent
    if len(differing) > 2:
        return f"{agent} ({source.folder.name})"
    values = ", ".join(f"{key.split('.')[-1]} {get(source, key)}" for key in differing)
    return f"{agent} ({values})"


def _draw(curves: list[Curve], label: str, look: Look = LOOK) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    envs = list(dict.fromkeys(curve.env for curve in curves))
    figure = Figure(figsize=(look.size[0] * len(envs), look.size[1]), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, env in zip(np.ravel(figure.subplots(1, len(envs))), envs, strict=True):
        shown = [curve for curve in curves if curve.env == env]
        for number, curve in enumerate(shown):
            style = STYLES[number // len(COLOURS) % len(STYLES)]
            _draw_curve(axes, curve, _statistic(shown), COLOURS[number % len(COLOURS)], style)
        _label_axes(axes, env if look.title is None or len(envs) > 1 else look.title, label, shown)
        axes.set_xlim(left=0)
        if look.log_scale:
            axes.set_yscale("log")
        if look.limits:
            axes.set_ylim(*look.limits)
    if look.title is not None and len(envs) > 1:
        figure.suptitle(look.title)
    return figure


def _draw_curve(axes: Any, curve: Curve, statistic: Any, colour: str, style: str) -> None:
    steps = sorted(set.intersection(*(set(xs) for xs, _ in curve.seeds)))
    if not steps:
        raise UserError(f"the runs of {curve.label} have no step in common; plot them one by one")
    values = np.array([ys[np.isin(xs, steps)] for xs, ys in curve.seeds])
    bands = np.array([spread(at_step, statistic) for at_step in values.T])
    for xs, ys in curve.seeds if len(curve.seeds) > 1 else []:
        axes.plot(xs, ys, color=colour, linewidth=0.6, alpha=0.25)
    axes.fill_between(steps, *bands.T, color=colour, alpha=0.2, linewidth=0)
    marker = "o" if len(steps) < 2 else None
    label = f"{curve.label}, {len(curve.seeds)} seed{'s' * (len(curve.seeds) > 1)}"
    middle = statistic(values, axis=0)
    axes.plot(steps, middle, style, color=colour, linewidth=1.8, label=label, marker=marker)


def _label_axes(axes: Any, env: str, label: str, curves: list[Curve]) -> None:
    from matplotlib.ticker import EngFormatter

    if any(len(curve.seeds) > 1 for curve in curves):
        bands = spread_name(*(len(curve.seeds) for curve in curves))
        label = f"{label}\n({_statistic(curves).__name__.replace('_', ' ')}, {bands})"
    axes.set_title(env)
    axes.set_xlabel("environment steps")
    axes.set_ylabel(label)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.01)
    axes.legend(frameon=False, fontsize="small")


def _statistic(curves: list[Curve]) -> Any:
    """Return the statistic for all curves of a panel, the same so that they can be compared."""
    few = any(1 < len(curve.seeds) < 4 for curve in curves)
    return mean if few else interquartile_mean


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
