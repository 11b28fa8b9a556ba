"""The tabular studies in short: exact answers, and what docs/results/tabular.md claims."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tabular_advantage as advantage
import tabular_contraction as contraction
import tabular_distributions as distributions
import tabular_problems as problems

from bellmax.envs import policy_evaluation
from helpers.compiling import compiles_soon

GAMMA = 0.9
SEEDS = range(200, 204)
SETTING = distributions.Setting(states=4, actions=2, updates=2000, points=10)
RULES = {method.name: method for method in distributions.METHODS}


@pytest.fixture(scope="module", autouse=True)
def quickly():
    """Programs are compiled quickly, because that takes longer than they run."""
    with compiles_soon():
        yield


def problem(mixture, seed=200):
    return problems.make_problem(seed, 4, 2, gamma=GAMMA, epsilon=0.2, mixture=mixture)


@pytest.fixture(scope="module")
def samples():
    """Off- and on-policy problems, with the error of each rule's own fixed point."""
    return {
        mixture: distributions.make_sample(SETTING, SEEDS, mixture, RULES.values())
        for mixture in (0.5, 0.0)
    }


def learnt(sample, name, kind="stream", step_size=0.4):
    windows = distributions.draw_windows(SETTING, sample.problems, SEEDS, kind)
    return distributions.learning_curve(SETTING, sample, windows, RULES[name], step_size)


def test_the_exact_law_has_the_exact_means_and_the_quantiles_of_simulated_returns():
    made = problem(0.0)
    grid = problems.make_grid(made, GAMMA)
    law = problems.exact_law(grid, made, 1e-7)
    np.testing.assert_allclose(
        law @ grid.z, policy_evaluation(made.p, made.r, made.pi, GAMMA), atol=1e-5
    )
    steps, many = 120, 4000
    keys = jax.random.split(jax.random.key(0), many)
    single = problems.stack([made])
    single = jax.tree.map(lambda x: x[0], single)
    start = jnp.int32(1), jnp.int32(0)
    run = jax.jit(jax.vmap(lambda key: problems.walk(key, single, *start, steps)))
    states, actions = run(keys)
    returns = made.r[np.asarray(states), np.asarray(actions)] @ GAMMA ** np.arange(steps)
    fine = problems.quantiles(grid, law, many)[1, 0]
    spread = np.std(returns)
    assert np.abs(np.sort(returns) - fine).mean() < 0.05 * spread
    # Control: the law of the other action is further away than that.
    other = problems.quantiles(grid, law, many)[1, 1]
    assert np.abs(np.sort(returns) - other).mean() > 0.1 * spread


@pytest.mark.parametrize("name", ["Retrace K=3", "Q(lambda) K=5", "uncorrected K=3"])
def test_the_expected_target_is_the_mean_over_enumerated_windows(name):
    method = RULES[name]._replace(k=3)
    made = contraction.small_problem(0, 0.5)
    grid = problems.make_grid(made, GAMMA)
    dist = 3 * np.random.default_rng(0).normal(size=(4, 2, 4))
    law = problems.expected_target(grid, made, method, problems.on_grid(grid, dist))
    width = grid.z[1] - grid.z[0]
    exact = contraction.apply(made, method, dist)
    for row, found in zip(exact, law.reshape(8, -1), strict=True):
        weighted = row._replace(atoms=grid.z, weights=found)
        assert abs(row.weights.sum() - 1) < 1e-12
        assert contraction.distance(row, weighted) < 3 * width
        np.testing.assert_allclose(grid.z @ found, row.atoms @ row.weights, atol=1e-6)


def test_uncorrected_windows_have_a_wrong_fixed_point_off_policy_only(samples):
    off, on = samples[0.5].floors, samples[0.0].floors
    for k in (3, 5):
        assert (off[f"uncorrected K={k}"] > 3 * off[f"Retrace K={k}"]).all()
        np.testing.assert_allclose(on[f"uncorrected K={k}"], on[f"Retrace K={k}"], atol=1e-9)
        # Longer windows bootstrap less, so that less of the representation's error returns.
        assert (off[f"Retrace K={k}"] < off["1-step"]).all()
    assert (samples[0.5].represented <= off["Retrace K=5"]).all()


@pytest.mark.slow
def test_learning_shows_the_bias_and_retrace_is_faster_at_equal_step_sizes(samples):
    names = "1-step", "Retrace K=5", "uncorrected K=5"
    one_step, retrace, uncorrected = (learnt(samples[0.5], name).errors for name in names)
    assert retrace[:, 3].mean() < 0.8 * one_step[:, 3].mean()
    assert retrace[:, -3:].mean() < 0.5 * uncorrected[:, -3:].mean()
    # The bias is the fixed point's, not noise.
    floor = samples[0.5].floors["uncorrected K=5"].mean()
    assert 0.6 * floor < uncorrected[:, -3:].mean() < 1.6 * floor


@pytest.mark.slow
def test_windows_that_share_nothing_cost_what_they_save(samples):
    method, curve = RULES["Retrace K=5"], learnt(samples[0.5], "Retrace K=5", "fresh")
    used = distributions.interactions("fresh", method, curve.updates)
    np.testing.assert_array_equal(used, 5 * curve.updates)
    one_step = learnt(samples[0.5], "1-step", "fresh")
    assert curve.errors[:, 3].mean() < one_step.errors[:, 3].mean()  # equal updates
    at = [
        distributions.errors_at(SETTING, "fresh", rule, each, 0.5).mean()
        for rule, each in ((method, curve), (RULES["1-step"], one_step))
    ]
    assert at[0] > at[1]  # equal interactions


@pytest.mark.slow
def test_on_policy_q_lambda_is_retrace(samples):
    one, other = (learnt(samples[0.0], f"{name} K=5").errors for name in ("Retrace", "Q(lambda)"))
    np.testing.assert_allclose(one, other, rtol=1e-4)


@pytest.mark.parametrize("mixture", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("method", contraction.METHODS, ids=lambda method: method.name)
def test_no_application_shrinks_distances_less_than_theory(method, mixture):
    if method.k == 4:
        method = method._replace(k=3)
    found = contraction.ratios(0, mixture, method)
    assert found.random <= found.theory
    np.testing.assert_allclose(found.shifted, found.theory, rtol=1e-9)  # the bound is reached
    assert found.theory <= GAMMA + 1e-12
    assert (found.theory < 0.89) == (method.k > 1)


def test_retrace_approaches_the_law_within_the_bound_and_uncorrected_does_not():
    found, bound = contraction.approach(0, 0.5, contraction.METHODS[1])
    assert (found <= bound + 0.01).all() and found[-1] < 0.1 * found[0]
    wrong, _ = contraction.approach(0, 0.5, RULES["uncorrected K=3"], 60)
    assert wrong[-1] > 0.1


@pytest.mark.parametrize("lambda_", [0.0, 0.5, 0.95])
def test_constant_traces_have_the_rate_of_the_closed_form(lambda_):
    measured, closed = contraction.constant_trace(0, lambda_)
    np.testing.assert_allclose(measured, closed, rtol=1e-3)


@pytest.mark.parametrize("gamma", [0.5, 0.9])
def test_va_dynamic_programming_contracts_at_gamma(gamma):
    random, shifted = contraction.value_rates(0, gamma)
    assert 0.9 * gamma < random <= gamma + 1e-9
    np.testing.assert_allclose(shifted, gamma, rtol=1e-9)


def advantage_runs(at_optimum):
    setting = advantage.Setting(5, states=8, visits=100, points=10)
    sample = advantage.make_sample(setting, SEEDS, "uniform")
    each = {
        method: advantage.run(setting, sample, method, [0.1], at_optimum=at_optimum)
        for method in advantage.METHODS
    }
    return {m: advantage.Errors(*(x[0] for x in errors)) for m, errors in each.items()}


@pytest.mark.slow
def test_va_learning_and_dueling_are_faster_at_equal_step_sizes_mostly_by_the_offset():
    runs = advantage_runs(at_optimum=False)
    q, gap = ({m: advantage.area(errors[i]).mean() for m, errors in runs.items()} for i in (0, 1))
    for method in ("VA-learning", "uniform dueling"):
        assert q[method] < 0.5 * q["Q-learning"]
        assert q[method] / q["Q-learning"] < gap[method] / gap["Q-learning"]
    # Under a uniform behaviour both dueling rules are one.
    for one, other in zip(runs["uniform dueling"], runs["behaviour dueling"], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3)


@pytest.mark.slow
def test_the_noise_floor_of_va_learning_is_the_highest():
    runs = advantage_runs(at_optimum=True)
    floors = {m: advantage.noise_floor(errors) for m, errors in runs.items()}
    q = {method: floor.q.mean() for method, floor in floors.items()}
    assert q["VA-learning"] > 1.3 * q["uniform dueling"] > 1.3 * q["Q-learning"]
