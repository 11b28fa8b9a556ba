"""Distillation, best-of-N and IQ-Learn on text: worked numbers, limits and exact gradients."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from bellmax.losses import sequence
from helpers.answers import evaluate, in_float64

TEACHER, STUDENT = np.array([0.7, 0.2, 0.1]), np.array([0.4, 0.4, 0.2])
REF, SCORES = np.array([0.5, 0.3, 0.2]), np.array([0.0, 1.0, 2.0])
LOGITS = np.array([[1.0, 0.0, -1.0], [0.5, 0.5, 0.0]])
TOKENS = np.array([0, 1])


def close(got, wanted, tolerance=1e-6):
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)


def test_divergences_of_one_token():
    def run(student, teacher):
        jsd = lambda beta: sequence.generalised_jsd(student, teacher, beta=beta)  # noqa: E731
        one = student[None], teacher[None], np.ones(1)
        both = [sequence.gkd_loss(*one, divergence=name) for name in ("forward", "reverse")]
        small = 1e-7
        limits = jsd(small) / small, jsd(1.0 - small) / small
        return [jsd(beta) for beta in (0.1, 0.5, 0.9)], both, limits, jsd(1e-4) / 1e-4

    got, both, limits, near = in_float64(run, np.log(STUDENT), np.log(TEACHER) + 2.0)
    close(got, [0.0165180, 0.0462008, 0.0170996])
    close(both, [0.1837869, 0.1920420])
    # The divergences by name are limits of the quotients, not of the divergence itself.
    close(limits, both, 1e-5)
    close(near, 0.1837681)


def test_the_mean_over_tokens_and_the_temperature():
    def run(student, teacher):
        mask = np.array([1, 0, 1])
        nan = jnp.full(3, jnp.nan)
        s, t = jnp.stack([student, nan, teacher]), jnp.stack([teacher, nan, teacher])
        rule = lambda s: sequence.gkd_loss(s, t, mask, beta=0.3, temperature=2.0)  # noqa: E731
        single = sequence.generalised_jsd(student / 2.0, teacher / 2.0, beta=0.3)
        total = sequence.gkd_loss(s, t, mask, beta=0.3, temperature=2.0, average=False)
        return rule(s), total, single, jax.grad(rule)(s)

    mean, total, single, slope = in_float64(run, np.log(STUDENT), np.log(TEACHER))
    close([mean, total], [single / 2, single], 1e-12)
    assert np.all(np.isfinite(slope)) and not np.any(slope[1])


BEST = {
    2: ([0.25, 0.39, 0.36], 0.1406385, 0.1931472),
    4: ([0.0625, 0.3471, 0.5904], 0.5597506, 0.6362944),
    16: ([0.0000153, 0.0281322, 0.9718525], 1.4696448, 1.8350887),
}


def test_the_best_of_n_and_its_kl():
    def run(log_ref):
        best = lambda scores, n: sequence.best_of_n_log_prob(log_ref, scores, n=n)  # noqa: E731
        ties = best(jnp.array([0.0, 1.0, 1.0]), 2)
        return {n: best(jnp.asarray(SCORES), n) for n in (*BEST, 1)}, ties

    found, ties = in_float64(run, np.log(REF))
    for n, (probs, kl, bound) in BEST.items():
        close(np.exp(found[n]), probs)
        close(np.exp(found[n]) @ (found[n] - np.log(REF)), kl)
        close(np.log(n) - (n - 1) / n, bound)
        assert kl < bound
    close(np.exp(ties), [0.25, 0.45, 0.30])
    close(np.exp(found[1]), REF, 1e-12)


def test_the_best_of_n_has_the_probability_of_an_enumeration():
    """Ties broken at random, by enumeration of three draws of four answers."""
    ref, scores = np.array([0.1, 0.4, 0.3, 0.2]), np.array([1.0, 0.0, 1.0, 2.0])
    wanted = np.zeros(4)
    for drawn in itertools.product(range(4), repeat=3):
        best = [i for i in drawn if scores[i] == max(scores[list(drawn)])]
        for i in best:
            wanted[i] += np.prod(ref[list(drawn)]) / len(best)
    found = in_float64(lambda x: sequence.best_of_n_log_prob(x, scores, n=3), np.log(ref))
    close(np.exp(found), wanted, 1e-12)


def test_jeffreys_divergence_to_the_best_of_four():
    def run(log_ref, log_pi):
        target = sequence.best_of_n_log_prob(log_ref, jnp.asarray(SCORES), n=4)
        barred = np.array([0.0, -np.inf])
        nothing = sequence.jeffreys_divergence(barred, barred)
        return [sequence.jeffreys_divergence(target, log_pi, b=b) for b in (0, 1, 0.5)], nothing

    got, nothing = in_float64(run, np.log(REF), np.log([0.3, 0.3, 0.4]))
    close(got, [0.1824431, 0.2711014, 0.2267722])
    assert nothing == 0.0


def test_bond_on_samples_has_the_gradient_of_the_divergence():
    """With the exact reward log(p_BoN / ref) / (n - 1); log p_le is close to it."""

    def run(theta, log_ref):
        target = sequence.best_of_n_log_prob(log_ref, jnp.asarray(SCORES), n=4)

        def exact(theta):
            return sequence.jeffreys_divergence(target, jax.nn.log_softmax(theta), b=0.3)

        def expected(theta):
            log_pi = jax.nn.log_softmax(theta)
            rule = lambda best, y: sequence.bond_loss(  # noqa: E731
                log_pi[best],
                log_pi[y],
                log_ref[y],
                (target[y] - log_ref[y]) / 3,
                n=4.0,
                b=0.3,
                baseline=0.2,
            )
            odds = jax.lax.stop_gradient(jnp.exp(target[:, None] + log_pi[None, :]))
            each = jax.vmap(lambda i: jax.vmap(lambda j: rule(i, j))(jnp.arange(3)))(jnp.arange(3))
            return jnp.sum(odds * each)

        return jax.grad(exact)(theta), jax.grad(expected)(theta)

    exact, found = in_float64(run, np.array([0.3, -0.2, 0.5]), np.log(REF))
    close(found, exact, 1e-12)
    assert np.max(np.abs(exact)) > 0.05


def test_rewards_in_quantiles():
    scores = np.array([3.0, 1.0, 2.0, 2.0])
    pairs = list(itertools.product((-1.0, 1.0), repeat=2))

    def run():
        reward = lambda x, y=scores: sequence.quantile_reward(x, y)  # noqa: E731
        quantiles = reward(2.0), reward(0.0), reward(9.0), reward(np.exp(2.0), np.exp(scores))
        return quantiles, [sequence.j_bond_reward(0.0, np.array(x)) for x in pairs]

    quantiles, rewards = evaluate(run)
    close(quantiles, [np.log(3 / 4), np.log(1 / 5), 0.0, np.log(3 / 4)])
    # Below both anchors with probability 1/4 at the median: log 1/2 in the mean.
    close(np.mean(rewards), np.log(0.5))


def test_inverse_rl_on_two_tokens():
    """v = logsumexp of (1 0 -1) and (.5 .5 0); the first reward is 1 - v of the second row."""

    def run(logits):
        nan = jnp.full((1, 3), jnp.nan)
        long, mask = jnp.concatenate([nan, logits, nan]), np.array([0, 1, 1, 0])
        tokens = np.array([2, 0, 1, 2])
        padded = lambda x: sequence.sequence_iq_loss(x, tokens, mask)  # noqa: E731
        loss = lambda x: sequence.sequence_iq_loss(x, TOKENS, np.ones(2))  # noqa: E731
        held = lambda x: sequence.sequence_iq_loss(  # noqa: E731
            x, TOKENS, np.ones(2), stop_next_value=True
        )
        likelihood = lambda x: sequence.sequence_iq_loss(x, TOKENS, np.ones(2), lambda_=0.0)  # noqa: E731
        return {
            "rewards": sequence.sequence_iq_rewards(logits, TOKENS, np.ones(2)),
            "loss": loss(logits),
            "padded": padded(long),
            "slope": jax.grad(loss)(logits),
            "padded slope": jax.grad(padded)(long),
            "held slope": jax.grad(held)(logits),
            "likelihood": [likelihood(logits), likelihood(logits + 5.0)],
            "log_pi": sequence.token_log_probs(logits, TOKENS, np.ones(2)),
        }

    got = in_float64(run, LOGITS)
    close(got["rewards"], [-0.4580201, 0.5])
    close(got["log_pi"], [-0.4076060, -0.9580201])
    close(got["loss"], 0.7058021)
    close(got["padded"], got["loss"], 1e-12)
    close(got["padded slope"][1:3], got["slope"], 1e-12)
    assert not np.any(got["padded slope"][[0, 3]])
    # Likelihood leaves a constant free, and the next value's gradient reaches the second row.
    close(got["likelihood"][0], got["likelihood"][1], 1e-9)
    assert np.max(np.abs(got["held slope"][1] - got["slope"][1])) > 1e-3
    close(got["held slope"][0], got["slope"][0], 1e-12)
