"""Factories of environments with mistakes that users typically make."""

import sys
import time
import types

import gymnasium
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from bellmax.envs import EnvSpec, TimeStep
from helpers.scripted import Counter
from helpers.scripted_host import DmCounter, HostCounter


class Gym(gymnasium.Env):
    """A correct task, parts of which a subclass or a factory replaces."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 1.0, False, False, {}


def gym_with(**parts):
    """A correct task with changed attributes."""
    return type("Changed", (Gym,), parts)()


def make_nothing():
    Gym()


def make_class():
    return Gym


an_instance = Gym()


def make_raising(depth=2):
    return make_raising(depth - 1) if depth else {}["missing"]


def make_exiting():
    sys.exit(0)


def make_hanging():
    time.sleep(1e6)


class RaisesWhenMade(Gym):
    def __init__(self):
        self.size = np.zeros(3).reshape(2, 2)


def late_spaces():
    class Late(gymnasium.Env):
        def reset(self, *, seed=None, options=None):
            self.observation_space = Gym.observation_space
            self.action_space = Gym.action_space
            return np.zeros(2, np.float32), {}

        def step(self, action):
            return np.zeros(2, np.float32), 1.0, False, False, {}

    return Late()


def misspelt_spaces():
    class Misspelt(gymnasium.Env):
        observation_spaces = Gym.observation_space
        action_space = Gym.action_space

        def step(self, action):
            raise NotImplementedError

    return Misspelt()


def misspelt_reset():
    return types.SimpleNamespace(rest=0, step=0, observation_space=0, action_space=0)


def legacy_space():
    box = type("Box", (), {"__module__": "gym.spaces.box", "shape": (2,)})
    return gym_with(observation_space=box())


def legacy_env():
    base = type("Env", (), {"__module__": "gym.core"})
    return type("Old", (base,), {k: v for k, v in vars(Gym).items() if not k.startswith("__")})()


def space_class():
    return gym_with(action_space=gymnasium.spaces.Discrete)


def no_actions():
    return gym_with(action_space=gymnasium.spaces.Discrete(0))


def low_above_high():
    return gym_with(action_space=gymnasium.spaces.Box(1.0, -1.0, (2,)))


def no_bits():
    return gym_with(observation_space=gymnasium.spaces.MultiBinary(0))


def old_step():
    return gym_with(step=lambda self, action: (np.zeros(2, np.float32), 1.0, False, {}))


def old_reset():
    return gym_with(reset=lambda self, *, seed=None, options=None: np.zeros(2, np.float32))


def unseeded_reset():
    return gym_with(reset=lambda self: (np.zeros(2, np.float32), {}))


def raising_reset():
    return gym_with(reset=lambda self, *, seed=None, options=None: 1 / 0)


def exiting_step():
    return gym_with(step=lambda self, action: sys.exit(0))


def tuple_step():
    task = HostCounter()
    task.step = lambda action: (np.zeros(3), 1.0, False, False)
    return task


def dm_tuple():
    task = DmCounter()
    task.reset = lambda: (0.0, np.zeros(2))
    return task


class Drawn(Counter):
    """A JAX task that also has `render` and `close`."""

    def render(self):
        return np.zeros((2, 2, 3), np.uint8)

    def close(self):
        pass


class DrawnWithOptions(Drawn):
    def step(self, state, action, key, *, debug=False, scale=1.0):
        del debug, scale
        return super().step(state, action, key)


class DrawnAsStatic(Drawn):
    """Its functions belong to the class, and `render` is an attribute of it."""

    step = staticmethod(Counter().step)
    reset = staticmethod(Counter().reset)
    render = None


class JaxChanged:
    """A correct JAX task with some leaves of its steps replaced, or changed by functions."""

    def __init__(self, **leaves):
        self.inner, self.leaves = Counter(), leaves

    @property
    def spec(self):
        return self.inner.spec

    def reset(self, key):
        return self.inner.reset(key)

    def step(self, state, action, key):
        state, ts = self.inner.step(state, action, key)
        new = {n: v(getattr(ts, n)) if callable(v) else v for n, v in self.leaves.items()}
        return state, ts._replace(**new)


def jax_raising_step():
    return JaxChanged(reward=lambda reward: {}["bonus"])


class JaxBranching(JaxChanged):
    def step(self, state, action, key):
        return self.inner.step(state, 0 if action > 1 else 1, key)


class JaxRaisingSpec(JaxChanged):
    @property
    def spec(self):
        return EnvSpec("mine", specs.Array((2,), jnp.float32), specs.DiscreteArray(0))


def jax_tuple():
    task = Counter()
    return types.SimpleNamespace(
        spec=task.spec,
        reset=task.reset,
        step=lambda state, action, key: tuple(TimeStep(*task.step(state, action, key)[1])),
    )
