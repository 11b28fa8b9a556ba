"""Results as lines of JSON, one a finished job: what was begun and not finished leaves nothing."""

import fcntl
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.claims import ROOT
from benchmarks.claims.measures import curve_with_band
from benchmarks.claims.study import Job, Outcome, Study, best_trial

Row = dict[str, Any]
POINTS = 40  # of a curve that are kept
RESULTS = "benchmarks/claims/results"  # what a queue itself changes in its clone


class Store:
    """The results of one folder: a file FOLDER/STUDY.jsonl for each study."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, study: Study) -> Path:
        return self.folder / f"{study.name}.jsonl"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Raises SystemExit if another queue writes into this folder."""
        with (self.folder / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise SystemExit(f"another queue writes to {self.folder}") from error
            yield

    def rows(self, study: Study) -> dict[str, Row]:
        """Finished jobs by key; a line that was cut off by a kill is not one of them."""
        path = self.path(study)
        if not path.is_file():
            return {}
        rows: dict[str, Row] = {}
        for line in path.read_text().splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if row["job"] in rows:
                raise ValueError(f"{path} holds {row['job']} twice")
            rows[row["job"]] = row
        return rows

    def add(self, job: Job, trials: list[int], outcome: Outcome, seconds: float) -> None:
        """Appends the row of a finished job."""
        if job.key in self.rows(job.study):
            raise ValueError(f"{job.key} is finished already")
        keep = np.unique(np.linspace(0, len(outcome.x) - 1, POINTS).round().astype(int))
        row: Row = {
            "job": job.key,
            "task": job.task,
            "side": job.side,
            "tuning": job.tuning,
            "trials": trials,
            "hyper_parameters": [job.study.sides[job.side][index] for index in trials],
            "seeds": list(job.study.seeds[job.tuning]),
            "scores": {name: _rounded(values) for name, values in outcome.scores.items()},
            "seconds": round(seconds, 1),
            **environment(),
        }
        if not job.tuning:
            row["x"] = _rounded(outcome.x[keep])
            row["curves"] = [_rounded(curve_with_band(each[:, keep])) for each in outcome.curves]
        path = self.path(job.study)
        if path.is_file() and not path.read_bytes().endswith(b"\n"):
            whole = path.read_bytes().rpartition(b"\n")
            path.write_bytes(whole[0] + whole[1])
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())


def chosen(study: Study, rows: dict[str, Row], task: str, side: str) -> dict[str, int] | None:
    """metric -> index of the trial that tuning chose; None while tuning is not finished.

    Where nothing is tuned, it is that of the only trial.

    Raises:
      ValueError: a side was tuned with other trials or seeds than the study says.
    """
    if not study.tuning_seeds:
        return dict.fromkeys(study.metrics, 0)
    mine = [row for row in rows.values() if row["tuning"] and row["task"] == task]
    mine = [row for row in mine if row["side"] == side]
    finished = sorted(index for row in mine for index in row["trials"])
    if len(finished) < len(study.sides[side]):
        return None
    if finished != list(range(len(study.sides[side]))):
        raise ValueError(f"{study.name}: {side} on {task} was tuned with the trials {finished}")
    for row in mine:
        trials = [study.sides[side][index] for index in row["trials"]]
        if row["hyper_parameters"] != trials or row["seeds"] != list(study.tuning_seeds):
            raise ValueError(f"{row['job']}: trials or seeds are not those of the study any more")
    choice = {}
    for metric, better in study.metrics.items():
        each = {
            index: scores
            for row in mine
            for index, scores in zip(row["trials"], row["scores"][metric], strict=True)
        }
        table = [[np.nan if x is None else x for x in each[index]] for index in sorted(each)]
        choice[metric] = best_trial(np.array(table, np.float64), better)
    return choice


def _rounded(values: Any) -> Any:
    """Nested lists of four significant digits; null where not finite."""
    array = np.asarray(values, np.float64)
    if array.ndim:
        return [_rounded(each) for each in array]
    return float(f"{array:.4g}") if np.isfinite(array) else None


@cache
def environment() -> Row:
    """Commit, versions and device of this process."""
    import jax

    commit = _git("rev-parse", "--short=10", "HEAD")
    if _git("status", "--porcelain", "--untracked-files=no", "--", ".", f":!{RESULTS}"):
        commit += "-dirty"
    names = ("jax", "jaxlib", "numpy", "gymnax", "brax")
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = version(name)
        except ModuleNotFoundError:
            continue
    if flags := os.environ.get("XLA_FLAGS"):
        versions["XLA_FLAGS"] = flags
    device = jax.local_devices()[0].device_kind
    return {"commit": commit, "versions": versions, "device": device}


def _git(*words: str) -> str:
    """What git prints in the repository; nothing where it fails."""
    command = ["git", "-C", str(ROOT), *words]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()
