"""Preference losses: worked numbers, their optimum over all pairs, and what they regularise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax.losses import sequence
from helpers.answers import evaluate, in_float64

Z = np.array([-1.0, 0.0, 1.0, 2.0])
# f and its derivative at Z, by hand: sums of exponentials, squares and maxima.
FUNCTIONS = {
    "logistic": (
        [1.3132617, 0.6931472, 0.3132617, 0.1269280],
        [-0.7310586, -0.5, -0.2689414, -0.1192029],
    ),
    "squared": ([4, 1, 0, 1], [-4, -2, 0, 2]),
    "hinge": ([2, 1, 0, 0], [-1, -1, 0, 0]),
    "truncated_quadratic": ([4, 1, 0, 0], [-4, -2, 0, 0]),
    "exponential": ([2.7182818, 1, 0.3678794, 0.1353353], [-2.7182818, -1, -0.3678794, -0.1353353]),
    "savage": (
        [0.5344466, 0.25, 0.0723295, 0.0142093],
        [-0.2874697, -0.25, -0.1057542, -0.0250311],
    ),
}
PAIR = -12.0, -14.0, -13.0, -12.5  # log pi of w and l, log ref of w and l
REF = np.array([0.5, 0.3, 0.2])
PAIRS = [(i, j) for i in range(3) for j in range(3) if i != j]


def close(got, wanted, tolerance=1e-6):
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)


def test_functions_and_their_derivatives():
    def run(z):
        rules = {
            name: jax.value_and_grad(lambda x, n=name: sequence.gpo_loss(x, beta=1.0, function=n))
            for name in FUNCTIONS
        }
        return {name: jax.vmap(rule)(z) for name, rule in rules.items()}

    for name, got in in_float64(run, Z).items():
        close(got, FUNCTIONS[name])


def test_the_exponential_is_linear_before_it_overflows():
    rule = jax.value_and_grad(lambda z: sequence.gpo_loss(z, beta=1.0, function="exponential"))
    (value, slope), (inside, _) = evaluate(lambda: (rule(-1e6), rule(-29.9)))
    assert np.isfinite(value)
    close(slope, -np.exp(30.0), 1e-5)
    close(inside, np.exp(29.9), 1e-5)


def test_one_pair_by_hand():
    """rho = 2 + 0.5; DPO log(1 + exp(-0.25)), SLiC 1 - 0.25, IPO (2.5 - 5)^2."""

    def run(log_pi_w, log_pi_l, log_ref_w, log_ref_l, lengths):
        rho = sequence.preference_margin(log_pi_w, log_pi_l, log_ref_w, log_ref_l)
        dpo = lambda w: sequence.dpo_loss(  # noqa: E731
            sequence.preference_margin(w, log_pi_l, log_ref_w, log_ref_l), beta=0.1
        )
        w, l_ = lengths
        averaged = log_pi_w / w, log_pi_l / l_, log_ref_w / w, log_ref_l / l_
        mean_rho = sequence.preference_margin(*averaged)
        noisy = {"beta": 0.1, "epsilon": 0.2}
        return {
            "rho": rho,
            "dpo": dpo(log_pi_w),
            "slope": jax.grad(dpo)(log_pi_w),
            "slic": sequence.gpo_loss(rho, beta=0.1, function="hinge"),
            "ipo": sequence.ipo_loss(rho, tau=0.1),
            "rpo": sequence.rpo_loss(rho, log_pi_w, beta=0.1, eta=0.05),
            "averaged": jnp.stack(
                [mean_rho, sequence.dpo_loss(mean_rho), sequence.ipo_loss(mean_rho)]
            ),
            "smoothed": sequence.noisy_label_loss(rho, **noisy),
            "robust": sequence.noisy_label_loss(rho, **noisy, unbiased=True),
            "scales": [
                sequence.ipo_loss(3.0),
                sequence.gpo_loss(3.0, beta=0.2, function="squared"),
            ],
        }

    got = in_float64(run, *PAIR, [6.0, 9.0])
    wanted = {"rho": 2.5, "dpo": 0.5759394, "slope": -0.0437823, "slic": 0.75, "ipo": 6.25}
    wanted |= {"rpo": 1.1759394, "averaged": [1 / 3, 0.6766194, 21.7777778]}
    # IPO is the squared loss over 4 tau^2, with beta = 2 tau.
    wanted["scales"] = [4.0, 0.16]
    f, swapped = np.log1p(np.exp([-0.25, 0.25]))
    wanted["smoothed"] = 0.8 * f + 0.2 * swapped
    wanted["robust"] = (0.8 * f - 0.2 * swapped) / 0.6
    for name, value in wanted.items():
        close(got[name], value)


def test_unbiased_labels_have_the_loss_of_clean_ones_in_the_mean():
    def run(rho):
        loss = lambda x: sequence.noisy_label_loss(x, epsilon=0.3, unbiased=True)  # noqa: E731
        return 0.7 * loss(rho) + 0.3 * loss(-rho), sequence.dpo_loss(rho)

    close(*in_float64(run, 4.0))


def rows(theta):
    return jax.nn.log_softmax(theta), jnp.log(REF)


def margins(log_pi, log_ref):
    """[6] margins of all ordered pairs, and the probability of each pair under the reference."""
    rhos = [
        sequence.preference_margin(log_pi[i], log_pi[j], log_ref[i], log_ref[j]) for i, j in PAIRS
    ]
    return jnp.stack(rhos), np.array([REF[i] * REF[j] for i, j in PAIRS])


def test_the_squared_margin_regularises_where_the_pairs_are():
    """Twice the gradient of the KL for pairs of the policy, another one for pairs of others."""

    def run(theta):
        def kl(theta):
            log_pi, log_ref = rows(theta)
            return jnp.sum(jnp.exp(log_pi) * (log_pi - log_ref))

        def squares(theta, mu):
            rhos, _ = margins(*rows(theta))
            odds = jnp.stack([mu[i] * mu[j] for i, j in PAIRS])
            return jnp.sum(jax.lax.stop_gradient(odds) * jnp.square(rhos)) / 2

        pi = jnp.exp(rows(theta)[0])
        slopes = [jax.grad(squares)(theta, mu) for mu in (pi, jnp.asarray(REF))]
        return pi, kl(theta), jax.grad(kl)(theta), *slopes

    pi, kl, slope, on_policy, offline = in_float64(run, np.array([0.3, -0.2, 0.5]))
    close(pi, [0.3536151, 0.2144784, 0.4319065])
    close(kl, 0.1380560)
    close(slope, [-0.1713106, -0.1015833, 0.2728939])
    close(on_policy, 2 * slope, 1e-12)
    assert np.max(np.abs(offline - 2 * slope)) > 0.03


REWARDS = np.array([0.4, 0.0, -0.3])
BETA = 0.5
# By derivation, log pi / ref at the optimum over Bradley-Terry labels of pairs from the reference:
# proper losses reach r / beta, the exponential half of it, squares the mean preference.
P = 1 / (1 + np.exp(REWARDS[None, :] - REWARDS[:, None]))
OPTIMA = {
    "logistic": REWARDS / BETA,
    "savage": REWARDS / BETA,
    "exponential": REWARDS / (2 * BETA),
    "squared": 2 * (P @ REF - 0.5) / BETA,
    "truncated_quadratic": 2 * (P @ REF - 0.5) / BETA,
}


def test_population_optimum_of_each_function():
    def loss(theta, name):
        rhos, odds = margins(*rows(theta))
        labels = np.array([P[i, j] for i, j in PAIRS])
        rule = lambda rho: sequence.gpo_loss(rho, beta=BETA, function=name)  # noqa: E731
        return jnp.sum(odds * labels * jax.vmap(rule)(rhos))

    def ipo(theta):
        rhos, odds = margins(*rows(theta))
        labels = np.array([P[i, j] for i, j in PAIRS])
        rule = lambda rho: sequence.ipo_loss(rho, tau=BETA)  # noqa: E731
        return jnp.sum(odds * labels * jax.vmap(rule)(rhos))

    offsets = np.random.default_rng(0).normal(size=(20, 3))

    def run(optima, offsets):
        found = {}
        for name, log_ratio in optima.items():
            rule = ipo if name == "ipo" else lambda x, n=name: loss(x, n)
            theta = jnp.log(REF) + log_ratio
            near = jax.vmap(rule)(theta[None] + 0.3 * offsets)
            slopes = jax.grad(rule)(theta), jax.grad(rule)(jnp.log(jnp.asarray(REF)))
            found[name] = rule(theta), near, *slopes
        return found

    optima = OPTIMA | {"ipo": (P @ REF - 0.5) / BETA}
    for name, (value, near, slope, elsewhere) in in_float64(run, optima, offsets).items():
        close(slope, 0.0, 1e-12)
        assert np.all(near > value), name
        assert np.max(np.abs(elsewhere)) > 1e-3, name


SRPO_P = np.array([[0.5, 0.8, 0.3], [0.2, 0.5, 0.6], [0.7, 0.4, 0.5]])  # i beats j


def srpo_optimum():
    """log-ratios of generator [3] and improver [3, 3], rows by the first answer, in closed form."""
    improver = REF * np.exp(SRPO_P.T / BETA)
    z = improver.sum(axis=1)
    improver /= z[:, None]
    generator = REF / z / np.sum(REF / z)
    return generator, improver, BETA * np.log(z)


def srpo(log_generator, log_improver, w, l_, p, alpha):
    g, h = log_generator - np.log(REF), log_improver - np.log(REF)[None]
    six = g[w], g[l_], h[l_, w], h[w, l_], h[w, w], h[l_, l_]
    return sequence.srpo_loss(*six, beta=BETA, alpha=alpha, p=p)


def test_srpo_is_0_at_its_optimum_and_flat_there_for_labels():
    generator, improver, log_z = srpo_optimum()
    close(improver[0], [0.5192063, 0.1709679, 0.3098259])
    close(improver[1], [0.6626824, 0.2182127, 0.1191050])
    close(improver[2], [0.3717471, 0.4064204, 0.2218326])
    close(log_z, [0.4811534, 0.6591562, 0.4481972])
    close(generator, [0.5412619, 0.2274822, 0.2312559])

    def run(theta, phi):
        policies = lambda theta, phi: (jax.nn.log_softmax(theta), jax.nn.log_softmax(phi))  # noqa: E731
        residuals = [
            srpo(*policies(theta, phi), i, j, SRPO_P[i, j], alpha)
            for i, j in PAIRS
            for alpha in (0.0, 1.0)
        ]

        def labelled(theta, phi, alpha):
            each = [SRPO_P[i, j] * srpo(*policies(theta, phi), i, j, 1.0, alpha) for i, j in PAIRS]
            return jnp.sum(jnp.stack(each))

        slopes = [jax.grad(labelled, (0, 1))(theta, phi, alpha) for alpha in (0.0, 0.5, 1.0)]
        control = jax.grad(labelled, (0, 1))(theta + jnp.arange(3.0), phi, 0.5)[0]
        return jnp.stack(residuals), slopes, control

    residuals, slopes, control = in_float64(run, np.log(generator), np.log(improver))
    close(residuals, 0.0, 1e-15)
    jax.tree.map(lambda slope: close(slope, 0.0, 1e-12), slopes)
    assert np.max(np.abs(control)) > 0.1


def test_contrastive_preferences_of_segments():
    """Sums of log-probabilities log .7 + log .6 and log .4 + log .5, alpha .1."""

    def run(w, l_):
        rated = jnp.stack([l_, w])
        scores = jnp.array([0.0, 2.0])
        biased, plain = (sequence.cpl_loss(w, l_, bias=bias) for bias in (0.5, 1.0))
        equal = sequence.cpl_rating_loss(rated, jnp.zeros(2))
        return biased, plain, sequence.cpl_rating_loss(rated, scores), equal

    biased, plain, rated, equal = in_float64(run, np.log(0.7 * 0.6), np.log(0.4 * 0.5))
    close(biased, 0.6962912)
    close(plain, 0.6567382)
    close(rated, biased)
    assert equal == 0.0


@pytest.mark.parametrize("bias", [1.0, 0.5])
def test_population_optimum_of_contrastive_preferences(bias):
    """Segments of one action, Bradley-Terry labels: softmax(r / alpha), with bias 1 alone."""

    def run(theta):
        def loss(theta):
            log_pi = jax.nn.log_softmax(theta)
            each = [
                REF[i]
                * REF[j]
                * P[i, j]
                * sequence.cpl_loss(log_pi[i], log_pi[j], alpha=BETA, bias=bias)
                for i, j in PAIRS
            ]
            return sum(each)

        return jax.grad(loss)(theta)

    slope = np.max(np.abs(in_float64(run, REWARDS / BETA)))
    assert slope < 1e-12 if bias == 1.0 else slope > 1e-3


def test_gauges_of_the_likeliest_tokens():
    """Probabilities .5 .3 .2: the top two have mass .8 and the entropy of (5/8, 3/8)."""
    logits = np.log([0.2, 0.5, 0.3])
    wanted = -(5 / 8) * np.log(5 / 8) - (3 / 8) * np.log(3 / 8)
    barred = np.array([0.0, -np.inf, -np.inf])

    def run(logits, barred):
        entropy = lambda x: sequence.top_k_entropy(x, k=2)  # noqa: E731
        gauges = sequence.top_k_mass(logits, k=2), entropy(logits)
        return gauges, jax.value_and_grad(entropy)(barred)

    gauges, (none, slope) = in_float64(run, logits, barred)
    close(gauges, [0.8, wanted])
    assert none == 0.0 and np.all(np.isfinite(slope))


def test_sums_and_means_leave_out_what_is_masked():
    log_prob, mask = np.array([-1.0, np.nan, -3.0]), np.array([True, False, True])
    logits = np.log(np.array([[0.5, 0.5], [np.nan, 0.5], [0.1, 0.9]]))

    def run(log_prob, logits):
        mean = lambda mask: sequence.sequence_log_prob(log_prob, mask, average=True)  # noqa: E731
        sums = sequence.sequence_log_prob(log_prob, mask), mean(mask), mean(np.zeros(3))
        return sums, sequence.token_log_probs(logits, np.array([0, 0, 1]), mask)

    sums, tokens = in_float64(run, log_prob, logits)
    close(sums, [-4.0, -2.0, 0.0])
    close(tokens, [np.log(0.5), 0.0, np.log(0.9)])


def test_a_long_sum_of_bfloat16_keeps_the_margin():
    """1,000 tokens of -1 and 1,000 of -1.0078125, the next bfloat16, differ by 7.8125."""
    mask = np.ones(1000)
    row = lambda x: sequence.sequence_log_prob(jnp.full(1000, x, jnp.bfloat16), mask)  # noqa: E731
    sums = evaluate(lambda: (row(-1.0), row(-1.0078125)))
    close(sums[0] - sums[1], 7.8125)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: sequence.gpo_loss(1.0, function="cubic"), "function must be .*, got 'cubic'"),
        (lambda: sequence.gpo_loss(1.0, beta=0.0), "beta must be above 0, got 0.0"),
        (lambda: sequence.noisy_label_loss(1.0, epsilon=0.5), "epsilon must be below 1/2, got 0.5"),
        (lambda: sequence.top_k_mass(np.zeros(3), k=4), "k must be at most 3, .*, got 4"),
        (lambda: sequence.preference_margin(1.0, [1.0], 1.0, 1.0), "log_pi_l must .*, got a list"),
    ],
)  # fmt: skip
def test_mistakes_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
