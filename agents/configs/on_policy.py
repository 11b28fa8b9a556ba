"""Configurations of the on-policy agents and their curiosity. Reading them imports no jax."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval

from bellmax.networks.config import RecurrentNetworkConfig


@dataclass(frozen=True)
class IntrinsicConfig:
    """How a raw bonus becomes a reward, and how much it counts."""

    # Weight of the intrinsic reward beside the extrinsic one.
    scale: Annotated[float, Ge(0)] = 0.1
    # `clipped`: BYOL-Explore's, divided by the moving deviation and cut at the moving mean;
    # `scaled`: the same without the cut; `return`: RND's, divided by the deviation of the
    # discounted intrinsic return; `none`: as it is.
    normaliser: Literal["clipped", "scaled", "return", "none"] = "clipped"
    # Decay of the moving averages of `clipped` and `scaled`, for each rollout.
    normaliser_decay: Annotated[float, Interval(ge=0, lt=1)] = 0.99
    # Added to the variance by which all three divide, in squared units of the raw bonus: where it
    # is small beside what a novelty pays, one novelty among rewards that are all alike is huge.
    normaliser_epsilon: Annotated[float, Gt(0)] = 1e-8
    # Discount of the return that `return` divides by.
    normaliser_discount: Annotated[float, Interval(ge=0, lt=1)] = 0.99


@dataclass(frozen=True)
class OnPolicyConfig:
    """Hyper-parameters of the actor-critic, with or without curiosity.

    `batch_size`, `policy_loss`, `center_advantages` and `network` are static; the other numbers are
    leaves: an agent can be made under `vmap` with traced values.
    """

    # How the policy improves: `vmpo` (arXiv:1909.12238) or `ppo` (arXiv:1707.06347).
    policy_loss: Literal["vmpo", "ppo"] = "vmpo"
    # Adam's step size.
    learning_rate: Annotated[float, Gt(0), Interval(le=1)] = 3e-4
    # Adam's epsilon (PPO's usual one: a policy that has little left to learn takes small steps).
    adam_epsilon: Annotated[float, Gt(0), Interval(le=1)] = 1e-5
    # Gradients are scaled down to this global norm, those of a bonus' own parameters apart; none
    # leaves them.
    max_gradient_norm: Annotated[float, Gt(0)] | None = 1.0
    # Gamma, per environment step, of both rewards.
    discount: Annotated[float, Interval(ge=0, le=1)] = 0.99
    # Lambda of the generalised advantages, 0 (one step) to 1 (whole returns).
    advantage_decay: Annotated[float, Interval(ge=0, le=1)] = 0.95
    # Environments in a gradient step; it divides env.num_envs.
    batch_size: Annotated[int, Interval(ge=1, le=1_000_000)] = 16
    # Weight of the extrinsic reward; 0 is the reward-free setting.
    extrinsic_scale: Annotated[float, Ge(0)] = 1.0
    # Advantages are divided by the root of the moving average of their squares: its decay, for
    # each rollout.
    scale_decay: Annotated[float, Interval(ge=0, lt=1)] = 0.999
    # Whether the mean of a rollout's advantages is taken off first. Without, PPO makes what was
    # done likelier whenever values are too low, and where rewards are rare that is all it sees.
    # V-MPO weighs samples against each other: to it the mean is nothing.
    center_advantages: bool = False
    # Weight of the policy's entropy, in units of scaled advantage for a nat.
    entropy_cost: Annotated[float, Ge(0)] = 0.0
    # Weight of the value loss.
    value_cost: Annotated[float, Ge(0)] = 0.5
    # PPO: how far the ratio of probabilities may move.
    clip_epsilon: Annotated[float, Gt(0)] = 0.2
    # V-MPO: bound on the KL of the weights of the samples, in nats.
    epsilon_temperature: Annotated[float, Gt(0)] = 0.1
    # V-MPO: bound on the KL from the policy that acted to the one that learns, in nats.
    epsilon_alpha: Annotated[float, Gt(0)] = 0.01
    network: RecurrentNetworkConfig = field(default_factory=RecurrentNetworkConfig)


@dataclass(frozen=True)
class CuriousConfig(OnPolicyConfig):
    """The same with an intrinsic reward."""

    intrinsic: IntrinsicConfig = field(default_factory=IntrinsicConfig)


@dataclass(frozen=True)
class BYOLExploreConfig(CuriousConfig):
    """Hyper-parameters of BYOL-Explore (Guo et al. 2022, arXiv:2206.08332)."""

    # Steps ahead that are predicted, in environment steps.
    horizon: Annotated[int, Interval(ge=1, le=1000)] = 8
    # What an update of the target encoder keeps of it; 1 leaves it random, as RND's.
    target_decay: Annotated[float, Interval(ge=0, le=1)] = 0.99
    # Widths of the predictor's hidden layers, in units.
    predictor_hidden: tuple[Annotated[int, Ge(1)], ...] = (256,)
    # Whether encoder and memory are those that policy and value read, trained by both losses.
    shared: bool = True
    # Weight of the world-model loss.
    world_model_cost: Annotated[float, Ge(0)] = 1.0
    intrinsic: IntrinsicConfig = field(default_factory=IntrinsicConfig)


@dataclass(frozen=True)
class CountBonusConfig(CuriousConfig):
    """Hyper-parameters of a count-based bonus (Strehl and Littman 2008)."""

    # Bits of the hash of an observation: 2 to this power counters. With m different observations
    # about m^2 / 2^(bits + 1) pairs share one.
    hash_bits: Annotated[int, Interval(ge=1, le=28)] = 20
    intrinsic: IntrinsicConfig = field(default_factory=lambda: IntrinsicConfig(normaliser="none"))


@dataclass(frozen=True)
class ICMConfig(CuriousConfig):
    """Hyper-parameters of ICM (Pathak et al. 2017, arXiv:1705.05363)."""

    # Widths of the mlp's layers in its encoder, where the agent's torso is an mlp, in units.
    icm_hidden: tuple[Annotated[int, Ge(1)], ...] = (256,)
    # Size of a latent.
    icm_latent_size: Annotated[int, Ge(1)] = 32
    # Units of the one hidden layer of the forward and of the inverse model.
    icm_model_hidden: Annotated[int, Ge(1)] = 256
    # Weight of the forward loss beside the inverse one.
    forward_weight: Annotated[float, Interval(ge=0, le=1)] = 0.2
    intrinsic: IntrinsicConfig = field(default_factory=lambda: IntrinsicConfig(normaliser="scaled"))


@dataclass(frozen=True)
class RNDConfig(CuriousConfig):
    """Hyper-parameters of RND (Burda et al. 2018, arXiv:1810.12894)."""

    # Widths of the mlp's layers in both networks, where the agent's torso is an mlp, in units.
    rnd_hidden: tuple[Annotated[int, Ge(1)], ...] = (256,)
    # Units of the random features.
    rnd_features: Annotated[int, Ge(1)] = 128
    # Observations are clipped to plus or minus so many standard deviations.
    observation_clip: Annotated[float, Gt(0)] = 5.0
    intrinsic: IntrinsicConfig = field(default_factory=lambda: IntrinsicConfig(normaliser="return"))
