"""Processes of a sweep's runs, on this machine or on a Ray cluster.

Ray imports this module on other machines, so it has no slow imports at the top.
"""

import contextlib
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bellmax.envs.options import import_extra
from bellmax.launch.studies.sweep.plan import Job

_PAUSE = 0.1  # seconds between two polls of a process


class Ended(NamedTuple):
    """The exit code of a run's process, and the last line of its stderr or the signal."""

    code: int
    error: str


class Pool(NamedTuple):
    """Starts and stops processes.

    width() -> number of parallel processes. start(job) -> handle. poll(handle) -> Ended, or None
    while the process runs. stop(handle, signal): forwards a signal. kill(handle): kills it.
    """

    width: Callable[[], int]
    start: Callable[[Job], Any]
    poll: Callable[[Any], Ended | None]
    stop: Callable[[Any, int], None]
    kill: Callable[[Any], None]


def make_pool(jobs: str, out: Path) -> contextlib.AbstractContextManager[Pool]:
    """Return the pool of the sweep in `out`: `jobs` is a number, `ray`, or `ray://HOST:PORT`."""
    if jobs.isdecimal():
        return contextlib.nullcontext(_local_pool(int(jobs), out))
    return _ray_pool(jobs, out)


def _local_pool(width: int, out: Path) -> Pool:
    def start(job: Job) -> tuple[subprocess.Popen[bytes], Path]:
        return start_process(job.arguments, out / job.name), out / job.name

    def stop(handle: tuple[subprocess.Popen[bytes], Path], number: int) -> None:
        handle[0].send_signal(number)

    def kill(handle: tuple[subprocess.Popen[bytes], Path]) -> None:
        handle[0].kill()
        handle[0].wait()
        end_process(*handle)

    return Pool(lambda: width, start, lambda handle: end_process(*handle), stop, kill)


@contextlib.contextmanager
def _ray_pool(address: str, out: Path) -> Iterator[Pool]:
    """Return a pool of Ray tasks with one CPU each, on a cluster that shares this file system."""
    import_extra("grpc", "ray")
    ray: Any = import_extra("ray", "ray")
    from bellmax.launch.distributed.ray_cluster import LostClusterError, connected, reached

    with connected(address, os.cpu_count() or 1):
        remote = ray.remote(num_cpus=1)(run_process)
        guard = functools.partial(reached, "the same `bellmax sweep` continues it")

        def width() -> int:
            with guard():
                return max(int(ray.cluster_resources().get("CPU", 1)), 1)

        def start(job: Job) -> Any:
            folder = str((out / job.name).absolute())
            with guard():
                return remote.remote(job.arguments, folder, os.getcwd())

        def poll(task: Any) -> Ended | None:
            with guard():
                if not ray.wait([task], timeout=0)[0]:
                    return None
                try:
                    return ray.get(task)
                except ray.exceptions.RayError as error:  # cancelled, or its machine was lost
                    lines = str(error).strip().splitlines() or [type(error).__name__]
                    return Ended(1, lines[-1])

        def stop(task: Any, _: int) -> None:
            with guard():
                ray.cancel(task)

        def kill(task: Any) -> None:
            with contextlib.suppress(LostClusterError), guard():
                ray.cancel(task)
                ray.wait([task], timeout=10)

        yield Pool(width, start, poll, stop, kill)


def run_process(arguments: list[str], folder: str, cwd: str) -> Ended:
    """Run `bellmax` in a Ray task; if it is cancelled, send SIGTERM to the process and wait.

    Args:
      arguments: command-line arguments of `bellmax`.
      folder: the run's folder, absolute; its log is next to it.
      cwd: working directory of the process.

    Returns:
      How the process ended.
    """
    process = start_process(arguments, Path(folder), cwd)
    try:
        while not (ended := end_process(process, Path(folder))):
            time.sleep(_PAUSE)  # a cancellation does not interrupt a blocking wait
        return ended
    except BaseException:
        process.terminate()
        process.wait()
        end_process(process, Path(folder))
        raise


def start_process(
    arguments: Sequence[str], folder: Path, cwd: str | None = None
) -> subprocess.Popen[bytes]:
    """Start `bellmax` in its own session, so that only the sweep receives Ctrl-C."""
    command = [sys.executable, "-P", "-m", "bellmax.launch.cli", *arguments]
    log, errors = _outputs(folder)
    with log.open("ab") as stdout, errors.open("wb") as stderr:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd=cwd,
            start_new_session=True,
        )


def end_process(process: subprocess.Popen[bytes], folder: Path) -> Ended | None:
    """Return how a process of `start_process` ended, or None while it runs.

    Its stderr is appended to its log.
    """
    code = process.poll()
    if code is None:
        return None
    log, errors = _outputs(folder)
    # The file is missing if a signal interrupted an earlier call.
    stderr = errors.read_bytes() if errors.exists() else b""
    with log.open("ab") as file:
        file.write(stderr)
    errors.unlink(missing_ok=True)
    lines = stderr.decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return Ended(code, f"killed ({signal.strsignal(-code)})" if code < 0 else last)


def _outputs(folder: Path) -> tuple[Path, Path]:
    """Return the files for stdout and stderr of a run, next to its folder."""
    return folder.with_name(f"{folder.name}.log"), folder.with_name(f"{folder.name}.err")
