"""The losses of the example: of a pair in order of preference, or of a group of strings.

Each takes `log_pi` and `log_ref`, log-probabilities of the tokens of strings [2 or K, L], `r`,
their rewards [2 or K], and beta, the strength of its regularisation. Losses of one kind learn from
the same strings; see `LOSSES`.

"""

import functools

import jax
import jax.numpy as jnp

from bellmax.losses import sequence as seq

K = 8  # strings of a group
MOST = 64  # strings of the reference of which BOND takes the best
SHARPNESS = 10.0  # log odds of a preference, for each unit of reward


def margin(rows):
    (log_pi_w, log_pi_l), (log_ref_w, log_ref_l) = sums(rows)
    return seq.preference_margin(log_pi_w, log_pi_l, log_ref_w, log_ref_l)


def sums(rows):
    """Log-probabilities of the strings under the policy and under the reference."""
    return [jnp.sum(rows[name], axis=-1) for name in ("log_pi", "log_ref")]


def of_margin(rule):
    return lambda rows, beta: rule(margin(rows), beta)


def gpo(name):
    return of_margin(lambda rho, beta: seq.gpo_loss(rho, beta=beta, function=name))


def noisy_labels(rho, beta):
    return seq.noisy_label_loss(rho, epsilon=0.1, beta=beta)


def rpo(rows, beta):
    return seq.rpo_loss(margin(rows), sums(rows)[0][0], beta=beta)


def cpl(rows, beta):
    """Contrasts without a reference: beta is CPL's alpha."""
    return seq.cpl_loss(*sums(rows)[0], alpha=beta)


def cpl_rating(rows, beta):
    return seq.cpl_rating_loss(sums(rows)[0], rows["r"], alpha=beta)


def of_group(rule, **options):
    def loss(rows, beta):
        log_pi, log_ref = sums(rows)
        return rule(log_pi, log_ref, rows["r"], beta=beta, **options)

    return loss


def soft_policy(rows, beta):
    """Soft values of the group in place of a learned one."""
    log_pi, log_ref = sums(rows)
    value = beta * (jax.nn.logsumexp(rows["r"] / beta) - jnp.log(K))
    rule = lambda x, y, r: seq.soft_policy_loss(x, y, r, value, beta=beta)  # noqa: E731
    return jnp.mean(jax.vmap(rule)(log_pi, log_ref, rows["r"])) / beta


def of_advantages(advantages):
    """REINFORCE with the token-level gradient of the KL."""

    def loss(rows, beta):
        every = jnp.ones(rows["log_pi"].shape[-1])
        adv = advantages(rows)[:, None] * every
        push = jax.vmap(lambda x, a: seq.reinforce_loss(x, a, every))(rows["log_pi"], adv)
        pull = jax.vmap(lambda x, y: seq.token_kl_loss(x, y, every))(
            rows["log_pi"], rows["log_ref"]
        )
        return jnp.mean(push + beta * pull)

    return loss


def right(rows):
    """Strings of which half of the neighbours count upwards are right answers."""
    return (rows["r"] >= 0.5).astype(jnp.float32)


def nft(rows, beta):
    """Right and wrong strings of the policy; beta weighs the token-level gradient of the KL."""
    correct = right(rows)
    share = jnp.clip(jnp.mean(correct), 0.05, 0.95)

    def of_string(log_pi, log_ref, correct):
        every, old = jnp.ones(log_pi.shape), jax.lax.stop_gradient(log_pi)
        push = seq.nft_loss(log_pi, old, correct, share, every)
        return push + beta * seq.token_kl_loss(log_pi, log_ref, every)

    return jnp.mean(jax.vmap(of_string)(rows["log_pi"], rows["log_ref"], correct))


def dno(rows, beta):
    """Each string against the next of the group; rewards in units of a preference's log odds."""
    log_pi, log_ref = sums(rows)
    ratio, r = log_pi - log_ref, SHARPNESS * rows["r"]
    rule = functools.partial(seq.dno_loss, eta=beta)
    return jnp.mean(jax.vmap(rule)(ratio, jnp.roll(ratio, 1), r, jnp.roll(r, 1)))


def grpo(kl):
    def loss(rows, beta):
        adv = seq.leave_one_out_advantages(rows["r"])
        rule = lambda x, y, adv: seq.grpo_loss(  # noqa: E731
            x, x, y, adv, jnp.ones(x.shape), beta=beta, kl=kl, average=False
        )
        return jnp.mean(jax.vmap(rule)(rows["log_pi"], rows["log_ref"], adv))

    return loss


def asymmetric(rows, beta):
    return seq.asymmetric_reinforce_loss(jnp.sum(rows["log_pi"], axis=-1), rows["r"], delta=-beta)


def online_ipo(rows, beta):
    """All pairs of the group, with soft labels."""
    g = jnp.sum(rows["log_pi"] - rows["log_ref"], axis=-1)
    p = jax.nn.sigmoid(SHARPNESS * (rows["r"][:, None] - rows["r"][None]))
    rule = functools.partial(seq.pairwise_regression_loss, scale=1.0 / beta)
    return jnp.mean(jax.vmap(jax.vmap(rule, (None, 0, 0)), (0, None, 0))(g, g, p)) * beta**2


def nash_md(rows, beta):
    """Each string against one of the mixture."""
    p = jax.nn.sigmoid(SHARPNESS * (rows["r"] - rows["rival_r"]))
    rule = lambda x, y, p, b: seq.nash_md_loss(  # noqa: E731
        x, y, p, jnp.ones(x.shape), tau=beta, baseline=b
    )
    others = p - seq.leave_one_out_advantages(p)
    return jnp.mean(jax.vmap(rule)(rows["log_pi"], rows["log_ref"], p, others))


def best_string(rows, beta):
    """The best of 1 / beta strings of the reference."""
    tried = jnp.arange(MOST) < jnp.round(1.0 / beta)
    return rows["pool_strings"][jnp.argmax(jnp.where(tried, rows["pool_r"], -jnp.inf))]


def bond(rows, beta):
    """Towards the best of 1 / beta strings of the reference."""
    n = 1.0 / beta
    log_pi, log_ref = sums(rows)
    quantiles = jax.vmap(seq.quantile_reward, (0, None))(rows["r"], rows["pool_all_r"])
    bracket = jax.lax.stop_gradient(log_pi - log_ref) - (n - 1.0) * quantiles
    others = bracket - seq.leave_one_out_advantages(bracket)
    rule = lambda x, y, q, b: seq.bond_loss(  # noqa: E731
        jnp.sum(rows["best_log_pi"]), x, y, q, n=n, baseline=b
    )
    return jnp.mean(jax.vmap(rule)(log_pi, log_ref, quantiles, others))


# (loss, what it learns from): pairs or groups of the reference, or groups of the policy.
LOSSES = {
    "dpo": (gpo("logistic"), "pairs"),
    "ipo": (of_margin(lambda rho, beta: seq.ipo_loss(rho, tau=beta) * beta**2), "pairs"),
    "slic": (gpo("hinge"), "pairs"),
    "truncated_quadratic": (gpo("truncated_quadratic"), "pairs"),
    "exponential": (gpo("exponential"), "pairs"),
    "savage": (gpo("savage"), "pairs"),
    "noisy_labels": (of_margin(noisy_labels), "pairs"),
    "rpo": (rpo, "pairs"),
    "cpl": (cpl, "pairs"),
    "copg_offline": (of_group(seq.copg_loss), "offline"),
    "agro_offline": (of_group(seq.agro_loss), "offline"),
    "asymre": (asymmetric, "offline"),
    "cpl_rating": (cpl_rating, "offline"),
    "soft_policy": (soft_policy, "offline"),
    "dno": (dno, "offline"),
    "copg": (of_group(seq.copg_loss), "online"),
    "agro": (of_group(seq.agro_loss, on_policy=True), "online"),
    "rloo": (of_group(seq.rloo_loss), "online"),
    "grpo": (grpo("k3"), "online"),
    "grpo_returns": (grpo("returns"), "online"),
    "online_ipo": (online_ipo, "online"),
    "nash_md": (nash_md, "online"),
    "bond": (bond, "online"),
    "reinforce": (of_advantages(lambda rows: seq.group_advantages(rows["r"])), "online"),
    "pass_at_k": (of_advantages(lambda rows: seq.pass_at_k_advantages(right(rows), k=2)), "online"),
    "nft": (nft, "online"),
}
