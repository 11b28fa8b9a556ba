"""Actions stay within bounds of float64 after rounding to float32."""

import dm_env
import gymnasium
import numpy as np
import pytest
from dm_env import specs

from bellmax.envs import LoopBatch, check_env, from_dm_env, from_gymnasium
from bellmax.envs.checks.host import sample_actions
from helpers.scripted_host import HostCounter

NARROW = [
    (np.float64, -0.1, 0.1),
    (np.float64, [-np.inf, 0.7], [0.1, np.inf]),
    (np.float16, -0.1, 0.3),
]


class StrictGym(gymnasium.Env):
    """Refuses actions outside its action space."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,))

    def __init__(self, dtype, low, high):
        shape = np.broadcast_shapes(np.shape(low), (2,))
        bounds = (np.broadcast_to(np.asarray(bound, dtype), shape) for bound in (low, high))
        self.action_space = gymnasium.spaces.Box(*bounds, dtype=dtype)

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        if not self.action_space.contains(action):
            raise ValueError(f"{action!r} is not in {self.action_space}")
        return np.zeros(1, np.float32), 1.0, False, False, {}


class StrictDm(dm_env.Environment):
    """Refuses actions outside its action spec."""

    def __init__(self, dtype, low, high):
        self.spec = specs.BoundedArray((2,), dtype, low, high)

    def action_spec(self):
        return self.spec

    def observation_spec(self):
        return specs.Array((1,), np.float32)

    def reset(self):
        return dm_env.restart(np.zeros(1, np.float32))

    def step(self, action):
        self.spec.validate(action)
        return dm_env.transition(1.0, np.zeros(1, np.float32))


def strict_host(dtype, low, high):
    """A HostEnvironment that refuses actions outside its spec."""
    task = HostCounter(100)
    task.spec = task.spec._replace(action=specs.BoundedArray((2,), dtype, low, high, "action"))

    def step(action):
        task.spec.action.validate(action)
        return HostCounter.step(task, 0)

    task.step = step
    return task


def strict(kind, *bounds):
    if kind == "gymnasium":
        return from_gymnasium(StrictGym(*bounds), "mine")
    if kind == "dm_env":
        return from_dm_env(lambda: StrictDm(*bounds), "mine")
    return strict_host(*bounds)


@pytest.mark.parametrize("kind", ["gymnasium", "dm_env", "host"])
@pytest.mark.parametrize("bounds", NARROW, ids=str)
def test_actions_at_the_bounds_are_inside(kind, bounds):
    batch = LoopBatch(lambda: strict(kind, *bounds), 1)
    batch.reset(0)
    # The largest and the smallest float32 actions that an agent considers inside.
    for bound in bounds[1:]:
        finite = np.nan_to_num(np.asarray(bound), posinf=1e30, neginf=-1e30)
        action = np.broadcast_to(finite.astype(np.float32), (1, 2))
        ts, is_first = batch.step(action)
        assert ts.reward[0] in (0, 1) and not is_first[0]
    assert sum(batch.faults.values()) == 0, batch.last_fault


def test_check_env_samples_at_the_bounds():
    spec = specs.BoundedArray((2,), np.float64, -0.1, [0.1, 0.7])
    actions = np.concatenate([sample_actions(spec, 3, np.random.default_rng(i)) for i in range(60)])
    assert actions.dtype == np.float32
    for column, bounds in zip(actions.T, ((-0.1, 0.1), (-0.1, 0.7)), strict=True):
        assert {np.float32(b) for b in bounds} < set(column)
        assert column.min() == np.float32(bounds[0]) and column.max() == np.float32(bounds[1])
    assert check_env(strict("host", np.float64, -0.1, 0.1)) == []
    refuses = strict_host(np.float32, -1.0, 1.0)
    inner = refuses.step
    refuses.step = lambda action: 1 / 0 if np.any(action == 1) else inner(action)
    (problem,) = check_env(refuses)
    assert "ZeroDivisionError" in problem
