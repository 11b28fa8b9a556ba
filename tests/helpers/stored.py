"""What a replay of one device holds, by vector step."""

import jax
import numpy as np


def by_step(storage, num_envs):
    """Leaves of one seed as NumPy arrays [C, N, ...], slot by slot."""
    count = storage.is_last.shape[0]

    def one(leaf):
        rows = np.asarray(leaf)
        if len(rows) > count:  # short vectors are joined
            rows = rows.reshape(count, -1)
        return rows.reshape(-1, num_envs, *rows.shape[1:])

    return jax.tree.map(one, storage)
