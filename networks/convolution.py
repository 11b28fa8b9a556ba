"""Convolutions computed as matrix products, where that is faster than XLA's convolutions."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class PatchConv(nn.Module):
    """A stride-1 VALID convolution written as shifted slices and one product.

    Equal to `nn.Conv` (with its kernel flattened), and faster for tiny images: under `vmap` over
    seeds it stays a matrix product, where a convolution becomes a grouped convolution.
    """

    features: int
    width: int = 3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        height, width = x.shape[1] - self.width + 1, x.shape[2] - self.width + 1
        shifts = [(i, j) for i in range(self.width) for j in range(self.width)]
        seen = [x[:, i : i + height, j : j + width] for i, j in shifts]
        return nn.Dense(self.features, dtype=self.dtype)(jnp.concatenate(seen, axis=-1))


def conv(
    features: int, width: int, dtype: Any, *, stride: int = 1, padding: str = "SAME"
) -> nn.Conv:
    """`nn.Conv` with a square kernel, inside a module's `__call__`.

    On a CPU it is a matrix product of patches: inside a compiled loop, XLA takes fourteen times as
    long for the gradient of a convolution of Atari's size. jax's `conv_general_dilated_patches` is
    itself such a convolution.
    """
    return nn.Conv(
        features,
        (width, width),
        stride,
        padding=padding,
        dtype=dtype,
        conv_general_dilated=_convolve,
    )


def _convolve(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, **options: Any
) -> jax.Array:
    """The convolution, by the platform that the program is compiled for."""
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: _as_product(x, kernel, strides, padding, **options),
        default=lambda x, kernel: jax.lax.conv_general_dilated(
            x, kernel, strides, padding, **options
        ),
    )


def _as_product(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, **options: Any
) -> jax.Array:
    """The convolution of [B, H, W, C] with a kernel [h, w, C, F], without dilation or groups."""
    height, width, channels, features = kernel.shape
    shape = x.shape[1:3]
    pads = jax.lax.padtype_to_pads(shape, (height, width), strides, padding)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    patches = _patches(x, (height, width), strides)
    flat = kernel.reshape(height * width * channels, features)
    return jnp.dot(patches, flat, precision=options.get("precision"))


def _patches(x: jax.Array, size: Sequence[int], strides: Sequence[int]) -> jax.Array:
    """[B, H, W, C] -> [B, H', W', h w C]: the input patch of each output position, row by row.

    Columns are concatenated first, then rows: h + w slices instead of h w.
    """
    (height, width), (down, right) = size, strides
    last = x.shape[1] - height, x.shape[2] - width
    beside = [x[:, :, j : j + last[1] + 1 : right] for j in range(width)]
    x = jnp.concatenate(beside, axis=-1)
    return jnp.concatenate([x[:, i : i + last[0] + 1 : down] for i in range(height)], axis=-1)
