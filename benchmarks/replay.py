"""bellmax's replay against flashbax's, inside a compiled loop of add, sample and priority update.

States are donated and the sides take turns. The peer is flashbax's trajectory buffer with period 1,
which samples single transitions and, like ours, stores one step in a slot. For Atari, ours stores
only the newest frame of a stack of four; it is also measured with whole stacks.

    python benchmarks/replay.py [--tasks atari] [--seeds 1 8] [--rounds 7] [--iterations 2000]
        [--out replay.json]
"""

import argparse
import functools
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import flashbax
import jax
import jax.numpy as jnp
from arguments import parse
from timing import alternate, ratios, table

from bellmax.envs import Step
from bellmax.launch.replay.ring import make_replay, seed_axes

# name -> environments, batch, capacity in steps, shape and dtype of an observation
TASKS = {
    "cartpole": (10, 128, 10_000, (4,), jnp.float32),
    "minatar": (4, 32, 100_000, (10, 10, 4), jnp.bool_),
    "atari": (4, 32, 4_000, (84, 84, 4), jnp.uint8),
}
FRAMES = {"atari": 4}  # name -> frames in an observation, where ours keeps the newest alone
LENGTH = 2  # steps in a sampled sequence


def vector_step(task):
    envs, _, _, shape, dtype = TASKS[task]
    zeros, flags = jnp.zeros(envs), jnp.zeros(envs, bool)
    observation = jnp.zeros((envs, *shape), dtype)
    return Step(observation, zeros.astype(jnp.int32), zeros, zeros, flags, flags)


def bellmax_sides(task, prioritised, frames=True):
    """Return init() -> state, add, draw and rank; `axes`: seed axes, None for shared leaves."""
    envs, batch, capacity, shape, _ = TASKS[task]
    replay = make_replay(
        capacity=capacity,
        num_envs=envs,
        rollout_length=1,
        sequence_length=LENGTH,
        batch_size=batch,
        prioritised=prioritised,
        frame_stack=FRAMES.get(task, 1) if frames else 1,
        observation_shape=shape,  # as runs store them
    )
    step = vector_step(task)

    def add(state, step):
        return replay.add(state, jax.tree.map(lambda x: x[None], step))

    def draw(state, key):
        sample = replay.sample(state, key)
        return sample.batch.steps, sample.indices

    return lambda: replay.init(step), add, draw, replay.update_priorities, seed_axes


def flashbax_sides(task, prioritised):
    envs, batch, capacity, _, _ = TASKS[task]
    options = {
        "add_batch_size": envs,
        "sample_batch_size": batch,
        "sample_sequence_length": LENGTH,
        "period": 1,
        "min_length_time_axis": LENGTH,
        "max_length_time_axis": capacity // envs,
    }
    if prioritised:
        device = jax.local_devices()[0].platform
        options |= {"priority_exponent": 0.6, "device": device}
        buffer = flashbax.make_prioritised_trajectory_buffer(**options)
    else:
        buffer = flashbax.make_trajectory_buffer(**options)
    step = vector_step(task)

    def add(state, step):
        return buffer.add(state, jax.tree.map(lambda x: x[:, None], step))

    def draw(state, key):
        sample = buffer.sample(state, key)
        return sample.experience, sample.indices if prioritised else ()

    rank = buffer.set_priorities if prioritised else None
    return lambda: buffer.init(jax.tree.map(lambda x: x[0], step)), add, draw, rank, 0


def make(sides, task, prioritised, seeds, iterations):
    """`go()`: `iterations` of add, sample and, if prioritised, update, on a full buffer."""
    init, add, draw, rank, axes = sides(task, prioritised)
    step, envs, capacity = vector_step(task), TASKS[task][0], TASKS[task][2]

    def body(carry, key):
        state, total = carry
        # The added data depends on the sample, so that the compiler can remove nothing.
        state = add(state, step._replace(reward=step.reward + total))
        drawn, indices = draw(state, key)
        if prioritised:
            state = rank(state, indices, jnp.abs(drawn.reward[:, 0]) + 1.0)
        used = [jnp.sum(leaf, dtype=jnp.float32) for leaf in jax.tree.leaves(drawn)]
        return state, 1e-6 * sum(used)

    def loop(carry, keys, length):
        return jax.lax.fori_loop(0, length, lambda i, carry: body(carry, keys[i]), carry)

    state = jax.jit(lambda: jax.vmap(lambda _: init(), out_axes=axes)(jnp.arange(seeds)))()
    carry = state, jnp.zeros(seeds)
    keys = jax.random.split(jax.random.key(0), (seeds, iterations))
    mapped = jax.vmap(loop, in_axes=((axes, 0), 0, None), out_axes=(axes, 0))
    run = jax.jit(lambda carry, keys: mapped(carry, keys, iterations), donate_argnums=0)
    held = [run(carry, keys)]
    for _ in range(capacity // envs // iterations):  # fill it
        held[0] = run(held[0], keys)
    jax.block_until_ready(held[0])

    def go():
        held[0] = jax.block_until_ready(run(held[0], keys))

    return go


def compare(task, prioritised, seeds, iterations, rounds):
    sides = {"flashbax": flashbax_sides, "bellmax": bellmax_sides}
    if task in FRAMES:
        sides["bellmax of stacks"] = functools.partial(bellmax_sides, frames=False)
        iterations //= 20  # each moves megabytes
    rest = task, prioritised, seeds, iterations
    seconds = alternate({name: make(side, *rest) for name, side in sides.items()}, rounds)
    kind = "prioritised" if prioritised else "uniform"
    row = {"task": task, "kind": kind, "seeds": seeds}
    for name, taken in seconds.items():
        row[f"{name}, us an iteration"] = 1e6 * statistics.median(taken) / iterations / seeds
    return row | ratios(seconds["flashbax"], seconds["bellmax"]) | {"seconds": seconds}


def import_seconds(module, repeats):
    """Median seconds that importing a module takes when jax is imported already."""
    lines = "import jax, time", "s = time.perf_counter()", f"import {module}"
    code = "; ".join([*lines, "print(time.perf_counter() - s)"])
    command = [sys.executable, "-c", code]
    runs = [subprocess.run(command, capture_output=True, check=True) for _ in range(repeats)]
    return statistics.median(float(run.stdout) for run in runs)


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--iterations", type=int, default=2_000)
    parser.add_argument("--imports", type=int, default=5, help="starts of Python for each import")
    parser.add_argument("--out", type=Path)
    small = {"tasks": ["cartpole"], "seeds": [2], "rounds": 1, "iterations": 100, "imports": 1}
    arguments = parse(parser, words, **small)
    started = time.perf_counter()
    rows = [
        compare(task, prioritised, seeds, arguments.iterations, arguments.rounds)
        for task in arguments.tasks
        for prioritised in (False, True)
        for seeds in arguments.seeds
    ]
    print(table(rows))
    imported = "flashbax", "bellmax.launch.replay.ring"
    modules = {name: import_seconds(name, arguments.imports) for name in imported}
    for name, seconds in modules.items():
        print(f"\nimport {name}, after jax: {seconds:.2f} s")
    if arguments.out:
        arguments.out.write_text(json.dumps({"rows": rows, "imports": modules}, indent=2) + "\n")
    print(f"\nmeasured in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
