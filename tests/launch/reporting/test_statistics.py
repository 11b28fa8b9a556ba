"""The interquartile mean by hand, and the coverage of bootstrap intervals."""

import numpy as np
import pytest

from bellmax.launch.reporting.statistics import (
    bootstrap_interval,
    interquartile_mean,
    mean,
    spread,
    spread_name,
)


def test_interquartile_mean_by_hand():
    # Eight values: two leave at either end, (3 + 4 + 5 + 6) / 4 remains.
    assert interquartile_mean([8, 1, 2, 1000, 4, 5, 6, 3]) == 4.5
    # Four: one leaves at either end. Five: int(1.25) = 1. Three: none.
    assert interquartile_mean([0, 1, 3, 100]) == 2.0
    assert interquartile_mean([0, 1, 2, 6, 100]) == 3.0
    assert interquartile_mean([0, 1, 5]) == 2.0


def test_interquartile_mean_over_one_axis_and_over_all():
    x = np.array([[0.0, 1, 3, 100], [4, 4, 4, 4]])
    np.testing.assert_array_equal(interquartile_mean(x, axis=1), [2.0, 4.0])
    # All: 0 1 | 3 4 4 4 | 4 100.
    assert interquartile_mean(x) == 3.75


@pytest.mark.parametrize("values", [[3.0], [[1.0, 2.0]]])
def test_one_run_has_no_interval(values):
    assert np.isnan(bootstrap_interval(values, mean)).all()


def test_equal_runs_have_an_interval_of_no_width():
    assert bootstrap_interval([2.0, 2.0, 2.0], mean) == (2.0, 2.0)


def test_the_interval_is_reproducible_and_widens_with_confidence():
    values = np.random.default_rng(1).normal(size=10)
    low, high = bootstrap_interval(values, interquartile_mean)
    assert (low, high) == bootstrap_interval(values, interquartile_mean)
    wider = bootstrap_interval(values, interquartile_mean, confidence=0.99)
    assert wider[0] < low < interquartile_mean(values) < high < wider[1]


def test_the_interval_covers_as_often_as_it_says():
    """30 normal runs: a percentile interval of 95 % covers about 93.5 % of the time."""
    draws = np.random.default_rng(2).normal(5.0, 2.0, (400, 30))
    bounds = np.array([bootstrap_interval(draw, mean, resamples=500) for draw in draws])
    covered = ((bounds[:, 0] < 5.0) & (bounds[:, 1] > 5.0)).mean()
    assert 0.90 < covered < 0.975
    # The width is that of the normal approximation: 2 * 1.96 * 2 / sqrt(30).
    assert np.ptp(bounds, axis=1).mean() == pytest.approx(1.431, rel=0.07)


def test_strata_keep_the_difference_between_tasks_out_of_the_interval():
    """Two tasks at 0 and 100: drawing within tasks, the overall mean is known to about a unit."""
    values = np.random.default_rng(3).normal(size=(10, 2)) + [0.0, 100.0]
    low, high = bootstrap_interval(values, mean)
    assert low < values.mean() < high and high - low < 2.0
    mixed = bootstrap_interval(values.reshape(-1), mean)
    assert mixed[1] - mixed[0] > 20.0


def test_a_wrong_rank_is_named():
    with pytest.raises(ValueError, match=r"got \(2, 2, 2\)"):
        bootstrap_interval(np.zeros((2, 2, 2)), mean)


def test_the_spread_of_few_seeds_is_their_range():
    for values in ([1.0, 5.0], [3.0, 1.0, 7.0], [4.0, 4.0, 0.0, 1.0]):
        assert spread(values) == (min(values), max(values))
    values = [1.0, 2.0, 3.0, 4.0, 10.0]
    assert spread(values) == bootstrap_interval(values) != (1.0, 10.0)
    for none in ([1.0], [1.0, float("nan")], [float("inf")] * 6):
        assert np.isnan(spread(none)).all()
    assert spread_name(5) == spread_name(1, 8) == "95 % interval"
    assert spread_name(3) == spread_name(1, 3) == "range of 3 seeds"
    assert spread_name(2, 4, 9) == "95 % interval, range of 2 seeds, range of 4 seeds"
