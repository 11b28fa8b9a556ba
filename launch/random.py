"""Named streams of randomness: adding one shifts no other."""

import zlib

import jax


def stream(key: jax.Array, name: str) -> jax.Array:
    """The key of the stream `name` under a root key."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))
