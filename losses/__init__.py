"""Learning rules on arrays: no network, batch object, replay or config is known here.

Index convention. As in rlax, `_tm1` is what was known when the action was taken and `_t` what
followed: `a_tm1` was taken where `q_tm1` was evaluated, earned `r_t`, and led to where `q_t` was
evaluated. `discount_t` is gamma times the environment's discount, so 0 only where the environment
*terminated*; a time limit leaves it at gamma, and `q_t` is then evaluated at the true final
observation. `target_` marks values of the target network.

Axes. Every function takes one example: `[A]` action values, `[]` actions, rewards and discounts.
Functions of sequences put time first, `[T, ...]`: row i is the transition from step i to step
i + 1, and `trace_t[i]` is 0 where step i + 1 is the last of its episode. There is no batch axis:
the caller maps (`jax.vmap`), weighs and reduces.

Functions return a TD error, target minus prediction, unless they say otherwise. Arithmetic is in
float32 or wider whatever comes in, and all hyper-parameters are keyword-only, may be traced and,
where the rule depends on them smoothly, have gradients.
"""

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
from bellmax.losses.munchausen_tabular import munchausen_value_iteration
from bellmax.losses.value import (
    double_q_learning,
    expected_sarsa,
    q_learning,
    soft_q_learning,
    soft_value,
)

__all__ = [
    "double_q_learning",
    "expected_sarsa",
    "munchausen_lambda_returns",
    "munchausen_loss",
    "munchausen_q_learning",
    "munchausen_target",
    "munchausen_term",
    "munchausen_value_iteration",
    "n_step_munchausen_q_learning",
    "q_learning",
    "scaled_log_policy",
    "soft_q_learning",
    "soft_value",
]
