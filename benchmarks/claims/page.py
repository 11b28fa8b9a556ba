"""The page of results: a section for each claim, its table and its figure, from the rows alone."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.claims import measures
from benchmarks.claims.queue import status
from benchmarks.claims.store import Row, Store, chosen
from benchmarks.claims.study import Study
from PIL import Image
from report import dress, panels
from timing import table

from bellmax.launch.reporting.plot import COLOURS

HEAD = """# The papers' claims

Each claim is put to the smallest task that its mechanism is about. Written by
`python -m benchmarks.claims --page` from `benchmarks/claims/results/`; `--status` says what has not
run yet. Every side of a comparison got the same number of trials on tuning seeds, and its best
mean there was run on seeds that nobody had looked at. IQM is the interquartile mean over seeds,
brackets are 95 % bootstrap intervals (seeds are drawn again within each task). *P(better)* is the
probability that a run of the side beats a run of the baseline, the first row of each task.
Where sides see the same problem for the same seed, ratios are taken seed by seed.
"""
CLAIMS = {
    "va_learning": "VA-learning and behaviour dueling",
    "qr_dqn_retrace": "Retrace for distributions",
    "munchausen_dqn": "Munchausen DQN",
    "byol_explore": "BYOL-Explore",
    "expectrl": "ExpectRL",
    "minatar": "Six value agents on MinAtar",
}
FINDINGS = Path(__file__).with_name("findings")  # STUDY.md: what its numbers say, by hand
WIDE = 4  # panels in a row


def write_page(studies: list[Study], store: Store, folder: Path) -> str:
    """Writes claims.md and its figures into the folder; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [HEAD]
    for claim, title in CLAIMS.items():
        mine = [study for study in studies if study.claim == claim]
        if not mine:
            continue
        results = {study.name: read(study, store.rows(study)) for study in mine}
        shown = [study for study in mine if results[study.name]]
        parts.append(f"## {title}\n")
        if shown:
            draw_claim(claim, shown, results, folder)
            parts.append(f"![{title}](claims_{claim}.png)\n")
        for study in mine:
            parts.append(section(study, results[study.name]))
    parts.append("## What has run\n")
    parts.append(table(status(studies, store)) + "\n")
    path = folder / "claims.md"
    path.write_text("\n".join(parts))
    return str(path)


# task -> side -> row of the test
Results = dict[str, dict[str, Row]]


def read(study: Study, rows: dict[str, Row]) -> Results:
    """Tests of the tasks where all sides are finished; `pick`: metric -> row of its trial."""
    found: Results = {}
    for row in rows.values():
        if row["tuning"]:
            continue
        task = study.tuned_on.get(row["task"], row["task"])
        choice = chosen(study, rows, task, row["side"])
        assert choice is not None
        pick = {metric: row["trials"].index(index) for metric, index in choice.items()}
        found.setdefault(row["task"], {})[row["side"]] = {**row, "pick": pick}
    order = [task for task in study.tasks if len(found.get(task, {})) == len(study.sides)]
    return {task: {side: found[task][side] for side in study.sides} for task in order}


def scores_of(row: Row, metric: str, by: str | None = None) -> np.ndarray:
    """[seeds] of a metric, of the trial that tuning chose by the metric `by`, or by this one."""
    values = row["scores"][metric][row["pick"][by or metric]]
    return np.array([np.nan if x is None else x for x in values], np.float64)


def section(study: Study, results: Results) -> str:
    lines = [f"### {study.question}\n"]
    findings = FINDINGS / f"{study.name}.md"
    if findings.is_file() and results:
        lines.append(findings.read_text())
    lines.append(f"`{study.name}`. {study.notes}\n")
    if not results:
        return "\n".join([*lines, "Has not run yet.\n"])
    for metric, better in study.metrics.items():
        lines.append(f"`{metric}`, {better} is better:\n")
        lines.append(table(metric_rows(study, results, metric, better)) + "\n")
    lines.append("Trials that tuning chose, and what is reported besides:\n")
    lines.append(table(chosen_rows(study, results)) + "\n")
    lines.append(provenance(study, results) + "\n")
    return "\n".join(lines)


def metric_rows(study, results, metric: str, better: str) -> list[dict[str, Any]]:
    """A row for each task and side, and where there are several tasks one over all of them."""
    shown = []
    every = {
        side: np.stack([scores_of(results[task][side], metric) for task in results], axis=1)
        for side in study.sides
    }
    base = every[study.baseline]
    for number, task in enumerate(results):
        for side, scores in every.items():
            column = scores[:, number]
            row = {"task": task, "side": side, "IQM": _bracket(*measures.iqm(column))}
            row |= _against(study, side, column[:, None], base[:, number, None], better)
            shown.append(row)
    if len(results) > 1:
        for side, scores in every.items():
            row = {"task": "all", "side": side, "IQM": ""}
            shown.append(row | _against(study, side, scores, base, better))
    return shown


def _against(study, side: str, scores, base, better: str) -> dict[str, str]:
    if side == study.baseline:
        return {"of the baseline": "1", "P(better)": ""}
    found = {"of the baseline": ""}
    if (scores > 0).all() and (base > 0).all():
        ratio = measures.of_baseline(scores, base, study.paired)
        found["of the baseline"] = _bracket(*measures.iqm(ratio))
    elif scores.shape[1] == 1:
        less = measures.difference(scores[:, 0], base[:, 0])
        found["of the baseline"] = f"difference {_bracket(*less)}"
    return found | {"P(better)": _bracket(*measures.improvement(scores, base, better), digits=2)}


def chosen_rows(study, results) -> list[dict[str, Any]]:
    shown = []
    for task, sides in results.items():
        for side, row in sides.items():
            trials = {m: _words(row["hyper_parameters"][at]) for m, at in row["pick"].items()}
            cells = {"task": task, "side": side}
            if len(set(trials.values())) == 1:
                cells["trial"] = next(iter(trials.values()))
            else:
                cells["trial"] = "; ".join(f"{m}: {words}" for m, words in trials.items())
            first = next(iter(study.metrics))
            for metric in study.reported:
                values = scores_of(row, metric, first)
                cells[metric] = _bracket(*measures.iqm(values))
            shown.append(cells)
    return shown


def provenance(study: Study, results: Results) -> str:
    rows = [row for sides in results.values() for row in sides.values()]
    commits = ", ".join(sorted({row["commit"] for row in rows}))
    devices = ", ".join(sorted({row["device"] for row in rows}))
    versions = rows[-1]["versions"]
    used = ", ".join(f"{name} {version}" for name, version in versions.items())
    made = f"Results on the seeds {_range(study.test_seeds)}"
    if study.tuning_seeds:
        count = len(next(iter(study.sides.values())))
        made = f"{count} trials a side on the seeds {_range(study.tuning_seeds)}, r{made[1:]}"
    return f"{made}. Commit {commits}; {devices}; {used}."


def _range(seeds: tuple[int, ...]) -> str:
    return f"{min(seeds)} to {max(seeds)}"


def draw_claim(claim: str, studies: list[Study], results: dict, folder: Path) -> None:
    """A panel for each task, curves of the first metric's choice, and a profile a study."""
    drawings = []
    for study in studies:
        found = results[study.name]
        drawings += [(study, task, found[task]) for task in found]
        drawings.append((study, None, found))
    height = -(-len(drawings) // WIDE)
    width = min(len(drawings), WIDE)
    figure, axes = panels(height, width, width=3.4, height=2.7, share=False)
    for ax in axes.flat[len(drawings) :]:
        ax.set_axis_off()
    for ax, (study, task, found) in zip(axes.flat, drawings, strict=False):
        if task is None:
            draw_profile(ax, study, found)
        else:
            draw_curves(ax, study, task, found)
    for study in {study.name: study for study in studies}.values():
        first = next(i for i, (s, _, _) in enumerate(drawings) if s.name == study.name)
        axes.flat[first].legend(fontsize="x-small", frameon=False)
    save_small(figure, folder / f"claims_{claim}.png")


def save_small(figure: Any, path: Path) -> None:
    """A PNG of 64 colours, a third of the size."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=80)
    Image.open(buffer).convert("RGB").quantize(64).save(path, optimize=True)


def draw_curves(ax, study: Study, task: str, sides: dict[str, Row]) -> None:
    lowest = np.inf
    for number, (side, row) in enumerate(sides.items()):
        pick = next(iter(row["pick"].values()))
        middle, low, high = np.array(row["curves"][pick], np.float64)
        colour = COLOURS[number % len(COLOURS)]
        ax.fill_between(row["x"], low, high, color=colour, alpha=0.2, linewidth=0)
        ax.plot(row["x"], middle, color=colour, label=side)
        lowest = min(lowest, np.nanmin(low))
    if study.logarithmic and lowest > 0:
        ax.set_yscale("log")
    dress(ax, f"{study.name}: {task}", study.unit, study.curve)


def draw_profile(ax, study: Study, found: Results) -> None:
    """Share of runs at least as good as a multiple of the baseline's mean of their task."""
    metric, better = next(iter(study.metrics.items()))
    scores = {
        side: np.concatenate(
            [
                scores_of(found[task][side], metric)
                / np.mean(scores_of(sides[study.baseline], metric))
                for task, sides in found.items()
            ]
        )
        for side in study.sides
    }
    every = np.concatenate(list(scores.values()))
    at = np.linspace(*np.nanquantile(every, (0.0, 0.98)), 200)
    for number, values in enumerate(scores.values()):
        ax.plot(at, measures.profile(values, at, better), color=COLOURS[number % len(COLOURS)])
    sign = "at least" if better == "higher" else "at most"
    dress(ax, f"{study.name}: profile", f"{metric} over the baseline's mean", f"share {sign} that")


def _words(trial: dict[str, Any]) -> str:
    return ", ".join(f"{key.removeprefix('agent.')} {value:g}" for key, value in trial.items())


def _bracket(middle: float, low: float, high: float, digits: int = 3) -> str:
    return f"{middle:.{digits}g} [{low:.{digits}g}, {high:.{digits}g}]"
