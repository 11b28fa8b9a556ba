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
        categorical_head,
        check_arrays,
        implicit_quantile_head,
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
        CategoricalHead,
        CategoricalOutput,
        DuelingHead,
        DuelingOutput,
        ImplicitQuantileHead,
        QHead,
        QOutput,
        QuantileHead,
        QuantileOutput,
        VAHead,
        VAOutput,
    )
    from bellmax.networks.masking import mask_logits, mask_outputs
    from bellmax.networks.recurrent import (
        GRU,
        LSTM,
        RecurrentMemory,
        RecurrentNetwork,
        RecurrentParams,
        make_recurrent_network,
    )
    from bellmax.networks.recurrent_values import RecurrentQNetwork, make_recurrent_q_network
    from bellmax.networks.torsos import MLP, ImpalaResNet, MinAtarConv, NatureConv

__all__ = [
    "Actor",
    "CategoricalHead",
    "CategoricalOutput",
    "ContinuousNetworkConfig",
    "Critic",
    "DuelingHead",
    "DuelingOutput",
    "GRU",
    "Head",
    "ImpalaResNet",
    "ImplicitQuantileHead",
    "LSTM",
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
    "RecurrentQNetwork",
    "Torso",
    "VAHead",
    "VAOutput",
    "action_bounds",
    "categorical_head",
    "check_arrays",
    "conv",
    "implicit_quantile_head",
    "make_actor",
    "make_critics",
    "make_q_network",
    "make_recurrent_network",
    "make_recurrent_q_network",
    "make_torso",
    "mask_logits",
    "mask_outputs",
    "quantile_head",
    "va_head",
]

_MODULES = (
    *("config", "build", "continuous", "convolution", "heads", "masking", "recurrent"),
    *("recurrent_values", "torsos"),
)


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in _MODULES:
            loaded = importlib.import_module(f"{__name__}.{module}")
            if hasattr(loaded, name):
                return getattr(loaded, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
