"""Preference games on a cycle of three answers: equilibria, and which loss reaches them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from bellmax.losses import sequence
from helpers.answers import in_float64
from helpers.jitted import quick_jit

P = np.array([[0.5, 0.9, 0.2], [0.1, 0.5, 0.7], [0.8, 0.3, 0.5]])  # rows beat columns, a cycle
REF, TAU = np.array([0.5, 0.3, 0.2]), 0.2
EQUILIBRIUM = np.array([0.4580060, 0.1852195, 0.3567744])
MU = np.array([0.4, 0.35, 0.25])
PAIRS = list(itertools.product(range(3), repeat=2))


def close(got, wanted, tolerance=1e-6):
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)


def regression(g, mu, scale):
    """Expected `pairwise_regression_loss` over pairs drawn from a fixed mu."""
    rule = lambda i, j: sequence.pairwise_regression_loss(g[i], g[j], P[i, j], scale=scale)  # noqa: E731
    odds = [jax.lax.stop_gradient(mu[i] * mu[j]) for i, j in PAIRS]
    return sum(w * rule(i, j) for w, (i, j) in zip(odds, PAIRS, strict=True))


def test_equilibrium_and_winner_of_a_cycle():
    def run(p, ref):
        rule = lambda tau: sequence.regularised_equilibrium(p, ref, tau=tau)  # noqa: E731
        step = 1e-5
        slope = (rule(TAU + step) - rule(TAU - step)) / (2 * step)
        return rule(TAU), rule(0.005), sequence.minimax_winner(p), jax.jacfwd(rule)(TAU), slope

    equilibrium, cold, winner, exact, slope = in_float64(run, P, REF)
    close(equilibrium, EQUILIBRIUM)
    hand = REF * np.exp(P @ equilibrium / TAU)
    close(equilibrium, hand / hand.sum(), 1e-10)
    close(winner, [2 / 9, 1 / 3, 4 / 9])
    close(P @ winner, 0.5)
    close(cold, winner, 0.03)
    close(exact, slope, 1e-6)


def test_winners_are_those_of_the_linear_programme():
    """Random games of 2 to 5 answers, with and without ties."""
    generator = np.random.default_rng(0)
    for size in (2, 5):
        games = np.tril(generator.uniform(size=(20, size, size)), -1)
        games[10:] = np.tril(np.round(games[10:] * 2) / 2)  # many ties
        games = games + np.triu(1 - games.transpose(0, 2, 1), 1) + 0.5 * np.eye(size)
        winners = in_float64(lambda p: jax.vmap(sequence.minimax_winner)(p), games)
        for i, (p, winner) in enumerate(zip(games, winners, strict=True)):
            close([winner.sum(), winner.min() >= 0], 1.0)
            # No answer gains against it.
            assert np.max(p @ winner) <= 0.5 + 1e-6
            if i < 10:  # without ties it is unique
                close(winner, programme(p), 1e-5)


def programme(p):
    """The mixture against which the best answer gains least, by linear programming."""
    size = len(p)
    sides = np.c_[-(p - 0.5).T, np.ones(size)], np.zeros(size)
    bounds = [(0, 1)] * size + [(None, None)]
    return linprog([0.0] * size + [-1.0], *sides, [[1.0] * size + [0.0]], [1.0], bounds).x[:-1]


@pytest.mark.slow
@pytest.mark.parametrize("size", [3, 8, 20])
def test_equilibria_of_random_games_solve_their_equation(size):
    """In float32, for weak and strong regularisation and nearly certain preferences."""
    generator = np.random.default_rng(size)
    games = 1 / (1 + np.exp(-5 * generator.normal(size=(50, size, size))))
    games = np.tril(games, -1) + np.triu(1 - np.tril(games, -1).transpose(0, 2, 1), 1)
    games = np.asarray(games + 0.5 * np.eye(size), np.float32)
    refs = np.maximum(generator.dirichlet(np.ones(size), size=50), 1e-4)
    refs = np.asarray(refs / refs.sum(axis=1, keepdims=True), np.float32)
    for tau in (0.2, 0.02):
        rule = lambda p, ref, tau=tau: sequence.regularised_equilibrium(p, ref, tau=tau)  # noqa: E731
        pi = np.asarray(quick_jit(jax.vmap(rule))(games, refs), np.float64)
        hand = np.log(refs) + np.einsum("nij,nj->ni", games, pi) / tau
        hand = np.exp(hand - hand.max(axis=1, keepdims=True))
        close(pi, hand / hand.sum(axis=1, keepdims=True), 3e-5)


def test_nash_md_converges_to_a_floor_of_order_eta_squared():
    def run(p, ref):
        def iterates(eta, number):
            def step(pi, _):
                pi = sequence.nash_md_step(pi, ref, p, tau=TAU, eta=eta)
                return pi, pi

            return jax.lax.scan(step, ref, None, length=number)[1]

        return iterates(0.5, 400), iterates(0.1, 2_000)[-1], iterates(0.02, 10_000)[-1]

    fast, slow, slower = in_float64(run, P, REF)
    star = in_float64(lambda p, ref: sequence.regularised_equilibrium(p, ref, tau=TAU), P, REF)
    kl = lambda pi: np.sum(star * np.log(star / pi), axis=-1)  # noqa: E731
    close(fast[0], [0.5145235, 0.2765566, 0.2089198])
    close(kl(fast[[0, 9, 49, 399]]), [0.0633862, 0.0121290, 3.2156e-4, 3.1851e-4], 1e-6)
    close(kl(slow), 1.229e-5, 1e-7)
    close(kl(slower), 4.879e-7, 1e-8)


def test_one_regression_is_four_methods():
    """Its minimiser is scale * (P(y > mu) - 1/2), which INPO makes a mirror-descent step."""
    step = np.array([0.4907745, 0.2602222, 0.2490033])

    def run(mu, ref, theta):
        slope = jax.grad(lambda g: regression(g, mu, 2.0))
        g = 2.0 * (jnp.asarray(P) @ mu - 0.5)

        def inpo(theta):
            log_pi = jax.nn.log_softmax(theta)
            rule = lambda x, y, z: sequence.inpo_log_ratio(x, y, z, tau=TAU, eta=0.5)  # noqa: E731
            return regression(jax.vmap(rule)(log_pi, jnp.log(mu), jnp.log(ref)), mu, 1 / 0.5)

        return g - mu @ g, slope(g), jax.grad(inpo)(theta), jax.grad(inpo)(jnp.log(mu))

    g, slope, at_step, before = in_float64(run, MU, REF, np.log(step))
    close(g, [0.13, -0.22, 0.10])
    close(slope, 0.0, 1e-12)
    close(at_step, 0.0, 1e-6)
    assert np.max(np.abs(before)) > 0.01


def test_online_ipo_reaches_the_equilibrium_and_offline_ipo_another_policy():
    """Gradient descent on the exact loss; the sampler is the policy, the reference, the mixture."""

    def run(ref):
        def descend(sampler):
            def loss(theta):
                log_pi = jax.nn.log_softmax(theta)
                return regression(log_pi - jnp.log(ref), sampler(theta), 1 / TAU)

            def step(theta, _):
                return theta - 0.2 * jax.grad(loss)(theta), None

            return jax.nn.softmax(jax.lax.scan(step, jnp.log(ref), None, length=2_000)[0])

        mixture = lambda theta: jax.nn.softmax(  # noqa: E731
            sequence.mixture_logits(theta, jnp.log(ref), b=0.5)
        )
        return descend(jax.nn.softmax), descend(lambda theta: ref), descend(mixture)

    online, offline, against_mixture = in_float64(run, REF)
    close(online, EQUILIBRIUM, 1e-6)
    closed_form = REF * np.exp(P @ REF / TAU)
    close(offline, closed_form / closed_form.sum(), 1e-6)
    mix = np.sqrt(against_mixture * REF)
    hand = REF * np.exp(P @ (mix / mix.sum()) / TAU)
    close(against_mixture, hand / hand.sum(), 1e-6)
    assert np.max(np.abs(offline - EQUILIBRIUM)) > 0.05


def test_nash_md_on_samples_has_the_exact_gradient():
    """Of P(pi > mixture) - tau KL(pi || ref) with a fixed opponent, in one token."""

    def run(theta, ref):
        opponent = jax.nn.softmax(sequence.mixture_logits(theta, jnp.log(ref), b=0.3))
        p = jnp.asarray(P) @ opponent

        def exact(theta):
            log_pi = jax.nn.log_softmax(theta)
            return jnp.sum(jnp.exp(log_pi) * (p - TAU * (log_pi - jnp.log(ref))))

        def expected(theta):
            log_pi = jax.nn.log_softmax(theta)
            rule = lambda *row: sequence.nash_md_loss(*row, np.ones(1), tau=TAU)  # noqa: E731
            each = jax.vmap(rule)(log_pi[:, None], jnp.log(ref)[:, None], p)
            return jnp.sum(jax.lax.stop_gradient(jnp.exp(log_pi)) * each)

        return jax.grad(exact)(theta), jax.grad(expected)(theta)

    exact, found = in_float64(run, np.array([0.3, -0.2, 0.5]), REF)
    close(found, -exact, 1e-12)


def test_mixtures_are_geometric():
    logits = sequence.mixture_logits(np.log(MU), np.log(REF) + 3.0, b=0.25)
    hand = MU**0.75 * REF**0.25
    close(jax.nn.softmax(logits), hand / hand.sum(), 1e-6)


def test_dno_is_stationary_where_differences_are_those_of_win_rates():
    def run(log_ratio):
        rule = lambda x: sequence.dno_loss(x, 0.0, 0.8, 0.3, eta=0.5)  # noqa: E731
        return jax.grad(rule)(log_ratio), jax.grad(rule)(0.0 * log_ratio)

    at, elsewhere = in_float64(run, (0.8 - 0.3) / 0.5)
    close(at, 0.0, 1e-12)
    assert elsewhere < -0.01


@pytest.mark.parametrize("diagonal", [0.5, np.nan])
def test_win_rates_of_drawn_answers(diagonal):
    drawn = [0, 1, 2, 1]
    p = P[np.ix_(drawn, drawn)]
    np.fill_diagonal(p, diagonal)
    close(sequence.win_rates(p), [0.6666667, 0.4333333, 0.4666667, 0.4333333])


def test_a_large_game_is_refused():
    with pytest.raises(
        ValueError, match="p must have at most 10 entries along its axis .*, got 11"
    ):
        sequence.minimax_winner(np.full((11, 11), 0.5))
