"""What XLA makes of a training program for a TPU: sizes, copies, collectives. No TPU is needed.

    pip install "libtpu==0.0.42.*"      the version that jax's extra `tpu` names
    python benchmarks/aot.py munchausen_dqn/minatar_breakout dqn/cartpole
    python benchmarks/aot.py --devices 1 4 --topology v5e:2x2 --out aot.json
    python benchmarks/aot.py expectrl/pendulum --set --replay.capacity 1000000
    python benchmarks/aot.py --every --out aot.json     all presets of the five agents
    python benchmarks/aot.py --fits --out fits.json     how many seeds and environments fit

Compiles the real `advance` of presets, by default one or two of each of five agents, ahead of time
for each topology and number of chips. Environments are rounded up to a multiple of the chips. All
figures are of one chip, and of one iteration:

- state MB: bytes of the state, without padding.
- args, temp, alias MB: XLA's bytes of arguments, of temporaries in the chip's main memory, and of
  arguments that are written in place.
- GFLOP, GB, optimal s: XLA's counts of operations and of bytes accessed, and its estimate of
  seconds; nan or below 0 where it has none.
- collectives: operations between chips, in loops.
- large: operations in loops whose result is larger than a batch and not written in place.
- copies: those of them that copy a whole array of the replay into another layout; moves of small
  arrays into the chip's vector memory do not count.
"""

import argparse
import importlib.util
import json
import math
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from arguments import parse
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from timing import table

from bellmax import UserError, must
from bellmax.launch.config.run_config import list_presets, load
from bellmax.launch.runners.device_runner import DeviceRunner
from bellmax.launch.training.experiment import Experiment, build

PRESETS = [
    "munchausen_dqn/cartpole",
    "munchausen_dqn/minatar_breakout",
    "munchausen_dqn/pixel_catch",
    "qr_dqn_retrace/cartpole",
    "qr_dqn_retrace/pixel_catch",
    "va_learning/cartpole",
    "expectrl/pendulum",
    "byol_explore/deepsea",
]
# libtpu would otherwise ask the network which TPU this machine has; nothing runs on one here, so
# that several processes may compile.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s64": 8, "u64": 8}
COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\(")
CALLED = re.compile(r"(?:body|condition|calls|to_apply)=%?([\w.\-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
LAYOUT = re.compile(r"\{[^}]*\}")
ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
# Operations that compute and copy nothing.
FREE = {
    "parameter",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "call",
    "constant",
    "opt-barrier",
    "copy-done",
}
COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute")


class Operation(NamedTuple):
    """kind: HLO opcode. name, shape: as in the text. size: bytes without padding. root: opcode of
    the root of a fusion, else the kind."""

    kind: str
    name: str
    shape: str
    size: int
    root: str


# Sizes whose memory `--fits` compares, and the memory of devices in GB.
SEEDS, ENVIRONMENTS = (1, 64), (128, 1024)
MEMORY = {
    **{"v5e, 16 GB": 16, "v6e, 32 GB": 32, "v5p, 95 GB": 95},
    **{"24 GB": 24, "40 GB": 40, "80 GB": 80, "141 GB": 141},
}
MOST = 65_536  # seeds or environments of a configuration
SHARE = 0.9  # of the memory, which the device also needs for its own
AGENTS = ("munchausen_dqn", "qr_dqn_retrace", "va_learning", "expectrl", "byol_explore")


def array_bytes(shape: str) -> int:
    """Return the bytes of an HLO shape, of the largest array of a tuple."""
    sizes = [
        math.prod(int(n) for n in dims.split(",") if n) * BYTES.get(dtype, 4)
        for dtype, dims in ARRAY.findall(shape)
    ]
    return max(sizes, default=0)


def operations_in_loops(text: str) -> Iterator[Operation]:
    """Yield the operations of the bodies of `while` in an HLO text, of what they call too."""
    computations: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        begin = COMPUTATION.match(line)
        if begin:
            current = computations[begin[1]] = []
        else:
            current.append(line)
    bodies = re.findall(r" while\(.*?body=%?([\w.\-]+)", text)
    seen, waiting = set(), list(bodies)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for line in computations[name]:
            found = INSTRUCTION.match(line)
            if not found:
                continue
            name, shape, kind = found.groups()
            called = CALLED.findall(line)
            root = kind
            if kind == "fusion":
                roots = [x for x in computations[called[0]] if x.lstrip().startswith("ROOT")]
                inner = INSTRUCTION.match(roots[0])
                root = inner[3] if inner else kind
            else:
                waiting += called
                for branches in BRANCHES.findall(line):
                    waiting += [branch.strip(" %") for branch in branches.split(",")]
            yield Operation(kind, name, shape, array_bytes(shape), root)


def is_copy(op: Operation) -> bool:
    """Whether an operation copies an array, into another layout or within the same memory.

    A `copy-start` into the chip's vector memory, S(1), or out of it keeps the layout.
    """
    if op.root != "copy-start":
        return op.root.startswith("copy")
    found = [layout for layout in LAYOUT.findall(op.shape) if layout != "{:S(2)}"]
    return len({layout.replace("S(1)", "") for layout in found}) > 1


def batch_bytes(experiment: Experiment) -> int:
    """Return the bytes of the observations of one sampled batch, of all seeds."""
    spec, observation = experiment.agent.replay, experiment.observation
    steps = spec.batch_size * spec.sequence_length
    # Networks read observations as float32.
    return steps * 4 * math.prod(observation.shape) * len(experiment.seeds)


def compile_for(preset: str, topology: str, devices: int, overrides: list[str]) -> dict[str, Any]:
    """Compile the training program of a preset; return its row of the table."""
    chips = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    num_envs = -(-load(preset, overrides).env.num_envs // devices) * devices
    options = [*overrides, "--env.num-envs", str(num_envs), "--devices", str(devices)]
    experiment = build(load(preset, options), devices=chips)
    runner = experiment.runner
    if not isinstance(runner, DeviceRunner):
        allowed = "a preset whose environment is stepped on the device, as one program"
        raise UserError(must("preset", allowed, preset))
    state = experiment.abstract_state()
    if devices == 1:
        there = SingleDeviceSharding(chips[0])
        state = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=there), state
        )
    started = time.perf_counter()
    compiled = runner.compile(state)
    seconds = time.perf_counter() - started
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    operations = list(operations_in_loops(compiled.as_text()))
    stored = [x.size * x.dtype.itemsize for x in jax.tree.leaves(state.replay)]
    batch = batch_bytes(experiment)
    in_place = {"dynamic-update-slice", "scatter"}
    large = [
        op
        for op in operations
        if op.size > batch and op.kind not in FREE and op.root not in in_place
    ]
    copies = [op for op in large if op.size in stored and is_copy(op)]
    collectives = Counter(
        op.kind.removesuffix("-start")
        for op in operations
        if op.kind.removesuffix("-start") in COLLECTIVES
    )
    state_bytes = sum(x.size * _item_bytes(x.dtype) for x in jax.tree.leaves(state))
    return {
        "preset": preset,
        "topology": f"{topology}, {devices} of {len(chips)}",
        "compile s": round(seconds, 1),
        "state MB": state_bytes / 1e6,
        "args MB": memory.argument_size_in_bytes / 1e6,
        "temp MB": memory.temp_size_in_bytes / 1e6,
        "alias MB": memory.alias_size_in_bytes / 1e6,
        "GFLOP": cost.get("flops", math.nan) / 1e9,
        "GB": cost.get("bytes accessed", math.nan) / 1e9,
        "optimal s": cost.get("optimal_seconds", math.nan),
        "collectives": ", ".join(f"{n} {kind}" for kind, n in sorted(collectives.items()))
        or "none",
        "large": [f"{op.root} {op.name} {op.shape}" for op in large],
        "copies": len(copies),
    }


def _item_bytes(dtype: Any) -> int:
    """Return the bytes of an element; a key of `jax.random` has two uint32."""
    return 8 if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) else np.dtype(dtype).itemsize


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("presets", nargs="*", default=PRESETS)
    parser.add_argument("--topology", nargs="+", default=["v5e:2x2"])
    parser.add_argument("--devices", type=int, nargs="+", default=[1])
    parser.add_argument("--set", nargs=argparse.REMAINDER, default=[], help="options of train")
    parser.add_argument("--every", action="store_true", help="all presets of the five agents")
    parser.add_argument("--fits", action="store_true", help="seeds and environments that fit")
    parser.add_argument("--out", type=Path, help="a JSON file, written after every program")
    args = parse(parser, words, presets=["dqn/cartpole"])
    os.environ.update(ENVIRONMENT | os.environ)
    if not importlib.util.find_spec("libtpu"):
        parser.error('libtpu must be installed: pip install "libtpu==0.0.42.*"')
    presets = args.presets
    if args.every:
        presets = [name for name in list_presets() if name.partition("/")[0] in AGENTS]
    rows, refused = [], []
    for preset in presets:
        for topology in args.topology:
            for devices in args.devices:
                try:
                    for options in sizes_of(preset) if args.fits else [[]]:
                        rows.append(compile_for(preset, topology, devices, [*args.set, *options]))
                        print(rows[-1], flush=True)
                except UserError as error:
                    refused.append(str(error))
                if args.out:
                    args.out.write_text(json.dumps({"rows": rows, "refused": refused}, indent=1))
    print(f"jax {jax.__version__}")
    shown = [{**row, "large": len(row["large"])} for row in rows]
    print(fits(rows) if args.fits else table(shown))
    if refused:
        print("\n".join(dict.fromkeys(refused)))


def sizes_of(preset: str) -> list[list[str]]:
    """Return the options of the programs whose memory `fits` compares: SEEDS, then ENVIRONMENTS."""
    on_policy = build(load(preset)).agent.replay.on_policy
    sizes = [[f"--seeds={seeds}"] for seeds in SEEDS]
    for envs in ENVIRONMENTS:
        more = [f"--agent.batch-size={envs}"] if on_policy else [f"--warmup-steps={16 * envs}"]
        sizes.append([f"--env.num-envs={envs}", *more])
    return sizes


def fits(rows: list[dict[str, Any]]) -> str:
    """Return tables of the seeds, and of the environments of one seed, that fit on a device.

    Arguments and temporaries of a program are a constant and a part for each seed or environment,
    by the rows of `sizes_of`; they may take SHARE of a device's memory.
    """
    seeds, environments = [], []
    for preset in dict.fromkeys(row["preset"] for row in rows):
        used = [r["args MB"] + r["temp MB"] for r in rows if r["preset"] == preset]
        if len(used) < len(SEEDS) + len(ENVIRONMENTS):
            continue
        for shown, (low, high), (few, many) in (
            (seeds, used[:2], SEEDS),
            (environments, used[2:], ENVIRONMENTS),
        ):
            each = max((high - low) / (many - few), 1e-6)
            left = {name: SHARE * gigabytes * 1e3 - low for name, gigabytes in MEMORY.items()}
            fit = {name: min(few + int(mb / each), MOST) for name, mb in left.items()}
            shown.append({"preset": preset, "MB of each": round(each, 3), **fit})
    return f"seeds\n\n{table(seeds)}\n\nenvironments\n\n{table(environments)}"


if __name__ == "__main__":
    main()
