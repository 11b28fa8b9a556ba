"""Uncertainty boxes: published numbers, grids, and messages about mistakes."""

import numpy as np
import pytest

from bellmax import UserError
from bellmax.envs import make
from bellmax.launch.config.boxes import (
    Box,
    make_axes,
    make_cells,
    published_box,
    published_boxes,
)
from bellmax.launch.config.run_config import list_presets


def test_the_published_numbers():
    hopper = published_boxes()["brax/hopper"]
    assert hopper["2d"].ranges == {"friction": (0.1, 3.0), "torso_mass": (0.1, 3.0)}
    assert hopper["3d"].ranges["thigh_mass"] == (0.1, 4.0)
    assert published_box("brax/inverted_pendulum", "1d").ranges == {"pole_mass": (1.0, 31.0)}
    standup = published_boxes()["brax/humanoidstandup"]
    assert standup["3d"].ranges["right_shin_mass"] == standup["3d_m2td3"].ranges["left_thigh_mass"]
    for task, boxes in published_boxes().items():
        assert {"1d", "2d"} <= set(boxes) and not any(name in list_presets() for name in boxes)
        for name, box in boxes.items():
            assert box.name == name and len(box.ranges) == int(name[0]), (task, name)
            assert all(0 < low < high for low, high in box.ranges.values())
        wider = boxes.get("3d", boxes["2d"]).ranges
        assert set(boxes["1d"].ranges) < set(boxes["2d"].ranges) <= set(wider)


def test_boxes_are_no_presets():
    assert list_presets() and not [name for name in list_presets() if "uncertainty" in name]


@pytest.mark.parametrize("task", published_boxes())
def test_published_boxes_name_parameters_that_there_are(task):
    pytest.importorskip(task.partition("/")[0])
    env = make(task)
    for box in published_boxes()[task].values():
        assert set(box.ranges) <= set(env.parameters), box.name


def test_the_upper_end_is_in_or_out():
    box = Box("b", {"x": (0.1, 3.0)})
    assert make_axes(box, 3)["x"].tolist() == [0.1, 1.55, 3.0]
    np.testing.assert_allclose(make_axes(box, 10)["x"], 0.1 + 2.9 * np.arange(10) / 9)
    excluded = make_axes(box, 10, "excluded")["x"]
    # RRLS: numpy.arange(low, high, (high - low) / points); its last point of [0.1, 3] is 2.71.
    np.testing.assert_allclose(excluded, np.arange(0.1, 3.0, (3.0 - 0.1) / 10))
    assert len(excluded) == 10 and excluded[-1] == pytest.approx(2.71)


def test_cells_are_every_combination_the_last_fastest():
    cells = make_cells({"a": np.array([1.0, 2.0]), "b": np.array([5.0, 6.0])})
    assert cells["a"].tolist() == [1, 1, 2, 2] and cells["b"].tolist() == [5, 6, 5, 6]


# Statistics


def test_an_unknown_box_suggests_one():
    with pytest.raises(
        UserError, match="unknown box '1d_m2td' of brax/hopper; did you mean 1d_m2td3"
    ):
        published_box("brax/hopper", "1d_m2td")


# Pictures
