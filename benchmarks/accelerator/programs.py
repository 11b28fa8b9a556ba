"""Sections on whole training programs: their compilation, their speed, and other loops."""

import importlib.util
import math
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from benchmarks.accelerator import plan
from benchmarks.accelerator.work import Work, fits, quiet_peer, sentence

from bellmax import UserError
from bellmax.launch.config.run_config import RunConfig, load
from bellmax.launch.training.experiment import Experiment, build

TURN = 1.0  # seconds of a measurement, at least half of it


class Program(NamedTuple):
    """A compiled training program, and the function that makes its first state.

    init(seeds [S] int32) -> state; advance(state, warmup, rollouts) -> (state, metrics).
    """

    config: RunConfig
    experiment: Experiment
    init: Any
    advance: Any
    trace_seconds: float
    compile_seconds: float


def prepare(preset: str, options: list[str], *, with_init: bool) -> Program:
    """Compile a preset with those options; nothing of its state is allocated.

    Without `with_init`, what makes the first state is compiled when it is called.

    Raises:
      UserError: an extra is not installed, or the options contradict each other.
    """
    config = load(preset, options)
    experiment = build(config)
    started = time.monotonic()
    zero = np.int32(0)
    lowered = experiment.runner.advance.lower(experiment.abstract_state(), zero, zero)
    traced = time.monotonic()
    advance = lowered.compile()
    compiled = time.monotonic()
    init = experiment.runner.init
    if with_init:
        init = jax.jit(init).lower(jnp.asarray(experiment.seeds, jnp.int32)).compile()
    return Program(config, experiment, init, advance, traced - started, compiled - traced)


def start(program: Program) -> Any:
    """A state whose replay holds the steps of warm-up, and which has learned once."""
    config = program.config
    rollout = config.env.num_envs * config.rollout_length
    state = program.init(jnp.asarray(program.experiment.seeds, jnp.int32))
    warmup = math.ceil(config.warmup_steps / rollout)
    return jax.block_until_ready(program.advance(state, np.int32(warmup), np.int32(1))[0])


def of_size(size: plan.Size, *, with_init: bool) -> Program:
    """The program of a size; raises as `prepare`."""
    config = load(size.preset)
    on_policy = size.preset.startswith("byol_explore/")
    options = plan.overrides(size, on_policy=on_policy, own_envs=config.env.num_envs)
    return prepare(size.preset, options, with_init=with_init)


def measure_compilation(work: Work) -> Iterator[Any]:
    """Seconds and bytes of the training programs of the five agents."""
    taken = []
    for preset in plan.SMALL_COMPILED if work.small else plan.COMPILED:
        if not fits(work, taken):
            yield f"`{preset}` did not fit"
            continue
        size, started = plan.Size(preset, 1, None), time.monotonic()
        try:
            program = of_size(size, with_init=False)
        except UserError as error:
            yield f"`{preset}` was passed over: {error}"
            continue
        except Exception as error:
            yield {"preset": preset, "failed": sentence(error)}
            continue
        work.programs[size] = program
        taken.append(time.monotonic() - started)
        row = {"preset": preset, "trace, s": program.trace_seconds}
        row["compile, s"] = program.compile_seconds
        memory = program.advance.memory_analysis()
        if memory is not None:
            row["arguments, MB"] = memory.argument_size_in_bytes / 1e6
            row["temporaries, MB"] = memory.temp_size_in_bytes / 1e6
        yield row


def measure_rates(work: Work) -> Iterator[Any]:
    """Steps per second of the grid, in as many sizes as fit.

    An accelerator waits while programs compile, so several are compiled at once, and measured when
    all of them are ready.
    """
    todo, missing, taken = plan.grid(small=work.small), set(), []
    together = 1 if jax.default_backend() == "cpu" else max(1, min(4, (os.cpu_count() or 1) // 2))
    with ThreadPoolExecutor(together) as threads:
        while todo and fits(work, taken):
            some, todo = todo[:together], todo[together:]
            started = time.monotonic()
            waiting = [size for size in some if size not in work.programs]
            futures = {
                s: threads.submit(of_size, s, with_init=True)
                for s in waiting
                if s.preset not in missing
            }
            for size in some:
                if size.preset in missing:
                    continue
                if size in futures and isinstance(futures[size].exception(), UserError):
                    missing.add(size.preset)
                    yield f"`{size.preset}` was passed over: {futures[size].exception()}"
                    continue
                held = work.programs.pop(size, None)
                yield _rate_row(size, held or futures.pop(size), work.small)
            taken.append(time.monotonic() - started)
    if todo := [size for size in todo if size.preset not in missing]:
        names = (f"`{s.preset}` {s.seeds}x{s.envs or 'own'}" for s in todo)
        yield f"did not fit (seeds x environments): {', '.join(names)}"


def _rate_row(size: plan.Size, program: Any, small: bool) -> dict[str, Any]:
    row = {"preset": size.preset, "seeds": size.seeds}
    try:
        program = program if isinstance(program, Program) else program.result()
        return row | rate(program, TURN / 4 if small else TURN)
    except Exception as error:  # such as memory: the sizes that follow are measured
        return row | {"environments": size.envs or "preset's", "failed": sentence(error)}


def rate(program: Program, seconds: float) -> dict[str, Any]:
    """Steps per second of a program over at least half of `seconds`."""
    config, state = program.config, start(program)
    rollouts, taken = 1, 0.0
    while taken < seconds / 2:
        rollouts *= 1 if not taken else max(2, min(100, int(seconds / taken)))
        began = time.perf_counter()
        state, metrics = program.advance(state, np.int32(0), np.int32(rollouts))
        jax.block_until_ready(state)
        taken = time.perf_counter() - began
    steps = rollouts * config.rollout_length * config.env.num_envs * config.seeds
    return {
        "environments": config.env.num_envs,
        "env steps/s": steps / taken,
        "gradient steps/s": float(metrics.updates.sum()) / taken,
        "finite": bool(metrics.finite.all()),
    }


def measure_peers(work: Work) -> Iterator[Any]:
    """The loop of benchmarks/speed.py: bellmax, the loop without a framework, and rejax."""
    if importlib.util.find_spec("gymnax") is None:
        yield "passed over: the loop without a framework needs gymnax, which is not installed"
        return
    from speed import compare

    rejax = work.rejax or (sys.executable if importlib.util.find_spec("rejax") else None)
    if rejax is None:
        yield "rejax was passed over: it is not installed, and `--rejax PYTHON` was not given"
    elif jax.default_backend() == "tpu":
        rejax = None
        yield "rejax was passed over: it needs a process of its own, and a TPU serves one process"
    quiet_peer()
    updates, rounds, taken = (50, 2, []) if work.small else (2_000, 5, [])
    for seeds in (1,) if work.small else (1, 64, 16):
        if not fits(work, taken):
            yield f"{seeds} seeds did not fit"
            continue
        started = time.monotonic()
        for row in compare(seeds, updates, 10_000, rounds, rejax):
            yield row | {"updates": updates}
        taken.append(time.monotonic() - started)
