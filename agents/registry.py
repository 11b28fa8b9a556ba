"""Registry of the agents; an agent's module is imported on first use."""

import importlib
from collections.abc import Callable
from typing import Any

from bellmax import UserError

# Name, which is also that of the agent's module and after `make_` -> module below
# `agents/configs`, class of its configuration.
_AGENTS = {
    "byol_explore": ("on_policy", "BYOLExploreConfig"),
    "count_bonus": ("on_policy", "CountBonusConfig"),
    "dqn": ("value_based", "DQNConfig"),
    "expectrl": ("actor_critic", "ExpectRLConfig"),
    "icm": ("on_policy", "ICMConfig"),
    "munchausen_dqn": ("value_based", "MunchausenDQNConfig"),
    "on_policy": ("on_policy", "OnPolicyConfig"),
    "qr_dqn_retrace": ("value_based", "QRDQNRetraceConfig"),
    "rnd": ("on_policy", "RNDConfig"),
    "td3": ("actor_critic", "TD3Config"),
    "va_learning": ("value_based", "VALearningConfig"),
}


def names() -> list[str]:
    """Return the names of all agents."""
    return sorted(_AGENTS)


def config_class(name: str) -> type:
    """Return the dataclass of an agent's configuration, without importing jax.

    Raises:
      UserError: there is no agent of that name.
    """
    if name not in _AGENTS:
        raise UserError(f"agent.name must be one of {', '.join(names())}, got {name!r}")
    module, config = _AGENTS[name]
    return getattr(importlib.import_module(f"bellmax.agents.configs.{module}"), config)


def load(name: str) -> tuple[type, Callable[..., Any]]:
    """Return an agent's config class and its make function (config, env_spec) -> Agent.

    Raises:
      UserError: there is no agent of that name.
    """
    config = config_class(name)
    module = importlib.import_module(f"bellmax.agents.{name}")
    return config, getattr(module, f"make_{name}")
