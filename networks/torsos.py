"""Torsos: from a batch of observations [B, ...] to features [B, D], in float32 or bfloat16.

uint8 observations are divided by 255. A convolutional torso of `width` 0 has no last dense layer:
its features are those of the convolutions, [B, height * width * channels]. With `norm="layer"` the
input of every ReLU is normalised over its last axis: the units of a dense layer, the channels of
each position of a convolution.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bellmax.networks.config import Norm
from bellmax.networks.convolution import PatchConv, conv

Dtype = Any


class MLP(nn.Module):
    """Dense layers with ReLU on the flattened observation: [B, ...] -> [B, features[-1]].

    If observations are numbers in [0, num_values), [B] int32, the first layer is an embedding: the
    product of a matrix and a one-hot vector, without the vector. `dot_general` is that of its
    `nn.Dense`.
    """

    features: tuple[int, ...] = (120, 84)
    dtype: Dtype = jnp.float32
    num_values: int = 0
    norm: Norm = "none"
    dot_general: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features = self.features
        if self.num_values:
            first, *features = features or (64,)
            x = _relu(self.norm, nn.Embed(self.num_values, first, dtype=self.dtype)(x))
        x = _unit_interval(x.reshape(x.shape[0], -1), self.dtype)
        for width in features:
            layer = nn.Dense(width, dtype=self.dtype, dot_general=self.dot_general)
            x = _relu(self.norm, layer(x))
        return x


class MinAtarConv(nn.Module):
    """One 3x3 convolution of 16 channels and a dense layer of 128: [B, 10, 10, C] -> [B, 128].

    Source: Young and Tian 2019, arXiv:1903.03176.
    """

    dtype: Dtype = jnp.float32
    width: int = 128
    norm: Norm = "none"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = _relu(self.norm, PatchConv(16, dtype=self.dtype)(_unit_interval(x, self.dtype)))
        return _last_layer(x, self.width, self.dtype, self.norm)


class NatureConv(nn.Module):
    """The DQN network: [B, 84, 84, C] -> [B, 512].

    Source: Mnih et al. 2015, doi:10.1038/nature14236.
    """

    dtype: Dtype = jnp.float32
    width: int = 512
    norm: Norm = "none"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = _unit_interval(x, self.dtype)
        for features, kernel, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
            layer = conv(features, kernel, self.dtype, stride=stride, padding="VALID")
            x = _relu(self.norm, layer(x))
        return _last_layer(x, self.width, self.dtype, self.norm)


class ImpalaResNet(nn.Module):
    """Residual stages of max-pooled convolutions and a dense layer: [B, H, W, C] -> [B, 256].

    Source: Espeholt et al. 2018, arXiv:1802.01561, figure 3 (right).
    """

    stages: tuple[int, ...] = (16, 32, 32)
    blocks: int = 2
    dtype: Dtype = jnp.float32
    width: int = 256
    norm: Norm = "none"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = _unit_interval(x, self.dtype)
        for features in self.stages:
            x = conv(features, 3, self.dtype)(x)
            x = nn.max_pool(x, (3, 3), (2, 2), padding="SAME")
            for _ in range(self.blocks):
                residual = x
                x = conv(features, 3, self.dtype)(_relu(self.norm, x))
                x = conv(features, 3, self.dtype)(_relu(self.norm, x))
                x = x + residual
        return _last_layer(_relu(self.norm, x), self.width, self.dtype, self.norm)


def _last_layer(x: jax.Array, width: int, dtype: Dtype, norm: Norm) -> jax.Array:
    """Flatten [B, ...] and apply a dense layer with ReLU, none if its width is 0."""
    x = x.reshape(x.shape[0], -1)
    return _relu(norm, nn.Dense(width, dtype=dtype)(x)) if width else x


def _relu(norm: Norm, x: jax.Array) -> jax.Array:
    """ReLU of an input that is normalised if asked for, inside a module's `__call__`."""
    return nn.relu(nn.LayerNorm(dtype=x.dtype)(x) if norm == "layer" else x)


def _unit_interval(x: jax.Array, dtype: Dtype) -> jax.Array:
    return x.astype(dtype) / 255 if x.dtype == jnp.uint8 else x.astype(dtype)
