"""Flax modules and the named tuples that they return.

Names are loaded on first use: configurations can be read without importing jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bellmax.networks.build import (
        Head,
        Network,
        QNetwork,
        check_arrays,
        make_q_network,
        make_torso,
        quantile_head,
        va_head,
    )
    from bellmax.networks.config import (
        ContinuousNetworkConfig,
        NetworkConfig,
        RecurrentNetworkConfig,
        Torso,
    )
    from bellmax.networks.continuous import Actor, Critic, action_bounds, make_actor, make_critics
    from bellmax.networks.convolution import PatchConv, conv
    from bellmax.networks.heads import (
        DuelingHead,
        DuelingOutput,
        QHead,
        QOutput,
        QuantileHead,
        QuantileOutput,
        VAHead,
        VAOutput,
    )
    from bellmax.networks.recurrent import (
        GRU,
        RecurrentMemory,
        RecurrentNetwork,
        RecurrentParams,
        make_recurrent_network,
    )
    from bellmax.networks.torsos import MLP, ImpalaResNet, MinAtarConv, NatureConv

__all__ = [
    "Actor",
    "ContinuousNetworkConfig",
    "Critic",
    "DuelingHead",
    "DuelingOutput",
    "GRU",
    "Head",
    "ImpalaResNet",
    "MLP",
    "MinAtarConv",
    "NatureConv",
    "Network",
    "NetworkConfig",
    "PatchConv",
    "QHead",
    "QNetwork",
    "QOutput",
    "QuantileHead",
    "QuantileOutput",
    "RecurrentMemory",
    "RecurrentNetwork",
    "RecurrentNetworkConfig",
    "RecurrentParams",
    "Torso",
    "VAHead",
    "VAOutput",
    "action_bounds",
    "check_arrays",
    "conv",
    "make_actor",
    "make_critics",
    "make_q_network",
    "make_recurrent_network",
    "make_torso",
    "quantile_head",
    "va_head",
]

_MODULES = {
    "build": (
        "Head",
        "Network",
        "QNetwork",
        "check_arrays",
        "make_q_network",
        "make_torso",
        "quantile_head",
        "va_head",
    ),
    "config": (
        "ContinuousNetworkConfig",
        "NetworkConfig",
        "RecurrentNetworkConfig",
        "Torso",
    ),
    "continuous": (
        "Actor",
        "Critic",
        "action_bounds",
        "make_actor",
        "make_critics",
    ),
    "convolution": (
        "PatchConv",
        "conv",
    ),
    "heads": (
        "DuelingHead",
        "DuelingOutput",
        "QHead",
        "QOutput",
        "QuantileHead",
        "QuantileOutput",
        "VAHead",
        "VAOutput",
    ),
    "recurrent": (
        "GRU",
        "RecurrentMemory",
        "RecurrentNetwork",
        "RecurrentParams",
        "make_recurrent_network",
    ),
    "torsos": (
        "ImpalaResNet",
        "MLP",
        "MinAtarConv",
        "NatureConv",
    ),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
