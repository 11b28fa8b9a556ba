"""Distributions on a grid: worked numbers, rlax, loops in float64, signed targets and ends."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bellmax import losses
from helpers.jitted import compiled, jitted, quick_jit
from helpers.peers import rlax

T, A, L = 5, 3, 11
GRID = np.linspace(-4.0, 4.0, L)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def window(seed=0, t=T):
    generator = np.random.default_rng(seed)
    a_t, pi_t = generator.integers(A, size=t), generator.dirichlet(np.ones(A), size=t)
    mu_t = generator.uniform(0.1, 1.0, size=t)
    return {
        "q_atoms_tm1": np.sort(generator.uniform(-5.0, 5.0, size=9)),
        "q_logits_tm1": generator.normal(size=(A, 9)),
        "a_tm1": np.int64(generator.integers(A)),
        "r_t": generator.normal(size=t),
        "discount_t": generator.uniform(0.7, 1.0, size=t),
        "q_atoms_t": GRID,
        "q_logits_t": generator.normal(size=(t, A, L)),
        "a_t": a_t,
        "pi_t": pi_t,
        "c_t": np.asarray(jitted.retrace_coefficients(a_t, pi_t, mu_t, lambda_=0.9)),
        "trace_t": np.ones(t),
    }


FIRST = ("q_atoms_tm1", "q_logits_tm1", "a_tm1")
RETRACE = (
    *("r_t", "discount_t", "q_atoms_t", "q_logits_t"),
    *("a_t", "pi_t", "c_t", "trace_t"),
)
N_STEP = ("r_t", "discount_t", "q_atoms_t", "q_logits_t", "trace_t")


def pick(w, *names):
    return [jnp.asarray(w[name]) for name in names]


RULES = {
    "retrace": lambda w: jitted.categorical_retrace(*pick(w, *FIRST, *RETRACE)),
    "n-step": lambda w: jitted.n_step_categorical_q_learning(*pick(w, *FIRST, *N_STEP)),
}


def softmax(logits):
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return odds / odds.sum(axis=-1, keepdims=True)


def project(measure, grid):
    """Each weight to the two neighbours of its atom; beyond the ends, to the end."""
    masses = np.zeros(len(grid))
    for z, weight in measure:
        z = min(max(z, grid[0]), grid[-1])
        above = min(int(np.searchsorted(grid, z, side="right")), len(grid) - 1)
        share = (z - grid[above - 1]) / (grid[above] - grid[above - 1])
        masses[above - 1] += (1 - share) * weight
        masses[above] += share * weight
    return masses


def cross_entropy(w, measure):
    log_probs = np.log(softmax(w["q_logits_tm1"][w["a_tm1"]]))
    return -np.sum(project(measure, w["q_atoms_tm1"]) * log_probs)


def loop_retrace(w):
    measure, shift, scale, trace = [], 0.0, 1.0, 1.0
    for k in range(len(w["r_t"])):
        shift, scale = shift + scale * w["r_t"][k], scale * w["discount_t"][k]
        c = w["c_t"][k] * w["trace_t"][k] if k < len(w["r_t"]) - 1 else 0.0
        for b in range(A):
            weight = trace * (w["pi_t"][k, b] - c * (b == w["a_t"][k]))
            probs = softmax(w["q_logits_t"][k, b])
            measure += [(shift + scale * z, weight * p) for z, p in zip(GRID, probs, strict=True)]
        trace *= c
    return measure


def test_a_signed_target_is_compared_where_rlax_gives_nan():
    labels, logits = np.array([-0.2, 0.7, 0.5]), np.array([0.1, 0.2, 0.3])
    grid = np.array([0.0, 1.0, 2.0])
    # log sum exp = 1.3019428482; less -0.2 * 0.1 + 0.7 * 0.2 + 0.5 * 0.3 = 0.27
    both = quick_jit(jax.value_and_grad(losses.categorical_regression, 1))
    loss, gradient = both(grid, logits, grid, labels)
    np.testing.assert_allclose(loss, 1.0319428482, atol=1e-10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.isnan(quick_jit(rlax.categorical_cross_entropy)(labels, logits))
    np.testing.assert_allclose(gradient, softmax(logits) - labels, atol=1e-12)


CRAMER = quick_jit(jax.value_and_grad(losses.categorical_cramer_regression, 1))


def test_the_cramer_distance_of_a_signed_target():
    """Worked: Q(lambda) on the grid -2 .. 2, where the projected target is 0, 0, 1/4, 7/4, -1."""
    grid, target = np.arange(-2.0, 3.0), np.array([1.0, 2.0, 0.75])
    # Uniform probabilities: differences of the cumulative sums -1/5, -2/5, -7/20, 6/5.
    loss, gradient = CRAMER(grid, np.zeros(5), target, np.array([1.0, -1.0, 1.0]))
    np.testing.assert_allclose(loss, 0.04 + 0.16 + 0.1225 + 1.44, atol=1e-12)
    # d loss / d p_i is -2 times the sum of the differences from i on; less its mean, times 1/5.
    slopes = -2 * np.cumsum([0.0, 1.2, -0.35, -0.4, -0.2])[::-1]
    np.testing.assert_allclose(gradient, (slopes - slopes.mean()) / 5, atol=1e-12)


def test_the_cramer_distance_is_bounded_where_the_cross_entropy_is_not():
    grid, masses = np.array([0.0, 1.0, 3.0]), np.array([-0.2, 0.7, 0.5])
    for low in (-10.0, -100.0, -1000.0):  # the first probability goes to 0
        logits = np.array([low, 0.0, 0.0])
        loss, gradient = CRAMER(grid, logits, grid, masses)
        # Differences -0.2 and 0.5 - 1/2 of the cumulative sums, over 1 and 2.
        np.testing.assert_allclose(loss, 0.04, atol=1e-4)
        assert np.all(np.isfinite(gradient))
        crossed = jitted.categorical_regression(grid, logits, grid, masses)
        np.testing.assert_allclose(crossed, 0.2 * low + np.log(2), atol=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_the_cramer_distance_equals_the_integral(seed):
    """On a fine mesh; it is 0 at the projected target."""
    w = window(seed)
    grid, logits = w["q_atoms_tm1"], w["q_logits_tm1"][0]
    generator = np.random.default_rng(seed)
    atoms, weights = generator.normal(size=6) * 3, generator.normal(size=6)
    weights += (1 - weights.sum()) / 6
    masses = project(zip(atoms, weights, strict=True), grid)
    mesh = np.linspace(grid[0], grid[-1], 20_001)
    below = grid[None, :] <= (mesh[:-1, None] + mesh[1:, None]) / 2
    difference = below @ (masses - softmax(logits))
    wanted = np.sum(np.diff(mesh) * difference**2)
    loss, _ = CRAMER(grid, logits, atoms, weights)
    np.testing.assert_allclose(loss, wanted, rtol=2e-3)
    positive = softmax(generator.normal(size=9))
    zero, gradient = CRAMER(grid, np.log(positive), grid, positive)
    np.testing.assert_allclose([zero, *gradient], np.zeros(10), atol=1e-12)


def test_worked_projection():
    # 0.25 lies a quarter of the way from 0 to 1; 9 is beyond the end.
    grid, logits = np.array([0.0, 1.0, 3.0]), np.array([0.0, 1.0, 3.0])
    target, weights = np.array([0.25, 9.0, 2.0]), np.array([0.4, 0.8, -0.2])
    # Masses 0.3, 0.1 - 0.1, 0.8 - 0.1.
    expected = -np.dot([0.3, 0.0, 0.7], np.log(softmax(logits)))
    got = jitted.categorical_regression(grid, logits, target, weights)
    np.testing.assert_allclose(got, expected, atol=1e-12)


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
@pytest.mark.parametrize("seed", range(3))
def test_one_step_equals_rlax(seed):
    w = window(seed)
    first, selector = pick(w, *FIRST), jnp.asarray(w["pi_t"][0])
    step = [jnp.asarray(x) for x in (w["r_t"][0], w["discount_t"][0], GRID, w["q_logits_t"][0])]
    got = jitted.categorical_q_learning(*first, *step)
    theirs = compiled(rlax.categorical_q_learning)(*first, *step)
    np.testing.assert_allclose(got, theirs, rtol=1e-12)
    got = jitted.categorical_q_learning(*first, *step, q_t_selector=selector)
    theirs = compiled(rlax.categorical_double_q_learning)(*first, *step, selector)
    np.testing.assert_allclose(got, theirs, rtol=1e-12)


def test_expected_sarsa_is_the_mean_over_actions_and_its_greedy_case_is_q_learning():
    w = window()
    first = pick(w, *FIRST)
    step = [jnp.asarray(x) for x in (w["r_t"][0], w["discount_t"][0], GRID, w["q_logits_t"][0])]
    by_action = [
        jitted.categorical_q_learning(*first, *step, q_t_selector=np.eye(A)[b]) for b in range(A)
    ]
    got = jitted.categorical_expected_sarsa(*first, *step, w["pi_t"][0])
    np.testing.assert_allclose(got, np.dot(w["pi_t"][0], by_action), rtol=1e-12)
    best = int(np.argmax(softmax(w["q_logits_t"][0]) @ GRID))
    np.testing.assert_allclose(jitted.categorical_q_learning(*first, *step), by_action[best])


@pytest.mark.parametrize("seed", range(3))
def test_retrace_equals_the_loop(seed):
    w = window(seed)
    w["trace_t"][3], w["trace_t"][1] = [(1.0, 1.0), (0.0, 1.0), (1.0, 0.5)][seed]
    w["discount_t"][2] *= seed != 2
    measure = loop_retrace(w)
    target = jitted.categorical_retrace_target(*pick(w, *RETRACE))
    np.testing.assert_allclose(np.sum(target.weights), 1.0, atol=1e-12)
    masses = project(zip(*map(np.asarray, target), strict=True), w["q_atoms_tm1"])
    assert seed or np.min(masses) < 0.0
    np.testing.assert_allclose(masses, project(measure, w["q_atoms_tm1"]), atol=1e-12)
    np.testing.assert_allclose(RULES["retrace"](w), cross_entropy(w, measure), atol=1e-12)
    # Within the grid the mean is the scalar target's.
    q_t = jnp.asarray(softmax(w["q_logits_t"]) @ GRID)
    scalar = jitted.off_policy_returns(
        *pick(w, "r_t", "discount_t"), q_t, *pick(w, "a_t", "pi_t", "c_t", "trace_t")
    )
    np.testing.assert_allclose(np.dot(*target), scalar[0], atol=1e-12)


@pytest.mark.parametrize("cut", [None, 1, 4])
def test_n_step_equals_the_loop(cut):
    w, end = window(), T - 1 if cut is None else cut
    w["trace_t"][end] = 0.0 if cut is not None else 1.0
    shift, scale = 0.0, 1.0
    for k in range(end + 1):
        shift, scale = shift + scale * w["r_t"][k], scale * w["discount_t"][k]
    probs = softmax(w["q_logits_t"][end])
    best = probs[np.argmax(probs @ GRID)]
    measure = [(shift + scale * z, p) for z, p in zip(GRID, best, strict=True)]
    np.testing.assert_allclose(RULES["n-step"](w), cross_entropy(w, measure), atol=1e-12)
    other = jitted.n_step_categorical_q_learning(
        *pick(w, *FIRST, *N_STEP), q_t_selector=-jnp.asarray(softmax(w["q_logits_t"]) @ GRID)
    )
    worst = probs[np.argmin(probs @ GRID)]
    measure = [(shift + scale * z, p) for z, p in zip(GRID, worst, strict=True)]
    np.testing.assert_allclose(other, cross_entropy(w, measure), atol=1e-12)


def test_one_step_limits_of_windows():
    w = window(t=1)
    first = pick(w, *FIRST)
    step = [w["r_t"][0], w["discount_t"][0], GRID, w["q_logits_t"][0]]
    sarsa = jitted.categorical_expected_sarsa(*first, *step, w["pi_t"][0])
    np.testing.assert_allclose(RULES["retrace"](w), sarsa, rtol=1e-13)
    np.testing.assert_allclose(
        RULES["n-step"](w), jitted.categorical_q_learning(*first, *step), rtol=1e-13
    )


@pytest.mark.parametrize("ends", ["trace_t", "discount_t"])
@pytest.mark.parametrize("name", RULES)
def test_steps_past_an_end_have_no_influence(name, ends):
    """Bit for bit, for any size; negative control: without an end they matter."""
    w, other = window(), window(1)
    ended = {**w, ends: np.where(np.arange(T) == 2, 0.0, w[ends])}

    def replaced(w):
        mixed = dict(w)
        for key in set(RETRACE) - {"q_atoms_t", ends}:
            scale = 1e30 if key == "r_t" else 1
            mixed[key] = np.concatenate([w[key][:3], other[key][3:] * scale])
        return mixed

    rule = RULES[name]
    np.testing.assert_array_equal(rule(ended), rule(replaced(ended)))
    assert rule(w) != rule(replaced(w))


REGRESSIONS = quick_jit(jax.vmap(losses.categorical_regression, (None, 0, None, None)))


@settings(deadline=None, max_examples=50, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), spread=st.floats(0.1, 20.0))
def test_projection_keeps_mass_and_within_the_grid_the_mean(seed, spread):
    generator = np.random.default_rng(seed)
    atoms, weights = generator.normal(size=(2, 6)) * np.array([[spread], [1.0]])
    weights[-1] = 1.0 - weights[:-1].sum()
    # Uniform logits make the loss log M times the mass; one raised logit reads one mass.
    logits = np.concatenate([np.zeros((1, L)), np.eye(L)])
    got = np.asarray(REGRESSIONS(GRID, logits, atoms, weights))
    np.testing.assert_allclose(got[0], np.log(L), atol=1e-12)
    masses = np.log(L - 1 + np.e) - got[1:]
    np.testing.assert_allclose(masses, project(zip(atoms, weights, strict=True), GRID), atol=1e-11)
    inside = np.clip(atoms, GRID[0], GRID[-1])
    np.testing.assert_allclose(np.dot(masses, GRID), np.dot(inside, weights), atol=1e-10)
