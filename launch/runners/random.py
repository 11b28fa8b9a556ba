"""Named streams of random keys: adding a stream changes no other."""

import zlib

import jax
import numpy as np


def stream(key: jax.Array, name: str) -> jax.Array:
    """Return the key of the stream `name` under a root key."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def numpy_seeds(key: jax.Array, count: int, *words: int) -> list[int]:
    """Return `count` seeds in [0, 2^32), for numpy and host environments, from a key and words."""
    data = np.asarray(jax.random.key_data(key)).tolist()
    return np.random.SeedSequence([*data, *words]).generate_state(count).tolist()
