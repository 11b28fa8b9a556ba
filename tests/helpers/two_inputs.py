"""A task with an image and a vector, and networks that take both."""

import flax.linen as nn
import gymnasium
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

IMAGE = spaces.Box(0, 255, (6, 5, 3), np.uint8)


class Camera(gymnasium.Env):
    """An image, a vector of float64 and a number of 3; the rewarded action is the vector's sign."""

    observation_space = spaces.Dict(
        image=IMAGE, speed=spaces.Box(-1, 1, (2,), np.float64), gear=spaces.Discrete(3)
    )
    action_space = spaces.Discrete(2)

    def _look(self):
        self.now = self.observation_space.sample()
        return self.now

    def reset(self, *, seed=None, options=None):
        self.observation_space.seed(seed)
        self.left = 8
        return self._look(), {}

    def step(self, action):
        self.left -= 1
        reward = float(action == (self.now["speed"][0] > 0))
        return self._look(), reward, self.left == 0, False, {}


class Driver(Camera):
    action_space = spaces.Box(-1, 1, (2,))

    def step(self, action):
        return super().step(int(action[0] > 0))


class TwoInputs(nn.Module):
    """[B, A] from both; raises unless it gets the entries of `Camera` as they are."""

    num_actions: int

    @nn.compact
    def __call__(self, x):
        assert {k: (v.shape[1:], v.dtype.name) for k, v in x.items()} == {
            "gear": ((3,), "float32"),
            "image": ((6, 5, 3), "uint8"),
            "speed": ((2,), "float32"),
        }
        image = nn.Conv(2, (3, 3))(x["image"] / 255).reshape(len(x["speed"]), -1)
        joined = jnp.concatenate([image, x["speed"], x["gear"]], axis=-1)
        return nn.Dense(self.num_actions)(nn.relu(nn.Dense(16)(joined)))


class OwnActor(nn.Module):
    action_size: int
    num_heads: int

    @nn.compact
    def __call__(self, x):
        return jnp.tanh(TwoInputs(self.action_size)(x))[:, None]


class OwnCritic(nn.Module):
    num_heads: int

    @nn.compact
    def __call__(self, x, action):
        return TwoInputs(self.num_heads)(x) + nn.Dense(self.num_heads)(action)
