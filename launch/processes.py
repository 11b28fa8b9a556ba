"""One run in several processes, on one machine or many: every process has some of the devices.

All of them run the same program. The first writes the run's folder; what the others would write
goes to a folder that is thrown away.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bellmax import UserError


def join_processes(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Makes this process one of several; call before any array is made. None of all: just this one.

    Args:
      coordinator: address:port of the first process, or `auto` in a cluster that jax knows (Slurm,
        Cloud TPU, GKE, Open MPI), which says the rest.
      processes: how many there are.
      process: which one this is, from 0.

    Raises:
      UserError: some are missing or out of range, or the others cannot be reached.
    """
    if coordinator is None:
        if processes is not None or process is not None:
            raise UserError("--processes and --process need --coordinator ADDRESS:PORT, or auto")
        return
    known = coordinator != "auto"
    if known and (processes is None or process is None):
        raise UserError("--coordinator ADDRESS:PORT needs --processes N and --process I")
    if processes is not None and process is not None and not 0 <= process < processes:
        raise UserError(f"--process must be in [0, {processes - 1}], got {process}")
    # Without it a process aborts when another one dies, before it can say so.
    jax.config.update("jax_enable_recoverability", True)
    try:
        jax.distributed.initialize(coordinator if known else None, processes, process)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the processes of this run cannot join: {reason}") from error


def is_first() -> bool:
    """Whether this process writes the run's folder."""
    return jax.process_index() == 0


@contextlib.contextmanager
def writable(folder: Path) -> Iterator[Path]:
    """The folder in the first process, one that is thrown away in the others."""
    if is_first():
        yield folder
        return
    with tempfile.TemporaryDirectory() as other:
        yield Path(other)


def gathered(tree: Any) -> Any:
    """A pytree whose leaves this process can read; all processes must call it.

    With one process it is as it was; with several its leaves are on the host.
    """
    if jax.process_count() == 1:
        return tree
    from jax.experimental import multihost_utils

    def gather(x: jax.Array) -> Any:
        if x.is_fully_replicated:
            return x
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))

    return jax.tree.map(gather, tree)
