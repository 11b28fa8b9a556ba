"""Adapters to other packages' environments, one module for each suite.

Names are loaded on first use, and a suite's package is imported when one of its tasks is made.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bellmax.envs.adapters.brax import from_brax
    from bellmax.envs.adapters.craftax import from_craftax
    from bellmax.envs.adapters.dm_env import from_dm_env
    from bellmax.envs.adapters.gymnasium import from_gymnasium
    from bellmax.envs.adapters.gymnax import from_gymnax
    from bellmax.envs.adapters.jumanji import from_jumanji
    from bellmax.envs.adapters.navix import from_navix
    from bellmax.envs.adapters.pgx import from_pgx
    from bellmax.envs.adapters.playground import from_playground
    from bellmax.envs.adapters.xminigrid import from_xminigrid

__all__ = [
    "from_brax",
    "from_craftax",
    "from_dm_env",
    "from_gymnasium",
    "from_gymnax",
    "from_jumanji",
    "from_navix",
    "from_pgx",
    "from_playground",
    "from_xminigrid",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{name.removeprefix('from_')}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
