"""Figures of robust evaluations: positions of points, cells and marks."""

import numpy as np

from bellmax.launch.config.boxes import (
    Box,
    make_axes,
)
from bellmax.launch.runners.evaluation import Episodes
from bellmax.launch.studies.robust.plot import draw
from bellmax.launch.studies.robust.run import Robustness


def made_up(names, points=4, seeds=3):
    """A result with random returns over [0, 1] for each name, nominally 2 and 1."""
    axes = make_axes(Box("b", dict.fromkeys(names, (0.0, 1.0))), points)
    generator = np.random.default_rng(0)

    def episodes(*shape):
        zeros = np.zeros(shape, int)
        return Episodes(generator.normal(size=shape), zeros, zeros > 0)

    nominal = dict(zip(names, (2.0, 1.0, 0.7), strict=False))
    box = Box("b", dict.fromkeys(names, (0.0, 1.0)))
    cells = episodes(points ** len(names), seeds, 5)
    seeds = list(range(seeds))
    return Robustness("task", box, 9, seeds, axes, nominal, cells, episodes(len(seeds), 5))


def lines(axes):
    return {line.get_label(): np.ravel(line.get_xydata()).tolist() for line in axes.lines}


def test_one_parameter_is_a_curve():
    result = made_up(["a"])
    (axes,) = draw(result).axes
    curves = [line.get_ydata() for line in axes.lines]
    np.testing.assert_allclose(curves[:3], result.returns)
    np.testing.assert_allclose(curves[3], result.returns.mean(axis=0))
    assert lines(axes)["nominal"] == [2.0, result.nominal_returns.mean()]
    assert axes.get_xlabel() == "a" and "range of 3 seeds" in axes.get_ylabel()


def test_two_parameters_are_a_heat_map():
    result = made_up(["a", "b"])
    axes = draw(result).axes[0]
    shown = axes.collections[0].get_array().reshape(4, 4)  # rows are b
    means = result.returns.mean(axis=0).reshape(4, 4)
    np.testing.assert_allclose(shown, means.T)
    i, j = np.unravel_index(means.argmin(), means.shape)
    grid = result.axes["a"]
    assert lines(axes) == {"nominal": [2.0, 1.0], "worst": [grid[i], grid[j]]}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("a", "b") and axes.get_xlim()[1] > 2.0


def test_three_parameters_are_a_heat_map_for_each_value_of_the_third():
    result = made_up(["a", "b", "c"])
    figure = draw(result)
    panels = figure.axes[:4]
    means = result.returns.mean(axis=0).reshape(4, 4, 4)
    for i, axes in enumerate(panels):
        shown = axes.collections[0]
        np.testing.assert_allclose(shown.get_array().reshape(4, 4), means[:, :, i].T)
        assert shown.get_clim() == (means.min(), means.max())
        assert axes.get_title() == f"c {result.axes['c'][i]:.3g}"
        assert ("nominal" in lines(axes)) == (i == 2)  # 0.7 is nearest to 0.667
        assert ("worst" in lines(axes)) == (i == means.argmin() % 4)


def test_a_cell_that_is_not_finite_is_left_blank_and_is_the_worst():
    result = made_up(["a", "b"])
    result.episodes.episode_return[6, 1, 0] = np.nan  # a = 1/3, b = 2/3
    axes = draw(result).axes[0]
    mask = axes.collections[0].get_array().mask.reshape(4, 4)
    assert mask.sum() == 1 and mask[2, 1]
    np.testing.assert_allclose(lines(axes)["worst"], [1 / 3, 2 / 3])
