"""Objectives of k answers: worked numbers, and gradients against exact ones by enumeration."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax.losses import sequence
from helpers.answers import evaluate, in_float64, mean_over_groups

P, SLOPE = 0.3, 1.372  # pass@4 of .3 is .7599, its derivative 4 * .7^3
# Three answers: which are right, and their probabilities.
RIGHT, LOGITS = np.array([1.0, 0.0, 0.0]), np.array([0.2, 0.4, -0.5])
THOUGHTS, ANSWERS = np.array([0.6, 0.4]), np.array([0.1, 0.5])


def close(got, wanted, tolerance=1e-6):
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)


def test_eight_answers_two_right_four_tries():
    """1 - C(6, 4) / C(8, 4); a right one is alone with C(6, 3) / C(7, 3)."""
    correct = np.array([0, 1, 0, 0, 1, 0, 0, 0])

    def run():
        weights = lambda *x: sequence.pass_at_k_advantages(np.array(x), k=4)  # noqa: E731
        value = sequence.pass_at_k(correct, k=4)
        return value, weights(*correct), weights(1, 0, 0, 0), weights(1, 1, 0, 0)

    value, weights, alone, two = evaluate(run)
    close(value, 0.7857143)
    close(weights, 0.5714286 * correct)
    close(alone, [1, 0, 0, 0])
    assert not np.any(two)


@pytest.mark.parametrize("size", [4, 6])
def test_pass_at_k_is_unbiased_in_value_and_gradient(size):
    def run(logit):
        log_p = jnp.stack([jax.nn.log_sigmoid(-logit), jax.nn.log_sigmoid(logit)])

        def loss(logit, i):
            log_pi = jnp.stack([jax.nn.log_sigmoid(-logit), jax.nn.log_sigmoid(logit)])[i]
            weights = sequence.pass_at_k_advantages(i, k=4)
            return -(4 / size) * jnp.sum(weights * log_pi)

        value = mean_over_groups(lambda i: sequence.pass_at_k(i, k=4), log_p, size)
        slope = jax.grad(lambda x: mean_over_groups(lambda i: loss(x, i), log_p, size))(logit)
        return value, slope

    value, slope = in_float64(run, np.log(P / (1 - P)))
    close(value, 0.7599)
    close(slope, -SLOPE * P * (1 - P))


def vote(answers):
    """Whether the most frequent answer is right, the mean over ties, by hand."""
    counts = np.bincount(answers, minlength=3)
    return np.mean(RIGHT[counts == counts.max()]) if len(answers) else 0.0


def test_votes_and_their_advantages_by_loops():
    answer = np.array([0, 1, 1, 2, 0, 0])
    correct = RIGHT[answer]
    tie = np.array([0, 1, 1, 0])

    def run():
        votes = sequence.majority_vote(answer, correct), sequence.majority_vote(tie, RIGHT[tie])
        weights = lambda k: sequence.majority_advantages(answer, correct, k=k)  # noqa: E731
        return votes, {k: weights(k) for k in (1, 3, 6)}

    votes, found = evaluate(run)
    close(votes, [vote(answer), 0.5])
    for k, weights in found.items():
        wanted = np.zeros(6)
        for i in range(6):
            others = itertools.combinations([j for j in range(6) if j != i], k - 1)
            gains = [vote(answer[[i, *rest]]) - vote(answer[list(rest)]) for rest in others]
            wanted[i] = np.mean(gains)
        close(weights, wanted)


@pytest.mark.parametrize("size", [3, 4])
def test_majority_advantages_are_unbiased(size):
    def run(theta):
        right = jnp.asarray(RIGHT)

        def exact(theta):
            log_pi = jax.nn.log_softmax(theta)
            groups = np.array(list(itertools.product(range(3), repeat=3)))
            votes = np.array([vote(group) for group in groups])
            return jnp.sum(jnp.exp(jnp.sum(log_pi[groups], axis=1)) * votes)

        def loss(theta, i):
            weights = sequence.majority_advantages(i, right[i], k=3)
            return -(3 / size) * jnp.sum(weights * jax.nn.log_softmax(theta)[i])

        expected = lambda x: mean_over_groups(  # noqa: E731
            lambda i: loss(x, i), jax.nn.log_softmax(theta), size
        )
        return jax.grad(exact)(theta), jax.grad(expected)(theta)

    exact, slope = in_float64(run, LOGITS)
    close(slope, -exact, 1e-6)
    assert np.max(np.abs(exact)) > 0.1


def bound(size):
    """Exact expected bound of K thoughts, by loops over numbers of the note."""
    groups = itertools.product(range(2), repeat=size)
    return sum(np.prod(THOUGHTS[list(g)]) * np.log(np.mean(ANSWERS[list(g)])) for g in groups)


def test_bounds_of_latent_thoughts():
    close(np.log(THOUGHTS @ ANSWERS), -1.3470736)
    close([bound(1), bound(2)], [-1.6588099, -1.5177411])

    def run(thought, answer):
        zero = jnp.zeros(2)  # the loss is then minus the bound
        pair = lambda i: -sequence.jepo_loss(zero, answer[i])  # noqa: E731
        single = lambda x, i: sequence.jepo_loss(x[None], answer[i][None], baseline=bound(1))  # noqa: E731
        advantages = [-jax.grad(single)(jnp.zeros(()), i) for i in range(2)]
        return mean_over_groups(pair, thought, 2), jnp.stack(advantages)

    value, advantages = in_float64(run, np.log(THOUGHTS), np.log(ANSWERS))
    close(value, -1.5177411)
    close(advantages, [-0.6437752, 0.9656627])


@pytest.mark.parametrize("size", [1, 2, 3])
def test_jepo_is_unbiased(size):
    """In the logits of thoughts and in the log-probabilities of answers."""

    def run(theta, answer):
        def exact(theta, answer):
            log_pi = jax.nn.log_softmax(theta)
            groups = np.array(list(itertools.product(range(2), repeat=size)))
            bounds = jax.nn.logsumexp(answer[groups], axis=1) - np.log(size)
            return jnp.sum(jnp.exp(jnp.sum(log_pi[groups], axis=1)) * bounds)

        def expected(theta, answer):
            log_pi = jax.nn.log_softmax(theta)
            options = {"baseline": 0.7} if size == 1 else {}
            loss = lambda i: sequence.jepo_loss(log_pi[i], answer[i], **options)  # noqa: E731
            return mean_over_groups(loss, log_pi, size)

        return jax.grad(exact, (0, 1))(theta, answer), jax.grad(expected, (0, 1))(theta, answer)

    exact, found = in_float64(run, np.log(THOUGHTS), np.log(ANSWERS))
    for ours, theirs in zip(found, exact, strict=True):
        close(ours, -theirs, 1e-9)
        assert np.max(np.abs(theirs)) > 0.05


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: sequence.pass_at_k(np.zeros(3), k=4),
            "k must be at most 3, the entries of correct, got 4",
        ),
        (
            lambda: sequence.jepo_loss(np.zeros(1), np.zeros(1)),
            "baseline must be a number for a single thought, got None",
        ),
        (
            lambda: sequence.majority_advantages(np.zeros(30, int), np.zeros(30), k=15),
            "k must be such that 30 answers form at most 20,000 groups, got 15",
        ),
        (
            lambda: sequence.rloo_loss(*np.zeros((3, 1))),
            "log_pi must have 2 or more entries along its axis",
        ),
    ],
)
def test_mistakes_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
