"""Adapters to other packages' environments, one module for each suite.

Names are loaded on first use, and a suite's package is imported when one of its tasks is made.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bellmax.envs.adapters.dm_env import from_dm_env
    from bellmax.envs.adapters.gymnasium import from_gymnasium

__all__ = [
    "from_dm_env",
    "from_gymnasium",
]

_MODULES = {
    "dm_env": ("from_dm_env",),
    "gymnasium": ("from_gymnasium",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
