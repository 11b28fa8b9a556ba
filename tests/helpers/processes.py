"""Start Python and the `bellmax` command in new processes.

They run the code of this tree, and share the compilation cache of the environment.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

TESTS = Path(__file__).parents[1]
SOURCE = TESTS.parent / "src"
PROGRAM = "import sys; from bellmax.launch.cli import main; sys.exit(main())"
# A shell without job control starts background jobs with Ctrl-C ignored; children inherit that.
HEED_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
HANG_SECONDS = 300  # an upper bound that only guards against hangs


def environment(**changes: str) -> dict[str, str]:
    """Return the environment for a child process: this one, the tree's paths and `changes`."""
    return {**os.environ, "PYTHONPATH": f"{SOURCE}{os.pathsep}{TESTS}", **changes}


def start_python(*words: object, env: dict[str, str] | None = None, **options) -> psutil.Popen:
    """Start `python WORDS` with text pipes; `env` changes the environment."""
    return psutil.Popen(
        [sys.executable, *map(str, words)],
        env=environment(**(env or {})),
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options},
    )


def start_bellmax(*words: object, prepare: str = "", **options) -> psutil.Popen:
    """Start `bellmax WORDS`; `prepare` is Python code that runs first."""
    return start_python("-c", prepare + PROGRAM, *words, **options)


def finish(process: psutil.Popen, code: int = 0) -> tuple[str, str]:
    """Wait for the end of a process, assert its exit code and return (stdout, stderr)."""
    out, err = process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == code, (process.returncode, out, err)
    return out, err


def wait_until(
    condition: Callable[[], object], *processes: psutil.Popen, pause: float = 0.01
) -> None:
    """Wait until the condition holds, which must be before one of the processes ends."""
    until = time.monotonic() + HANG_SECONDS
    while not condition():
        if any(process.poll() is not None for process in processes):
            raise AssertionError(f"ended too early: {[_output(each) for each in processes]}")
        assert time.monotonic() < until, "hangs"
        time.sleep(pause)


def _output(process: psutil.Popen) -> tuple[int, str, str]:
    """Return (exit code, stdout, stderr) of a process; kill it if it does not end by itself."""
    try:
        out, err = process.communicate(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
    return process.returncode, out, err


def have_ended(processes: list[psutil.Process]) -> bool:
    """Return whether all of these processes end by themselves; a zombie has ended."""
    until = time.monotonic() + HANG_SECONDS
    while any(is_alive(process) for process in processes):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


@contextlib.contextmanager
def killed_at_exit() -> Iterator[list[psutil.Process]]:
    """Yield a list of processes; SIGKILL those that are left at the end of the block."""
    processes: list[psutil.Process] = []
    try:
        yield processes
    finally:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
