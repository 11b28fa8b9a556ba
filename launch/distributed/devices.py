"""jax settings of a run, which are made before anything is compiled."""

import os
import tempfile
from pathlib import Path

from bellmax import UserError, must


def cache_folder() -> Path:
    """Return the compilation cache: $BELLMAX_CACHE, or a folder in the user's cache folder."""
    if os.environ.get("BELLMAX_CACHE"):
        return Path(os.environ["BELLMAX_CACHE"]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "bellmax" / "xla"


def usable(folder: Path) -> bool:
    """Return whether files can be written to a folder; create it if it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except (OSError, RuntimeError):
        return False


def check_platform() -> None:
    """Start jax's platform.

    Raises:
      UserError: the platform that JAX_PLATFORMS names does not start here.
    """
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # AssertionError: the only platform is missing
        named = jax.config.values.get("jax_platforms") or "the default"
        reason = " ".join(str(error).split())[:300]
        got = f"{named!r}{f' ({reason})' if reason else ''}"
        hint = (
            "for NVIDIA GPUs install jax[cuda12] or jax[cuda13], for TPUs jax[tpu], or unset "
            "JAX_PLATFORMS"
        )
        raise UserError(must("JAX_PLATFORMS", "a platform that starts here", got, hint)) from error


def check_precision() -> None:
    """Raise UserError if the caller has changed a jax setting that runs depend on."""
    import jax

    if jax.config.values["jax_enable_x64"]:
        raise UserError(
            must(
                "jax_enable_x64",
                "off for runs",
                "on",
                "runs compute in float32; losses and environments also work in float64",
            )
        )
    if (promotion := jax.config.values["jax_numpy_dtype_promotion"]) != "standard":
        raise UserError(
            must(
                "jax_numpy_dtype_promotion",
                "standard for runs",
                promotion,
                "losses and environments also work with other promotion rules",
            )
        )


def configure_jax(*, deterministic: bool = False) -> None:
    """Turn on the persistent compilation cache if its folder can be written.

    On a CPU, programs are run by the calling thread, because dispatch to another thread takes
    longer than a small program, such as an actor's.

    Args:
      deterministic: whether XLA uses deterministic GPU operations; call before any array is made.
    """
    if deterministic:
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()
    import jax

    # Runs compute in float32 by jax's default rules; environment variables are overruled.
    jax.config.update("jax_enable_x64", False)
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if jax.config.values["jax_compilation_cache_dir"] is not None or not usable(cache_folder()):
        return
    jax.config.update("jax_compilation_cache_dir", str(cache_folder()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
