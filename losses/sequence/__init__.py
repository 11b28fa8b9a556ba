"""Losses for sequences of tokens: preferences, policy gradients, games, distillation.

    from bellmax.losses.sequence import dpo_loss, preference_margin, sequence_log_prob

Inputs are log-probabilities of tokens, `[T]`, with a mask `[T]`, or the sums that
`sequence_log_prob` makes of them, `[]`: no function knows a model. A mask counts a token where it
is not 0. What it leaves out (prompt, padding) has no influence on values and gradients, whatever it
holds, nan and inf included. As in `bellmax.losses`, a function takes one example without a batch
axis, computes in float32 or wider, and names the argument in its errors. Rules that compare answers
to one prompt have a group axis, `[K]` or `[N]`, and say so.

`log_ref`, `log_mu`, rewards, preferences and teachers are constants to the gradient. Losses whose
gradient is meant, not their value, say that the value has no meaning.

It is imported on its own: `import bellmax.losses` does not import it.
"""

from bellmax.losses.sequence.averaging import (
    average_weights,
    lerp,
    merge_task_vectors,
    slerp,
    task_vector,
)
from bellmax.losses.sequence.best_of_n import (
    best_of_n_log_prob,
    bond_loss,
    j_bond_reward,
    jeffreys_divergence,
    quantile_reward,
)
from bellmax.losses.sequence.clipped import grpo_loss, nft_loss
from bellmax.losses.sequence.distillation import (
    generalised_jsd,
    gkd_loss,
    sequence_iq_loss,
    sequence_iq_rewards,
)
from bellmax.losses.sequence.equilibria import (
    minimax_winner,
    nash_md_step,
    regularised_equilibrium,
)
from bellmax.losses.sequence.games import (
    dno_loss,
    inpo_log_ratio,
    mixture_logits,
    nash_md_loss,
    pairwise_regression_loss,
    win_rates,
)
from bellmax.losses.sequence.k_samples import (
    jepo_loss,
    majority_advantages,
    majority_vote,
    pass_at_k,
    pass_at_k_advantages,
)
from bellmax.losses.sequence.kl import (
    kl_estimate,
    kl_penalised_returns,
    kl_penalised_rewards,
    reinforce_loss,
    sequence_kl_loss,
    token_kl_loss,
)
from bellmax.losses.sequence.policy_gradient import (
    agro_loss,
    asymmetric_reinforce_loss,
    copg_loss,
    group_advantages,
    leave_one_out_advantages,
    rloo_loss,
)
from bellmax.losses.sequence.preference import (
    dpo_loss,
    gpo_loss,
    ipo_loss,
    noisy_label_loss,
    preference_margin,
    rpo_loss,
)
from bellmax.losses.sequence.preference_more import (
    cpl_loss,
    cpl_rating_loss,
    srpo_loss,
    top_k_entropy,
    top_k_mass,
)
from bellmax.losses.sequence.soft_policy import soft_path_loss, soft_policy_loss
from bellmax.losses.sequence.sums import sequence_log_prob, token_log_probs

__all__ = [
    "agro_loss",
    "asymmetric_reinforce_loss",
    "average_weights",
    "best_of_n_log_prob",
    "bond_loss",
    "copg_loss",
    "cpl_loss",
    "cpl_rating_loss",
    "dno_loss",
    "dpo_loss",
    "generalised_jsd",
    "gkd_loss",
    "gpo_loss",
    "group_advantages",
    "grpo_loss",
    "inpo_log_ratio",
    "ipo_loss",
    "j_bond_reward",
    "jeffreys_divergence",
    "jepo_loss",
    "kl_estimate",
    "kl_penalised_returns",
    "kl_penalised_rewards",
    "leave_one_out_advantages",
    "lerp",
    "majority_advantages",
    "majority_vote",
    "merge_task_vectors",
    "minimax_winner",
    "mixture_logits",
    "nash_md_loss",
    "nash_md_step",
    "nft_loss",
    "noisy_label_loss",
    "pairwise_regression_loss",
    "pass_at_k",
    "pass_at_k_advantages",
    "preference_margin",
    "quantile_reward",
    "regularised_equilibrium",
    "reinforce_loss",
    "rloo_loss",
    "rpo_loss",
    "sequence_iq_loss",
    "sequence_iq_rewards",
    "sequence_kl_loss",
    "sequence_log_prob",
    "slerp",
    "soft_path_loss",
    "soft_policy_loss",
    "srpo_loss",
    "task_vector",
    "token_kl_loss",
    "token_log_probs",
    "top_k_entropy",
    "top_k_mass",
    "win_rates",
]
