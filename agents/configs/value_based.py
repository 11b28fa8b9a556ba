"""Configurations of the agents that learn action values. Reading them imports no jax."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval, Le

from bellmax.agents.configs.traceable import TRACEABLE
from bellmax.networks import NetworkConfig


@dataclass(frozen=True)
class EpsilonGreedyConfig:
    """Hyper-parameters of every epsilon-greedy agent, with and without replay.

    Numbers marked TRACEABLE may be traced values, so that an agent can be made under `vmap`.
    """

    # Learning rate; decays linearly to final_learning_rate if that is set.
    learning_rate: Annotated[float, Gt(0), Interval(le=1), TRACEABLE] = 2.5e-4
    # Learning rate after learning_rate_steps; none keeps it constant.
    final_learning_rate: Annotated[float, Interval(ge=0, le=1), TRACEABLE] | None = None
    # Length of the learning rate's decay, in gradient steps.
    learning_rate_steps: Annotated[int, Ge(1)] = 100_000
    # Gradient clipping: bound on the global norm; none does not clip.
    max_gradient_norm: Annotated[float, Gt(0), TRACEABLE] | None = None
    # Gamma, per environment step.
    discount: Annotated[float, Interval(ge=0, le=1), TRACEABLE] = 0.99
    # Transitions per gradient step; sequences with network.memory.
    batch_size: Annotated[int, Interval(ge=1, le=1_000_000)] = 128
    # Probability of a random action at the start.
    epsilon_start: Annotated[float, Interval(ge=0, le=1), TRACEABLE] = 1.0
    # Probability of a random action after epsilon_steps.
    epsilon_end: Annotated[float, Interval(ge=0, le=1), TRACEABLE] = 0.05
    # Length of the linear decay of epsilon, in environment steps.
    epsilon_steps: Annotated[int, Ge(1)] = 10_000
    # Threshold of the Huber loss, in reward units: larger errors count linearly; 0 is half the
    # squared loss.
    huber_delta: Annotated[float, Ge(0), TRACEABLE] = 1.0
    network: NetworkConfig = field(default_factory=NetworkConfig)


@dataclass(frozen=True)
class ValueConfig(EpsilonGreedyConfig):
    """Hyper-parameters that value-based agents with replay share."""

    # Adam's epsilon (optax's default; Atari agents use 0.01 / batch size).
    adam_epsilon: Annotated[float, Gt(0), Interval(le=1), TRACEABLE] = 1e-8
    # Rewards summed before the bootstrap, in environment steps (Munchausen and DQN papers: 1).
    n_step: Annotated[int, Interval(ge=1, le=1000)] = 1
    # Steps of a training sequence, burn-in included, with network.memory (R2D2: 40 + 80).
    sequence_length: Annotated[int, Interval(ge=2, le=65536)] = 120
    # Steps at the start of a sequence that only give a memory, without gradient (R2D2: 40).
    burn_in: Annotated[int, Interval(ge=0, le=65536)] = 40
    # Eta, weight of the largest priority of a sequence's steps in the sequence's; the mean has the
    # rest (R2D2: 0.9).
    priority_share: Annotated[float, Interval(ge=0, le=1)] = 0.9
    # Gradient steps between updates of the target network.
    target_period: Annotated[int, Ge(1)] = 100
    # Rate of target updates: 1 copies the online network, smaller values are Polyak averaging.
    target_rate: Annotated[float, Gt(0), Interval(le=1), TRACEABLE] = 1.0


@dataclass(frozen=True)
class VarianceWeightingConfig(ValueConfig):
    """Hyper-parameters of Deep Variance Weighting (Kitamura et al. 2023, arXiv:2305.13185)."""

    # Whether the loss is weighted by the inverse variance of its target, which a second network
    # learns (docs/agents/munchausen_dqn.md).
    variance_weighting: bool = False
    # Added to the exponential of the variance network's output, in squared units of return
    # (authors' code: 0.1).
    variance_epsilon: Annotated[float, Gt(0)] = 0.1
    # Smallest weight; the mean weight is 1 (authors' code: 0.1).
    weight_floor: Annotated[float, Interval(ge=0, le=1)] = 0.1
    # Adam's learning rate for the logarithm of the weights' scale (authors' code: 1e-3).
    scale_learning_rate: Annotated[float, Gt(0), Interval(le=1)] = 1e-3


@dataclass(frozen=True)
class DQNConfig(VarianceWeightingConfig):
    """Hyper-parameters of DQN (Mnih et al. 2015, doi:10.1038/nature14236)."""

    # Whether the online network chooses the bootstrap action (arXiv:1509.06461).
    double: bool = False


@dataclass(frozen=True)
class MunchausenConfig(ValueConfig):
    """Hyper-parameters that agents with a Munchausen term share."""

    # Tau, temperature of the softmax policy, in reward units (paper: 0.03, for rewards in [-1,
    # 1]).
    temperature: Annotated[float, Gt(0), TRACEABLE] = 0.03
    # Alpha, weight of the log-policy in the reward (paper: 0.9).
    alpha: Annotated[float, Interval(ge=0, le=1), TRACEABLE] = 0.9
    # l0, lower clip of the scaled log-policy tau log pi, in reward units (paper: -1).
    clip: Annotated[float, Le(0), TRACEABLE] = -1.0


@dataclass(frozen=True)
class MunchausenDQNConfig(VarianceWeightingConfig, MunchausenConfig):
    """Hyper-parameters of M-DQN (Vieillard et al. 2020, arXiv:2007.14430)."""


@dataclass(frozen=True)
class C51Config(ValueConfig):
    """Hyper-parameters of C51 (Bellemare et al. 2017, arXiv:1707.06887) and its traces.

    `n_step` is the window K; `huber_delta` has no effect.
    """

    # Number of atoms (paper: 51).
    num_atoms: Annotated[int, Interval(ge=2, le=10_000)] = 51
    # Smallest atom, in units of return (paper: -10, for rewards in [-1, 1]). Returns outside the
    # grid are learned as its ends.
    v_min: float = -10.0
    # Largest atom, in units of return (paper: 10).
    v_max: float = 10.0
    # `one_step` is C51 (needs n_step 1), `n_step` the uncorrected n-step return; `retrace` corrects
    # for off-policy actions (arXiv:1704.04651), `q_lambda` never cuts, c = lambda
    # (arXiv:2402.05766).
    trace: Literal["one_step", "n_step", "retrace", "q_lambda"] = "one_step"
    # Lambda, decay of the traces.
    trace_decay: Annotated[float, Interval(ge=0, le=1)] = 1.0
    # Epsilon of the epsilon-greedy target policy of retrace and q_lambda; 0 is greedy and needs no
    # stored behaviour probabilities.
    target_epsilon: Annotated[float, Interval(ge=0, le=1)] = 0.0
    # Beta, probability of the taken action in the target policy of q_lambda, which is otherwise
    # greedy: at least lambda makes all masses of the target positive.
    target_mixing: Annotated[float, Interval(ge=0, le=1)] = 0.0
    # Network whose mean values choose the greedy action; `online` is double Q-learning.
    selector: Literal["target", "online"] = "target"
    # Comparison of prediction and projected target: `cross_entropy` as in the paper, or the squared
    # `cramer` distance, which has a lower bound for targets with negative masses too.
    regression: Literal["cross_entropy", "cramer"] = "cross_entropy"


@dataclass(frozen=True)
class IQNConfig(MunchausenConfig):
    """Hyper-parameters of IQN (Dabney et al. 2018, arXiv:1806.06923).

    `huber_delta` is the kappa of the quantile Huber loss, which is divided by it (0: pinball).
    """

    # N, fractions of the online network that a gradient step draws for each transition (Dopamine
    # on Atari: 64).
    num_quantiles: Annotated[int, Interval(ge=1, le=10_000)] = 32
    # N', fractions of the target network that a gradient step draws for each transition (Dopamine
    # on Atari: 64).
    num_target_quantiles: Annotated[int, Interval(ge=1, le=10_000)] = 32
    # K, fractions whose mean quantile is an action's value: fixed midpoints, in acting, evaluation
    # and targets (paper: 32 random ones).
    num_policy_quantiles: Annotated[int, Interval(ge=1, le=10_000)] = 32
    # Cosines in the embedding of a fraction (paper: 64).
    embedding_size: Annotated[int, Interval(ge=1, le=10_000)] = 64
    # M-IQN: adds the scaled log-policy to the reward and bootstraps with a softmax policy
    # (arXiv:2007.14430), with temperature, alpha and clip.
    munchausen: bool = False


@dataclass(frozen=True)
class QRDQNRetraceConfig(MunchausenConfig):
    """Hyper-parameters of QR-DQN-Retrace (Tang et al. 2022, arXiv:2207.07570).

    `n_step` is the window K, `huber_delta` the kappa of the quantile Huber loss (0: pinball).
    """

    # N, number of quantiles per action (DQN Zoo: 201, as in the preset `atari`; fewer are faster).
    num_quantiles: Annotated[int, Interval(ge=1, le=10_000)] = 32
    # Trace coefficients of later steps: `retrace` corrects for off-policy actions, `q_lambda`
    # never cuts (c = lambda), `uncorrected` is the n-step return, `one_step` is QR-DQN
    # (arXiv:1710.10044; needs n_step 1).
    trace: Literal["retrace", "q_lambda", "uncorrected", "one_step"] = "retrace"
    # Lambda, decay of the traces.
    trace_decay: Annotated[float, Interval(ge=0, le=1), TRACEABLE] = 1.0
    # Epsilon of the epsilon-greedy target policy; 0 is greedy and needs no stored behaviour
    # probabilities.
    target_epsilon: Annotated[float, Interval(ge=0, le=1)] = 0.0
    # Network whose mean values choose the greedy action; `online` is double Q-learning.
    selector: Literal["target", "online"] = "target"
    # Steps of the window that are updated: the first only, or every one from the remaining window.
    anchor: Literal["first", "every"] = "first"
    # What is maximised, of the law of the discounted return: its `mean`; `cvar:SHARE`, the mean of
    # the worst share; `below:LEVEL`, minus the probability of less than the level;
    # `homeostasis:LEVEL`, minus the mean distance from the level. Needs a feed-forward mlp, and
    # rewards that are not clipped.
    objective: str = "mean"
    # Lowest and highest return of an episode, in reward units; for objective cvar.
    return_range: tuple[float, float] | None = None
    # M-QR-DQN: adds the scaled log-policy to the reward and bootstraps with a softmax policy
    # (arXiv:2007.14430; needs trace one_step, selector target, anchor first), with temperature,
    # alpha and clip.
    munchausen: bool = False


@dataclass(frozen=True)
class VALearningConfig(ValueConfig):
    """Hyper-parameters of VA-learning (Tang et al. 2023, arXiv:2305.18161)."""

    # `va` regresses V and A separately, `behaviour_dueling` their sum; equal in expectation.
    loss: Literal["va", "behaviour_dueling"] = "va"
    # Policy under which A has mean zero: the `learned` behaviour policy of the data, or the
    # `uniform` policy. Uniform with behaviour_dueling is a dueling network (arXiv:1511.06581).
    behaviour: Literal["learned", "uniform"] = "learned"
    # `uncorrected` is the plain n-step return, `retrace` cuts the trace at non-greedy actions.
    trace: Literal["uncorrected", "retrace"] = "uncorrected"
    # Lambda, decay of Retrace's traces.
    trace_decay: Annotated[float, Interval(ge=0, le=1), TRACEABLE] = 1.0
    # Whether the online network chooses the bootstrap action (arXiv:1509.06461).
    double: bool = False


@dataclass(frozen=True)
class PQNConfig(EpsilonGreedyConfig):
    """Hyper-parameters of PQN (Gallici et al. 2024, arXiv:2407.04811).

    The paper's values differ by task: those for MinAtar are the defaults.
    """

    # RAdam's learning rate; decays linearly to final_learning_rate if that is set.
    learning_rate: Annotated[float, Gt(0), Interval(le=1), TRACEABLE] = 5e-4
    # Learning rate after learning_rate_steps; none keeps it constant.
    final_learning_rate: Annotated[float, Interval(ge=0, le=1), TRACEABLE] | None = 0.0
    # Gradient clipping: bound on the global norm; none does not clip.
    max_gradient_norm: Annotated[float, Gt(0), TRACEABLE] | None = 10.0
    # Transitions per gradient step, must divide env.num_envs * rollout_length; environments with
    # network.memory, must divide env.num_envs.
    batch_size: Annotated[int, Interval(ge=1, le=1_000_000)] = 128
    # Lambda of Peng's Q(lambda); 0 bootstraps after one step, 1 only at the rollout's end.
    trace_decay: Annotated[float, Interval(ge=0, le=1), TRACEABLE] = 0.65
    # Factor of the rewards that are learned from; values are in its unit.
    reward_scale: Annotated[float, Gt(0), TRACEABLE] = 1.0
    # Threshold of the Huber loss, in scaled reward units: larger errors count linearly; 0 is half
    # the squared loss, and with num_quantiles the quantile loss without Huber.
    huber_delta: Annotated[float, Ge(0), TRACEABLE] = 0.0
    # Number of quantiles of the return that are learned per action; none learns its mean alone.
    num_quantiles: Annotated[int, Interval(ge=1, le=10_000)] | None = None
    # Whether to add the scaled log-policy to the reward and to bootstrap with a softmax policy
    # (arXiv:2007.14430); not with num_quantiles.
    munchausen: bool = False
    # Tau, temperature of the softmax policy, in scaled reward units.
    temperature: Annotated[float, Gt(0), TRACEABLE] = 0.03
    # Alpha, weight of the log-policy in the reward.
    alpha: Annotated[float, Interval(ge=0, le=1), TRACEABLE] = 0.9
    # l0, lower clip of the scaled log-policy tau log pi, in scaled reward units.
    clip: Annotated[float, Le(0), TRACEABLE] = -1.0
    network: NetworkConfig = field(
        default_factory=lambda: NetworkConfig(hidden=(256, 256), norm="layer")
    )
