"""Values past the end of an episode never enter a multi-step target."""

import jax
import numpy as np
import pytest

from helpers.sequences import METHODS, random_sequence


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("ends", ["trace_t", "discount_t"])
@pytest.mark.parametrize("name", METHODS)
def test_steps_past_an_end_have_no_influence(name, ends):
    """Bit for bit, for any size; negative control: without an end they matter."""
    s, other = random_sequence(), random_sequence(1)
    for window in (s, other):
        window["a_tm1"][:] = window["a_t"][:] = 0
        window["q_t"][:, 0] += 5.0  # greedy, so that Watkins' trace continues
    ended = {**s, ends: np.where(np.arange(6) == 2, 0.0, s[ends])}
    past = np.arange(6) > 2

    def replaced(window):
        huge = {"r_t": 1e30, "q_t": 1e30, "q_tm1": -1e30}
        mixed = {}
        for key, x in window.items():
            mask = past.reshape((6,) + (1,) * (x.ndim - 1))
            mixed[key] = np.where(mask, other[key] * huge.get(key, 1), x)
        return mixed

    method = METHODS[name]
    np.testing.assert_array_equal(method(ended)[:3], method(replaced(ended))[:3])
    assert not np.array_equal(method(s)[:3], method(replaced(s))[:3])


def test_garbage_in_the_row_of_a_cut_has_no_influence():
    """The step that closes an episode has no action, so its probabilities have no influence."""
    s = random_sequence()
    s["trace_t"][2] = 0.0
    broken = {**s, "mu_t": np.where(np.arange(6) == 2, np.nan, s["mu_t"])}
    np.testing.assert_array_equal(METHODS["retrace"](broken), METHODS["retrace"](s))
