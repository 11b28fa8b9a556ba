"""Host environments: tasks that are stepped in Python, in processes or by threads, as one stream.

Names are loaded on first use, because a task's own process needs no jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bellmax.envs.host.base import HostBatch, HostEnvironment, HostTimeStep
    from bellmax.envs.host.loop import LoopBatch
    from bellmax.envs.host.pool import Pool, PoolBatch
    from bellmax.envs.host.process import ProcessEnvironment
    from bellmax.envs.host.vector import HostVector

__all__ = [
    "HostBatch",
    "HostEnvironment",
    "HostTimeStep",
    "HostVector",
    "LoopBatch",
    "Pool",
    "PoolBatch",
    "ProcessEnvironment",
]

_MODULES = {
    "base": (
        "HostBatch",
        "HostEnvironment",
        "HostTimeStep",
    ),
    "loop": ("LoopBatch",),
    "pool": (
        "Pool",
        "PoolBatch",
    ),
    "process": ("ProcessEnvironment",),
    "vector": ("HostVector",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
