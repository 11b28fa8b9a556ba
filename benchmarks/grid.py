"""A grid of hyper-parameters in one program, against a process for each point.

    python benchmarks/grid.py --points 16 --seeds 4 --steps 20000

Trains `dqn/cartpole` at several learning rates with several seeds: with `--vmap` in one process,
and in as many processes as points, one after the other. Each side has a compilation cache of its
own, which is empty at its start. Prints wall-clock and CPU seconds of all processes of a side, the
start of Python included, and how many training programs they compiled.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from arguments import parse
from timing import table

SMALL = "--agent.network.hidden 8 --agent.batch-size 8"


def train(out: Path, cache: Path, options: list[str]) -> int:
    """Train in a process; return how many training programs it compiled."""
    command = [sys.executable, "-m", "bellmax.launch.cli", "train", "dqn/cartpole"]
    command += ["--out", str(out), "--evaluate-every=0", "--checkpoint-every=0", *options]
    environment = os.environ | {"BELLMAX_CACHE": str(cache)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    if ran.returncode:
        raise SystemExit(ran.stderr)
    return len({line.partition("compiled in")[2][:9] for line in ran.stdout.splitlines()} - {""})


def measured(name: str, runs: list[list[str]], folder: Path) -> dict[str, object]:
    """Return a row of the table for runs one after the other."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    compiled = sum(
        train(folder / f"{name}-{i}", folder / f"{name}-cache", options)
        for i, options in enumerate(runs)
    )
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "side": name,
        "processes": len(runs),
        "training programs compiled": compiled,
        "wall-clock s": round(wall, 1),
        "CPU s": round(cpu, 1),
    }


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("overrides", nargs="*", help="options of bellmax train, after --")
    few = {"points": 2, "seeds": 1, "steps": 400, "overrides": SMALL.split()}
    args = parse(parser, words, **few)
    rates = [f"{rate:.3g}" for rate in np.geomspace(1e-5, 1e-2, args.points)]
    shared = [f"--seeds={args.seeds}", f"--steps={args.steps}", f"--log-every={args.steps}"]
    shared += [f"--warmup-steps={args.steps // 2}", *args.overrides]
    with tempfile.TemporaryDirectory() as name:
        rows = [
            measured(
                "one", [[*shared, f"--vmap.agent.learning-rate={','.join(rates)}"]], Path(name)
            )
        ]
        print(rows[0], flush=True)
        each = [[*shared, f"--agent.learning-rate={rate}"] for rate in rates]
        rows.append(measured("each", each, Path(name)))
    print(table(rows))


if __name__ == "__main__":
    main()
