"""Flax modules and the named tuples that they return."""

from bellmax.networks.build import Network, NetworkConfig, QNetwork, make_q_network
from bellmax.networks.heads import DuelingHead, DuelingOutput, QHead, QOutput
from bellmax.networks.torsos import MLP, ImpalaResNet, MinAtarConv, NatureConv, PatchConv

__all__ = [
    "MLP",
    "DuelingHead",
    "DuelingOutput",
    "ImpalaResNet",
    "MinAtarConv",
    "NatureConv",
    "Network",
    "NetworkConfig",
    "PatchConv",
    "QHead",
    "QNetwork",
    "QOutput",
    "make_q_network",
]
