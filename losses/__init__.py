"""Learning rules as pure functions of arrays, without networks, batches, replay or configs.

Index convention. As in rlax, `_tm1` marks quantities at the step where the action was taken and
`_t` those at the next step: `a_tm1` was taken where `q_tm1` was evaluated, earned the reward `r_t`,
and led to the observation where `q_t` was evaluated. `discount_t` is gamma times the environment's
discount, so it is 0 only where the environment *terminated*; at a time limit it is gamma, and `q_t`
is evaluated at the true final observation. `target_` marks values of the target network.

Axes. A learning rule takes one example: `[A]` action values, `[]` actions, rewards and discounts.
Functions of sequences put time first, `[T, ...]`: row i is the transition from step i to step i +
1, and `trace_t[i]` is 0 where step i + 1 is the last of its episode. There is no batch axis: the
caller applies `jax.vmap`, weights and reduces. The exceptions are `vmpo_loss` and the variance
weights, which are normalised over a batch, and the running scales of intrinsic rewards.
`bellmax.losses.sequence`, the losses for sequences of tokens, is imported on its own; some of them
have an axis of a group of answers.

Functions return a TD error, target minus prediction, unless they say otherwise. Hyper-parameters
are keyword-only. Numeric ones may be traced and, where the rule depends on them smoothly, have
gradients; those that set a shape or select a variant (`n`, `horizons`, `method`, `reduce`, flags)
must be static.

Dtypes. A function computes in, and returns, the widest dtype of its float arrays and
hyper-parameters, float32 at least. Python numbers do not widen. Arrays that only select or mask
(selectors, `mask`) do not count, and states of running statistics and tables keep their dtype.
Rewards, discounts, traces and masks may also be integers or flags; integers are exact up to 2**24.

What has weight 0 has no influence on values and gradients, whatever it holds, nan and inf
included: what is at t where `discount_t` is 0, rows past a `trace_t` of 0, entries under a mask of
0, actions and atoms of probability 0.
"""

from bellmax.losses.action_gap import advantage_learning
from bellmax.losses.advantage import (
    VAErrors,
    behaviour_centred,
    behaviour_dueling_q_learning,
    behaviour_likelihood_loss,
    va_errors,
    va_learning,
    va_target,
)
from bellmax.losses.advantage_tabular import (
    VATables,
    va_update,
    va_value_iteration,
)
from bellmax.losses.bandit import (
    BanditState,
    bandit_init,
    bandit_sample,
    bandit_update,
    bandit_update_windowed,
)
from bellmax.losses.batches import batched, masked_mean
from bellmax.losses.categorical import (
    categorical_cramer_regression,
    categorical_expected_sarsa,
    categorical_q_learning,
    categorical_regression,
)
from bellmax.losses.categorical_multi_step import (
    categorical_retrace,
    categorical_retrace_target,
    n_step_categorical_q_learning,
    n_step_categorical_target,
)
from bellmax.losses.curiosity import (
    IntrinsicCuriosity,
    count_bonus,
    elliptical_bonus,
    elliptical_bonus_init,
    intrinsic_curiosity,
    rnd_error,
)
from bellmax.losses.deterministic_policy import (
    clipped_double_q_learning,
    clipped_double_q_target,
    deterministic_policy_gradient,
    smoothed_target_action,
)
from bellmax.losses.distributional import (
    distributional_lambda_target,
    distributional_n_step_target,
    distributional_retrace_target,
)
from bellmax.losses.distributional_greedy import (
    greedy_distributional_retrace,
    greedy_distributional_retrace_every,
    greedy_distributional_retrace_target,
    n_step_quantile_q_learning,
)
from bellmax.losses.distributional_off_policy import (
    distributional_retrace,
    distributional_retrace_every,
)
from bellmax.losses.expectile_regression import (
    expectile_loss,
    expectile_td_loss,
)
from bellmax.losses.expectile_tabular import (
    expectile,
    expectile_bellman_operator,
    expectile_value_operator,
    worst_case_kernel,
)
from bellmax.losses.huber import huber_loss
from bellmax.losses.intrinsic_reward import (
    ReturnNormaliser,
    RewardNormaliser,
    RunningMoments,
    return_normaliser_init,
    return_normaliser_update,
    reward_normaliser_init,
    reward_normaliser_update,
    running_moments_init,
    running_moments_update,
    standardise,
)
from bellmax.losses.multi_step import (
    off_policy_returns,
    off_policy_td,
    retrace,
    v_trace,
)
from bellmax.losses.munchausen import (
    munchausen_loss,
    munchausen_q_learning,
    munchausen_target,
    munchausen_term,
    scaled_log_policy,
)
from bellmax.losses.munchausen_n_step import (
    munchausen_lambda_returns,
    n_step_munchausen_q_learning,
)
from bellmax.losses.munchausen_quantile import (
    munchausen_quantile_q_learning,
    munchausen_quantile_target,
)
from bellmax.losses.munchausen_tabular import munchausen_value_iteration
from bellmax.losses.policy import (
    Vmpo,
    categorical_entropy,
    clipped_surrogate_loss,
    clipped_value_loss,
    generalised_advantages,
    vmpo_loss,
)
from bellmax.losses.q_lambda import (
    lambda_returns,
    n_step_q_learning,
    n_step_returns,
    peng_q_lambda,
    watkins_q_lambda,
)
from bellmax.losses.quantile import (
    WeightedAtoms,
    quantile_expected_sarsa,
    quantile_midpoints,
    quantile_q_learning,
    quantile_regression,
)
from bellmax.losses.quantile_tabular import quantile_td
from bellmax.losses.self_prediction import (
    horizon_losses,
    horizon_mask,
    normalised_prediction_loss,
    prediction_uncertainty,
    self_prediction_loss,
)
from bellmax.losses.soft_actor_critic import (
    soft_actor_critic_target,
    tanh_gaussian_log_prob,
    temperature_loss,
)
from bellmax.losses.traces import (
    importance_sampling_coefficients,
    q_lambda_coefficients,
    retrace_coefficients,
    tree_backup_coefficients,
    watkins_coefficients,
)
from bellmax.losses.value import (
    double_q_learning,
    expected_sarsa,
    q_learning,
    soft_q_learning,
    soft_value,
)
from bellmax.losses.variance_weighting import (
    variance_scale_loss,
    variance_target,
    variance_weights,
)

__all__ = [
    "BanditState",
    "IntrinsicCuriosity",
    "ReturnNormaliser",
    "RewardNormaliser",
    "RunningMoments",
    "VAErrors",
    "VATables",
    "Vmpo",
    "WeightedAtoms",
    "advantage_learning",
    "bandit_init",
    "bandit_sample",
    "bandit_update",
    "bandit_update_windowed",
    "batched",
    "behaviour_centred",
    "behaviour_dueling_q_learning",
    "behaviour_likelihood_loss",
    "categorical_cramer_regression",
    "categorical_entropy",
    "categorical_expected_sarsa",
    "categorical_q_learning",
    "categorical_regression",
    "categorical_retrace",
    "categorical_retrace_target",
    "clipped_double_q_learning",
    "clipped_double_q_target",
    "clipped_surrogate_loss",
    "clipped_value_loss",
    "count_bonus",
    "deterministic_policy_gradient",
    "distributional_lambda_target",
    "distributional_n_step_target",
    "distributional_retrace",
    "distributional_retrace_every",
    "distributional_retrace_target",
    "double_q_learning",
    "elliptical_bonus",
    "elliptical_bonus_init",
    "expected_sarsa",
    "expectile",
    "expectile_bellman_operator",
    "expectile_loss",
    "expectile_td_loss",
    "expectile_value_operator",
    "generalised_advantages",
    "greedy_distributional_retrace",
    "greedy_distributional_retrace_every",
    "greedy_distributional_retrace_target",
    "horizon_losses",
    "horizon_mask",
    "huber_loss",
    "importance_sampling_coefficients",
    "intrinsic_curiosity",
    "lambda_returns",
    "masked_mean",
    "munchausen_lambda_returns",
    "munchausen_loss",
    "munchausen_q_learning",
    "munchausen_quantile_q_learning",
    "munchausen_quantile_target",
    "munchausen_target",
    "munchausen_term",
    "munchausen_value_iteration",
    "n_step_categorical_q_learning",
    "n_step_categorical_target",
    "n_step_munchausen_q_learning",
    "n_step_q_learning",
    "n_step_quantile_q_learning",
    "n_step_returns",
    "normalised_prediction_loss",
    "off_policy_returns",
    "off_policy_td",
    "peng_q_lambda",
    "prediction_uncertainty",
    "q_lambda_coefficients",
    "q_learning",
    "quantile_expected_sarsa",
    "quantile_midpoints",
    "quantile_q_learning",
    "quantile_regression",
    "quantile_td",
    "retrace",
    "retrace_coefficients",
    "return_normaliser_init",
    "return_normaliser_update",
    "reward_normaliser_init",
    "reward_normaliser_update",
    "rnd_error",
    "running_moments_init",
    "running_moments_update",
    "scaled_log_policy",
    "self_prediction_loss",
    "smoothed_target_action",
    "soft_actor_critic_target",
    "soft_q_learning",
    "soft_value",
    "standardise",
    "tanh_gaussian_log_prob",
    "temperature_loss",
    "tree_backup_coefficients",
    "v_trace",
    "va_errors",
    "va_learning",
    "va_target",
    "va_update",
    "va_value_iteration",
    "variance_scale_loss",
    "variance_target",
    "variance_weights",
    "vmpo_loss",
    "watkins_coefficients",
    "watkins_q_lambda",
    "worst_case_kernel",
]
