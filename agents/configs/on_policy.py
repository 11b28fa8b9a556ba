"""Configurations of the on-policy agents and their curiosity. Reading them imports no jax."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval

from bellmax.agents.configs.traceable import TRACEABLE
from bellmax.networks import RecurrentNetworkConfig


@dataclass(frozen=True)
class IntrinsicConfig:
    """Normalisation and weight of an intrinsic reward."""

    # Weight of the intrinsic reward; agent.extrinsic_scale weights the extrinsic one.
    scale: Annotated[float, Ge(0), TRACEABLE] = 0.1
    # `clipped`, as in BYOL-Explore: divided by the moving standard deviation, and 0 below the
    # moving mean; `scaled`: the same without the clipping; `return`, as in RND: divided by the
    # standard deviation of the discounted intrinsic return; `none`: the raw bonus.
    normaliser: Literal["clipped", "scaled", "return", "none"] = "clipped"
    # Decay per rollout of the moving averages of `clipped` and `scaled`.
    normaliser_decay: Annotated[float, Interval(ge=0, lt=1), TRACEABLE] = 0.99
    # Added to the variance of all three, in squared units of the raw bonus: if it is small, a
    # single novelty after a long stretch of equal bonuses gives a huge reward.
    normaliser_epsilon: Annotated[float, Gt(0), TRACEABLE] = 1e-8
    # Discount of the intrinsic return that `return` normalises by.
    normaliser_discount: Annotated[float, Interval(ge=0, lt=1), TRACEABLE] = 0.99


@dataclass(frozen=True)
class OnPolicyConfig:
    """Hyper-parameters of the actor-critic, with or without curiosity.

    Numbers marked TRACEABLE may be traced values, so that an agent can be made under `vmap`.
    """

    # Policy loss: `vmpo` (arXiv:1909.12238) or `ppo` (arXiv:1707.06347).
    policy_loss: Literal["vmpo", "ppo"] = "vmpo"
    # Adam's learning rate.
    learning_rate: Annotated[float, Gt(0), Interval(le=1), TRACEABLE] = 3e-4
    # Adam's epsilon (the usual value for PPO: update steps shrink when gradients are small).
    adam_epsilon: Annotated[float, Gt(0), Interval(le=1), TRACEABLE] = 1e-5
    # Gradient clipping: bound on the global norm, applied separately to a bonus' own parameters;
    # none does not clip.
    max_gradient_norm: Annotated[float, Gt(0), TRACEABLE] | None = 1.0
    # Gamma, per environment step, for extrinsic and intrinsic rewards.
    discount: Annotated[float, Interval(ge=0, le=1), TRACEABLE] = 0.99
    # Lambda of generalised advantage estimation; 0 is the one-step TD error, 1 the full return.
    advantage_decay: Annotated[float, Interval(ge=0, le=1), TRACEABLE] = 0.95
    # Environments per gradient step; must divide env.num_envs.
    batch_size: Annotated[int, Interval(ge=1, le=1_000_000)] = 16
    # Weight of the extrinsic reward; 0 is reward-free exploration.
    extrinsic_scale: Annotated[float, Ge(0), TRACEABLE] = 1.0
    # Decay per rollout of the moving average of squared advantages; advantages are divided by its
    # root.
    scale_decay: Annotated[float, Interval(ge=0, lt=1), TRACEABLE] = 0.999
    # Whether the mean of a rollout's advantages is subtracted first. Without it, PPO increases the
    # probability of every taken action while values are too low, which dominates when rewards are
    # rare. V-MPO is invariant to the mean, as it only compares samples.
    center_advantages: bool = False
    # Weight of the policy's entropy, in units of the scaled advantage per nat.
    entropy_cost: Annotated[float, Ge(0), TRACEABLE] = 0.0
    # Weight of the value loss.
    value_cost: Annotated[float, Ge(0), TRACEABLE] = 0.5
    # PPO: clip range of the probability ratio around 1.
    clip_epsilon: Annotated[float, Gt(0), TRACEABLE] = 0.2
    # V-MPO: bound on the KL of the sample weights (epsilon_eta), in nats.
    epsilon_temperature: Annotated[float, Gt(0), TRACEABLE] = 0.1
    # V-MPO: bound on the KL from the acting policy to the learned policy, in nats.
    epsilon_alpha: Annotated[float, Gt(0), TRACEABLE] = 0.01
    network: RecurrentNetworkConfig = field(default_factory=RecurrentNetworkConfig)


@dataclass(frozen=True)
class CuriousConfig(OnPolicyConfig):
    """Hyper-parameters of the actor-critic with an intrinsic reward."""

    intrinsic: IntrinsicConfig = field(default_factory=IntrinsicConfig)


@dataclass(frozen=True)
class BYOLExploreConfig(CuriousConfig):
    """Hyper-parameters of BYOL-Explore (Guo et al. 2022, arXiv:2206.08332)."""

    # Open-loop prediction horizon K, in environment steps.
    horizon: Annotated[int, Interval(ge=1, le=1000)] = 8
    # Decay of the target encoder's moving average per gradient step; 1 keeps it random, as in RND.
    target_decay: Annotated[float, Interval(ge=0, le=1), TRACEABLE] = 0.99
    # Widths of the predictor's hidden layers, in units.
    predictor_hidden: tuple[Annotated[int, Ge(1)], ...] = (256,)
    # Whether the world model shares encoder and GRU with policy and value; both losses then train
    # them.
    shared: bool = True
    # Weight of the world-model loss.
    world_model_cost: Annotated[float, Ge(0), TRACEABLE] = 1.0
    intrinsic: IntrinsicConfig = field(default_factory=IntrinsicConfig)


@dataclass(frozen=True)
class CountBonusConfig(CuriousConfig):
    """Hyper-parameters of a count-based bonus (Strehl and Littman 2008)."""

    # Bits of the hash of an observation, for 2 to this power counters. Among m distinct
    # observations about m^2 / 2^(bits + 1) pairs share a counter.
    hash_bits: Annotated[int, Interval(ge=1, le=28)] = 20
    intrinsic: IntrinsicConfig = field(default_factory=lambda: IntrinsicConfig(normaliser="none"))


@dataclass(frozen=True)
class ICMConfig(CuriousConfig):
    """Hyper-parameters of ICM (Pathak et al. 2017, arXiv:1705.05363)."""

    # Widths of the encoder's mlp layers, used if the agent's torso is an mlp, in units.
    icm_hidden: tuple[Annotated[int, Ge(1)], ...] = (256,)
    # Size of a latent vector.
    icm_latent_size: Annotated[int, Ge(1)] = 32
    # Units of the single hidden layer of the forward model and of the inverse model.
    icm_model_hidden: Annotated[int, Ge(1)] = 256
    # Weight beta of the forward loss; the inverse loss has weight 1 - beta.
    forward_weight: Annotated[float, Interval(ge=0, le=1), TRACEABLE] = 0.2
    intrinsic: IntrinsicConfig = field(default_factory=lambda: IntrinsicConfig(normaliser="scaled"))


@dataclass(frozen=True)
class RNDConfig(CuriousConfig):
    """Hyper-parameters of RND (Burda et al. 2018, arXiv:1810.12894)."""

    # Widths of the mlp layers of both networks, used if the agent's torso is an mlp, in units.
    rnd_hidden: tuple[Annotated[int, Ge(1)], ...] = (256,)
    # Number of random features.
    rnd_features: Annotated[int, Ge(1)] = 128
    # Bound on the absolute value of standardised observations, in standard deviations.
    observation_clip: Annotated[float, Gt(0), TRACEABLE] = 5.0
    intrinsic: IntrinsicConfig = field(default_factory=lambda: IntrinsicConfig(normaliser="return"))
