"""jax settings that a run needs before anything is compiled."""

import os
import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """Returns where compiled programs are kept: $BELLMAX_CACHE, or the user's cache folder."""
    if os.environ.get("BELLMAX_CACHE"):
        return Path(os.environ["BELLMAX_CACHE"]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "bellmax" / "xla"


def usable(folder: Path) -> bool:
    """Returns whether files can be written to a folder, which is made if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except (OSError, RuntimeError):
        return False


def configure_jax(*, deterministic: bool = False) -> None:
    """Keeps compiled programs between runs; a cache that cannot be written is done without.

    A CPU computes in the thread that asks: handing small programs, such as an actor's, to another
    one and waiting for it takes longer than what they do.

    Args:
      deterministic: asks XLA for deterministic GPU operations; call before any array is made.
    """
    if deterministic:
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()
    import jax

    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if jax.config.values["jax_compilation_cache_dir"] is not None or not usable(cache_folder()):
        return
    jax.config.update("jax_compilation_cache_dir", str(cache_folder()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
