"""The KL of sequences: estimates, and which losses have its gradient, by enumeration."""

import jax
import jax.numpy as jnp
import numpy as np

from bellmax.losses import sequence
from helpers.answers import (
    ANSWERS,
    MASK,
    REF,
    THETA,
    evaluate,
    in_float64,
    log_probs,
    mean_over,
    token_log_probs,
)

# Gradients in the first column of the logits, by exact enumeration: root, after 0, after 1.
TRUE = [0.1665144, 0.0862409, -0.0687402]
LOCAL = [0.1966119, 0.0862409, -0.0687402]
OTHER_KL = [0.2310586, 0.0967709, -0.0821619]
BOTH_FACTORS = [0.3932239, 0.2299757, -0.1216173]
REWARDS = np.array([1.0, 0.2, -0.5, 0.4])


def close(got, wanted, tolerance=1e-6):
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)


def slopes(losses):
    """Expected gradients [3, 2] by name, of losses of one answer drawn from the policy."""

    def run(theta, ref):
        def expected(theta, loss):
            rows = jax.vmap(loss)(token_log_probs(theta), token_log_probs(ref), np.arange(4))
            return mean_over(rows, log_probs(theta))

        return {
            name: jax.grad(lambda x, f=loss: expected(x, f))(theta) for name, loss in losses.items()
        }

    return in_float64(run, THETA, REF)


def objective(theta, ref, beta):
    """Expected reward minus beta times the KL, exactly."""
    log_pi, log_ref = log_probs(theta), log_probs(ref)
    return jnp.sum(jnp.exp(log_pi) * (REWARDS - beta * (log_pi - log_ref)))


def kl_term(kl):
    """GRPO's KL term alone: its surrogate is 0 without advantages."""

    def loss(log_pi, log_ref, i):
        adv = jnp.zeros((), log_pi.dtype)
        options = {"beta": 1.0, "kl": kl, "average": False}
        return sequence.grpo_loss(log_pi, log_pi, log_ref, adv, MASK, **options)

    return loss


def test_gradients_of_one_token():
    """pi = (.7, .3), ref = (.5, .5): values, variances, and derivatives in the first logit."""

    def run(theta, log_ref):
        log_ref = log_ref[:, None]

        def rows(theta):
            return jax.nn.log_softmax(theta)[:, None]

        def estimates(name):
            rule = lambda x, y: sequence.kl_estimate(x, y, np.ones(1), estimator=name)  # noqa: E731
            return jax.vmap(rule)(rows(theta), log_ref)

        def slope(loss):
            def expected(theta):
                each = jax.vmap(loss)(rows(theta), log_ref)
                return mean_over(each, jax.nn.log_softmax(theta))

            return jax.grad(expected)(theta)[0]

        adv, one = jnp.zeros((), theta.dtype), np.ones(1)
        terms = {
            kl: lambda x, y, kl=kl: sequence.grpo_loss(x, x, y, adv, one, beta=1.0, kl=kl)
            for kl in ("k1", "k2", "k3", "returns")
        }
        terms["sequence"] = lambda x, y: sequence.sequence_kl_loss(x, y, one)
        return [estimates(n) for n in ("k1", "k2", "k3")], {n: slope(f) for n, f in terms.items()}

    pi = np.array([0.7, 0.3])
    (k1, k2, k3), found = in_float64(run, np.log(pi), np.log([0.5, 0.5]))
    close([pi @ k1, pi @ k2, pi @ k3], [0.0822829, 0.0787662, 0.0822829])
    close([pi @ k1**2 - (pi @ k1) ** 2, pi @ k3**2 - (pi @ k3) ** 2], [0.1507619, 0.0023189])
    # k3 has the gradient pi - ref, of the other KL.
    true = 0.1779326
    wanted = {"k1": 0.0, "k2": true, "k3": 0.2, "returns": true, "sequence": true}
    for name, value in wanted.items():
        close(found[name], value)


def test_gradients_of_two_tokens():
    both_factors = lambda x, y, i: jnp.sum((x - y) * x)  # noqa: E731 - EasyDeL's Nash-MD

    def nash(p, b):
        options = {"tau": 1.0, "baseline": b}
        return lambda x, y, i: sequence.nash_md_loss(x, y, jnp.asarray(p), MASK, **options)

    found = slopes(
        {
            "sequence": lambda x, y, i: sequence.sequence_kl_loss(x, y, MASK),
            "baseline": lambda x, y, i: sequence.sequence_kl_loss(x, y, MASK, baseline=0.7),
            "token": lambda x, y, i: sequence.token_kl_loss(x, y, MASK),
            "nash": nash(0.5, 0.5),
            "nash with a constant preference": nash(0.9, 0.2),
            "both factors": both_factors,
        }
        | {kl: kl_term(kl) for kl in ("k1", "k2", "k3", "returns")}
    )
    for name in ("sequence", "baseline", "token", "nash", "returns"):
        close(found[name][:, 0], TRUE)
    close(found["nash with a constant preference"][:, 0], TRUE)
    # What trainers do: TRL's Nash-MD and k2 are local, k3 follows another KL, k1 nothing.
    close(found["k1"], 0.0)
    close(found["k2"][:, 0], LOCAL)
    close(found["k3"][:, 0], OTHER_KL)
    close(found["both factors"][:, 0], BOTH_FACTORS)


def test_the_gradient_by_hand_is_that_of_the_exact_kl():
    def run(theta, ref):
        def kl(theta):
            mean_reward = jnp.sum(jnp.exp(log_probs(theta)) * REWARDS)
            return mean_reward - objective(theta, ref, 1.0)

        return kl(theta), jax.grad(kl)(theta)

    value, slope = in_float64(run, THETA, REF)
    close(value, 0.1905026)
    close(slope[:, 0], TRUE)


def test_penalised_returns_and_rewards_have_the_gradient_of_the_objective():
    beta = 0.3
    exact = in_float64(lambda x, y: jax.grad(objective)(x, y, beta), THETA, REF)

    def returns(log_pi, log_ref, i):
        row = log_pi, log_ref, jnp.asarray(REWARDS)[i], MASK
        adv = sequence.kl_penalised_returns(*row, beta=beta) - 0.4  # a baseline
        return sequence.reinforce_loss(log_pi, adv, MASK)

    def rewards(log_pi, log_ref, i):
        row = log_pi, log_ref, jnp.asarray(REWARDS)[i], MASK
        adv = jnp.cumsum(sequence.kl_penalised_rewards(*row, beta=beta)[::-1])[::-1]
        return sequence.reinforce_loss(log_pi, adv, MASK)

    def local(log_pi, log_ref, i):
        adv = jnp.asarray(REWARDS)[i] - beta * (log_pi - log_ref)
        return sequence.reinforce_loss(log_pi, adv, MASK)

    found = slopes({"returns": returns, "rewards": rewards, "local": local})
    close(found["returns"], -exact, 1e-12)
    close(found["rewards"], -exact, 1e-12)
    assert np.max(np.abs(found["local"] + exact)) > 1e-3


def test_the_reward_is_at_the_last_token_counted():
    log_pi, log_ref = np.array([-1.0, -2.0, -0.5, np.nan]), np.array([-1.5, -1.0, -1.0, np.inf])
    mask = np.array([0, 1, 1, 0])

    def run(log_pi, log_ref):
        row = log_pi, log_ref, 3.0
        return (
            sequence.kl_penalised_rewards(*row, mask, beta=0.5),
            sequence.kl_penalised_returns(*row, mask, beta=0.5),
            sequence.kl_penalised_rewards(*row, np.zeros(4)),
        )

    rewards, returns, nothing = in_float64(run, log_pi, log_ref)
    close(rewards, [0.0, 0.5, 3.0 - 0.25, 0.0])
    close(returns, [0.0, 3.25, 2.75, 0.0])
    assert not np.any(nothing)


def test_k3_of_a_drifted_policy_is_finite():
    rule = lambda x: sequence.grpo_loss(x, x, jnp.zeros(2), 0.0, MASK)  # noqa: E731
    value, slope = evaluate(lambda: jax.value_and_grad(rule)(jnp.array([-500.0, -1.0])))
    assert np.isfinite(value) and np.all(np.isfinite(slope))


def test_there_are_four_answers():
    assert len({tuple(answer) for answer in ANSWERS}) == 4
