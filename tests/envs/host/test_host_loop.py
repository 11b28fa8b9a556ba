"""Tasks in a loop: seeds, faults, and messages about mistakes."""

import numpy as np
import pytest
from dm_env import specs

from bellmax import UserError
from bellmax.envs import LoopBatch
from bellmax.envs.host.loop import MAX_FAULTS, task_seed
from helpers.scripted_host import NOT_FINITE, OVERFLOW, RAISE, REWARD, SHAPE, USER, HostCounter

NONE = {"raised": 0, "timed out": 0, "not finite": 0}


class Made:
    """A factory that records the tasks it made."""

    def __init__(self, *args, **kwargs):
        self.args, self.kwargs, self.tasks = args, kwargs, []

    def __call__(self):
        self.tasks.append(HostCounter(*self.args, **self.kwargs))
        return self.tasks[-1]


def numbers(seed, index, count, restarts=0):
    """What HostCounter draws at the first `count` resets of task `index`."""
    return np.random.default_rng(task_seed(seed, index, restarts)).integers(1_000_000, size=count)


def act(*actions):
    return np.array(actions, np.int32)


def test_seeds_differ_between_tasks_and_repeat():
    batch, other = (LoopBatch(lambda: HostCounter(1), 4) for _ in range(2))
    streams = {}
    for which, seed in ((batch, 5), (other, 5), (batch, 6), (batch, 5)):
        shown = [which.reset(seed), *(which.step(act(0, 0, 0, 0))[0] for _ in range(4))]
        streams.setdefault(seed, []).append(np.stack([ts.observation[:, 2] for ts in shown]))
    np.testing.assert_array_equal(streams[5][0], streams[5][1])
    np.testing.assert_array_equal(streams[5][0], streams[5][2])
    # Episodes of one step: a reset, an end, a reset, ...
    wanted = np.stack([numbers(5, i, 3) for i in range(4)], axis=1)
    np.testing.assert_array_equal(streams[5][0][0::2], wanted)
    drawn = {tuple(row) for row in [*streams[5][0].T, *streams[6][0].T]}
    assert len(drawn) == 8
    seeds = {task_seed(s, i, r) for s in range(5) for i in range(20) for r in range(5)}
    assert len(seeds) == 500 and min(seeds) >= 0 and max(seeds) < 2**31


def test_only_the_first_reset_is_seeded():
    factory = Made(ends_at=1)
    batch = LoopBatch(factory, 1)
    batch.reset(3)
    for _ in range(4):
        batch.step(act(0))
    assert factory.tasks[0].seeds == [task_seed(3, 0), None, None]


@pytest.mark.parametrize(
    ("action", "reason", "words"),
    [
        (RAISE, "raised", "RuntimeError: out of fuel"),
        (NOT_FINITE, "not finite", "the observation was nan at [0] and 2 more entries"),
        (OVERFLOW, "not finite", "the observation was inf at [0] and 2 more entries"),
        (REWARD, "not finite", "the reward was -inf, which float32 cannot hold"),
    ],
)
def test_a_fault_restarts_one_task(action, reason, words):
    factory = Made(ends_at=4)
    batch = LoopBatch(factory, 2)
    batch.reset(7)
    batch.step(act(1, 1))
    ts, is_first = batch.step(act(1, action))
    np.testing.assert_array_equal(is_first, [False, True])
    first, fresh = numbers(7, 0, 1)[0], numbers(7, 1, 1, restarts=1)[0]
    np.testing.assert_array_equal(ts.observation, [[2, 2, first], [0, 0, fresh]])
    np.testing.assert_array_equal(ts.reward, [10, 0])
    np.testing.assert_array_equal([ts.terminated, ts.truncated], np.zeros((2, 2)))
    assert batch.faults == {**NONE, reason: 1} and batch.last_fault.startswith(words)
    assert len(factory.tasks) == 3 and [t.closed for t in factory.tasks] == [0, 1, 0]
    # The others' episodes continue, and the new one lasts its full length.
    ends = [batch.step(act(1, 1))[0].terminated for _ in range(4)]
    np.testing.assert_array_equal(ends, [[0, 0], [1, 0], [0, 0], [0, 1]])
    assert sum(batch.faults.values()) == 1


def test_a_task_that_fails_at_a_reset_is_recreated():
    batch = LoopBatch(Made(ends_at=1, bad_resets=1), 1)
    batch.reset(0)
    batch.step(act(0))
    ts, is_first = batch.step(act(0))  # the reset raises; that of the recreated task does not
    np.testing.assert_array_equal(ts.observation[0], [0, 0, numbers(0, 0, 1, restarts=1)[0]])
    assert is_first[0] and batch.faults == {**NONE, "raised": 1}
    assert batch.last_fault.startswith("OSError: no way back (tests/helpers/scripted_host.py")


def test_ten_faults_in_a_row_are_too_many():
    batch = LoopBatch(HostCounter, 2)
    batch.reset(0)
    for _ in range(MAX_FAULTS - 1):
        batch.step(act(0, RAISE))
    batch.step(act(0, 0))  # a valid step resets the count
    for _ in range(MAX_FAULTS - 1):
        batch.step(act(2, RAISE))
    assert batch.faults["raised"] == 2 * MAX_FAULTS - 2
    with pytest.raises(UserError) as error:
        batch.step(act(0, RAISE))
    assert "Task 1 of test/HostCounter" in str(error.value)
    assert "failed 10 times in a row, the last time because RuntimeError: out" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_factory_that_fails_counts_too():
    made = Made()

    def broken():
        if len(made.tasks) >= 2:
            raise MemoryError("no room")
        return made()

    batch = LoopBatch(broken, 2)
    batch.reset(0)
    with pytest.raises(UserError, match="Task 0 .* 10 times .* because MemoryError: no room"):
        batch.step(act(RAISE, 0))
    assert batch.faults == {**NONE, "raised": MAX_FAULTS}


def test_mistakes_of_the_user_are_no_faults():
    batch = LoopBatch(HostCounter, 2)
    batch.reset(0)
    with pytest.raises(UserError, match=r"^Fill it up.$"):
        batch.step(act(0, USER))
    with pytest.raises(UserError, match=r"must have shape \(2,\), got \(3,\)"):
        batch.step(act(0, 0, 0))
    with pytest.raises(
        UserError, match=r"task 1 .* shape \(3,\) and dtype .*, got \(2,\) and float64"
    ):
        batch.step(act(0, SHAPE))
    assert batch.faults == NONE


def test_an_observation_of_another_kind_is_a_mistake():
    def make_one():
        task = HostCounter()
        task.spec = task.spec._replace(observation=specs.Array((3,), np.uint8))
        return task

    with pytest.raises(UserError, match="dtype uint8, got .* and float64"):
        LoopBatch(make_one, 1).reset(0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_envs": 0}, "num_envs must be at least 1, got 0"),
        ({"num_envs": 1, "time_limit": 0}, "time_limit must be at least 1 environment step, got 0"),
        ({"num_envs": 1, "timeout": 0.0}, "timeout must be above 0 seconds, got 0.0"),
    ],
)
def test_arguments_out_of_range(arguments, words):
    with pytest.raises(UserError, match=words):
        LoopBatch(HostCounter, **arguments)


def test_the_shorter_time_limit_counts():
    assert LoopBatch(lambda: HostCounter(5, truncates=True), 1, time_limit=9).spec.time_limit == 5
    assert LoopBatch(lambda: HostCounter(5, truncates=True), 1, time_limit=3).spec.time_limit == 3
    assert LoopBatch(HostCounter, 1).spec.time_limit is None


def test_what_was_returned_is_never_written_again():
    batch = LoopBatch(lambda: HostCounter(3), 2)
    shown = [(batch.reset(0), None)]
    copies = [[np.copy(leaf) for leaf in shown[0][0]]]
    for _ in range(8):
        shown.append(batch.step(act(1, 0)))
        copies.append([np.copy(leaf) for leaf in (*shown[-1][0], shown[-1][1])])
    for (ts, is_first), copy in zip(shown, copies, strict=True):
        leaves = ts if is_first is None else (*ts, is_first)
        for leaf, before in zip(leaves, copy, strict=True):
            np.testing.assert_array_equal(leaf, before)


def test_render_and_close():
    factory = Made()
    batch = LoopBatch(factory, 2)
    assert batch.render().shape == (2, 2, 3)
    batch.close()  # each raises, all are closed
    assert [task.closed for task in factory.tasks] == [1, 1]


def test_a_factory_that_fails_closes_what_it_made():
    factory = Made()

    def third_fails():
        if len(factory.tasks) == 2:
            raise OSError("no third")
        return factory()

    with pytest.raises(OSError, match="no third"):
        LoopBatch(third_fails, 3)
    assert [task.closed for task in factory.tasks] == [1, 1]


@pytest.mark.parametrize("time_limit", [None, 2])
def test_a_late_termination_is_only_a_termination(time_limit):
    batch = LoopBatch(lambda: HostCounter(2, truncates=True), 2, time_limit=time_limit)
    batch.reset(0)
    batch.step(act(0, 0))
    ts, _ = batch.step(act(2, 1))  # the first task says both
    np.testing.assert_array_equal(ts.terminated, [True, False])
    np.testing.assert_array_equal(ts.truncated, [False, True])


def test_what_a_reset_pays_is_not_seen():
    def make_one():
        task = HostCounter(1)
        task.reset = lambda seed: HostCounter.reset(task, seed)._replace(reward=5.0)
        return task

    batch = LoopBatch(make_one, 1)
    batch.reset(0)
    np.testing.assert_array_equal(batch.step(act(1))[0].reward, [10])
    np.testing.assert_array_equal(batch.step(act(1))[0].reward, [0])


def test_tasks_may_write_to_their_actions():
    def make_one():
        task = HostCounter()
        task.spec = task.spec._replace(action=specs.Array((1,), np.float32, "action"))

        def step(action):
            action *= 3
            return HostCounter.step(task, action[0])

        task.step = step
        return task

    batch = LoopBatch(make_one, 1)
    batch.reset(0)
    actions = np.full((1, 1), 0.5, np.float32)
    actions.flags.writeable = False
    np.testing.assert_array_equal(batch.step(actions)[0].reward, [15])
    assert actions[0, 0] == 0.5 and batch.faults == NONE


class Rewarded(HostCounter):
    """Rewards every step with `reward`."""

    reward = 0.0

    def step(self, action):
        return super().step(action)._replace(reward=self.reward)


@pytest.mark.parametrize("reward", [np.nan, np.inf, 1e39, np.array([-np.inf])])
def test_a_reward_that_no_float32_holds_is_a_fault(reward):
    tasks = [Rewarded(ends_at=9), Rewarded(ends_at=9)]  # the second replaces the first
    batch = LoopBatch(iter(tasks).__next__, 1)
    batch.reset(0)
    tasks[0].reward = reward
    ts, is_first = batch.step(act(1))
    assert is_first[0] and ts.reward[0] == 0 and batch.faults == {**NONE, "not finite": 1}


@pytest.mark.parametrize("reward", [3, 3.0, np.float64(3), np.array([3.0]), np.array(3, np.int64)])
def test_rewards_may_be_any_number(reward):
    tasks = [Rewarded(ends_at=9), Rewarded(ends_at=9)]
    batch = LoopBatch(iter(tasks).__next__, 2)
    batch.reset(0)
    tasks[1].reward = reward
    ts, _ = batch.step(act(1, 1))
    np.testing.assert_array_equal(ts.reward, np.array([0, 3], np.float32), strict=True)
