"""A network that ignores its input, to measure acting without a network's arithmetic (host.py)."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class Blind(nn.Module):
    """[B, ...] -> [B, A], the same values for all observations."""

    num_actions: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        values = self.param("values", nn.initializers.zeros, (self.num_actions,))
        return jnp.broadcast_to(values, (x.shape[0], self.num_actions))
