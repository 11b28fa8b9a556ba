"""Agents: one file an algorithm, each a handful of pure functions behind one contract.

Names are loaded on first use: configurations can be read without importing jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bellmax.agents.base import Agent, Batch, LearnerState, LearnOutput, Memory, Params

__all__ = ["Agent", "Batch", "LearnOutput", "LearnerState", "Memory", "Params"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("bellmax.agents.base"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
