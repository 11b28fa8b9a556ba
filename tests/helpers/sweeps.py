"""Traced hyper-parameters give the same learning as constants."""

import jax
import numpy as np

from helpers.jitted import quick_jit


def check_sweep(learnt, config, changes, rtol, atol):
    """Check that row i of a vmapped program changes the i-th hyper-parameter, with an effect.

    The last two rows change none and all: both equal a program whose hyper-parameters are constant.

    Args:
      learnt: `learnt(**changes)` is a flat array of what an agent with these changes learns.
      config: the base, by attribute.
      changes: name -> another value.
      rtol, atol: of the comparison with constants.
    """
    count = len(changes)
    rows = {name: np.full(count + 2, getattr(config, name), np.float32) for name in changes}
    for i, (name, value) in enumerate(changes.items()):
        rows[name][[i, -1]] = value
    *each, none, every = np.asarray(quick_jit(jax.vmap(lambda row: learnt(**row)))(rows))
    for name, row in zip(changes, each, strict=True):
        assert np.abs(row - none).max() > 1e-3, name
    np.testing.assert_allclose(none, quick_jit(learnt)(), rtol=rtol, atol=atol)
    constants = quick_jit(lambda: learnt(**changes))
    np.testing.assert_allclose(every, constants(), rtol=rtol, atol=atol)
