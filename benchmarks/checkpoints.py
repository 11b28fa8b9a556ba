"""Cost of saving and restoring a checkpoint: seconds, memory, bytes on disk. Linux only.

    python benchmarks/checkpoints.py [--states cartpole minatar frames] [--gigabytes 2]

Each row is measured in its own process. Its memory is the peak above the memory in use before; that
of a restore includes the restored state. `frames` is a replay of screens of Atari's size, sprites
on a still background, which compresses like games; `noise` does not compress. `policy` restores the
parameters and the statistics of observations, as `bellmax evaluate` does.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
from arguments import SCRATCH, parse

PRESETS = {"cartpole": "munchausen_dqn/cartpole", "minatar": "munchausen_dqn/minatar_breakout"}
SAVES = 7  # of a small state; the median counts


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--states", nargs="+", default=["cartpole", "minatar", "frames"])
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of `frames` and `noise`")
    parser.add_argument("--folder", type=Path, default=Path("checkpoints.benchmark"))
    parser.add_argument("--one", nargs=2, metavar=("STATE", "WHAT"), help=argparse.SUPPRESS)
    small = {"states": ["frames"], "gigabytes": 0.01, "folder": SCRATCH}
    arguments = parse(parser, words, **small)
    if arguments.one:
        print(json.dumps(measure(*arguments.one, arguments.gigabytes, arguments.folder)))
        return
    print("| state | MB | on disk | | seconds | more memory, MB |\n|---|---|---|---|---|---|")
    for state in arguments.states:
        for what in ("save", "restore", "policy"):
            words = [sys.executable, __file__, "--one", state, what]
            words += ["--gigabytes", str(arguments.gigabytes), "--folder", str(arguments.folder)]
            result = subprocess.run(words, capture_output=True, text=True)
            if result.returncode:
                print(f"| {state} | | | {what} | {result.stderr.splitlines()[-1]} | |")
                continue
            row = json.loads(result.stdout.splitlines()[-1])
            print(
                f"| {state} | {row['state']:.1f} | {row['disk']:.1f} | {what} | "
                f"{row['seconds']:.3f} | {row['memory']:.0f} |",
                flush=True,
            )
        shutil.rmtree(arguments.folder, ignore_errors=True)


def measure(state: str, what: str, gigabytes: float, folder: Path) -> dict[str, float]:
    from bellmax.launch.training.checkpoints import Checkpoints

    make = make_frames(state, gigabytes) if state not in PRESETS else make_run(PRESETS[state])
    checkpoints = Checkpoints(folder, keep=1)
    abstract = jax.eval_shape(make)
    megabytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(abstract)) / 1e6
    warm = {"learner": jnp.ones(3), "replay": jnp.ones(3)}
    checkpoints_of_little = Checkpoints(folder.with_name("warm.benchmark"), keep=1)
    checkpoints_of_little.save(1, warm, metric=None, extra={})  # what is imported once
    checkpoints_of_little.restore(1, warm)
    if what == "save":
        value = jax.block_until_ready(make())
        before, seconds = reset_peak(), []
        for step in range(SAVES if megabytes < 500 else 1):
            began = time.perf_counter()
            checkpoints.save(step, value, metric=None, extra={})
            seconds.append(time.perf_counter() - began)
    else:
        part, options = abstract, {}
        if what == "policy":
            from bellmax.launch.runners.train_state import TrainState

            if isinstance(abstract, TrainState):
                part = jax.tree.map(lambda _: None, abstract)
                learner = part.learner._replace(params=abstract.learner.params)
                env = part.env._replace(statistics=abstract.env.statistics)
                part = part._replace(learner=learner, env=env)
            else:
                part = {"learner": abstract["learner"]}
            options = {"partial": True}
        before, seconds = reset_peak(), []
        for _ in range(SAVES if megabytes < 500 else 1):
            began = time.perf_counter()
            jax.block_until_ready(checkpoints.restore(checkpoints.latest(), part, **options))
            seconds.append(time.perf_counter() - began)
    disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    median = sorted(seconds)[len(seconds) // 2]
    return {"state": megabytes, "disk": disk, "seconds": median, "memory": peak() - before}


def reset_peak() -> float:
    """Start a new measurement of `peak`; return the memory of this process now, in MB."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> float:
    """Return the largest memory of this process since `reset_peak`, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6


def make_run(preset: str):
    from bellmax.launch.config.run_config import load
    from bellmax.launch.training.experiment import build

    return build(load(preset, [])).init


def make_frames(kind: str, gigabytes: float):
    """Return a function that makes a small `learner` and a `replay`, [1, T, 1, 84, 84] uint8."""
    blocks = max(int(gigabytes * 1e9 / (84 * 84 * 1000)), 1)

    def fill(i, frames):
        key = jax.random.fold_in(jax.random.key(0), i)
        bits = jax.random.bits(key, (1, 1000, 1, 84, 84), "uint8")
        if kind != "noise":
            background = (jnp.arange(84)[:, None] + jnp.arange(84)) // 21 * 40
            bits = jnp.where(bits > 250, 200, background.astype("uint8")[None, None, None])
        return jax.lax.dynamic_update_slice_in_dim(frames, bits, i * 1000, 1)

    @jax.jit
    def make():
        frames = jnp.zeros((1, blocks * 1000, 1, 84, 84), jnp.uint8)
        frames = jax.lax.fori_loop(0, blocks, fill, frames)
        return {"learner": jnp.ones((1, 1_700_000)), "replay": {"observation": frames}}

    return make


if __name__ == "__main__":
    main()
