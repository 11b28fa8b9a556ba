"""Measures one GPU, TPU or CPU in 8 minutes: the device, compilation, speed, peers and learning.

    python -m benchmarks.accelerator --out DIR                # 8 minutes
    python -m benchmarks.accelerator --out DIR --seconds 120  # a rehearsal
    python -m benchmarks.accelerator --out DIR --small        # below 3 minutes on a CPU

Writes accelerator.json and accelerator.md into DIR after every row, so that a run that is cut
counts. A section that fails, hangs or crashes is recorded, and the next one follows.
"""

import argparse
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

from benchmarks.accelerator import plan
from benchmarks.accelerator.page import add, new_report, write
from benchmarks.accelerator.work import serve

# A small run is to show that all of it works: its programs are compiled fast, and are slow.
SMALL_FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
SMALL_FLAGS += "--xla_cpu_use_fusion_emitters=false"  # the older code generator compiles faster


class Worker:
    """The process that measures, started when a section needs it."""

    def __init__(self, small: bool, out: Path, rejax: str | None):
        self.context = multiprocessing.get_context("spawn")
        self.arguments, self.process, self.pipe = (small, out, rejax), None, None

    def start(self) -> Any:
        """The pipe to the process; a new process if there is none."""
        if self.process is None:
            self.pipe, theirs = self.context.Pipe()
            self.process = self.context.Process(target=serve, args=(theirs, *self.arguments))
            self.process.start()
            theirs.close()  # so that the end of the process is the end of the pipe
        return self.pipe

    def end(self) -> int | None:
        """Kill the process, if there is one; its exit code."""
        if self.process is None:
            return None
        self.pipe.close()
        self.process.kill()
        self.process.join()
        code, self.process = self.process.exitcode, None
        return code


def run_section(
    section: plan.Section, seconds: float, grace: float, worker: Worker, report: dict, save: Any
) -> None:
    """Run one section; whatever happens to it is in its entry of the report."""
    entry, started = report["sections"][section.name], time.monotonic()
    entry |= {"status": "running", "limit": seconds, "seconds": 0.0}
    pipe, until = worker.start(), started + seconds + grace
    rows = {name: each["rows"] for name, each in report["sections"].items()}
    try:
        pipe.send((section.function, seconds, rows))
        while entry["status"] == "running":
            if not pipe.poll(max(0.0, until - time.monotonic())):
                worker.end()
                entry["status"] = "stopped at its limit"
                break
            kind, value = pipe.recv()
            entry["seconds"] = time.monotonic() - started
            if kind == "end":
                entry["status"] = "done"
            elif kind == "failed":
                entry["status"] = f"failed ({value})"
            else:
                add(entry, kind, value)
            save()
    except (EOFError, ConnectionError):
        worker.process.join(1.0)  # so that its own exit code is told
        entry["status"] = f"failed (its process ended with {worker.end()})"
    entry["seconds"] = time.monotonic() - started
    save()


def run(
    sections: tuple[plan.Section, ...],
    out: Path,
    *,
    seconds: float,
    small: bool,
    rejax: str | None = None,
) -> dict[str, Any]:
    """Run the sections within `seconds` and return the report, which is also written to `out`."""
    started, grace = time.monotonic(), plan.SMALL_GRACE if small else plan.GRACE
    report = new_report(sections, seconds=seconds, small=small)
    worker = Worker(small, out, rejax)

    def save() -> None:
        write(report, sections, out)

    save()
    try:
        for section in sections:
            left = seconds - (time.monotonic() - started)
            limit = plan.allowed(section, left, small=small)
            if limit is None:
                report["sections"][section.name]["status"] = "passed over, as no time was left"
            else:
                run_section(section, limit, grace, worker, report, save)
            print(f"{section.name}: {report['sections'][section.name]['status']}", flush=True)
    finally:
        worker.end()
        report["seconds"] = time.monotonic() - started
        save()
    return report


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accelerator",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [section.name for section in plan.SECTIONS]
    parser.add_argument("--out", type=Path, required=True, help="folder of the page")
    parser.add_argument("--seconds", type=float, help="time limit of the run, default: 480")
    parser.add_argument("--small", action="store_true", help="sizes for a CPU, 170 seconds")
    parser.add_argument("--only", nargs="+", choices=names, metavar="SECTION", default=names)
    parser.add_argument("--rejax", metavar="PYTHON", help="an interpreter that has rejax")
    given = parser.parse_args(arguments)
    # Leaves room for rejax, which has a process of its own on the same device.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.7")
    if given.small:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {SMALL_FLAGS}".strip()
    seconds = given.seconds or (plan.SMALL_SECONDS if given.small else plan.SECONDS)
    chosen = tuple(section for section in plan.SECTIONS if section.name in given.only)
    run(chosen, given.out, seconds=seconds, small=given.small, rejax=given.rejax)
    print(given.out / "accelerator.md")


if __name__ == "__main__":
    main()
