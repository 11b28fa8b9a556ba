"""Registry of the agents; an agent's module is imported on first use."""

import importlib
from collections.abc import Callable
from typing import Any

from bellmax import UserError

_AGENTS = {
    "byol_explore": (
        "bellmax.agents.byol_explore",
        "BYOLExploreConfig",
        "make_byol_explore",
    ),
    "count_bonus": ("bellmax.agents.count_bonus", "CountBonusConfig", "make_count_bonus"),
    "dqn": ("bellmax.agents.dqn", "DQNConfig", "make_dqn"),
    "expectrl": ("bellmax.agents.expectrl", "ExpectRLConfig", "make_expectrl"),
    "icm": ("bellmax.agents.icm", "ICMConfig", "make_icm"),
    "munchausen_dqn": (
        "bellmax.agents.munchausen_dqn",
        "MunchausenDQNConfig",
        "make_munchausen_dqn",
    ),
    "on_policy": ("bellmax.agents.on_policy", "OnPolicyConfig", "make_on_policy"),
    "qr_dqn_retrace": (
        "bellmax.agents.qr_dqn_retrace",
        "QRDQNRetraceConfig",
        "make_qr_dqn_retrace",
    ),
    "rnd": ("bellmax.agents.rnd", "RNDConfig", "make_rnd"),
    "td3": ("bellmax.agents.td3", "TD3Config", "make_td3"),
    "va_learning": ("bellmax.agents.va_learning", "VALearningConfig", "make_va_learning"),
}


def names() -> list[str]:
    """Names of all agents."""
    return sorted(_AGENTS)


def load(name: str) -> tuple[type, Callable[..., Any]]:
    """The config class of an agent and its make function (config, env_spec) -> Agent.

    Raises:
      UserError: there is no agent of that name.
    """
    if name not in _AGENTS:
        raise UserError(f"agent.name must be one of {', '.join(names())}, got {name!r}")
    module, config, make = _AGENTS[name]
    loaded = importlib.import_module(module)
    return getattr(loaded, config), getattr(loaded, make)
