"""Statistics of the claims against hand-worked numbers, and against rliable if it is installed."""

import numpy as np
import pytest
from benchmarks.claims import measures

RNG = np.random.default_rng(3)
X, Y = RNG.normal(1.0, 1.0, (12, 3)), RNG.normal(0.5, 2.0, (10, 3))


def test_probability_of_improvement_by_hand():
    """One task: of the pairs (1, 2), (1, 0), (2, 2), (2, 0) one is behind, two ahead, one tied."""
    x, y = np.array([[1.0], [2.0]]), np.array([[2.0], [0.0]])
    assert measures.improvement(x, y, "higher")[0] == pytest.approx(2.5 / 4)
    assert measures.improvement(x, y, "lower")[0] == pytest.approx(1.5 / 4)


def test_intervals_hold_the_middle_and_part_what_differs():
    middle, low, high = measures.improvement(X + 10, Y, "higher")
    assert middle == low == high == 1.0
    middle, low, high = measures.improvement(X, Y, "higher")
    assert low < middle < high
    less, low, high = measures.difference(X[:, 0] + 5, X[:, 0])
    assert less == pytest.approx(5.0) and 0 < low < 5 < high


def test_ratios_are_taken_seed_by_seed_where_seeds_are_problems():
    base = np.array([[1.0], [10.0]])
    np.testing.assert_allclose(measures.of_baseline(2 * base, base, paired=True), 2.0)
    by_mean = measures.of_baseline(2 * base, base, paired=False)
    np.testing.assert_allclose(by_mean[:, 0], [2 / 5.5, 20 / 5.5])


def test_profile_by_hand():
    scores = np.array([[1.0], [2.0], [3.0], [4.0]])
    at = np.array([0.0, 2.0, 5.0])
    np.testing.assert_allclose(measures.profile(scores, at, "higher"), [1.0, 0.75, 0.0])
    np.testing.assert_allclose(measures.profile(scores, at, "lower"), [0.0, 0.5, 1.0])


def test_a_band_is_as_wide_as_its_curves_differ():
    middle, low, high = measures.curve_with_band(np.stack([X[:, 0], np.ones(12)], axis=1))
    assert low[0] < middle[0] < high[0] and low[1] == middle[1] == high[1] == 1.0


@pytest.mark.peer
def test_against_rliable():
    """The same point estimates; intervals, which are drawn at random, nearly."""
    rly = pytest.importorskip("rliable.library")
    peer = pytest.importorskip("rliable.metrics")
    assert measures.iqm(X)[0] == pytest.approx(peer.aggregate_iqm(X))
    ours, *bounds = measures.improvement(X, Y, "higher")
    assert ours == pytest.approx(peer.probability_of_improvement(X, Y))
    at = np.linspace(-1, 3, 9)
    theirs, _ = rly.create_performance_profile({"x": X}, at, reps=10)
    # rliable counts scores above each threshold, ours those at least as high: no score is at one.
    np.testing.assert_allclose(measures.profile(X, at, "higher"), theirs["x"])

    def aggregate(x):
        return np.array([peer.aggregate_iqm(x)])

    scores, intervals = rly.get_interval_estimates({"x": X}, aggregate, reps=2000)
    assert measures.iqm(X)[0] == pytest.approx(scores["x"][0])
    np.testing.assert_allclose(measures.iqm(X)[1:], intervals["x"][:, 0], atol=0.04)

    def improvement(x, y):
        return np.array([peer.probability_of_improvement(x, y)])

    _, intervals = rly.get_interval_estimates({"x": (X, Y)}, improvement, reps=2000)
    np.testing.assert_allclose(bounds, intervals["x"][:, 0], atol=0.04)
