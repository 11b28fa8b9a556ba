"""Tasks whose action is several numbers. A child process imports them: they need no jax."""

import gymnasium
import numpy as np
from gymnasium import spaces


class TwoLevers(gymnasium.Env):
    """Shows where two levers should be, one-hot; the reward is the share of levers set right.

    Refuses actions that are not in its action space.
    """

    observation_space = spaces.MultiDiscrete([2, 3])
    action_space = spaces.MultiDiscrete([2, 3], start=[0, 5])

    def __init__(self, binary=False, masked=False):
        self.masked = masked
        if binary:
            self.observation_space, self.action_space = spaces.MultiBinary(2), spaces.MultiBinary(2)

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.observation_space.seed(seed)
        self.left = 8
        return self._look()

    def step(self, action):
        if not self.action_space.contains(action):
            raise ValueError(f"{action!r} is not in {self.action_space}")
        starts = getattr(self.action_space, "start", 0)
        reward = np.mean(action - starts == self.wanted)
        self.left -= 1
        shown, info = self._look()
        return shown, reward, self.left == 0, False, info

    def _look(self):
        self.wanted = self.observation_space.sample()
        return self.wanted, {"action_mask": np.arange(6) != 5} if self.masked else {}


class Many(TwoLevers):
    """More joint actions than bellmax takes."""

    action_space = spaces.MultiDiscrete([17, 16])
