"""Report installed packages, devices, and missing extras as lines of text."""

import platform

import bellmax
from bellmax import UserError
from bellmax.envs.options import install_command
from bellmax.launch.distributed.devices import cache_folder, check_platform, usable
from bellmax.launch.reporting.versions import requirements, version

_GIB = 2**30


def doctor() -> tuple[list[str], int]:
    """Return the report and the exit code: 1 if a core package is missing or jax has no device."""
    core, extras = requirements()
    system = f"{platform.system()} {platform.machine()}"
    lines = [f"bellmax {bellmax.__version__}, Python {platform.python_version()}, {system}"]
    missing = [name for name in core if version(name) is None]
    lines += [f"  {name} {version(name)}" for name in core if name not in missing]
    lines += [f"  {name} is MISSING: pip install {name}" for name in missing]
    device_lines, works = _devices()
    lines += device_lines
    lines += _memory()
    state = (
        "" if usable(cache_folder()) else " (cannot be written: every run compiles its programs)"
    )
    lines.append(f"cache of compiled programs: {cache_folder()}{state}")
    for extra, names in extras.items():
        absent = any(version(name) is None for name in names)
        state = f"missing, {install_command(extra)}" if absent else "installed"
        lines.append(f"extra {extra}: {state}")
    return lines, 0 if works and not missing else 1


def _memory() -> list[str]:
    try:
        import psutil
    except ImportError:  # reported above as missing
        return []
    memory = psutil.virtual_memory()
    return [f"memory: {memory.available / _GIB:.1f} of {memory.total / _GIB:.1f} GiB free"]


def _devices() -> tuple[list[str], bool]:
    try:
        import jax

        check_platform()
    except ImportError as error:
        return [f"jax cannot be imported: {error}"], False
    except UserError as error:
        return [f"jax finds no device: {error}"], False
    lines = []
    for device in jax.devices():
        stats = device.memory_stats() or {}
        limit = f", {stats['bytes_limit'] / _GIB:.1f} GiB" if "bytes_limit" in stats else ""
        lines.append(f"device {device.id}: {device.platform} {device.device_kind}{limit}")
    return lines, True
