"""Orthogonal initialisers like flax's, without LAPACK."""

from typing import Any

import jax
import jax.numpy as jnp


def orthogonal(scale: float = 1.0) -> Any:
    """Kernels [rows, columns] whose shorter side is orthonormal, times `scale`.

    Equal to `nn.initializers.orthogonal` up to rounding, by Gram-Schmidt twice. flax's initialiser
    calls LAPACK's QR. Since jax 0.10 a batch of LAPACK calls is split over the CPU's threads, and
    one of these threads waits for the others: several batches in one program, as under `vmap` over
    seeds, occupy every thread and deadlock. Six kernels of 64 x 64 for 64 seeds deadlock on two
    cores with jax 0.10.2. https://github.com/qiskit-community/ffsim/pull/684 reports the same for
    `jnp.linalg.det` (0.9.2 does not deadlock). We found no issue about it in the trackers of jax,
    XLA and flax.

    Source: Saxe et al. 2014, arXiv:1312.6120.
    """

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        rows, columns = shape
        long, short = (rows, columns) if rows > columns else (columns, rows)
        start = jax.random.normal(key, (long, short), dtype)

        def column(j: jax.Array, q: jax.Array) -> jax.Array:
            before = (jnp.arange(short) < j).astype(q.dtype)
            v = q[:, j]
            for _ in range(2):
                v = v - q @ ((v @ q) * before)
            return q.at[:, j].set(v / jnp.linalg.norm(v))

        q = jax.lax.fori_loop(0, short, column, start)
        return scale * (q.T if rows < columns else q)

    return init
