"""What a replay of one device holds, by vector step."""

import jax
import numpy as np


def by_step(storage, num_envs):
    """Leaves [C * N, ...] of one seed as NumPy arrays [C, N, ...], slot by slot."""
    return jax.tree.map(lambda x: np.asarray(x).reshape(-1, num_envs, *x.shape[1:]), storage)
