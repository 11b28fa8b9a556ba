"""Networks: flax modules and the named tuples that they return."""

from bellmax.networks.build import (
    Head,
    Network,
    NetworkConfig,
    QNetwork,
    Torso,
    make_q_network,
    make_torso,
    quantile_head,
    va_head,
)
from bellmax.networks.continuous import (
    Actor,
    ContinuousNetworkConfig,
    Critic,
    action_bounds,
    make_actor,
    make_critics,
)
from bellmax.networks.conv import PatchConv, conv
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
    RecurrentNetworkConfig,
    RecurrentParams,
    make_recurrent_network,
)
from bellmax.networks.torsos import MLP, ImpalaResNet, MinAtarConv, NatureConv

__all__ = [
    "MLP",
    "Actor",
    "ContinuousNetworkConfig",
    "Critic",
    "DuelingHead",
    "DuelingOutput",
    "Head",
    "ImpalaResNet",
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
    "VAHead",
    "VAOutput",
    "action_bounds",
    "conv",
    "make_actor",
    "make_critics",
    "make_q_network",
    "quantile_head",
    "va_head",
    "GRU",
    "RecurrentMemory",
    "RecurrentNetwork",
    "RecurrentNetworkConfig",
    "RecurrentParams",
    "make_recurrent_network",
    "Torso",
    "make_torso",
]
