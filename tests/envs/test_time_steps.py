"""Rewards and flags as users return them: of shape [1], None, text, NaN; host and JAX alike."""

import dm_env
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from bellmax import UserError
from bellmax.envs import LoopBatch, from_dm_env, from_gymnasium, vectorise
from helpers.odd_tasks import JaxChanged, gym_with
from helpers.scripted_host import HostCounter

REWARDS = [
    (np.array([2.5]), 2.5),
    ([2.5], 2.5),
    (np.array([[3]], np.int64), 3.0),
    (np.bool_(True), 1.0),
    (jnp.full((1,), 2.5), 2.5),
]
NO_REWARDS = [None, "1.0", [1.0, 2.0], [[1.0], []], {"a": 1.0}, 1j]
NO_FLAGS = [None, "False", 0.0, 1, [True, False]]


def gym_task(reward=1.0, terminated=False, truncated=False):
    shown = np.zeros(2, np.float32), reward, terminated, truncated, {}
    return from_gymnasium(gym_with(step=lambda self, action: shown), "mine")


def host_task(reward=1.0, terminated=False, truncated=False):
    task = HostCounter()
    changed = {"reward": reward, "terminated": terminated, "truncated": truncated}
    task.spec = task.spec._replace(name="mine")
    task.step = lambda action: HostCounter.step(task, 0)._replace(**changed)
    return task


class DmTask(dm_env.Environment):
    def __init__(self, reward):
        self.reward = reward

    def action_spec(self):
        return specs.DiscreteArray(2)

    def observation_spec(self):
        return specs.Array((2,), np.float32)

    def reset(self):
        return dm_env.restart(np.zeros(2, np.float32))

    def step(self, action):
        return dm_env.transition(self.reward, np.zeros(2, np.float32))


def dm_task(reward):
    return from_dm_env(lambda: DmTask(reward), "mine")


def one_step(task):
    batch = LoopBatch(lambda: task, 1)
    batch.reset(0)
    return batch.step(np.zeros(1, np.int32))[0], batch


@pytest.mark.parametrize("make", [gym_task, host_task, dm_task])
def test_rewards_of_one_number_are_taken(make):
    for reward, value in REWARDS:
        assert one_step(make(reward))[0].reward.tolist() == [value]


@pytest.mark.parametrize("make", [gym_task, host_task, dm_task])
def test_other_rewards_are_refused(make):
    for reward in NO_REWARDS:
        with pytest.raises(UserError, match="^the reward of mine must be one number, got "):
            one_step(make(reward))


@pytest.mark.parametrize("field", ["terminated", "truncated"])
@pytest.mark.parametrize("make", [gym_task, host_task])
def test_flags_are_true_or_false(make, field):
    for flag in (np.True_, np.array([True]), np.array(True)):
        assert getattr(one_step(make(**{field: flag}))[0], field).tolist() == [True]
    for flag in NO_FLAGS:
        with pytest.raises(UserError, match=f"^{field} of mine must be True or False, got "):
            one_step(make(**{field: flag}))


@pytest.mark.parametrize(
    ("reward", "observation", "words"),
    [
        (np.nan, [0, 0, 0], "the reward was nan"),
        (-1e39, [0, 0, 0], r"the reward was -1e\+39, which float32 cannot hold"),
        (0.0, [0, np.nan, 0], r"the observation was nan at \[1\]$"),
        (0.0, [0, np.inf, -np.inf], r"the observation was inf at \[1\] and 1 more entries"),
    ],
)
def test_what_is_not_finite_is_named(reward, observation, words):
    task = host_task(reward)
    inner = task.step
    task.step = lambda action: inner(action)._replace(observation=np.array(observation))
    batch = LoopBatch(lambda: task, 1)
    batch.reset(0)
    with pytest.raises(UserError, match=words):
        for _ in range(30):
            batch.step(np.zeros(1, np.int32))


def jax_step(**leaves):
    env = vectorise(JaxChanged(**leaves), 2)
    state, _ = jax.eval_shape(env.reset, KEY)
    return jax.eval_shape(env.step, state, jnp.zeros(2, int), KEY)[1]


KEY = jax.random.key(0)


@pytest.mark.parametrize(
    "leaves",
    [
        {"reward": lambda reward: reward[None]},
        {"reward": lambda reward: reward.astype(jnp.bfloat16)[None, None]},
        {"reward": 1, "terminated": np.array([True]), "truncated": False},
    ],
)
def test_jax_tasks_may_return_leaves_of_one_entry(leaves):
    ts = jax_step(**leaves)
    for leaf in (ts.reward, ts.discount, ts.is_last, ts.episode_return):
        assert leaf.shape == (2,)


@pytest.mark.parametrize(
    ("leaves", "words"),
    [
        ({"reward": None}, "step of test/Counter: the reward must be one number, got None"),
        ({"reward": "1"}, "step of test/Counter: the reward must be one number, got '1'"),
        ({"reward": np.zeros(2)}, r"the reward must be one number, got shape \(2,\)"),
        ({"terminated": None}, "terminated must be one bool, got None"),
        ({"terminated": "False"}, "terminated must be one bool, got 'False'"),
        ({"truncated": 0.0}, r"truncated must be one bool, got shape \(\) and dtype float32"),
        ({"observation": np.zeros(3)}, r"of the spec's shape \(2,\), got \(3,\)"),
        ({"observation": None}, r"of the spec's shape \(2,\), got NoneType"),
    ],
)
def test_jax_tasks_with_other_leaves_are_refused(leaves, words):
    with pytest.raises(UserError, match=words):
        jax_step(**leaves)
