"""Agents by name, built-in or the user's own; modules are imported on first use."""

import dataclasses
import importlib
import inspect
import typing
from collections.abc import Callable
from typing import Any

from bellmax import UserError, must
from bellmax.envs.errors import in_a_sentence
from bellmax.envs.options import load_callable

# Name of an agent -> (module in `agents/configs`, class of its configuration). The agent's module
# is `agents/NAME.py`, its function `make_NAME`.
_AGENTS = {
    "byol_explore": ("on_policy", "BYOLExploreConfig"),
    "c51": ("value_based", "C51Config"),
    "count_bonus": ("on_policy", "CountBonusConfig"),
    "dqn": ("value_based", "DQNConfig"),
    "expectrl": ("actor_critic", "ExpectRLConfig"),
    "icm": ("on_policy", "ICMConfig"),
    "iqn": ("value_based", "IQNConfig"),
    "munchausen_dqn": ("value_based", "MunchausenDQNConfig"),
    "on_policy": ("on_policy", "OnPolicyConfig"),
    "pqn": ("value_based", "PQNConfig"),
    "qr_dqn_retrace": ("value_based", "QRDQNRetraceConfig"),
    "rnd": ("on_policy", "RNDConfig"),
    "td3": ("actor_critic", "TD3Config"),
    "va_learning": ("value_based", "VALearningConfig"),
}


def names() -> list[str]:
    """Return the names of all agents."""
    return sorted(_AGENTS)


def is_known(name: str) -> bool:
    """Return whether a name is that of a built-in agent or of the form `module.path:make_agent`."""
    return name in _AGENTS or ":" in name


def config_class(name: str) -> type:
    """Return the dataclass of an agent's configuration; for a built-in one without importing jax.

    Raises:
      UserError: there is no such agent.
    """
    if ":" in name:
        return load(name)[0]
    if name not in _AGENTS:
        raise UserError(
            must(
                "agent.name", f"one of {', '.join(names())}, or module.path:make_agent", repr(name)
            )
        )
    module, config = _AGENTS[name]
    return getattr(importlib.import_module(f"bellmax.agents.configs.{module}"), config)


def load(name: str) -> tuple[type, Callable[..., Any]]:
    """Return an agent's config class and its make function (config, env_spec) -> Agent.

    The class of a user's agent is the annotation of the function's first parameter. Mistakes in
    the functions of its agent raise UserError when they are traced.

    Args:
      name: of a built-in agent, or `module.path:make_agent`.

    Raises:
      UserError: there is no such agent, or its first parameter has no dataclass as annotation.
    """
    if ":" not in name:
        config = config_class(name)
        module = importlib.import_module(f"{__package__}.{name}")
        return config, getattr(module, f"make_{name}")
    make_agent = load_callable(name, "agent.name", "makes an agent")
    with in_a_sentence(f"agent.name: the annotations of {name} cannot be read"):
        hints = typing.get_type_hints(make_agent)
        first = next(iter(inspect.signature(make_agent).parameters), "")
    config = hints.get(first)
    if not (isinstance(config, type) and dataclasses.is_dataclass(config)):
        raise UserError(
            must(
                f"agent.name: the first parameter of {name}",
                "annotated with the dataclass of the agent's configuration",
                config,
                "as in make_agent(config: MyConfig, spec)",
            )
        )
    from bellmax.agents.shared.own import guard  # imports jax

    return config, guard(name, make_agent)
