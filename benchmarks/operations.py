"""Shares of XLA's operations in the time of a run by kind, from jax's profiler, on CPU.

Shares are of the time within operations; loops, which hold others, are left out. The profiler slows
short operations down, so that shares say more than milliseconds.

    python benchmarks/operations.py [PRESET [-- OPTIONS ...]]
"""

import argparse
import gzip
import json
import tempfile
from collections import Counter
from pathlib import Path

import jax
import numpy as np
from arguments import parse
from timing import table

from bellmax.launch.config.run_config import load
from bellmax.launch.training.experiment import build

KINDS = {
    "ynn_fusion": "matrix products, fused",
    "dot": "matrix products",
    "convolution": "convolutions",
    "copy": "copies",
    "dynamic-update-slice": "writes of scans",
    "scatter": "scatters",
    "sort": "sorts",
    "reduce": "reductions",
}


def kind(operation: str) -> str:
    """Return the kind, one of KINDS, of an operation by its name."""
    name = operation.split(".")[0]
    return next((said for part, said in KINDS.items() if part in name), "elementwise and others")


def operations(folder: Path) -> Counter[str]:
    """Microseconds by operation, without those that hold others."""
    (path,) = folder.rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    total: Counter[str] = Counter()
    for event in events:
        name = event.get("args", {}).get("hlo_op")
        if (
            event.get("ph") == "X"
            and name
            and not name.startswith(("while", "call", "conditional"))
        ):
            total[name] += event["dur"]
    return total


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("preset", nargs="?", default="byol_explore/deepsea")
    parser.add_argument("overrides", nargs="*", help="options of bellmax train, after --")
    parser.add_argument("--rollouts", type=int, default=20)
    few = {"preset": "on_policy/deepsea", "rollouts": 2}
    arguments = parse(parser, words, **few)
    config = load(arguments.preset, arguments.overrides)
    experiment = build(config)
    state = experiment.init()
    advance = experiment.runner.compile(state)
    state, _ = advance(state, np.int32(0), np.int32(5))
    rollouts = arguments.rollouts
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            state, _ = advance(state, np.int32(0), np.int32(rollouts))
            jax.block_until_ready(state.vector_steps)
        experiment.close()
        found = operations(Path(folder))
    kinds: Counter[str] = Counter()
    for name, microseconds in found.items():
        kinds[kind(name)] += microseconds
    steps = rollouts * config.updates_per_rollout
    print(
        table(
            [
                {
                    "operations": name,
                    "share": f"{part / kinds.total():.0%}",
                    "ms a gradient step": f"{part / 1e3 / steps:.2f}",
                }
                for name, part in kinds.most_common()
            ]
        )
    )


if __name__ == "__main__":
    main()
