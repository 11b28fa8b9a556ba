"""Sections on arrays alone: the device's peaks, a gradient step at Atari's shapes, quantiles."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from benchmarks.accelerator.work import Work, fits, sentence
from timing import settle

KEY = jax.random.key(0)
TURN, SMALL_TURN = 0.5, 0.1  # seconds of two rows of calls


def measure_device(work: Work) -> Iterator[Any]:
    """Versions, and the peaks of a matrix product and of a copy."""
    device = jax.devices()[0]
    yield "facts", facts(device)
    n, turn = (512, SMALL_TURN) if work.small else (8192, TURN)
    products = [("float32", "default"), ("float32", "highest"), ("bfloat16", "default")]
    for dtype, precision in products:
        seconds = per_call(
            lambda x, p=precision: jnp.matmul(x, x, precision=p), (n, n), dtype, turn
        )
        row = {"what": "matrix product", "dtype": dtype, "precision": precision, "n": n}
        yield row | {"TFLOP/s": 2 * n**3 / seconds / 1e12}
    size = 2**22 if work.small else 2**28
    seconds = per_call(lambda x: x + 1, (size,), "float32", turn)
    yield {"what": "copy", "dtype": "float32", "n": size, "GB/s": 8 * size / seconds / 1e9}


def facts(device: Any) -> dict[str, Any]:
    """What identifies the device and the software."""
    memory = (device.memory_stats() or {}).get("bytes_limit")
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "devices": jax.device_count(),
        "runtime": " ".join(device.client.platform_version.split()),
        "memory for jax, GB": "unknown" if memory is None else round(memory / 1e9, 1),
        "jax": jax.__version__,
        "jaxlib": jax.lib.__version__,
        "numpy": np.__version__,
        "matmul precision": str(jax.config.values["jax_default_matmul_precision"] or "default"),
    }


def per_call(function: Callable, shape: tuple[int, ...], dtype: str, turn: float) -> float:
    """Seconds of a call on normal numbers; calls are queued, so that their start costs nothing."""
    x = jax.random.normal(KEY, shape, jnp.float32).astype(dtype)
    compiled = jax.jit(function).lower(x).compile()
    return repeat(lambda: compiled(x), turn)


def repeat(go: Callable[[], Any], turn: float) -> float:
    """Seconds of a call of `go`, the mean over the fastest of three rows of queued calls.

    A row takes half of `turn` seconds.
    """
    jax.block_until_ready(go())
    calls, best = 1, float("inf")
    for _ in range(3):
        started = time.perf_counter()
        for _ in range(calls):
            result = go()
        jax.block_until_ready(result)
        each = (time.perf_counter() - started) / calls
        best = min(best, each) if calls > 1 else each
        calls = max(2, min(1000, int(turn / 2 / each)))
    return best


def measure_learner(work: Work) -> Iterator[Any]:
    """A gradient step in each precision, and its share of the peak of that precision."""
    peaks = {
        row["dtype"]: row["TFLOP/s"]
        for row in work.rows.get("device", [])
        if row["what"] == "matrix product" and row["precision"] == "default"
    }
    taken = []
    for batch_size in (2,) if work.small else (32, 256, 1024):
        for dtype in ("float32", "bfloat16"):
            if not fits(work, taken):
                yield f"batch {batch_size} in {dtype} did not fit"
                continue
            started = time.monotonic()
            row = {"batch": batch_size, "dtype": dtype}
            try:
                turn = SMALL_TURN if work.small else TURN
                row |= _learner_row(batch_size, dtype, peaks.get(dtype), turn)
            except Exception as error:  # such as memory: smaller ones are measured
                row["failed"] = sentence(error)
            yield row
            taken.append(time.monotonic() - started)


def _learner_row(batch_size: int, dtype: str, peak: float | None, turn: float) -> dict[str, Any]:
    from atari_shapes import make_agent, make_batch

    agent = make_agent(18, {"trace": "one_step"}, dtype=dtype, batch_size=batch_size)
    batch = make_batch(18, agent.replay.sequence_length, batch_size=batch_size)
    state = jax.jit(agent.init)(KEY)
    lowered = jax.jit(agent.learn, donate_argnums=0).lower(state, batch, KEY)
    flops = lowered.cost_analysis()["flops"]
    compiled = lowered.compile()
    held = [state]

    def go():
        held[0], output = compiled(held[0], batch, KEY)
        return output

    seconds = repeat(go, turn)
    row = {"ms": 1e3 * seconds, "gradient steps/s": 1 / seconds, "GFLOP": flops / 1e9}
    row["TFLOP/s"] = flops / seconds / 1e12
    return row | ({"share of peak": row["TFLOP/s"] / peak} if peak else {})


def measure_quantiles(work: Work) -> Iterator[Any]:
    """The two forms of quantile regression, and which of them `auto` takes here."""
    from quantile import compare

    sizes = [(201, 1), (201, 5)] if work.small else [(51, 1), (201, 1), (201, 3), (201, 10)]
    taken = []
    for batch in (32,) if work.small else (32, 512):
        for n, targets in sizes:
            if not fits(work, taken):
                yield f"N = {n} with {targets} targets and batch {batch} did not fit"
                continue
            settle()
            started = time.monotonic()
            yield {"batch": batch} | compare(n, targets, batch, 1.0, 5 if work.small else 21)
            taken.append(time.monotonic() - started)
