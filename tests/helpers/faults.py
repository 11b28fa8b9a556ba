"""Faults of the machine inside this process: a signal, a full disk, a closed pipe."""

import contextlib
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator

import jax

HANG_SECONDS = 300  # an upper bound that only guards against hangs


@contextlib.contextmanager
def signal_when(condition: Callable[[], object], number: int) -> Iterator[None]:
    """Send this process a signal once the condition holds, which must be within the block.

    The signal comes from another thread, at an arbitrary moment of the main thread.
    """
    over, sent = threading.Event(), []

    def watch() -> None:
        for _ in range(HANG_SECONDS * 200):
            if over.wait(0.005):
                return
            if condition():
                sent.append(number)
                os.kill(os.getpid(), number)
                return

    thread = threading.Thread(target=watch)
    # A shell without job control starts background jobs with Ctrl-C ignored; handle it here.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        thread.start()
        yield
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGINT, before)
    assert sent, "the block ended before the condition held"


@contextlib.contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Refuse writes beyond `size` bytes of a file, as a full disk refuses them.

    jax writes nothing to its compilation cache meanwhile: half an entry would fail later tests.
    """
    name = "jax_persistent_cache_min_compile_time_secs"
    seconds = jax.config.values[name]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    jax.config.update(name, 1e9)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        jax.config.update(name, seconds)
        signal.signal(signal.SIGXFSZ, handler)


@contextlib.contextmanager
def stdout_closed_by_its_reader() -> Iterator[None]:
    """Replace sys.stdout by a pipe without a reader: writing to it raises BrokenPipeError."""
    reader, writer = os.pipe()
    os.close(reader)
    before, sys.stdout = sys.stdout, os.fdopen(writer, "w", buffering=1)
    try:
        yield
    finally:
        broken, sys.stdout = sys.stdout, before
        with contextlib.suppress(BrokenPipeError):
            broken.close()
