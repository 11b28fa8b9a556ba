"""Environments: the contract, vectorisation, adapters, and small tasks with exact answers.

Names are loaded on first use: a command line can read `bellmax.envs.config` without importing jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bellmax.envs.adapters.dm_env import from_dm_env
    from bellmax.envs.adapters.gymnasium import from_gymnasium
    from bellmax.envs.base import (
        Countable,
        Drawable,
        Environment,
        EnvSpec,
        EnvState,
        Parametric,
        Step,
        TimeStep,
    )
    from bellmax.envs.checks.environment import check_env
    from bellmax.envs.config import EnvConfig, is_host_env, make_host_vector, make_vector_env
    from bellmax.envs.host.loop import LoopBatch
    from bellmax.envs.host.process import ProcessEnvironment
    from bellmax.envs.host.vector import HostBatch, HostEnvironment, HostTimeStep, HostVector
    from bellmax.envs.registry import is_host, list_names, make, make_batch
    from bellmax.envs.statistics import RunningStatistics
    from bellmax.envs.tasks.cartpole import CartPole
    from bellmax.envs.tasks.catch import Catch
    from bellmax.envs.tasks.deepsea import DeepSea
    from bellmax.envs.tasks.noisy_grid import NoisyGrid
    from bellmax.envs.tasks.pendulum import Pendulum
    from bellmax.envs.tasks.pixel_catch import PixelCatch
    from bellmax.envs.tasks.solvers import policy_evaluation, value_iteration
    from bellmax.envs.tasks.tabular import TabularMDP, TwoStateChain, random_mdp
    from bellmax.envs.vector import VectorEnv, VectorState, VectorTimeStep, vectorise
    from bellmax.envs.wrappers.randomised import Randomised, RandomisedState

__all__ = [
    "CartPole",
    "Catch",
    "Countable",
    "DeepSea",
    "Drawable",
    "EnvConfig",
    "EnvSpec",
    "EnvState",
    "Environment",
    "HostBatch",
    "HostEnvironment",
    "HostTimeStep",
    "HostVector",
    "LoopBatch",
    "NoisyGrid",
    "Parametric",
    "Pendulum",
    "PixelCatch",
    "ProcessEnvironment",
    "Randomised",
    "RandomisedState",
    "RunningStatistics",
    "Step",
    "TabularMDP",
    "TimeStep",
    "TwoStateChain",
    "VectorEnv",
    "VectorState",
    "VectorTimeStep",
    "check_env",
    "from_dm_env",
    "from_gymnasium",
    "is_host",
    "is_host_env",
    "list_names",
    "make",
    "make_batch",
    "make_host_vector",
    "make_vector_env",
    "policy_evaluation",
    "random_mdp",
    "value_iteration",
    "vectorise",
]

_MODULES = {
    "base": (
        "Countable",
        "Drawable",
        "Environment",
        "EnvSpec",
        "EnvState",
        "Parametric",
        "Step",
        "TimeStep",
    ),
    "tasks.cartpole": ("CartPole",),
    "tasks.catch": ("Catch",),
    "checks.environment": ("check_env",),
    "config": (
        "EnvConfig",
        "is_host_env",
        "make_host_vector",
        "make_vector_env",
    ),
    "tasks.deepsea": ("DeepSea",),
    "adapters.dm_env": ("from_dm_env",),
    "adapters.gymnasium": ("from_gymnasium",),
    "host.vector": (
        "HostBatch",
        "HostEnvironment",
        "HostTimeStep",
        "HostVector",
    ),
    "host.loop": ("LoopBatch",),
    "host.process": ("ProcessEnvironment",),
    "tasks.noisy_grid": ("NoisyGrid",),
    "tasks.pendulum": ("Pendulum",),
    "tasks.pixel_catch": ("PixelCatch",),
    "wrappers.randomised": (
        "Randomised",
        "RandomisedState",
    ),
    "registry": (
        "is_host",
        "list_names",
        "make",
        "make_batch",
    ),
    "tasks.solvers": (
        "policy_evaluation",
        "value_iteration",
    ),
    "statistics": ("RunningStatistics",),
    "tasks.tabular": (
        "TabularMDP",
        "TwoStateChain",
        "random_mdp",
    ),
    "vector": (
        "VectorEnv",
        "VectorState",
        "VectorTimeStep",
        "vectorise",
    ),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
