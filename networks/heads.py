"""Heads: from features [B, D] to what an agent reads, as named tuples in float32."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from bellmax.networks.dense import dense


class QOutput(NamedTuple):
    """q_values: [B, A] float32, in reward units."""

    q_values: jax.Array


class DuelingOutput(NamedTuple):
    """q_values: [B, A]; value: [B]; advantage: [B, A], zero mean over A. All float32."""

    q_values: jax.Array
    value: jax.Array
    advantage: jax.Array


class QHead(nn.Module):
    """[B, D] -> QOutput, one linear layer."""

    num_actions: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> QOutput:
        return QOutput(dense(self.num_actions, self.dtype)(x).astype(jnp.float32))


class DuelingHead(nn.Module):
    """[B, D] -> DuelingOutput: q = value + advantage - mean advantage, each one linear layer.

    Source: Wang et al. 2016, arXiv:1511.06581, eq. 9. Deviation: the streams share the last
    hidden layer, so that a dueling network costs what a plain one does.
    """

    num_actions: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> DuelingOutput:
        value = dense(1, self.dtype)(x).astype(jnp.float32)
        advantage = dense(self.num_actions, self.dtype)(x).astype(jnp.float32)
        advantage = advantage - advantage.mean(axis=-1, keepdims=True)
        return DuelingOutput(value + advantage, value[:, 0], advantage)
