"""CartPole on ten seeds: from typing the command to a policy that balances, in wall clock.

One process a seed, one after the other, each with a cold compilation cache; then 100 greedy
episodes. The claim: return >= 475 in under 60 s on at least 9 of 10 seeds.

    python benchmarks/cartpole.py [--agent munchausen_dqn] [--seeds 10] [--out cartpole.json]
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from arguments import parse

PROGRAM = "import sys; from bellmax.launch.cli import main; sys.exit(main())"
RETURN = re.compile(r"mean return ([-\d.]+)")
SECONDS, GOAL = 60.0, 475.0


def bellmax(arguments, cache):
    """Runs one command; returns its output and seconds."""
    env = {**os.environ, "BELLMAX_CACHE": str(cache)}
    started = time.perf_counter()
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"bellmax {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout, time.perf_counter() - started


def one_seed(preset, seed, overrides):
    with tempfile.TemporaryDirectory() as folder:
        run, cache = f"{folder}/run", f"{folder}/cache"
        train = ["train", preset, "--out", run, "--seed", str(seed), *overrides]
        _, seconds = bellmax(train, cache)
        answer, _ = bellmax(["evaluate", run, "--episodes", "100"], cache)
    value = float(RETURN.search(answer)[1])
    passed = seconds < SECONDS and value >= GOAL
    return {"seed": seed, "seconds": seconds, "return": value, "passed": passed}


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agent", default="munchausen_dqn")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("overrides", nargs="*", help="after --, such as -- --steps 20000")
    short = "--steps 2000 --warmup-steps 1000 --evaluation-episodes 2 --evaluate-every 1000 "
    short += "--agent.network.hidden 8 --agent.batch-size 8"
    arguments = parse(parser, words, seeds=1, overrides=short.split())
    rows = []
    print("| seed | command to policy (s) | return over 100 episodes | passed |")
    print("| --- | --- | --- | --- |")
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        row = one_seed(f"{arguments.agent}/cartpole", seed, arguments.overrides)
        rows.append(row)
        answer = "yes" if row["passed"] else "no"
        print(f"| {seed} | {row['seconds']:.1f} | {row['return']:.1f} | {answer} |", flush=True)
    passed = sum(row["passed"] for row in rows)
    print(f"\n{passed} of {len(rows)} seeds reach {GOAL:.0f} in under {SECONDS:.0f} s")
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
