"""Running agents: configuration, runners, training, studies and the command line.

The names below are the Python API; `bellmax` has them too. They are loaded on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bellmax.launch.api import Run, load_config, load_run, pull, train
    from bellmax.launch.reporting.loggers import Logger
    from bellmax.launch.studies.evaluate import Evaluation
    from bellmax.launch.training.policy import Policy, load_policy

__all__ = [
    "Evaluation",
    "Logger",
    "Policy",
    "Run",
    "load_config",
    "load_policy",
    "load_run",
    "pull",
    "train",
]

_HOME = {
    "Evaluation": "studies.evaluate",
    "Logger": "reporting.loggers",
    "Policy": "training.policy",
    "load_policy": "training.policy",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME.get(name, 'api')}"), name)
