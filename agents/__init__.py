"""Agents: one file an algorithm, each a handful of pure functions behind one contract.

`make_NAME(config, env_spec)` makes an agent. Build your own with `make_value_agent`,
`make_actor_critic_agent` or `make_on_policy_agent`. Names are loaded on first use, so
configurations can be read without importing jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bellmax.agents.byol_explore import byol_bonus, make_byol_explore
    from bellmax.agents.c51 import make_c51
    from bellmax.agents.configs.actor_critic import ActorCriticConfig, ExpectRLConfig, TD3Config
    from bellmax.agents.configs.on_policy import (
        BYOLExploreConfig,
        CountBonusConfig,
        ICMConfig,
        IntrinsicConfig,
        OnPolicyConfig,
        RNDConfig,
    )
    from bellmax.agents.configs.traceable import TRACEABLE, Traceable, is_traceable
    from bellmax.agents.configs.value_based import (
        C51Config,
        DQNConfig,
        IQNConfig,
        MunchausenDQNConfig,
        PQNConfig,
        QRDQNRetraceConfig,
        VALearningConfig,
        ValueConfig,
    )
    from bellmax.agents.count_bonus import make_count_bonus
    from bellmax.agents.dqn import make_dqn
    from bellmax.agents.expectrl import make_expectrl
    from bellmax.agents.icm import icm_bonus, make_icm
    from bellmax.agents.iqn import make_iqn
    from bellmax.agents.munchausen_dqn import make_munchausen_dqn
    from bellmax.agents.on_policy import make_on_policy, make_on_policy_agent
    from bellmax.agents.pqn import make_pqn
    from bellmax.agents.qr_dqn_retrace import make_qr_dqn_retrace
    from bellmax.agents.rnd import make_rnd, rnd_bonus
    from bellmax.agents.shared.actor_critic import make_actor_critic_agent
    from bellmax.agents.shared.base import (
        ActInput,
        ActorOutput,
        Agent,
        Batch,
        LearnerState,
        LearnOutput,
        Memory,
        Outcome,
        Params,
        ReplaySpec,
        update_target,
    )
    from bellmax.agents.shared.intrinsic import (
        Chunk,
        Intrinsic,
        Normaliser,
        make_normaliser,
        no_memory,
        transition_mask,
    )
    from bellmax.agents.shared.value_based import (
        Auxiliary,
        AuxiliaryLoss,
        Target,
        Transition,
        ValueLoss,
        apply_sequence,
        make_value_agent,
        taken,
        td_loss,
        transitions,
    )
    from bellmax.agents.td3 import make_td3
    from bellmax.agents.va_learning import make_va_learning

_MODULES = {
    "shared.actor_critic": ("make_actor_critic_agent",),
    "shared.base": (
        "ActInput",
        "ActorOutput",
        "Agent",
        "Batch",
        "LearnOutput",
        "LearnerState",
        "Memory",
        "Outcome",
        "Params",
        "ReplaySpec",
        "update_target",
    ),
    "byol_explore": ("byol_bonus", "make_byol_explore"),
    "c51": ("make_c51",),
    "configs.actor_critic": (
        "ActorCriticConfig",
        "ExpectRLConfig",
        "TD3Config",
    ),
    "configs.on_policy": (
        "BYOLExploreConfig",
        "CountBonusConfig",
        "ICMConfig",
        "IntrinsicConfig",
        "OnPolicyConfig",
        "RNDConfig",
    ),
    "configs.traceable": ("TRACEABLE", "Traceable", "is_traceable"),
    "configs.value_based": (
        "C51Config",
        "DQNConfig",
        "IQNConfig",
        "MunchausenDQNConfig",
        "PQNConfig",
        "QRDQNRetraceConfig",
        "VALearningConfig",
        "ValueConfig",
    ),
    "count_bonus": ("make_count_bonus",),
    "dqn": ("make_dqn",),
    "expectrl": ("make_expectrl",),
    "icm": ("icm_bonus", "make_icm"),
    "iqn": ("make_iqn",),
    "munchausen_dqn": ("make_munchausen_dqn",),
    "on_policy": (
        "make_on_policy",
        "make_on_policy_agent",
    ),
    "pqn": ("make_pqn",),
    "qr_dqn_retrace": ("make_qr_dqn_retrace",),
    "rnd": ("make_rnd", "rnd_bonus"),
    "shared.intrinsic": (
        "Chunk",
        "Intrinsic",
        "Normaliser",
        "make_normaliser",
        "no_memory",
        "transition_mask",
    ),
    "td3": ("make_td3",),
    "va_learning": ("make_va_learning",),
    "shared.value_based": (
        "Auxiliary",
        "AuxiliaryLoss",
        "Target",
        "Transition",
        "ValueLoss",
        "apply_sequence",
        "make_value_agent",
        "taken",
        "td_loss",
        "transitions",
    ),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "ActInput",
    "ActorCriticConfig",
    "ActorOutput",
    "Agent",
    "Auxiliary",
    "AuxiliaryLoss",
    "BYOLExploreConfig",
    "Batch",
    "C51Config",
    "Chunk",
    "CountBonusConfig",
    "DQNConfig",
    "ExpectRLConfig",
    "ICMConfig",
    "IQNConfig",
    "Intrinsic",
    "IntrinsicConfig",
    "LearnOutput",
    "LearnerState",
    "Memory",
    "MunchausenDQNConfig",
    "Normaliser",
    "OnPolicyConfig",
    "Outcome",
    "PQNConfig",
    "Params",
    "QRDQNRetraceConfig",
    "RNDConfig",
    "ReplaySpec",
    "TD3Config",
    "TRACEABLE",
    "Target",
    "Traceable",
    "Transition",
    "VALearningConfig",
    "ValueConfig",
    "ValueLoss",
    "apply_sequence",
    "byol_bonus",
    "icm_bonus",
    "is_traceable",
    "make_actor_critic_agent",
    "make_byol_explore",
    "make_c51",
    "make_count_bonus",
    "make_dqn",
    "make_expectrl",
    "make_icm",
    "make_iqn",
    "make_munchausen_dqn",
    "make_normaliser",
    "make_on_policy",
    "make_on_policy_agent",
    "make_pqn",
    "make_qr_dqn_retrace",
    "make_rnd",
    "make_td3",
    "make_va_learning",
    "make_value_agent",
    "no_memory",
    "rnd_bonus",
    "taken",
    "td_loss",
    "transition_mask",
    "transitions",
    "update_target",
]
# Modules that launch uses too; their names are not public.
INTERNAL_MODULES = ("registry",)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
