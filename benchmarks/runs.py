"""Start, continue or reuse the runs of a study, each in its own process."""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import TextIO

import numpy as np
from arguments import make_scratch

from bellmax.launch.reporting.metrics import read_metrics

PROGRAM = "import sys; from bellmax.launch.cli import main; sys.exit(main())"


def train(folder: Path, words: list[str]) -> None:
    """Runs `bellmax train` into the folder, or continues the run there; logs to FOLDER.log."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    words = ["train", *words, "--out", str(folder)]
    if (folder / "config.yaml").is_file():
        words = ["resume", str(folder), "--trust"]
    print("bellmax", *words, flush=True)
    with Path(f"{folder}.log").open("w") as log:
        if bellmax(words, log):
            raise SystemExit(f"a run failed; the end of {folder}.log says why")


def bellmax(words: list[str], log: TextIO) -> int:
    """Run one command in a process of its own, which writes to the log; return its exit code."""
    command = [sys.executable, "-c", PROGRAM, *words]
    return subprocess.run(command, stdout=log, stderr=log).returncode


def column(folder: Path, kind: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """([P] steps, [seeds, P] values) of the rows of a kind, P = 0 if there are none yet."""
    if not (folder / "metrics.jsonl").is_file():
        return np.zeros(0), np.zeros((0, 0))
    rows = [row for row in read_metrics(folder) if row["kind"] == kind]
    steps = sorted({row["step"] for row in rows})
    seeds = sorted({row["seed"] for row in rows})
    values = {(row["seed"], row["step"]): row[name] for row in rows}
    return np.array(steps), np.array([[values[seed, step] for step in steps] for seed in seeds])


def evaluations(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """([P] steps, [seeds, P] returns) of a run's evaluations."""
    return column(folder, "evaluation", "episode_return")


def add_runs(parser: argparse.ArgumentParser) -> None:
    """The argument of scripts that measure finished runs."""
    text = "a finished run; with --small one is trained if none is named"
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help=text)


def chosen_runs(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, small: str
) -> list[Path]:
    """The runs of `add_runs`; without any, --small trains one with the options `small`."""
    if arguments.runs:
        return arguments.runs
    if not arguments.small:
        parser.error("at least one finished RUN must be named")
    folder = make_scratch() / "run"
    train(folder, [*small.split(), "--evaluation-episodes", "2"])
    return [folder]
