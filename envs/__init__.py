"""Environments: the contract, vectorisation, adapters, and small tasks with exact answers.

Names are loaded on first use: a command line can read `bellmax.envs.config` without importing jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from bellmax.envs.cartpole import CartPole
    from bellmax.envs.catch import Catch
    from bellmax.envs.check import check_env
    from bellmax.envs.config import EnvConfig, is_host_env, make_host_vector, make_vector_env
    from bellmax.envs.deepsea import DeepSea
    from bellmax.envs.dm_env_adapter import from_dm_env
    from bellmax.envs.gymnasium_adapter import from_gymnasium
    from bellmax.envs.host import HostBatch, HostEnvironment, HostTimeStep, HostVector
    from bellmax.envs.host_loop import LoopBatch
    from bellmax.envs.host_process import ProcessEnvironment
    from bellmax.envs.noisy_tv import NoisyGrid
    from bellmax.envs.pendulum import Pendulum
    from bellmax.envs.pixel_catch import PixelCatch
    from bellmax.envs.randomised import Randomised, RandomisedState
    from bellmax.envs.registry import is_host, list_names, make, make_batch
    from bellmax.envs.solvers import policy_evaluation, value_iteration
    from bellmax.envs.statistics import RunningStatistics
    from bellmax.envs.tabular import TabularMDP, TwoStateChain, random_mdp
    from bellmax.envs.vector import VectorEnv, VectorState, VectorTimeStep, vectorise

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
    "cartpole": ("CartPole",),
    "catch": ("Catch",),
    "check": ("check_env",),
    "config": (
        "EnvConfig",
        "is_host_env",
        "make_host_vector",
        "make_vector_env",
    ),
    "deepsea": ("DeepSea",),
    "dm_env_adapter": ("from_dm_env",),
    "gymnasium_adapter": ("from_gymnasium",),
    "host": (
        "HostBatch",
        "HostEnvironment",
        "HostTimeStep",
        "HostVector",
    ),
    "host_loop": ("LoopBatch",),
    "host_process": ("ProcessEnvironment",),
    "noisy_tv": ("NoisyGrid",),
    "pendulum": ("Pendulum",),
    "pixel_catch": ("PixelCatch",),
    "randomised": (
        "Randomised",
        "RandomisedState",
    ),
    "registry": (
        "is_host",
        "list_names",
        "make",
        "make_batch",
    ),
    "solvers": (
        "policy_evaluation",
        "value_iteration",
    ),
    "statistics": ("RunningStatistics",),
    "tabular": (
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
