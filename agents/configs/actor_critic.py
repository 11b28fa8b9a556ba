"""Configurations of the actor-critics for continuous actions. Reading them imports no jax."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval, MinLen

from bellmax.agents.configs.traceable import TRACEABLE
from bellmax.networks import ContinuousNetworkConfig

Alpha = Annotated[float, Interval(gt=0, lt=1)]


@dataclass(frozen=True)
class ActorCriticConfig:
    """Hyper-parameters that these agents share (defaults: TD3's official code).

    Numbers marked TRACEABLE may be traced values, so that an agent can be made under `vmap`.
    """

    # Adam's learning rate, for actor and critics.
    learning_rate: Annotated[float, Gt(0), Interval(le=1), TRACEABLE] = 3e-4
    # Gamma, per environment step.
    discount: Annotated[float, Interval(ge=0, le=1), TRACEABLE] = 0.99
    # Transitions per gradient step.
    batch_size: Annotated[int, Interval(ge=1, le=1_000_000)] = 256
    # Environment steps at the start of training with uniformly random actions.
    random_steps: Annotated[int, Ge(0)] = 25_000
    # Standard deviation of the exploration noise, in units of half the action range.
    exploration_noise: Annotated[float, Ge(0), TRACEABLE] = 0.1
    # Standard deviation of the noise on the target policy's actions, in units of half the action
    # range.
    target_noise: Annotated[float, Ge(0), TRACEABLE] = 0.2
    # Bound on the absolute value of the target policy's noise, in the same units.
    target_noise_clip: Annotated[float, Ge(0), TRACEABLE] = 0.5
    # Gradient steps of the critics per update of the actor and of the target networks.
    policy_delay: Annotated[int, Ge(1)] = 2
    # Polyak averaging rate (tau) of the target networks.
    target_rate: Annotated[float, Gt(0), Interval(le=1), TRACEABLE] = 0.005
    network: ContinuousNetworkConfig = field(default_factory=ContinuousNetworkConfig)


@dataclass(frozen=True)
class TD3Config(ActorCriticConfig):
    """Hyper-parameters of TD3 (Fujimoto et al. 2018, arXiv:1802.09477)."""

    # Number of critics; 1 is DDPG with target smoothing and delayed updates.
    num_critics: Annotated[int, Interval(ge=1, le=64)] = 2
    # How the target combines the critics: the smallest value, or their mean.
    reduce: Literal["min", "mean"] = "min"


@dataclass(frozen=True)
class ExpectRLConfig(ActorCriticConfig):
    """Hyper-parameters of ExpectRL (Clavier et al. 2024, arXiv:2406.04081)."""

    # Expectile of the target that the critic learns: 0.5 is the mean, smaller values are
    # pessimistic; `auto` is AutoExpectRL.
    alpha: Annotated[Alpha, TRACEABLE] | Literal["auto"] = 0.4
    # Expectiles that `auto` chooses from.
    alphas: Annotated[tuple[Alpha, ...], MinLen(1)] = (0.2, 0.3, 0.4, 0.5)
    # Update rule of the bandit: `exponential` weights as in the papers, or `windowed` as in TOP's
    # code, which normalises the feedback.
    bandit: Literal["exponential", "windowed"] = "windowed"
    # Step size of the bandit.
    bandit_step_size: Annotated[float, Gt(0), TRACEABLE] = 0.1
    # Factor by which `windowed` decays the weight of the played arm at each update.
    bandit_decay: Annotated[float, Interval(ge=0, le=1), TRACEABLE] = 0.9
    # Episodes over which `windowed` normalises the feedback.
    bandit_window: Annotated[int, Ge(1)] = 5
    # Divisor of the feedback of `exponential`, in units of return.
    bandit_scale: Annotated[float, Gt(0), TRACEABLE] = 1.0
    # Lower bound on the probability by which `exponential` divides (papers: none, which
    # overflows).
    bandit_floor: Annotated[float, Interval(gt=0, le=1), TRACEABLE] = 0.01
