"""Versions of installed packages."""

import importlib.metadata
import itertools
import platform
import re
from typing import Any


def version(name: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def requirements() -> tuple[list[str], dict[str, list[str]]]:
    """Return bellmax's core packages and those of each extra, from its metadata."""
    core, extras = ["jaxlib"], {}
    try:
        lines = importlib.metadata.requires("bellmax") or []
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        lines = []
    for line in lines:
        name = re.split(r"[^A-Za-z0-9._-]", line)[0]
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", line)
        if extra is None:
            core.append(name)
        elif extra.group(1) not in ("all", "dev", "docs", "peer"):
            extras.setdefault(extra.group(1), []).append(name)
    return sorted(core, key=str.lower), extras


def all_versions() -> dict[str, Any]:
    """Return the versions and devices that a run depends on, by name."""
    import jax

    core, extras = requirements()
    optional = {"mujoco-mjx", *itertools.chain(*extras.values())}  # such as simulators
    device = jax.local_devices()[0]
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("bellmax", *core, "tensorstore")},
        **{name: version(name) for name in sorted(optional) if version(name)},
        "platform": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "machine": platform.machine(),
    }
