"""A long run on environments that break and die: is a step lost or doubled, does memory leak?

M-DQN trains on CartPole environments, each in its own process, that raise once in 10,000 steps and
are killed from time to time. Environments write marks into their observations; every step is
compared with its marks on the way to replay, and so is the content of replay at the end.

    python benchmarks/soak.py --minutes 30 [--kill-every 300] [--leak 20] [--out soak.json]

Exits with 1 if a step was lost, doubled or mislabelled, a count is wrong, or the resident memory
grows by more than `--leak` MB an hour beyond doubt.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import psutil
from arguments import parse
from soak_task import read_ledger
from timing import table

if TYPE_CHECKING:
    from soak_checks import Tally

# Modules that import jax are imported inside functions, because each environment's process imports
# this file.

CONFIG = """
steps: 2147483647
warmup_steps: {warmup}
rollout_length: 4
updates_per_rollout: 4
log_every: {capacity}
evaluate_every: {evaluate_every}
evaluation_episodes: 16
checkpoint_every: {capacity}
replay: {{capacity: {capacity}}}
host: {{actors: 2}}
agent:
  {{name: munchausen_dqn, learning_rate: 2.5e-4, epsilon_end: 0.05, epsilon_steps: 100000,
   target_period: 50, huber_delta: 0}}
env:
  name: soak_task:FaultyCartPole
  num_envs: {num_envs}
  timeout: {timeout}
  options: {{ledger: {ledger}, fault_every: {fault_every}}}
"""
NUM_ENVS, QUIET_SECONDS = 8, 20.0


class Watched(NamedTuple):
    """samples: (seconds, MB of this process, MB of all, whether replay was full). killed: ids."""

    samples: list[tuple[float, float, float, bool]]
    killed: list[int]


def tap(runner: Any, tallies: "list[Tally]") -> None:
    """Count every rollout before it is added to replay; appends to `tallies`."""
    compiled = runner.compile

    def compile_and_tap(state: Any) -> Any:
        advance, functions = compiled(state), runner.functions

        def add_rollout(packed: Any, rollout: Any, counts: Any) -> Any:
            tallies[:] = [tallies[-1].take(rollout.records, rollout.after)]
            return functions.add_rollout(packed, rollout, counts)

        def learn(packed: Any, keys: Any, interval: Any, rollout: Any, counts: Any) -> Any:
            tallies[:] = [tallies[-1].take(rollout.records, rollout.after)]
            return functions.learn(packed, keys, interval, rollout, counts)

        runner.functions = functions._replace(add_rollout=add_rollout, learn=learn)
        return advance

    runner.compile = compile_and_tap


def watch(
    options: argparse.Namespace, ledger: Path, tallies: "list[Tally]", over: threading.Event
) -> Watched:
    """Start a thread that samples memory, kills environments and ends the run after its time."""
    seen = Watched([], [])
    seconds = 60 * options.minutes
    quiet = min(QUIET_SECONDS, seconds / 3)

    def go() -> None:
        now, sample_at, kill_at = 0.0, 0.0, options.kill_every
        while not tallies[-1].steps and not over.wait(0.1):
            pass  # the program is compiled before the time begins
        started = time.monotonic()
        try:
            while now < seconds and not over.wait(0.5):
                now, tally = time.monotonic() - started, tallies[-1]
                if now >= sample_at:
                    sizes, full = memory(), tally.steps * NUM_ENVS >= options.capacity
                    seen.samples.append((now, *sizes, full))
                    sample_at += options.sample_every
                    steps = tally.steps * NUM_ENVS
                    print(f"{now:.0f} s, {steps:,} steps, {sizes[1]:,.0f} MB", flush=True)
                if kill_at <= now < seconds - quiet and kill(ledger, tally, seen.killed):
                    kill_at += options.kill_every
        finally:
            if not over.is_set():
                os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=go, daemon=True).start()
    return seen


def memory() -> tuple[float, float]:
    """Return the resident MB of this process, and those including its child processes."""
    main = psutil.Process()
    sizes = [main.memory_info().rss / 1e6]
    for child in main.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            sizes.append(child.memory_info().rss / 1e6)
    return sizes[0], sum(sizes)


def kill(ledger: Path, tally: "Tally", killed: list[int]) -> bool:
    """Kill the process of one environment; return False if it has already ended."""
    instances = tally.alive()
    if not instances:
        return False
    instance = random.choice(instances)
    with contextlib.suppress(psutil.NoSuchProcess):
        child = psutil.Process(read_ledger(ledger, "made")[instance])
        if child.ppid() == os.getpid() and child.status() != psutil.STATUS_ZOMBIE:
            child.kill()
            killed.append(instance)
            return True
    return False


def growth(samples: np.ndarray, column: int) -> dict[str, float]:
    """Fit a line to a column of samples by Theil and Sen, robust to samples during a restart."""
    from scipy.stats import theilslopes

    if len(samples) < 4:
        return {"MB an hour": np.nan}
    sizes = samples[:, column]
    line: Any = theilslopes(sizes, samples[:, 0] / 3600, 0.95)
    return {
        "MB an hour": float(line.slope),
        "MB an hour at least (95 %)": float(line.low_slope),
        "MB at the start of the line": float(sizes[0]),
        "MB at the end": float(sizes[-1]),
    }


def make_session(folder: Path, experiment: Any) -> Any:
    """Return the training session of a run in the folder, which ends only at SIGTERM."""
    from bellmax.launch.reporting.metrics import MetricsLog
    from bellmax.launch.reporting.progress import Progress
    from bellmax.launch.training.checkpoints import Checkpoints
    from bellmax.launch.training.loop import Session

    log = MetricsLog(folder)
    checkpoints = Checkpoints(folder / "checkpoints", keep=2)
    return Session(experiment, checkpoints, log, Progress(1, silent=True))


def soak(options: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Run the test; return its results and the errors found."""
    import soak_checks as checks

    from bellmax.launch.config.run_config import load
    from bellmax.launch.reporting.metrics import read_metrics
    from bellmax.launch.training.experiment import build

    ledger, tallies, over = folder / "ledger", [checks.Tally()], threading.Event()
    shape = {"num_envs": NUM_ENVS, "capacity": options.capacity}
    shape |= {"warmup": max(options.capacity // 10, 256), "evaluate_every": 4 * options.capacity}
    for name, timeout, every in [("run", "60", options.fault_every), ("calm", "null", 0)]:
        words = CONFIG.format(timeout=timeout, ledger=ledger, fault_every=every, **shape)
        (folder / f"{name}.yaml").write_text(words)
    # Evaluations are played in this process, without faults.
    evaluator = build(load(folder / "calm.yaml")).evaluator
    experiment = build(load(folder / "run.yaml"))._replace(evaluator=evaluator)
    first = len(checks.read_ledger(ledger, "made"))
    tap(experiment.runner, tallies)
    session = make_session(folder, experiment)
    signal.signal(signal.SIGTERM, lambda *_: None)  # the session handles it
    with contextlib.closing(experiment), session.log:
        state = experiment.init()
        returns = [float(session.evaluate(state)[0])]
        seen = watch(options, ledger, tallies, over)
        try:
            state = session.advance_to_end(state)
        finally:
            over.set()
        returns.append(float(session.evaluate(state)[0]))
        tally = tallies[-1]
        # The actors stop soon, because the learner takes no more rollouts.
        until, broken, counted, problems = time.monotonic() + QUIET_SECONDS, 0, {}, []
        while not counted or sum(counted.values()) != broken and time.monotonic() < until:
            counted = checks.restarts(experiment.runner.report())
            broken, problems = checks.check_ends(ledger, tally, seen.killed, first)
            time.sleep(0.2)
    last = [row for row in read_metrics(folder) if row["kind"] == "train"][-1]
    problems += checks.check_replay(state.replay, tally) + checks.check_counts(state, tally, last)
    problems += checks.check_restarts(tally, broken, counted, last)
    facts = {
        "transitions": tally.transitions,
        "gradient steps": int(state.learner.steps),
        "episodes": tally.episodes,
        **{f"{name} steps": n for name, n in tally.verdict._asdict().items()},
        "environments that broke or were killed": broken,
        "of them killed": len(seen.killed),
        "restarts": sum(counted.values()),
        "evaluation return at the start": returns[0],
        "evaluation return at the end": returns[1],
    }
    grown, leaks = check_memory(seen, options)
    return {**facts, **grown, "samples": seen.samples}, [*problems, *leaks]


def check_memory(seen: Watched, options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Fit lines to the memory after warm-up; return them and those that exceed the bound."""
    warm = 60 * options.minutes / 4
    steady = np.array([x for x in seen.samples if x[0] >= warm and x[3]]).reshape(-1, 4)
    facts: dict[str, Any] = {"samples after warm-up": len(steady)}
    late = 60 * options.minutes - 2 * options.sample_every
    problems = ["the run was cut short"] if seen.samples[-1][0] < late else []
    for name, column in (("this process", 1), ("all processes", 2)):
        line = growth(steady, column)
        facts |= {f"{name}, {key}": value for key, value in line.items()}
        least = line.get("MB an hour at least (95 %)", np.nan)
        if least > options.leak:
            problems.append(f"{name}: memory grows by at least {least:.1f} MB an hour")
        elif np.isnan(least):
            problems.append("too few samples of memory after replay was full: more --minutes")
    return facts, problems


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="A long run on environments that break and die.")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--kill-every", type=float, default=300, metavar="SECONDS")
    parser.add_argument("--leak", type=float, default=20, metavar="MB_AN_HOUR")
    parser.add_argument("--sample-every", type=float, default=10, metavar="SECONDS")
    parser.add_argument("--capacity", type=int, default=50_000, help="steps in replay")
    parser.add_argument("--fault-every", type=int, default=10_000, metavar="STEPS")
    parser.add_argument("--out", type=Path, metavar="FILE")
    few = {"minutes": 0.1, "kill_every": 2, "sample_every": 0.2, "leak": float("inf")}
    options = parse(parser, words, capacity=400, fault_every=1000, **few)
    os.environ["JAX_PLATFORMS"] = "cpu"
    with tempfile.TemporaryDirectory() as folder:
        facts, problems = soak(options, Path(folder))
    rows = [{"what": name, "figure": value} for name, value in facts.items() if name != "samples"]
    print(table(rows), *problems, sep="\n")
    if options.out:
        options.out.write_text(json.dumps({**facts, "problems": problems}, indent=2) + "\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
