"""A small host run on user tasks, some of which hang or raise."""

CONFIG = """
steps: 1200
warmup_steps: 400
updates_per_rollout: 2
log_every: 400
evaluate_every: 800
evaluation_episodes: 2
evaluation_max_steps: 30
checkpoint_every: 800
agent: {name: dqn, batch_size: 16, network: {hidden: [16]}}
env: {name: "lines:Line", num_envs: 4}
host: {actors: 2}
replay: {capacity: 2000}
"""
# Until RELEASED is set, the first instance of Stuck that steps hangs, and every instance of Hung;
# each adds an entry to `hanging`. Instances of Shaky raise at their fifth step.
TASKS = """
import pathlib
import threading
import gymnasium
import numpy as np

RELEASED = threading.Event()
hanging = []

class Line(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.time += 1
        return np.full(2, self.time / 9, np.float32), 1.0, self.time == 9, False, {}

class Hung(Line):
    def step(self, action):
        hanging.append(self)
        RELEASED.wait()
        return super().step(action)

class Stuck(Hung):
    def step(self, action):
        try:
            pathlib.Path("stuck").touch(exist_ok=False)
        except FileExistsError:
            return Line.step(self, action)
        return super().step(action)

class Shaky(Line):
    left = 5

    def step(self, action):
        self.left -= 1
        if not self.left:
            raise RuntimeError("out of steps")
        return super().step(action)
"""
