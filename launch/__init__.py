"""What runs: configurations, runners, training, studies and the command line.

The names below are the Python API; `bellmax` has them too. They are loaded on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bellmax.launch.training.policy import load_policy

_HOME = {"load_policy": "training.policy"}

__all__ = ["load_policy"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
