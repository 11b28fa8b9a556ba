"""The common part of thread pools, tested with a scripted pool."""

import numpy as np
import pytest
from dm_env import specs

from bellmax import UserError
from bellmax.envs import EnvSpec
from bellmax.envs.host import PoolBatch
from bellmax.envs.host.pool import check_pool

SPEC = EnvSpec("Script", specs.Array((), np.float32), specs.DiscreteArray(9), time_limit=100)


class Counting:
    """Each task shows 100 times its episode plus its step, ends after `lengths` and resets itself.

    `odd` changes what a step returns, by (episode, step).
    """

    def __init__(self, lengths, odd=None):
        self.lengths, self.odd, self.actions = np.array(lengths), odd or {}, []

    def reset(self, seeds):
        self.seeds = seeds
        self.episode, self.time = np.zeros((2, len(seeds)), int)
        self.over = np.zeros(len(seeds), bool)
        return self.show()

    def show(self):
        return (100 * self.episode + self.time).astype(np.float32)

    def step(self, actions):
        self.actions.append(actions)
        opened = self.over
        self.episode = self.episode + opened
        self.time = np.where(opened, 0, self.time + 1)
        self.over = self.time >= self.lengths
        observation, reward = self.show(), np.where(opened, 0.0, actions + 1.0)
        terminated = self.over.copy()
        for i, now in enumerate(zip(self.episode, self.time, strict=True)):
            change = self.odd.get(now, {})
            observation[i] = change.get("observation", observation[i])
            reward[i] = change.get("reward", reward[i])
            terminated[i] = change.get("terminated", terminated[i])
        return observation, reward, terminated, np.zeros(len(actions), bool)

    def restart(self, mask):
        self.episode, self.time = self.episode + mask, np.where(mask, 0, self.time)
        self.over = self.over & ~mask
        return np.where(mask, self.show(), np.nan)

    def close(self):
        self.over = None


def run(batch, steps, action=4):
    batch.reset(0)
    seen = [batch.step(np.full(batch.num_envs, action)) for _ in range(steps)]
    rows = [(*ts[:4], is_first) for ts, is_first in seen]
    return [np.stack(column, axis=1) for column in zip(*rows, strict=True)]


def test_the_streams_of_a_pool_that_ends_and_of_one_that_is_cut():
    pool = Counting([2, 9, 3])
    batch = PoolBatch(pool, SPEC, 3, time_limit=3)
    assert batch.spec.time_limit == 3
    observation, reward, terminated, truncated, is_first = run(batch, 7)
    np.testing.assert_array_equal(observation[0], [1, 2, 100, 101, 102, 200, 201])
    np.testing.assert_array_equal(observation[1], [1, 2, 3, 100, 101, 102, 103])
    np.testing.assert_array_equal(observation[2], observation[1])
    np.testing.assert_array_equal(terminated[0], [0, 1, 0, 0, 1, 0, 0])
    np.testing.assert_array_equal(terminated[1], np.zeros(7))
    np.testing.assert_array_equal(terminated[2], [0, 0, 1, 0, 0, 0, 1])
    np.testing.assert_array_equal(truncated, [np.zeros(7), [0, 0, 1, 0, 0, 0, 1], np.zeros(7)])
    firsts = [[0, 0, 1, 0, 0, 1, 0], [0, 0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0]]
    np.testing.assert_array_equal(is_first, firsts)
    np.testing.assert_array_equal(reward, np.where(is_first, 0, 5))
    np.testing.assert_array_equal(np.stack(pool.actions, axis=1), np.where(is_first, 0, 4))
    assert reward.dtype == np.float32 and batch.faults["not finite"] == 0


def test_a_limit_of_the_spec_is_kept_too():
    _, _, _, truncated, _ = run(PoolBatch(Counting([9]), SPEC._replace(time_limit=2), 1), 6)
    np.testing.assert_array_equal(truncated[0], [0, 1, 0, 0, 1, 0])
    _, _, _, truncated, _ = run(PoolBatch(Counting([9]), SPEC._replace(time_limit=None), 1), 6)
    assert not truncated.any()


@pytest.mark.parametrize("odd", [{"reward": np.nan}, {"observation": np.inf}])
def test_what_is_not_finite_is_restarted(odd):
    pool = Counting([9, 9], {(0, 2): odd})
    batch = PoolBatch(pool, SPEC, 2, time_limit=3)
    batch.reset(0)
    pool.episode[1] = 50
    observation, truncated, is_first = [], [], []
    for _ in range(5):
        ts, first = batch.step(np.array([1, 1]))
        observation.append(ts.observation[0])
        is_first.append(first[0])
        truncated.append(ts.truncated)
        assert np.isfinite(ts.reward).all() and not ts.terminated.any()
        assert ts.reward[0] == (0 if first[0] else 2)
    assert observation == [1, 100, 101, 102, 103] and is_first == [0, 1, 0, 0, 0]
    assert [list(pair) for pair in truncated] == [[0, 0], [0, 0], [0, 1], [0, 0], [1, 0]]
    assert batch.faults == {"raised": 0, "timed out": 0, "not finite": 1}


def test_ten_faults_in_a_row_of_one_task_are_too_many():
    nan = {"observation": np.nan}
    always = {(episode, 1): nan for episode in range(1000)}
    pool = Counting([9, 9], always)
    batch = PoolBatch(pool, SPEC, 2)
    batch.reset(0)
    pool.episode[0] = 2000  # whose observation is not finite
    with pytest.raises(
        UserError, match=r"^Task 1 of .* failed 10 times in a row, .* observation was nan$"
    ):
        for _ in range(11):
            batch.step(np.array([1, 1]))
    assert batch.faults["not finite"] == 10
    # The run continues after a valid step, or if the fault ends the episode.
    for now, lengths in [(2, [9]), (1, [1])]:
        odd = {(episode, now): nan for episode in range(0, 1000, 2 if now == 1 else 1)}
        batch = PoolBatch(Counting(lengths, odd), SPEC, 1)
        run(batch, 60)
        assert batch.faults["not finite"] > 12


def test_what_opens_not_finite_is_explained():
    pool = Counting([9], {(0, 1): {"reward": np.nan}})
    pool.restart = lambda mask: np.array([np.nan], np.float32)
    with pytest.raises(UserError, match="Script starts an episode with a non-finite"):
        run(PoolBatch(pool, SPEC, 1), 1)


def test_a_game_that_ends_at_a_first_step_is_opened_again():
    """Some games lose their last life during the no-ops after a reset."""
    batch = PoolBatch(Counting([2], {(1, 0): {"terminated": True}}), SPEC, 1)
    observation, _, terminated, _, is_first = run(batch, 5)
    np.testing.assert_array_equal(observation[0], [1, 2, 200, 201, 202])
    np.testing.assert_array_equal(terminated[0], [0, 1, 0, 0, 1])
    np.testing.assert_array_equal(is_first[0], [0, 0, 1, 0, 0])


def test_seeds_differ_by_task_and_seed():
    pool = Counting([9] * 4)
    batch, seeds = PoolBatch(pool, SPEC, 4), []
    for seed in (0, 1, 0):
        batch.reset(seed)
        seeds.append(pool.seeds.tolist())
    assert seeds[0] == seeds[2] and len({*seeds[0], *seeds[1]}) == 8
    assert all(0 <= number < 2**31 for number in seeds[0])


def test_a_reset_forgets():
    batch = PoolBatch(Counting([9]), SPEC, 1, time_limit=2)
    run(batch, 2)
    observation, _, _, truncated, is_first = run(batch, 2)
    np.testing.assert_array_equal(observation[0], [1, 2])
    assert truncated[0].tolist() == [False, True] and not is_first.any()


def test_arguments_are_checked():
    for arguments, words in [((0, None, None), "num_envs"), ((1, 0, None), "time_limit")]:
        with pytest.raises(UserError, match=f"{words} must be at least 1"):
            check_pool("Script", *arguments)
    with pytest.raises(UserError, match="timeout must be None for Script"):
        check_pool("Script", 1, None, 2.0)
