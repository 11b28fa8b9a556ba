"""Scripted host environments. A child process imports them, so they need neither jax nor pytest."""

import os
import pathlib
import signal
import time

import dm_env
import gymnasium
import numpy as np
from dm_env import specs

from bellmax import UserError
from bellmax.envs import EnvSpec
from bellmax.envs.host import HostTimeStep
from bellmax.envs.host.base import opening

RAISE, NOT_FINITE, REWARD, OVERFLOW, HANG, DIE, USER, SHAPE, MEET = range(3, 12)


class HostCounter:
    """Observes (steps since the reset, sum of actions, a number drawn at the reset).

    Like `scripted.Counter`, but the actions 3 to 11 cause faults. The numbers are those of
    `np.random.default_rng(seed)`, one an episode.
    """

    def __init__(self, ends_at=5, truncates=False, bad_resets=0, folder=None, index=None):
        self.ends_at, self.truncates, self.bad_resets = ends_at, truncates, bad_resets
        self.folder, self.index = folder, index
        self.spec = EnvSpec(
            name=f"test/HostCounter on {os.environ.get('JAX_PLATFORMS')}",
            observation=specs.Array((3,), np.float32, "observation"),
            action=specs.DiscreteArray(12, np.int32, "action"),
            time_limit=ends_at if truncates else None,
        )
        self.rng = np.random.default_rng()
        self.seeds, self.closed = [], 0
        self.state = np.zeros(3)

    def reset(self, seed):
        self.seeds.append(seed)
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        elif self.bad_resets:
            raise OSError("no way back\nat all")
        self.state = np.array([0.0, 0.0, self.rng.integers(1_000_000)])
        return opening(self.state)

    def step(self, action):
        if action >= RAISE:
            return self.harm(int(action))
        self.state += [1, action, 0]  # the same array as before
        over = self.state[0] >= self.ends_at
        terminated = bool(action == 2 or (over and not self.truncates))
        return HostTimeStep(self.state, 10.0 * action, terminated, bool(over))

    def harm(self, action):
        good = HostTimeStep(self.state, 1.0, False, False)
        if action == RAISE:
            raise RuntimeError("out of fuel\nand much more")
        if action == USER:
            raise UserError("Fill it up.")
        if action == HANG:
            time.sleep(1e6)
        if action == DIE:
            os.kill(os.getpid(), signal.SIGKILL)
        if action == MEET:
            self.meet()
        shown = {NOT_FINITE: np.full(3, np.nan), OVERFLOW: np.full(3, 1e300), SHAPE: np.zeros(2)}
        return good._replace(
            observation=shown.get(action, self.state),
            reward=-np.inf if action == REWARD else good.reward,
        )

    def meet(self):
        """Wait until two tasks have called this."""
        folder = pathlib.Path(self.folder)
        (folder / str(os.getpid())).touch()
        while len(list(folder.iterdir())) < 2:
            time.sleep(0.01)

    def render(self):
        return np.full((2, 2, 3), 7, np.uint8)

    def close(self):
        self.closed += 1
        raise OSError("stuck")


class GymCounter(gymnasium.Env):
    """Counts on a line of five; 3 and 4 end the episode, 4 also as truncated. Actions: -1, 0, 1."""

    observation_space = gymnasium.spaces.Dict(
        place=gymnasium.spaces.Discrete(5, start=-2),
        speed=gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64),
    )
    action_space = gymnasium.spaces.Discrete(3, start=-1)
    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, render_mode=None, size=4):
        self.render_mode, self.size = render_mode, size

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = -2
        return self.show(0), {}

    def show(self, speed):
        return {"place": self.place, "speed": np.array([speed, self.size], np.float64)}

    def step(self, action):
        assert self.action_space.contains(action)
        self.place += int(action)
        return self.show(action), float(action), self.place >= 1, self.place >= 2, {}

    def render(self):
        return np.full((4, 6, 3), self.place + 2, np.uint8)


class DmCounter(dm_env.Environment):
    """Ends after 3 steps with the discount that it was given; observes under two names."""

    def __init__(self, last_discount=0.0, nested=True, seed=None):
        self.last_discount, self.nested, self.seed = last_discount, nested, seed
        self.rng = np.random.default_rng(seed)
        self.time = 0

    def observation_spec(self):
        speed = specs.Array((1, 2), np.float64)
        if not self.nested:
            return speed
        return {"z": {"flag": specs.Array((), np.bool_)}, "a": speed}

    def action_spec(self):
        return specs.BoundedArray((), np.int64, -1, 1)

    def reward_spec(self):
        return specs.BoundedArray((), np.float64, -1.0, 1.0)

    def show(self):
        speed = np.array([[self.time, self.drawn]], np.float64)
        return {"z": {"flag": self.time == 2}, "a": speed} if self.nested else speed

    def reset(self):
        self.time, self.drawn = 0, self.rng.integers(1000)
        return dm_env.restart(self.show())

    def step(self, action):
        assert action.dtype == np.int64
        self.time += 1
        if self.time < 3:
            return dm_env.transition(float(action), self.show(), 0.5)
        return dm_env.TimeStep(dm_env.StepType.LAST, 1.0, self.last_discount, self.show())


def place_or_speed(key="place"):
    """A GymCounter that shows only one of its observations."""
    env = GymCounter()
    space = env.observation_space[key]
    return gymnasium.wrappers.TransformObservation(env, lambda both: both[key], space)
