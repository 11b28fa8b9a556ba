"""Heads: from features [B, D] to the outputs that agents use, named tuples in float32."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp


class QOutput(NamedTuple):
    """q_values: [B, A] float32, in reward units."""

    q_values: jax.Array


class DuelingOutput(NamedTuple):
    """q_values: [B, A]; value: [B]; advantage: [B, A], zero mean over A. All float32."""

    q_values: jax.Array
    value: jax.Array
    advantage: jax.Array


class QuantileOutput(NamedTuple):
    """q_values: [B, A], mean over N; quantiles: [B, N, A], in reward units. All float32."""

    q_values: jax.Array
    quantiles: jax.Array


class CategoricalOutput(NamedTuple):
    """q_values: [B, A], means, in reward units; logits: [B, A, M], of the atoms. All float32."""

    q_values: jax.Array
    logits: jax.Array


class VAOutput(NamedTuple):
    """q_values: [B, A] = value + advantage; value: [B]; advantage: [B, A], zero mean under the
    behaviour; behaviour_logits: [B, A], of the behaviour policy. All float32."""

    q_values: jax.Array
    value: jax.Array
    advantage: jax.Array
    behaviour_logits: jax.Array


class QHead(nn.Module):
    """[B, D] -> QOutput, one linear layer."""

    num_actions: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> QOutput:
        return QOutput(nn.Dense(self.num_actions, dtype=self.dtype)(x).astype(jnp.float32))


class DuelingHead(nn.Module):
    """[B, D] -> DuelingOutput: q = value + advantage - mean advantage, each one linear layer.

    Source: Wang et al. 2016, arXiv:1511.06581, eq. 9. Deviation: the streams share the last hidden
      layer, so that a dueling network has the cost of a plain one.
    """

    num_actions: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> DuelingOutput:
        value = nn.Dense(1, dtype=self.dtype)(x).astype(jnp.float32)
        advantage = nn.Dense(self.num_actions, dtype=self.dtype)(x).astype(jnp.float32)
        advantage = advantage - advantage.mean(axis=-1, keepdims=True)
        return DuelingOutput(value + advantage, value[:, 0], advantage)


class QuantileHead(nn.Module):
    """[B, D] -> QuantileOutput, one linear layer.

    Source: Dabney et al. 2018, arXiv:1710.10044.
    """

    num_actions: int
    num_quantiles: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> QuantileOutput:
        width = self.num_quantiles * self.num_actions
        flat = nn.Dense(width, dtype=self.dtype)(x).astype(jnp.float32)
        quantiles = flat.reshape(-1, self.num_quantiles, self.num_actions)
        return QuantileOutput(quantiles.mean(axis=1), quantiles)


class CategoricalHead(nn.Module):
    """[B, D] -> CategoricalOutput on M atoms from v_min to v_max, one linear layer.

    Source: Bellemare et al. 2017, arXiv:1707.06887.
    """

    num_actions: int
    num_atoms: int
    v_min: float
    v_max: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> CategoricalOutput:
        width = self.num_actions * self.num_atoms
        flat = nn.Dense(width, dtype=self.dtype)(x).astype(jnp.float32)
        logits = flat.reshape(-1, self.num_actions, self.num_atoms)
        atoms = jnp.linspace(self.v_min, self.v_max, self.num_atoms)
        q_values = jnp.sum(jax.nn.softmax(logits) * atoms[None, None, :], axis=-1)
        return CategoricalOutput(q_values, logits)


def cosine_features(fractions: jax.Array, size: int) -> jax.Array:
    """Features `cos(pi * i * fraction)`, i = 1 .. size: [...] -> [..., size] float32."""
    multiples = jnp.pi * jnp.arange(1, size + 1, dtype=jnp.float32)
    return jnp.cos(fractions[..., None] * jnp.expand_dims(multiples, range(fractions.ndim)))


class ImplicitQuantileHead(nn.Module):
    """[B, D] and fractions [B, N] in (0, 1) -> QuantileOutput, the quantiles at these fractions.

    The features are multiplied by an embedding of the fraction; a dense layer of `width` units with
    ReLU follows, and a linear one. Without fractions they are the midpoints of `num_quantiles`
    equal parts of (0, 1), whose mean is a quadrature of the expected return.

    Attributes:
      width: of the hidden layer after the product; 0 is none.
      embedding_size: number of cosines.

    Source: Dabney et al. 2018, arXiv:1806.06923, eq. 4, where i = 0 .. 63. Here i = 1 .. 64, as in
      Dopamine: the first cosine would be the constant that the layer's bias already is.
    """

    num_actions: int
    num_quantiles: int
    embedding_size: int = 64
    width: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, fractions: jax.Array | None = None) -> QuantileOutput:
        if fractions is None:  # one embedding for the whole batch
            fractions = ((jnp.arange(self.num_quantiles) + 0.5) / self.num_quantiles)[None, :]
        cosines = cosine_features(fractions, self.embedding_size)
        embedding = nn.relu(nn.Dense(x.shape[-1], dtype=self.dtype, name="embedding")(cosines))
        x = x[:, None, :] * embedding
        if self.width:
            x = nn.relu(nn.Dense(self.width, dtype=self.dtype, name="hidden")(x))
        output = nn.Dense(self.num_actions, dtype=self.dtype, name="quantiles")(x)
        quantiles = output.astype(jnp.float32)
        return QuantileOutput(quantiles.mean(axis=1), quantiles)


class VAHead(nn.Module):
    """[B, D] -> VAOutput: value, advantage centred under the behaviour policy, behaviour logits.

    The behaviour policy is learned by maximum likelihood without gradients into the features, or
    uniform: then its logits are 0 and the advantage is centred as in a dueling head.

    Source: Tang et al. 2023, arXiv:2305.18161.
    """

    num_actions: int
    uniform: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> VAOutput:
        value = nn.Dense(1, dtype=self.dtype)(x).astype(jnp.float32)
        raw = nn.Dense(self.num_actions, dtype=self.dtype)(x).astype(jnp.float32)
        if self.uniform:
            logits = jnp.zeros_like(raw)
        else:
            features = jax.lax.stop_gradient(x)
            logits = nn.Dense(self.num_actions, dtype=self.dtype)(features).astype(jnp.float32)
        behaviour = jax.lax.stop_gradient(jax.nn.softmax(logits))
        advantage = raw - jnp.sum(behaviour * raw, axis=-1, keepdims=True)
        return VAOutput(value + advantage, value[:, 0], advantage, logits)
