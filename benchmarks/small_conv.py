"""A network for Atari frames that two CPU cores can train.

As in docs/results/host.md, where it learns Pong:

    PYTHONPATH=benchmarks bellmax train PRESET --agent.network.module small_conv:SmallConv
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from bellmax.networks.convolution import conv


class SmallConv(nn.Module):
    """The first DQN's network, with a third of the Nature network's products.

    [B, 84, 84, C] -> [B, A].

    Source: Mnih et al. 2013, arXiv:1312.5602.
    """

    num_actions: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.astype(jnp.float32) / 255
        for features, kernel, stride in ((16, 8, 4), (32, 4, 2)):
            x = nn.relu(conv(features, kernel, jnp.float32, stride=stride, padding="VALID")(x))
        x = nn.relu(nn.Dense(256)(x.reshape(x.shape[0], -1)))
        return nn.Dense(self.num_actions)(x)
