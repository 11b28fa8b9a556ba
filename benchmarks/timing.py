"""Shared by benchmarks: sides that take turns, their ratios, and a table of results."""

import signal
import statistics
import subprocess
import time
from pathlib import Path


def alternate(sides, rounds):
    """Calls each side in turn, `rounds` times: name -> seconds of each call.

    A side that returns a float has timed itself, without preparation and cleaning up. Any other
    result, such as arrays, is not a time.
    """
    seconds = {name: [] for name in sides}
    for _ in range(rounds):
        for name, go in sides.items():
            started = time.perf_counter()
            own = go()
            seconds[name].append(own if type(own) is float else time.perf_counter() - started)
    return seconds


def settle():
    """Wait until this process uses less than a tenth of a core."""
    while True:
        cpu, wall = time.process_time(), time.perf_counter()
        time.sleep(0.05)
        if time.process_time() - cpu < 0.1 * (time.perf_counter() - wall):
            return


class Peer:
    """Another project in a process and an environment of its own; it waits between its turns.

    The command answers a line "done" when it is compiled and warm, and one for each line it reads.
    """

    def __init__(self, command):
        self.command = list(map(str, command))
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(self.command, stdin=pipe, stdout=pipe, text=True)
        self._answer()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line.startswith("done"):
            script = Path(self.command[1]).name
            raise SystemExit(f"{script} stopped: {line or 'see its message above'}")

    def go(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self._answer()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Lines:
    """A program without turns: it is suspended between them, and its lines of output are counted.

    Args:
      command: the program; it must write a line at once, not when a buffer is full.
      start: how the lines that count begin.
      count: lines in a turn.
      where: the folder that it runs in.
    """

    def __init__(self, command, *, start, count, where):
        command, pipe = list(map(str, command)), subprocess.PIPE
        self.start, self.count = start, count
        self.process = subprocess.Popen(
            command, stdout=pipe, stderr=subprocess.DEVNULL, text=True, cwd=where
        )
        self._read(count)
        self.process.send_signal(signal.SIGSTOP)

    def _read(self, count):
        while count:
            line = self.process.stdout.readline()
            if not line:
                raise SystemExit(f"{self.process.args[-1]} exited")
            count -= line.startswith(self.start)

    def go(self):
        self.process.send_signal(signal.SIGCONT)
        self._read(self.count)
        self.process.send_signal(signal.SIGSTOP)

    def close(self):
        self.process.kill()
        self.process.wait()


def ratios(base, other):
    """How many times faster `other` is than `base`: median, and the range over rounds."""
    each = [b / o for b, o in zip(base, other, strict=True)]
    return {"ratio": statistics.median(each), "ratio_min": min(each), "ratio_max": max(each)}


def table(rows):
    """The rows as a markdown table: numbers with thousands separators, lists left out."""
    columns = list(dict.fromkeys(c for row in rows for c in row if not _is_nested(row[c])))
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(_show(row.get(c, "")) for c in columns) + " |" for row in rows]
    return "\n".join(lines)


def _is_nested(value):
    return isinstance(value, list | dict)


def _show(value):
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def compiled_loop(init, run, seeds):
    """Returns `go()`, which runs `run(carry) -> carry` of every seed once more, compiled and warm.

    init: key -> carry.
    """
    import jax  # here, because scripts of other projects import this module too

    keys = jax.random.split(jax.random.key(0), seeds)
    many_init, many = (jax.vmap(init), jax.vmap(run)) if seeds > 1 else (init, run)
    carry = jax.jit(many_init)(keys if seeds > 1 else keys[0])
    compiled = jax.jit(many, donate_argnums=0).lower(carry).compile()
    held = [jax.block_until_ready(compiled(carry))]

    def go():
        held[0] = jax.block_until_ready(compiled(held[0]))

    return go
