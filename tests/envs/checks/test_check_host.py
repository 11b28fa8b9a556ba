"""`check_env` of host environments: it names planted faults, and finds none elsewhere."""

import numpy as np
import pytest
from dm_env import specs

from bellmax.envs import LoopBatch, check_env
from bellmax.envs.checks.host import check_batch
from helpers.scripted_host import RAISE, USER, HostCounter


def counter(**spec):
    """A HostCounter that is sound for actions 0 to 2, with its spec changed."""
    task = HostCounter(5, truncates=True)
    task.step = lambda action: HostCounter.step(task, action)._replace(
        truncated=task.state[0] >= 5 and action != 2
    )
    actions = specs.DiscreteArray(3, np.int32, "action")
    task.spec = task.spec._replace(action=actions, **spec)
    return task


class Batch:
    """A sound batch of two, whose `on_reset` and `on_step` change what is returned."""

    def __init__(self, on_reset=lambda ts: ts, on_step=lambda ts, is_first: (ts, is_first)):
        self.batch = LoopBatch(counter, 2)
        self.on_reset, self.on_step = on_reset, on_step
        self.spec, self.num_envs, self.faults = self.batch.spec, 2, self.batch.faults

    def reset(self, seed):
        return self.on_reset(self.batch.reset(seed))

    def step(self, action):
        return self.on_step(*self.batch.step(action))


def changed(**fields):
    return lambda ts, *rest: (ts._replace(**{k: f(ts) for k, f in fields.items()}), *rest)


def reset_changed(**fields):
    return lambda ts: changed(**fields)(ts)[0]


class Reused(Batch):
    """Writes every step into one array."""

    def step(self, action):
        ts, is_first = super().step(action)
        self.array = getattr(self, "array", np.empty_like(ts.observation))
        self.array[...] = ts.observation
        return ts._replace(observation=self.array), is_first


class Forgetful(Batch):
    """Uses another seed at each reset."""

    def reset(self, seed):
        self.count = getattr(self, "count", 0) + 1
        return super().reset(seed + self.count)


FAULTS = {
    "reset must return a HostTimeStep, got a tuple.": Batch(on_reset=tuple),
    "reset: the reward must be 0": Batch(on_reset=reset_changed(reward=lambda t: t.reward + 1)),
    "reset: terminated and truncated must both be False.": Batch(
        on_reset=reset_changed(truncated=lambda t: ~t.truncated)
    ),
    "step: observation must be a NumPy array, got a list.": Batch(
        on_step=changed(observation=lambda t: t.observation.tolist())
    ),
    "step: observation must have shape (2, 3) and dtype float32, got (1, 3) and float32.": Batch(
        on_step=changed(observation=lambda t: t.observation[:1])
    ),
    "step: observation must have shape (2, 3) and dtype float32, got (2, 3) and int64": Batch(
        on_step=changed(observation=lambda t: t.observation.astype(np.int64))
    ),
    "step: terminated must have shape (2,) and dtype bool, got (2,) and float64": Batch(
        on_step=changed(terminated=lambda t: t.terminated * 1.0)
    ),
    "step: an observation is not finite at [0].": Batch(
        on_step=changed(observation=lambda t: t.observation * np.float32(np.inf))
    ),
    "step: a reward is not finite.": Batch(on_step=changed(reward=lambda t: t.reward - np.inf)),
    "step: terminated and truncated are both True": Batch(
        on_step=changed(terminated=lambda t: t.terminated | t.truncated)
    ),
    "step: is_first must be a NumPy array": Batch(on_step=lambda ts, is_first: (ts, True)),
    "step: is_first must be True at the step after the end": Batch(
        on_step=lambda ts, is_first: (ts, is_first & False)
    ),
    "step: is_first is True although no episode ended at the step before.": Batch(
        on_step=lambda ts, is_first: (ts, is_first | True)
    ),
    "spec.time_limit is 5, but an episode of 5 steps ended neither": Batch(
        on_step=changed(truncated=lambda t: t.truncated & False)
    ),
    "step writes to arrays that it returned before.": Reused(),
    "reset(seed): the same seed and actions give different steps.": Forgetful(),
}


@pytest.mark.filterwarnings("ignore:invalid value encountered in multiply")
@pytest.mark.parametrize("words", FAULTS)
def test_faults_are_named(words):
    problems = check_batch(FAULTS[words], seed=0)
    assert any(words in problem for problem in problems), problems
    assert len(problems) == len(set(problems)) <= 2


def test_a_sound_batch_has_none():
    assert check_batch(Batch(), seed=0) == []
    assert check_env(counter()) == []
    assert check_env("gymnasium/CartPole-v1") == []


def test_bounds_and_ranges():
    bounded = specs.BoundedArray((3,), np.float32, 0, 3, "observation")
    words = "step: an observation is outside the bounds of spec.observation."
    assert words in check_env(counter(observation=bounded))
    words = "step: a reward is outside spec.reward_range (0.0, 15.0)."
    assert check_env(counter(reward_range=(0.0, 15.0))) == [words]
    assert check_env(counter(time_limit=0)) == ["spec.time_limit must be at least 1, got 0."]


def test_exceptions_of_a_task_are_reported():
    task = counter()
    task.step = lambda action: HostCounter.step(task, USER)
    assert check_env(task) == ["step raises UserError: Fill it up."]
    task = counter()
    sound, steps = task.step, iter(range(10**6))
    task.step = lambda a: HostCounter.step(task, RAISE) if next(steps) == 40 else sound(a)
    (problem,) = check_env(task)
    assert problem.startswith(
        "Tasks were recreated 1 times in 256 steps (raised 1); the last time because "
        "RuntimeError: out of fuel (tests/helpers/scripted_host.py, line "
    )


def test_tasks_that_cannot_be_made_are_reported():
    (problem,) = check_env("gymnasium/CartPole-v9")
    assert problem.startswith(
        "It cannot be made: UserError: unknown task 'CartPole-v9' of gymnasium"
    )
