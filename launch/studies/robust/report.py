"""Report of a robust evaluation: printed text, a table and figures."""

import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bellmax import UserError
from bellmax.launch.config.boxes import Box, UpperEnd, make_cells
from bellmax.launch.distributed.files import write_whole
from bellmax.launch.reporting.statistics import FEWEST_SEEDS, spread, spread_name
from bellmax.launch.runners.evaluation import Episodes, evaluation_rows
from bellmax.launch.studies.robust.plot import draw
from bellmax.launch.studies.robust.run import TAIL, Robustness, evaluate_robust, summarise

_SUFFIXES = (".jsonl", ".png", ".svg")


def robust_run(
    run: Path,
    box: str | Box,
    *,
    points: int,
    upper_end: UpperEnd,
    episodes: int,
    checkpoint: str | int = "latest",
    trust: bool = False,
    out: Path | None = None,
) -> int:
    """Evaluate a run on a grid, print the report, and write the table and the figure.

    Args:
      run, box, points, upper_end, episodes, checkpoint, trust: as in `evaluate_robust`.
      out: path of the files without suffix; None is RUN/robust-<box>.

    Returns:
      The exit code: 1 if a return is not finite.

    Raises:
      UserError: as in `evaluate_robust`, or `out` cannot be written.
    """
    name = box if isinstance(box, str) else box.name
    stem = run / f"robust-{name}" if out is None else out
    stem = stem.with_suffix("") if stem.suffix in _SUFFIXES else stem
    paths = [stem.with_name(stem.name + suffix) for suffix in _SUFFIXES]
    # Checked before the evaluation, not after it.
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from None
    if folder := next((path for path in paths if path.is_dir()), None):
        raise UserError(f"--out {folder} is a folder; name a file")
    result = evaluate_robust(
        run,
        box,
        points=points,
        upper_end=upper_end,
        episodes=episodes,
        checkpoint=checkpoint,
        trust=trust,
        report=print,
    )
    print("\n".join(describe(result)))
    write_whole(paths[0], "".join(json.dumps(row) + "\n" for row in table(result)).encode())
    figure = draw(result)
    figure.savefig(paths[1], dpi=200)
    figure.savefig(paths[2], metadata={"Date": None})
    print("\n".join(map(str, paths)))
    everything = np.append(result.returns, result.nominal_returns)
    return 0 if np.isfinite(everything).all() else 1


def table(result: Robustness) -> list[dict[str, Any]]:
    """Return rows for JSON, without NaN: per seed for the nominal task, then per cell and seed.

    A row is {"kind": "cell" | "nominal", "parameters": {...}, "not_finite_episodes": int} and the
    columns of `evaluation_rows`.
    """
    cells = make_cells(result.axes)
    rows = _rows("nominal", result.nominal, result.nominal_episodes, result)
    for i in range(result.returns.shape[1]):
        values = {name: float(x[i]) for name, x in cells.items()}
        rows += _rows("cell", values, jax.tree.map(lambda x, i=i: x[i], result.episodes), result)
    return rows


def describe(result: Robustness) -> list[str]:
    """Return the report as text: one line per seed, and one over several seeds."""
    summary, nominal = summarise(result.returns), result.nominal_returns
    lines = [_headline(result)]
    for i, seed in enumerate(result.seeds):
        where = _place(result, int(summary.worst_cell[i]))
        bad = int((~np.isfinite(result.returns[i])).sum())
        cut = int(result.episodes.cut[:, i].sum())
        lines.append(
            f"seed {seed}: mean {summary.mean[i]:.2f}, worst {summary.worst[i]:.2f} at {where}, "
            f"CVaR {TAIL:.0%} {summary.cvar[i]:.2f}, nominal {nominal[i]:.2f}"
            + (f", {cut:,} episodes cut" if cut else "")
            + (f"; {bad} cells have returns that are not finite, first at {where}" if bad else "")
        )
    if len(result.seeds) > 1:
        columns = [summary.mean, summary.worst, summary.cvar, nominal]
        names = ["mean", "worst", f"CVaR {TAIL:.0%}", "nominal"]
        parts = [f"{n} {_interval(c)}" for n, c in zip(names, columns, strict=True)]
        count = len(result.seeds)
        head = spread_name(count) if count < FEWEST_SEEDS else f"{count} seeds, 95 % intervals"
        lines.append(f"{head}: {', '.join(parts)}")
    return lines


def _headline(result: Robustness) -> str:
    count, episodes = result.returns.shape[1], result.nominal_episodes.episode_return.shape[-1]
    ranges = ", ".join(f"{name} {x[0]:.4g} to {x[-1]:.4g}" for name, x in result.axes.items())
    return (
        f"{result.task} at step {result.step:,}, box {result.box.name}: {count:,} cells "
        f"({ranges}), {episodes} episodes a cell"
    )


def _place(result: Robustness, cell: int) -> str:
    return ", ".join(f"{name} {x[cell]:.4g}" for name, x in make_cells(result.axes).items())


def _interval(values: np.ndarray) -> str:
    low, high = spread(values)
    return f"{values.mean():.2f} [{low:.2f}, {high:.2f}]"


def _rows(
    kind: str, values: dict[str, float], episodes: Episodes, result: Robustness
) -> list[dict[str, Any]]:
    """Return one row per seed of episodes [S, E]."""
    bad = (~np.isfinite(episodes.episode_return)).sum(axis=1)
    rows = evaluation_rows(episodes, result.seeds, result.step)
    return [
        {
            **{
                k: None if isinstance(v, float) and not math.isfinite(v) else v
                for k, v in r.items()
            },
            "kind": kind,
            "parameters": values,
            "not_finite_episodes": int(count),
        }
        for r, count in zip(rows, bad, strict=True)
    ]
