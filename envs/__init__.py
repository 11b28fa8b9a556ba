"""Environments: the contract, vectorisation, adapters, and small tasks with exact answers.

`tasks` has bellmax's own tasks, `wrappers` changes to one JAX environment, `host` the stepping of
Python environments, `adapters` one module per suite, and `checks` the parts of `check_env`.
Imports run in this order: base, config, errors, joint, options, packed, statistics, validation;
tasks; wrappers; vector; host; adapters; registry; build; checks.

Names are loaded on first use: a command line can read `EnvConfig` without importing jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bellmax.envs.adapters import from_dm_env, from_gymnasium
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
    from bellmax.envs.build import is_host_env, make_host_vector, make_task, make_vector_env
    from bellmax.envs.checks import check_env, describe_spaces
    from bellmax.envs.config import EnvConfig
    from bellmax.envs.host import (
        HostBatch,
        HostEnvironment,
        HostTimeStep,
        HostVector,
        LoopBatch,
        ProcessEnvironment,
    )
    from bellmax.envs.joint import JointArray
    from bellmax.envs.packed import PackedArray
    from bellmax.envs.registry import is_host, is_pool, list_names, make, make_batch
    from bellmax.envs.statistics import RunningStatistics
    from bellmax.envs.tasks import (
        CartPole,
        Catch,
        DeepSea,
        Gamble,
        NoisyGrid,
        Pendulum,
        PixelCatch,
        TabularMDP,
        TicTacToe,
        TwoStateChain,
        policy_evaluation,
        random_mdp,
        value_iteration,
    )
    from bellmax.envs.vector import (
        VectorEnv,
        VectorState,
        VectorTimeStep,
        agent_spec,
        vectorise,
    )
    from bellmax.envs.wrappers import Randomised, RandomisedState

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
    "Gamble",
    "HostBatch",
    "HostEnvironment",
    "HostTimeStep",
    "HostVector",
    "JointArray",
    "LoopBatch",
    "NoisyGrid",
    "PackedArray",
    "Parametric",
    "Pendulum",
    "PixelCatch",
    "ProcessEnvironment",
    "Randomised",
    "RandomisedState",
    "RunningStatistics",
    "Step",
    "TabularMDP",
    "TicTacToe",
    "TimeStep",
    "TwoStateChain",
    "VectorEnv",
    "VectorState",
    "VectorTimeStep",
    "agent_spec",
    "check_env",
    "describe_spaces",
    "from_dm_env",
    "from_gymnasium",
    "is_host",
    "is_host_env",
    "is_pool",
    "list_names",
    "make",
    "make_batch",
    "make_host_vector",
    "make_task",
    "make_vector_env",
    "policy_evaluation",
    "random_mdp",
    "value_iteration",
    "vectorise",
]
# Modules that agents and launch use too; their names are not public.
INTERNAL_MODULES = ("errors", "options", "statistics")

_MODULES = {
    "adapters": (
        "from_dm_env",
        "from_gymnasium",
    ),
    "base": (
        "Countable",
        "Drawable",
        "EnvSpec",
        "EnvState",
        "Environment",
        "Parametric",
        "Step",
        "TimeStep",
    ),
    "build": (
        "is_host_env",
        "make_host_vector",
        "make_task",
        "make_vector_env",
    ),
    "checks": ("check_env", "describe_spaces"),
    "config": ("EnvConfig",),
    "host": (
        "HostBatch",
        "HostEnvironment",
        "HostTimeStep",
        "HostVector",
        "LoopBatch",
        "ProcessEnvironment",
    ),
    "joint": ("JointArray",),
    "packed": ("PackedArray",),
    "registry": (
        "is_host",
        "is_pool",
        "list_names",
        "make",
        "make_batch",
    ),
    "statistics": ("RunningStatistics",),
    "tasks": (
        "CartPole",
        "Catch",
        "DeepSea",
        "Gamble",
        "NoisyGrid",
        "Pendulum",
        "PixelCatch",
        "TabularMDP",
        "TicTacToe",
        "TwoStateChain",
        "policy_evaluation",
        "random_mdp",
        "value_iteration",
    ),
    "vector": (
        "VectorEnv",
        "VectorState",
        "VectorTimeStep",
        "agent_spec",
        "vectorise",
    ),
    "wrappers": (
        "Randomised",
        "RandomisedState",
    ),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
