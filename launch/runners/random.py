"""Named streams of randomness: adding one shifts no other."""

import zlib

import jax
import numpy as np


def stream(key: jax.Array, name: str) -> jax.Array:
    """The key of the stream `name` under a root key."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def numpy_seeds(key: jax.Array, count: int, *words: int) -> list[int]:
    """So many seeds for numpy and for host environments, in [0, 2^32), of a key and more words."""
    data = np.asarray(jax.random.key_data(key)).tolist()
    return np.random.SeedSequence([*data, *words]).generate_state(count).tolist()
