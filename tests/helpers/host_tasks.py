"""Host batches for tests: jax environments stepped by Python, and streams of known numbers."""

import jax
import numpy as np
from dm_env import specs

from bellmax.envs import EnvSpec, vectorise
from bellmax.envs.host import HostTimeStep
from bellmax.launch.runners.random import stream


class JaxBatch:
    """The stream of a JAX environment, exactly as the device runner with this seed sees it."""

    def __init__(self, env, num_envs, seed):
        self.vector = vectorise(env, num_envs)
        self.spec, self.num_envs, self.faults = env.spec, num_envs, {}
        root = jax.random.key(seed)
        self.reset_key, self.key, self.now = stream(root, "reset"), stream(root, "env"), 0
        self.jitted = jax.jit(self.vector.step)

    def reset(self, seed):
        self.state, seen = self.vector.reset(self.reset_key)
        return self._host(seen)[0]

    def step(self, action):
        key = jax.random.fold_in(self.key, self.now)
        self.now += 1
        self.state, seen = self.jitted(self.state, action, key)
        return self._host(seen)

    def _host(self, seen):
        seen = jax.tree.map(np.asarray, seen)
        terminated = seen.is_last & ~seen.truncated
        return HostTimeStep(
            seen.observation, seen.reward, terminated, seen.truncated, seen.action_mask
        ), seen.is_first

    def close(self):
        pass


class CountingBatch:
    """Environment i observes (i, its steps over all episodes); episodes have `length` steps.

    A task restarts at the steps in `broken`, a set of (environment, number of the step call).
    """

    def __init__(self, first, num_envs, length=7, broken=(), raises_at=None):
        observation = specs.Array((2,), np.float32, "observation")
        self.spec = EnvSpec("test/Counting", observation, specs.DiscreteArray(2, np.int32))
        self.first, self.num_envs, self.length = first, num_envs, length
        self.broken, self.raises_at = set(broken), raises_at
        self.faults, self.calls = {"raised": 0}, 0
        self.shown, self.time = np.zeros(num_envs), np.zeros(num_envs, int)
        self.over = np.zeros(num_envs, bool)
        self.actions = []

    def _look(self):
        rows = np.stack([self.first + np.arange(self.num_envs), self.shown], axis=1)
        return rows.astype(np.float32)

    def reset(self, seed):
        no = np.zeros(self.num_envs, bool)
        return HostTimeStep(self._look(), np.zeros(self.num_envs), no, no)

    def step(self, action):
        if self.calls == self.raises_at:
            raise RuntimeError("the task is broken for good")
        self.actions.append(np.array(action))
        lost = np.array([(self.first + i, self.calls) in self.broken for i in range(self.num_envs)])
        self.faults["raised"] += int(lost.sum())
        self.calls += 1
        is_first = self.over | lost
        self.shown += 1
        self.time = np.where(is_first, 0, self.time + 1)
        self.over = self.time == self.length
        no = np.zeros(self.num_envs, bool)
        reward = np.where(is_first, 0.0, self.shown)
        return HostTimeStep(self._look(), reward, self.over.copy(), no), is_first

    def close(self):
        pass
