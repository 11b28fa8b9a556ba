"""Jobs that train agents: how trials are laid out, and what is read from what was trained."""

import shutil
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from benchmarks.claims import ROOT
from benchmarks.claims.lanes import Lanes, train_lanes
from benchmarks.claims.study import Outcome, Trial

from bellmax.launch.config.run_config import RunConfig, load

FOLDER = ROOT / "benchmarks/claims/runs"
# Numbers that decide shapes or loops: trials that differ in one of them are programs of their own.
STATIC = ("agent.n_step", "agent.horizon", "agent.alpha")

# (what was trained, task) -> metric -> [lanes]
Measure = Callable[[Lanes, str], dict[str, np.ndarray]]


def design(
    step_sizes: Sequence[float], name: str, values: Sequence[Any], own: str, own_values: Sequence
) -> tuple[Trial, ...]:
    """Six trials of three numbers: each of three step sizes twice, each of two values three times.

    name, values: of the target's update, two values; own, own_values: of the side's own parameter.
    """
    trials = []
    for row, step_size in enumerate(step_sizes):
        for column, value in enumerate(values):
            mine = own_values[(row + column) % 2]
            trials.append({"agent.learning_rate": step_size, name: value, own: mine})
    return tuple(trials)


def train_job(
    task: str,
    side: str,
    trials: list[Trial],
    seeds: list[int],
    name: str,
    *,
    command: Callable[[str, str, bool], list[str]],
    measure: Measure,
) -> Outcome:
    """Trains the trials of a job, those that are equal in what is static in one program.

    Args:
      task, side, trials, seeds, name: of the job.
      command: (task, side, tuning) -> a preset and options, as `bellmax train` takes them.
      measure: what to read besides evaluations.
    """
    scores: dict[str, dict[int, np.ndarray]] = {}
    curves: dict[int, np.ndarray] = {}
    steps = np.zeros(0)
    words = command(task, side, "/tuning" in name)
    for number, indices in enumerate(groups(trials)):
        config, numbers = configure(words, [trials[index] for index in indices])
        lanes = train_lanes(config, numbers, seeds, FOLDER / f"{name}_{number}")
        steps, shape = lanes.steps, (len(indices), len(seeds))
        each = late_return(lanes) | measure(lanes, task)
        for row, index in enumerate(indices):
            curves[index] = lanes.returns.reshape(*shape, -1)[row]
            for metric, values in each.items():
                scores.setdefault(metric, {})[index] = values.reshape(shape)[row]
    shutil.rmtree(FOLDER / name, ignore_errors=True)
    order = range(len(trials))
    stacked = {name: np.stack([by[i] for i in order]) for name, by in scores.items()}
    return Outcome(stacked, steps, np.stack([curves[i] for i in order]))


def groups(trials: Sequence[Trial]) -> list[list[int]]:
    """Indices of trials that differ in leaves alone."""
    found: dict[tuple, list[int]] = {}
    for index, trial in enumerate(trials):
        static = tuple((key, trial[key]) for key in STATIC if key in trial)
        found.setdefault(static, []).append(index)
    return list(found.values())


def configure(words: list[str], trials: list[Trial]) -> tuple[RunConfig, dict[str, np.ndarray]]:
    """The configuration of one program, and its numbers by their names in `agent`: [trials]."""
    static = [key for key in STATIC if key in trials[0]]
    options = [word for key in static for word in (f"--{dashed(key)}", str(trials[0][key]))]
    preset, *rest = words
    config = load(preset, [*rest, *options])
    names = [key for key in trials[0] if key not in static]
    numbers = {
        key.removeprefix("agent."): np.array([trial[key] for trial in trials]) for key in names
    }
    return config, numbers


def dashed(key: str) -> str:
    return key.replace("_", "-")


def late_return(lanes: Lanes) -> dict[str, np.ndarray]:
    """[lanes] mean return of evaluations in the last quarter, and of all evaluations."""
    late = lanes.steps > 0.75 * lanes.steps[-1]
    means = lanes.returns[:, late].mean(axis=1), lanes.returns.mean(axis=1)
    return dict(zip(("return", "mean_return"), means, strict=True))


def nothing(lanes: Lanes, task: str) -> dict[str, np.ndarray]:
    return {}


def evaluation_options(steps: int, points: int, episodes: int) -> list[str]:
    words = f"--steps {steps} --evaluate-every {steps // points}"
    return f"{words} --evaluation-episodes {episodes}".split()
