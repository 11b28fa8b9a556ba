"""Configurations of the agents that learn action values. Reading them imports no jax."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval, Le

from bellmax.networks.config import NetworkConfig


@dataclass(frozen=True)
class ValueConfig:
    """Hyper-parameters that value-based agents share.

    `batch_size`, `n_step`, `network` and the lengths of schedules (`target_period`, `*_steps`) are
    static; the other numbers are leaves: an agent can be made under `vmap` with traced values.
    """

    # Adam's step size; linear decay to final_learning_rate if that is given.
    learning_rate: Annotated[float, Gt(0), Interval(le=1)] = 2.5e-4
    # Step size after learning_rate_steps; none keeps it constant.
    final_learning_rate: Annotated[float, Interval(ge=0, le=1)] | None = None
    # Length of the step size's decay, in gradient steps.
    learning_rate_steps: Annotated[int, Ge(1)] = 100_000
    # Adam's epsilon (optax's default; Atari agents use 0.01 / batch size).
    adam_epsilon: Annotated[float, Gt(0), Interval(le=1)] = 1e-8
    # Gradients are scaled down to this global norm; none leaves them.
    max_gradient_norm: Annotated[float, Gt(0)] | None = None
    # Gamma, per environment step.
    discount: Annotated[float, Interval(ge=0, le=1)] = 0.99
    # Rewards summed before the bootstrap, in environment steps (Munchausen and DQN papers: 1).
    n_step: Annotated[int, Interval(ge=1, le=1000)] = 1
    # Transitions in a gradient step.
    batch_size: Annotated[int, Interval(ge=1, le=1_000_000)] = 128
    # Probability of a random action at the start.
    epsilon_start: Annotated[float, Interval(ge=0, le=1)] = 1.0
    # Probability of a random action after epsilon_steps.
    epsilon_end: Annotated[float, Interval(ge=0, le=1)] = 0.05
    # Length of the linear decay of epsilon, in environment steps.
    epsilon_steps: Annotated[int, Ge(1)] = 10_000
    # Gradient steps between updates of the target network.
    target_period: Annotated[int, Ge(1)] = 100
    # Share of the way that an update moves the target network: 1 copies, 0.005 is Polyak's.
    target_rate: Annotated[float, Gt(0), Interval(le=1)] = 1.0
    # Errors beyond this count linearly (Huber loss), in reward units; 0 is the squared loss / 2.
    huber_delta: Annotated[float, Ge(0)] = 1.0
    network: NetworkConfig = field(default_factory=NetworkConfig)


@dataclass(frozen=True)
class DQNConfig(ValueConfig):
    """Hyper-parameters of DQN (Mnih et al. 2015, doi:10.1038/nature14236)."""

    # Choose the bootstrap action with the online network (arXiv:1509.06461).
    double: bool = False


@dataclass(frozen=True)
class MunchausenDQNConfig(ValueConfig):
    """Hyper-parameters of M-DQN (Vieillard et al. 2020, arXiv:2007.14430)."""

    # Tau, softmax temperature of the implied policy, in reward units (paper: 0.03, for rewards in
    # [-1, 1]).
    temperature: Annotated[float, Gt(0)] = 0.03
    # Alpha, weight of the log-policy in the reward (paper: 0.9).
    alpha: Annotated[float, Interval(ge=0, le=1)] = 0.9
    # l0, lower clip of the scaled log-policy tau log pi, in reward units (paper: -1).
    clip: Annotated[float, Le(0)] = -1.0


@dataclass(frozen=True)
class QRDQNRetraceConfig(ValueConfig):
    """Hyper-parameters of QR-DQN-Retrace (Tang et al. 2022, arXiv:2207.07570).

    `n_step` is the window K, `huber_delta` the kappa of the quantile Huber loss (0: pinball).
    """

    # N, quantiles of each action's return (DQN Zoo: 201).
    num_quantiles: Annotated[int, Interval(ge=1, le=10_000)] = 201
    # How later steps enter: `retrace` corrects for the policy, `q_lambda` never cuts (c = lambda),
    # `uncorrected` is the n-step return, `one_step` is QR-DQN (arXiv:1710.10044; needs n_step 1).
    trace: Literal["retrace", "q_lambda", "uncorrected", "one_step"] = "retrace"
    # Lambda, decay of traces.
    trace_decay: Annotated[float, Interval(ge=0, le=1)] = 1.0
    # Probability of a random action of the target policy; 0 is greedy and needs no behaviour.
    target_epsilon: Annotated[float, Interval(ge=0, le=1)] = 0.0
    # Network whose means choose the greedy action; `online` is double Q-learning's.
    selector: Literal["target", "online"] = "target"
    # Which steps of the window learn: the first, or every one from what is left of the window.
    anchor: Literal["first", "every"] = "first"
    # M-QR-DQN: the scaled log-policy in the reward, a softmax policy in the bootstrap
    # (arXiv:2007.14430; needs trace one_step, selector target, anchor first).
    munchausen: bool = False
    # Tau, softmax temperature of that policy, in reward units.
    temperature: Annotated[float, Gt(0)] = 0.03
    # Alpha, weight of the log-policy in the reward.
    alpha: Annotated[float, Interval(ge=0, le=1)] = 0.9
    # l0, lower clip of the scaled log-policy tau log pi, in reward units.
    clip: Annotated[float, Le(0)] = -1.0


@dataclass(frozen=True)
class VALearningConfig(ValueConfig):
    """Hyper-parameters of VA-learning (Tang et al. 2023, arXiv:2305.18161)."""

    # `va` regresses V and A apart, `behaviour_dueling` their sum: equal in expectation.
    loss: Literal["va", "behaviour_dueling"] = "va"
    # What centres A: the `learned` behaviour of the data, or the `uniform` policy. Uniform with
    # behaviour_dueling is a dueling network (arXiv:1511.06581).
    behaviour: Literal["learned", "uniform"] = "learned"
    # `uncorrected` sums n_step rewards whatever was done, `retrace` cuts at actions not greedy.
    trace: Literal["uncorrected", "retrace"] = "uncorrected"
    # Lambda, decay of Retrace's traces.
    trace_decay: Annotated[float, Interval(ge=0, le=1)] = 1.0
    # Choose the bootstrap action with the online network (arXiv:1509.06461).
    double: bool = False
