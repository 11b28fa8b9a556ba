"""What the benchmarks share."""

import sys

import benchmarks
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.mark.parametrize("returned", [None, 3, True, np.float32(7), jnp.ones(3), [1.0]])
def test_only_a_float_is_the_time_that_a_side_measured_itself(monkeypatch, returned):
    monkeypatch.syspath_prepend(next(iter(benchmarks.__path__)))
    monkeypatch.delitem(sys.modules, "timing", raising=False)
    import timing  # pyright: ignore[reportMissingImports]

    seconds = timing.alternate({"a": lambda: returned, "b": lambda: 2.5}, 3)
    assert seconds["b"] == [2.5] * 3 and all(0 <= each < 1 for each in seconds["a"])
