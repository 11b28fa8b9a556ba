"""Orthogonal initialisers like flax's, without LAPACK."""

from typing import Any

import jax
import jax.numpy as jnp


def orthogonal(scale: float = 1.0) -> Any:
    """Kernels [rows, columns] whose shorter side is orthonormal, times `scale`.

    Equal to `nn.initializers.orthogonal` up to rounding; computed by repeated Gram-Schmidt. On a
    CPU the QR decomposition in flax's version blocks the threads that it runs on: several of them
    in one program, under `vmap` over seeds, deadlock on two cores (jax 0.10.2).

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
