"""One run in several processes, on one or several machines: each has some of the devices.

All of them run the same program. The first writes the run's folder; the others write to temporary
folders that are deleted.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from bellmax import UserError, must


def join_processes(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Join the processes of a run; call this before any array is made.

    Without arguments this process is the only one.

    Args:
      coordinator: address:port of the first process, or `auto` in a cluster that jax knows (Slurm,
        Cloud TPU, Open MPI), which sets the other two.
      processes: their number.
      process: the index of this one, from 0.

    Raises:
      UserError: an argument is missing or out of range, or the others cannot be reached.
    """
    if coordinator is None:
        if processes is not None or process is not None:
            allowed = "ADDRESS:PORT or auto with --processes and --process"
            raise UserError(must("--coordinator", allowed, "nothing"))
        return
    known = coordinator != "auto"
    if known and (processes is None or process is None):
        lacks = "--processes" if processes is None else "--process"
        raise UserError(must(lacks, "given with --coordinator ADDRESS:PORT", "nothing"))
    if processes is not None and processes < 1:
        raise UserError(must("--processes", "at least 1", processes))
    if processes is not None and process is not None and not 0 <= process < processes:
        raise UserError(must("--process", f"in [0, {processes - 1}]", process))
    # Otherwise jax aborts this process when another one dies, before that can be reported.
    jax.config.update("jax_enable_recoverability", True)
    try:
        jax.distributed.initialize(coordinator if known else None, processes, process)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the processes of this run cannot join: {reason}") from error


_LONGEST_WAIT = 600  # seconds


def wait_for_all(place: str) -> None:
    """Wait until every process of the run has come to this place.

    jax's own synchronisation is a computation over the devices, and the first of these fails if
    another process comes more than 30 seconds later; this one uses the coordinator.

    Args:
      place: a name that a run uses once.

    Raises:
      RuntimeError: another process has ended, or has not come after ten minutes.
    """
    if jax.process_count() == 1:
        return
    from orbax.checkpoint import multihost

    multihost.get_barrier_sync_fn()(key=f"bellmax {place}", timeout_ms=1000 * _LONGEST_WAIT)


class LostProcessError(UserError):
    """Another process of the run has died."""

    exit_code = 1  # of the command line: a failure of the machine, not a mistake of the user


@contextlib.contextmanager
def distributed_guard(how_to_resume: Callable[[], str]) -> Iterator[None]:
    """Turn an error of jax about a process that died into a LostProcessError.

    Args:
      how_to_resume: returns the command that continues the run.

    Raises:
      LostProcessError: another process has died.
    """
    try:
        yield
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices("end")
    except (ValueError, RuntimeError) as error:
        lost = ("Gloo", "NCCL", "peer", "UNAVAILABLE", "Barrier", "heartbeat")
        if jax.process_count() == 1 or not any(word in str(error) for word in lost):
            raise
        raise LostProcessError(
            f"another process of this run has died; start all of them again with "
            f"`{how_to_resume()}`, which continues from the last checkpoint"
        ) from error


def leave(code: int, *, at_once: bool = False) -> None:
    """End this process if it is one of several, because jax's shutdown would wait for dead ones.

    Args:
      code: the exit code.
      at_once: also end a single process, because a thread that hangs may crash Python at exit.
    """
    if at_once or jax.process_count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def is_first() -> bool:
    """Return whether this process is the first of the run, which writes the run's folder."""
    return jax.process_index() == 0


@contextlib.contextmanager
def primary_folder(folder: Path) -> Iterator[Path]:
    """Yield the folder in the first process, and a temporary folder in the others."""
    if is_first():
        yield folder
        return
    with tempfile.TemporaryDirectory() as other:
        yield Path(other)
