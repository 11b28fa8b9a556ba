"""From the shell to the first gradient step, with a cold and with a warm compilation cache.

Runs `bellmax train` as a user would, in processes of its own, and reads the time that the program
prints; "wall" is measured from outside, until that line appears.

    python benchmarks/startup.py [--preset dqn/cartpole] [--repeats 5] [-- OPTIONS ...]
    python benchmarks/startup.py --imports          the slowest imports of one start
    python benchmarks/startup.py --losses           bellmax.losses on top of jax, chex and rlax
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from arguments import parse

LINE = re.compile(r"first gradient step ([\d.]+) s after the program started")
COMPILED = re.compile(r"compiled in ([\d.]+) s")
PROGRAM = "import sys; from bellmax.launch.cli import main; sys.exit(main())"


def start(words, cache, *flags):
    """One start: seconds to the first gradient step as printed, measured outside, and compiling."""
    with tempfile.TemporaryDirectory() as folder:
        train = ["train", *words, "--out", f"{folder}/run"]
        command = [sys.executable, *flags, "-c", PROGRAM, *train]
        env = {**os.environ, "BELLMAX_CACHE": str(cache)}
        started = time.perf_counter()
        pipe, errors = subprocess.PIPE, Path(folder, "errors")  # a file: a full pipe would block
        with (
            errors.open("w") as stderr,
            subprocess.Popen(command, stdout=pipe, stderr=stderr, text=True, env=env) as process,
        ):
            lines, found, compiled, wall = [], None, None, 0.0
            for line in process.stdout:
                lines.append(line)
                compiled = compiled or COMPILED.search(line)
                if not found and (found := LINE.search(line)):
                    wall = time.perf_counter() - started
                if found and compiled:  # in the row of the first interval
                    break
            process.kill()
        errors = errors.read_text()
        if not found or not compiled:
            raise SystemExit(f"{words[0]} made no gradient step:\n{''.join(lines)}{errors}")
        seconds = {"printed": float(found[1]), "wall": wall, "compile": float(compiled[1])}
        return seconds | {"stderr": errors}


def measure(words, repeats):
    """cold and warm -> what -> seconds of each repeat; the two take turns."""
    rows = {state: {"printed": [], "wall": [], "compile": []} for state in ("cold", "warm")}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as cache:
            for state in ("cold", "warm"):
                once = start(words, cache)
                for name, values in rows[state].items():
                    values.append(once[name])
    return rows


def imports(words, count=25):
    """The slowest modules by cumulative import time, as `python -X importtime` has them."""
    with tempfile.TemporaryDirectory() as cache:
        lines = start(words, cache, "-X", "importtime")["stderr"].splitlines()
    rows = []
    for line in lines:
        parts = line.removeprefix("import time:").split("|")
        if len(parts) == 3 and parts[1].strip().isdecimal():
            depth = (len(parts[2]) - len(parts[2].lstrip())) // 2
            rows.append((int(parts[1]) / 1e6, depth, parts[2].strip()))
    for seconds, depth, name in sorted(rows, reverse=True)[:count]:
        print(f"{seconds:6.2f} s  {'  ' * depth}{name}")


def losses(repeats):
    """Seconds that importing the losses adds to importing what they need."""
    code = (
        "import warnings, time; warnings.simplefilter('ignore'); import chex, jax, rlax; "
        "t = time.perf_counter(); import bellmax.losses; print(time.perf_counter() - t)"
    )
    command = [sys.executable, "-c", code]
    times = [
        float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        for _ in range(repeats)
    ]
    print(f"{statistics.median(times):.3f} s ({min(times):.3f} to {max(times):.3f})")


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="dqn/cartpole")
    parser.add_argument("overrides", nargs="*", help="options of bellmax train, after --")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--imports", action="store_true")
    parser.add_argument("--losses", action="store_true")
    parser.add_argument("--out", type=Path)
    short = "--warmup-steps 500 --log-every 1000 --agent.batch-size 8"
    arguments = parse(parser, words, repeats=1, overrides=short.split())
    trained = [arguments.preset, *arguments.overrides]
    if arguments.imports:
        imports(trained)
        return
    if arguments.losses:
        losses(arguments.repeats)
        return
    rows = measure(trained, arguments.repeats)
    print("| cache | first gradient step, printed (s) | wall (s) | trace and compile (s) |")
    print("| --- | --- | --- | --- |")
    for state, values in rows.items():
        cells = [
            f"{statistics.median(v):.1f} ({min(v):.1f} to {max(v):.1f})" for v in values.values()
        ]
        print(f"| {state} | " + " | ".join(cells) + " |")
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
