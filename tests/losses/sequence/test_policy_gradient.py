"""Policy gradients of groups: worked numbers, and gradients against exact ones by enumeration."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax.losses import sequence
from helpers.answers import (
    MASK,
    REF,
    THETA,
    in_float64,
    log_probs,
    mean_over_groups,
    token_log_probs,
)

# Three answers, beta 1/2.
R, BANDIT_REF, BETA = np.array([1.0, 0.5, 0.0]), np.array([0.5, 0.3, 0.2]), 0.5
PI = np.array([0.4, 0.35, 0.25])
STAR = [0.7843988, 0.1731385, 0.0424627]
LOG_Z = 0.7748453
OFF_POLICY = [-0.0711267, -0.0056549, 0.0767815]
ON_POLICY = [-0.0977614, -0.0138332, 0.1115946]
# Of the four answers of the tiny language model.
REWARDS = np.array([1.0, 0.2, -0.5, 0.4])


def close(got, wanted, tolerance=1e-6):
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)


def bandit_loss(rule, size, **options):
    """Expected loss of groups of three answers, as a function of logits and of who draws."""

    def expected(theta, log_mu):
        log_pi, log_ref = jax.nn.log_softmax(theta), jnp.log(BANDIT_REF)
        loss = lambda i: rule(log_pi[i], log_ref[i], jnp.asarray(R)[i], beta=BETA, **options)  # noqa: E731
        return mean_over_groups(loss, log_mu, size)

    return expected


def test_regularised_rewards_are_equal_at_the_optimum_alone():
    star = BANDIT_REF * np.exp(R / BETA)
    close(star / star.sum(), STAR)
    close(BETA * np.log(star.sum()), LOG_Z)

    def run(log_star, log_pi):
        log_ref = jnp.log(BANDIT_REF)
        loss = lambda log_pi: sequence.copg_loss(log_pi, log_ref, jnp.asarray(R), beta=BETA)  # noqa: E731
        value = lambda log_pi: jax.vmap(  # noqa: E731
            lambda x, y, r: sequence.soft_policy_loss(x, y, r, LOG_Z, beta=BETA)
        )(log_pi, log_ref, jnp.asarray(R))
        return loss(log_star), loss(log_pi), value(log_star), value(log_pi)

    at_star, at_pi, values, other = in_float64(run, np.log(star / star.sum()), np.log(PI))
    close(at_star, 0.0, 1e-14)
    close(values, 0.0, 1e-12)
    # R of PI by hand: sum of squared differences over K - 1.
    regularised = [1.1115718, 0.4229247, -0.1115718]
    pairs = [(regularised[i] - regularised[j]) ** 2 for i in range(3) for j in range(i)]
    close(at_pi, sum(pairs) / 2)
    assert np.all(other > 1e-3)


def test_agro_is_half_the_variance_of_any_sampler():
    def run(theta, log_mu):
        off = bandit_loss(sequence.agro_loss, 2)
        return off(theta, log_mu), jax.grad(off)(theta, log_mu)

    value, slope = in_float64(run, np.log(PI), np.log([0.2, 0.5, 0.3]))
    close(value, 0.0900206)
    close(slope, OFF_POLICY)


@pytest.mark.parametrize("size", [2, 3])
def test_agro_on_policy_has_the_gradient_of_the_policys_own_variance(size):
    def run(theta):
        options = {"on_policy": True}
        rule = bandit_loss(sequence.agro_loss, size, **options)
        off = bandit_loss(sequence.agro_loss, size)
        log_pi = jax.nn.log_softmax(theta)
        return jax.grad(rule)(theta, log_pi), jax.grad(off)(theta, log_pi)

    slope, off = in_float64(run, np.log(PI))
    close(slope, ON_POLICY)
    assert np.max(np.abs(off - slope)) > 0.01


def test_copg_of_four_answers_is_rloo_times_a_constant():
    """Answers 0, 2, 1, 0; the gradient is 2 beta times the sum, over answers, of RLOO's."""
    drawn = np.array([0, 2, 1, 0])

    def run(theta):
        def loss(theta, rule):
            log_pi = jax.nn.log_softmax(theta)[drawn]
            return rule(log_pi, jnp.log(BANDIT_REF)[drawn], jnp.asarray(R)[drawn], beta=BETA)

        value, copg = jax.value_and_grad(loss)(theta, sequence.copg_loss)
        return (
            value,
            copg,
            *(jax.grad(loss)(theta, rule) for rule in (sequence.rloo_loss, sequence.agro_loss)),
        )

    value, copg, rloo, agro = in_float64(run, np.log(PI))
    close(value, 1.4087722)
    close(copg, [-1.2745271, 0.2809326, 0.9935945])
    close(copg, 2 * BETA * 4 * rloo, 1e-12)
    close(copg, 8 * agro, 1e-12)


def test_leave_one_out_and_group_advantages_by_hand():
    """Rewards 3, 1, 2: the others' means are 1.5, 2.5, 2; the deviation is 1."""
    r = np.array([3.0, 1.0, 2.0])

    def run(r, equal):
        return (
            sequence.leave_one_out_advantages(r),
            sequence.group_advantages(r, epsilon=0.25),
            sequence.group_advantages(r, divide_by_std=False),
            sequence.group_advantages(equal),
            jax.jacobian(sequence.group_advantages)(equal),
        )

    alone, scaled, centred, equal, slope = in_float64(run, r, np.ones(3))
    close(alone, [1.5, -1.5, 0.0])
    close(scaled, [0.8, -0.8, 0.0])
    close(centred, [1.0, -1.0, 0.0])
    assert not np.any(equal) and np.all(np.isfinite(slope))


def test_dropping_the_value_has_another_optimum():
    """Rewards 1, 0, uniform reference: stationary points with and without the value, by logits."""
    star, without = np.array([0.8807971, 0.1192029]), np.array([0.7277351, 0.2722649])

    def run(log_star, log_without):
        def loss(theta, v):
            rule = lambda log_pi, r: sequence.soft_policy_loss(  # noqa: E731
                log_pi, jnp.log(0.5), r, v, beta=BETA
            )
            return jnp.mean(jax.vmap(rule)(jax.nn.log_softmax(theta), jnp.array([1.0, 0.0])))

        return (
            loss(log_star, 0.7168904),
            jax.grad(loss)(log_star, 0.0),
            jax.grad(loss)(log_without, 0.0),
        )

    value, at_star, at_without = in_float64(run, np.log(star), np.log(without))
    close(value, 0.0, 1e-12)
    close(at_without, 0.0, 1e-6)
    assert np.max(np.abs(at_star)) > 0.1


def test_paths_telescope_at_the_optimum():
    """With exact soft values of prefixes every residual of every answer is 0."""

    def run(ref):
        log_ref = token_log_probs(ref)
        r = jnp.asarray(REWARDS)
        # Soft values, backwards: of the prefixes of one token, then of the prompt.
        each = jnp.reshape(log_probs(ref) + r / BETA, (2, 2))
        first = jax.nn.log_softmax(ref[0])
        later = BETA * (jax.nn.logsumexp(each, axis=1) - first)
        start = BETA * jax.nn.logsumexp(first + later / BETA)
        v = jnp.stack([jnp.full(4, start), jnp.repeat(later, 2)], axis=1)
        values_after = jnp.stack([v[:, 1], r], axis=1)
        log_pi = log_ref + (values_after - v) / BETA
        rule = lambda *row: sequence.soft_path_loss(*row, MASK, beta=BETA)  # noqa: E731
        losses = jax.vmap(rule)(log_pi, log_ref, v, r)
        shifted = jax.vmap(rule)(log_pi, log_ref, v + jnp.array([[0.0, 0.1]]), r)
        return losses, shifted, jnp.sum(jnp.exp(jnp.sum(log_pi, axis=1)))

    losses, shifted, total = in_float64(run, REF)
    close(total, 1.0, 1e-12)
    close(losses, 0.0, 1e-15)
    close(shifted, 0.1**2 / 2, 1e-12)


# Limits of the policy for values below mu's, uniform on three answers, and above.
LIMITS = {
    -1.0: [4 / 9, 3 / 9, 2 / 9],
    0.0: [2 / 3, 1 / 3, 0.0],
    0.2: [0.7777778, 0.2222222, 0.0],
    0.4: [1.0, 0.0, 0.0],
    0.6: [1.0, 0.0, 0.0],
}


def test_asymmetric_reinforce_has_a_sparse_limit():
    """The gradient flow from uniform logits, for the mean reward 1/2 of mu and values V."""

    def run(values):
        def flow(v):
            def loss(theta):
                log_pi = jax.nn.log_softmax(theta)
                return sequence.asymmetric_reinforce_loss(log_pi, jnp.asarray(R), delta=v - 0.5)

            step = lambda theta, _: (theta - 0.5 * jax.grad(loss)(theta), None)  # noqa: E731
            theta, _ = jax.lax.scan(step, jnp.zeros(3), None, length=12_000)
            return jax.nn.softmax(theta)

        return jax.vmap(flow)(values)

    found = in_float64(run, np.array(list(LIMITS)))
    close(found, list(LIMITS.values()), 2e-3)
    close(found @ R, [0.6111, 0.8333, 0.8889, 1.0, 1.0], 2e-3)


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_group_losses_are_unbiased(size):
    """Against the exact gradient of the expected reward, and of it minus the KL."""

    def run(theta, ref):
        def objective(theta, beta):
            log_pi, log_ref = log_probs(theta), log_probs(ref)
            return jnp.sum(jnp.exp(log_pi) * (REWARDS - beta * (log_pi - log_ref)))

        def expected(theta, loss):
            return mean_over_groups(lambda i: loss(theta, i), log_probs(theta), size)

        def rloo(theta, i):
            rows = log_probs(theta)[i], log_probs(ref)[i], jnp.asarray(REWARDS)[i]
            return sequence.rloo_loss(*rows, beta=0.3)

        def group(kl, advantages, average=False):
            def loss(theta, i):
                log_pi, log_ref = token_log_probs(theta)[i], token_log_probs(ref)[i]
                adv = advantages(jnp.asarray(REWARDS)[i])
                options = {"beta": 0.3, "kl": kl, "average": average}
                rule = lambda *row: sequence.grpo_loss(*row, MASK, **options)  # noqa: E731
                return jnp.mean(jax.vmap(rule)(log_pi, log_pi, log_ref, adv))

            return loss

        own_mean = lambda r: sequence.group_advantages(r, divide_by_std=False)  # noqa: E731
        losses = {
            "rloo": rloo,
            "grpo": group("returns", sequence.leave_one_out_advantages),
            "k3": group("k3", sequence.leave_one_out_advantages),
            "own mean": group("k1", own_mean),
        }
        slopes = {n: jax.grad(lambda x, f=f: expected(x, f))(theta) for n, f in losses.items()}
        return jax.grad(objective)(theta, 0.3), jax.grad(objective)(theta, 0.0), slopes

    exact, without, found = in_float64(run, THETA, REF)
    close(found["rloo"], -exact, 1e-12)
    close(found["grpo"], -exact, 1e-12)
    # The mean of a group with the answer itself scales the gradient; k1 adds nothing.
    close(found["own mean"], -without * (1 - 1 / size), 1e-12)
    assert np.max(np.abs(found["k3"] + exact)) > 1e-3


def test_clipping_ends_the_gradient():
    log_mu = np.log([0.5, 0.5])
    rule = lambda x, adv: sequence.grpo_loss(x, log_mu, log_mu, adv, MASK, beta=0.0)  # noqa: E731
    good, bad = np.log([0.7, 0.55]), np.log([0.3, 0.55])
    run = lambda good, bad: (jax.grad(rule)(good, 1.0), jax.grad(rule)(bad, -1.0))  # noqa: E731
    good, bad = in_float64(run, good, bad)
    close(good, [0.0, -1.1 / 2])
    close(bad, [0.0, 1.1 / 2])


def test_negative_aware_tuning_by_hand():
    """p .4: -log 1.2 and -log(.52 / .6); at ratio 1 slopes -1 and .4 / .6."""
    one = np.ones(1)

    def run(log_rho):
        rule = lambda x, correct: sequence.nft_loss(x[None], x[None] * 0, correct, 0.4, one)  # noqa: E731
        flat = lambda x, correct: jax.grad(rule)(x, correct)  # noqa: E731
        values = [rule(log_rho, correct) for correct in (True, False)]
        return values, [flat(0.0 * log_rho, correct) for correct in (True, False)]

    values, slopes = in_float64(run, math.log(1.2))
    close(values, [-0.1823216, 0.1431008])
    close(slopes, [-1.0, 2 / 3])
