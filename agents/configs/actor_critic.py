"""Configurations of the actor-critics for continuous actions. Reading them imports no jax."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval, MinLen

from bellmax.networks.config import ContinuousNetworkConfig

Alpha = Annotated[float, Interval(gt=0, lt=1)]


@dataclass(frozen=True)
class ActorCriticConfig:
    """Hyper-parameters that these agents share (defaults of TD3's authors' code).

    `batch_size`, `policy_delay` and `network` are static; the other numbers are leaves: an agent
    can be made under `vmap` with traced values.
    """

    # Adam's step size, of actor and critics.
    learning_rate: Annotated[float, Gt(0), Interval(le=1)] = 3e-4
    # Gamma, per environment step.
    discount: Annotated[float, Interval(ge=0, le=1)] = 0.99
    # Transitions in a gradient step.
    batch_size: Annotated[int, Interval(ge=1, le=1_000_000)] = 256
    # Environment steps at the start whose actions are uniformly random.
    random_steps: Annotated[int, Ge(0)] = 25_000
    # Deviation of the noise on the actor's actions, in units of half the action's range.
    exploration_noise: Annotated[float, Ge(0)] = 0.1
    # Deviation of the noise on the target policy's actions, in units of half the action's range.
    target_noise: Annotated[float, Ge(0)] = 0.2
    # That noise is clipped to plus or minus this, in the same units.
    target_noise_clip: Annotated[float, Ge(0)] = 0.5
    # Gradient steps of the critics to one of the actor and of the target networks.
    policy_delay: Annotated[int, Ge(1)] = 2
    # Share of the way that an update moves the target networks (Polyak's tau).
    target_rate: Annotated[float, Gt(0), Interval(le=1)] = 0.005
    network: ContinuousNetworkConfig = field(default_factory=ContinuousNetworkConfig)


@dataclass(frozen=True)
class TD3Config(ActorCriticConfig):
    """Hyper-parameters of TD3 (Fujimoto et al. 2018, arXiv:1802.09477)."""

    # Critics; 1 is DDPG with smoothing and delay.
    num_critics: Annotated[int, Interval(ge=1, le=64)] = 2
    # What the target takes of the critics: the smallest value, or the mean of all.
    reduce: Literal["min", "mean"] = "min"


@dataclass(frozen=True)
class ExpectRLConfig(ActorCriticConfig):
    """Hyper-parameters of ExpectRL (Clavier et al. 2024, arXiv:2406.04081)."""

    # Expectile of the target that the critic learns: 0.5 the mean, smaller is pessimistic; `auto`
    # is AutoExpectRL.
    alpha: Alpha | Literal["auto"] = 0.4
    # The expectiles that `auto` chooses from.
    alphas: Annotated[tuple[Alpha, ...], MinLen(1)] = (0.2, 0.3, 0.4, 0.5)
    # Rule of the bandit: the papers' `exponential` weights, or `windowed` as in TOP's code, which
    # normalises feedback of any size.
    bandit: Literal["exponential", "windowed"] = "windowed"
    # Step size of the bandit.
    bandit_step_size: Annotated[float, Gt(0)] = 0.1
    # What `windowed` leaves of the played arm's weight at each update.
    bandit_decay: Annotated[float, Interval(ge=0, le=1)] = 0.9
    # Episodes that `windowed` normalises over.
    bandit_window: Annotated[int, Ge(1)] = 5
    # Feedback of `exponential` is divided by this, in units of return.
    bandit_scale: Annotated[float, Gt(0)] = 1.0
    # Least probability of an arm that `exponential` divides by (papers: none, which overflows).
    bandit_floor: Annotated[float, Interval(gt=0, le=1)] = 0.01
