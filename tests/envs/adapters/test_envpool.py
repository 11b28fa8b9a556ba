"""envpool's tasks through the adapter, compared with envpool's own and with Gymnasium's."""

import sys

import gymnasium
import numpy as np
import pytest

from bellmax import UserError
from bellmax.envs.host import HostVector
from bellmax.envs.host.loop import task_seed
from bellmax.envs.options import install_command

envpool = pytest.importorskip("envpool")
from bellmax.envs.adapters.envpool import _find_conversion, list_tasks, make_batch  # noqa: E402


def theirs(task, num_envs, seed, **options):
    """envpool's own tasks with the seeds that a batch gives them."""
    seeds = [task_seed(seed, i) for i in range(num_envs)]
    return envpool.make(task, env_type="gymnasium", num_envs=num_envs, seed=seeds, **options)


def play(batch, actions, seed=0):
    """The streams of actions [T, N, ...]; resets come first."""
    first = batch.reset(seed)
    seen = [(first, np.ones(batch.num_envs, bool)), *map(batch.step, actions)]
    leaves = zip(*(ts for ts, _ in seen), strict=True)
    return type(first)(*map(np.stack, leaves)), np.stack([is_first for _, is_first in seen])


def test_cartpole_equals_gymnasium():
    actions = np.random.default_rng(0).integers(0, 2, (200, 3))
    batch = make_batch("CartPole-v1", 3)
    assert batch.spec.name == "envpool/CartPole-v1" and batch.spec.time_limit == 500
    assert batch.spec.action.num_values == 2 and batch.spec.observation.shape == (4,)
    ts, is_first = play(batch, actions)
    assert ts.observation.dtype == ts.reward.dtype == np.float32 and not ts.truncated.any()
    env = gymnasium.make("CartPole-v1").unwrapped
    env.reset(seed=0)
    for t, i in np.ndindex(actions.shape):
        if is_first[t + 1, i]:
            assert ts.terminated[t, i] and ts.reward[t + 1, i] == 0
            assert np.all(np.abs(ts.observation[t + 1, i]) <= 0.05)
            continue
        env.state, env.steps_beyond_terminated = ts.observation[t, i].astype(float), None
        wanted, reward, terminated, _, _ = env.step(int(actions[t, i]))
        np.testing.assert_allclose(ts.observation[t + 1, i], wanted, atol=1e-5)
        assert (ts.reward[t + 1, i], ts.terminated[t + 1, i]) == (reward, terminated)
    assert np.all(ts.terminated.sum(0) > 3)


def test_termination_wins_over_the_time_limit():
    """envpool itself calls a fall at the limit a truncation."""
    left = np.zeros((40, 2), int)
    whole, _ = play(make_batch("CartPole-v1", 2), left)
    falls = np.argmax(whole.terminated, axis=0)
    for limit, terminated in [(falls[0], True), (falls[0] - 1, False)]:
        for options in ({"time_limit": limit}, {"max_episode_steps": int(limit)}):
            batch = make_batch("CartPole-v1", 2, **options)
            assert batch.spec.time_limit == limit
            ts, is_first = play(batch, left)
            assert ts.terminated[limit, 0] == terminated != ts.truncated[limit, 0]
            np.testing.assert_array_equal(
                ts.observation[: limit + 1, 0], whole.observation[: limit + 1, 0]
            )
            over = ts.terminated | ts.truncated
            np.testing.assert_array_equal(is_first[1:], over[:-1])
            assert not np.any(over & is_first) and np.all(ts.reward[is_first] == 0)
            opened = ts.observation[is_first]
            assert np.all(np.abs(opened) <= 0.05) and len(np.unique(opened[:, 0])) == len(opened)


def test_seeds_repeat_whatever_the_threads():
    actions = np.random.default_rng(1).integers(0, 2, (50, 2))
    batch = make_batch("CartPole-v1", 2, num_threads=1)
    once, _ = play(batch, actions, seed=3)
    again, _ = play(batch, actions, seed=3)
    threads, _ = play(make_batch("CartPole-v1", 2, num_threads=2), actions, seed=3)
    other, _ = play(batch, actions, seed=4)
    for wanted, same, also in zip(once, again, threads, strict=True):
        np.testing.assert_array_equal(wanted, same)
        np.testing.assert_array_equal(wanted, also)
    assert np.all(once.observation[0, 0] != once.observation[0, 1])
    assert np.all(once.observation[0] != other.observation[0])


def test_robots_come_as_float32():
    actions = np.random.default_rng(2).uniform(-1, 1, (9, 2, 6)).astype(np.float32)
    batch, own = make_batch("HalfCheetah-v5", 2, time_limit=9), theirs("HalfCheetah-v5", 2, 5)
    assert batch.spec.action.dtype == batch.spec.observation.dtype == np.float32
    np.testing.assert_array_equal(batch.spec.action.maximum, np.ones(6))
    ts, _ = play(batch, actions, seed=5)
    seen = [own.reset()[0], *(own.step(action)[0] for action in actions)]
    assert seen[0].dtype == np.float64 and ts.observation.dtype == np.float32
    np.testing.assert_array_equal(ts.observation, np.stack(seen).astype(np.float32))
    assert ts.truncated[9].all() and not ts.terminated.any()


def test_images_have_their_channels_last():
    """Frames that HostVector stacks are those that envpool does."""
    actions = np.random.default_rng(3).integers(0, 6, (20, 2))
    batch, own = make_batch("Pong-v5", 2), theirs("Pong-v5", 2, 1)
    assert batch.spec.observation.shape == (84, 84, 1)
    ts, _ = play(batch, actions, seed=1)
    stacks = np.stack([own.reset()[0], *(own.step(action)[0] for action in actions)])
    assert stacks.shape == (21, 2, 4, 84, 84) and ts.observation.dtype == np.uint8
    np.testing.assert_array_equal(ts.observation[..., 0], stacks[:, :, -1])
    vector = HostVector(batch, frame_stack=4)
    stream = [vector.reset(1), *map(vector.step, actions)]
    for seen, wanted in zip(stream[4:], stacks[4:], strict=True):
        np.testing.assert_array_equal(seen.observation, np.moveaxis(wanted, 1, -1))
    wide = make_batch("Pong-v5", 2, stack_num=3)
    np.testing.assert_array_equal(wide.reset(1).observation, np.moveaxis(stacks[0, :, 1:], 1, -1))


def test_numbers_come_one_hot():
    actions = np.random.default_rng(4).integers(0, 4, (30, 2))
    batch, own = make_batch("FrozenLake-v1", 2), theirs("FrozenLake-v1", 2, 0)
    ts, _ = play(batch, actions)
    cells = np.stack([own.reset()[0], *(own.step(action)[0] for action in actions)])
    assert ts.observation.shape == (31, 2, 16) and len(np.unique(cells)) > 4
    np.testing.assert_array_equal(ts.observation.argmax(-1), cells)
    np.testing.assert_array_equal(ts.observation.sum(-1), 1)


def test_parts_are_joined_in_the_order_of_their_names():
    batch, own = make_batch("CheetahRun-v1", 2), theirs("CheetahRun-v1", 2, 0)
    parts, _ = own.reset()
    assert sorted(parts) == ["position", "velocity"]
    wanted = np.concatenate([parts["position"], parts["velocity"]], axis=1).astype(np.float32)
    np.testing.assert_array_equal(batch.reset(0).observation, wanted)
    assert batch.spec.observation.shape == (17,) and batch.spec.time_limit == 1000


def test_what_an_agent_must_not_see_is_left_out():
    """As in MuJoCo Playground, whose robots take long to load."""
    part = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    space = gymnasium.spaces.Dict({"state": part, "privileged_state": part, "command": part})
    seen = _find_conversion(space, "Walker")
    values = {name: np.arange(4.0).reshape(2, 2) + 10 * i for i, name in enumerate(space)}
    np.testing.assert_array_equal(values["state"], [[20, 21], [22, 23]])
    assert seen.spec.shape == (4,) and seen.convert(values).dtype == np.float32
    np.testing.assert_array_equal(seen.convert(values), [[0, 1, 20, 21], [2, 3, 22, 23]])


def test_the_stream():
    actions = np.random.default_rng(5).integers(0, 2, (120, 2))
    vector = HostVector(make_batch("CartPole-v1", 2, time_limit=20), frame_stack=2)
    kept = [vector.reset(0), *map(vector.step, actions[:60])]
    copies = [[np.copy(leaf) for leaf in ts] for ts in kept]
    stream = [*kept, *map(vector.step, actions[60:])]
    for ts, copy in zip(kept, copies, strict=True):
        for leaf, wanted in zip(ts, copy, strict=True):
            np.testing.assert_array_equal(leaf, wanted)  # nothing was written again
    length = np.zeros(2)
    for before, ts in zip(stream, stream[1:], strict=False):
        np.testing.assert_array_equal(ts.is_first, before.is_last)
        length = np.where(ts.is_first, 0, length + 1)
        np.testing.assert_array_equal(ts.episode_length, length)
        np.testing.assert_array_equal(ts.episode_return, length)  # each step pays 1
        np.testing.assert_array_equal(ts.truncated, ts.is_last & (ts.discount == 1))
        np.testing.assert_array_equal(
            ts.observation[ts.is_first, :4], ts.observation[ts.is_first, 4:]
        )
        going = ~ts.is_first
        np.testing.assert_array_equal(ts.observation[going, :4], before.observation[going, 4:])
    lasts = [(ts.truncated[0], ts.episode_length[0] == 20) for ts in stream if ts.is_last[0]]
    assert (True, True) in lasts and (False, False) in lasts and (True, False) not in lasts


def test_pictures():
    batch = make_batch("CartPole-v1", 2, render=True)
    batch.reset(0)
    before = batch.render()
    assert before.shape == (400, 600, 3) and before.dtype == np.uint8 and before.std() > 1
    for _ in range(5):
        batch.step(np.array([1, 0]))
    assert np.any(batch.render() != before)
    blind = make_batch("CartPole-v1", 1)
    blind.reset(0)
    with pytest.raises(UserError, match="made with render=True"):
        blind.render()
    frozen = make_batch("FrozenLake-v1", 1, render=True)
    frozen.reset(0)
    with pytest.raises(UserError, match="envpool/FrozenLake-v1 cannot draw pictures"):
        frozen.render()
    with pytest.raises(UserError, match="use gymnasium/HalfCheetah-v5 if it exists"):
        make_batch("HalfCheetah-v5", 1, render=True)


@pytest.mark.parametrize(
    ("task", "options", "words"),
    [
        ("CartPol-v1", {}, "unknown task 'CartPol-v1' of envpool; did you mean CartPole-v1"),
        ("Pong-v5", {"noop": 3}, "unknown option 'noop' of envpool/Pong-v5; did you mean noop_max"),
        ("Pong-v5", {"seed": 3}, "unknown option 'seed' of envpool/Pong-v5"),
        ("Pong-v5", {"noop_max": 3.5}, "noop_max must be a whole number, got 3.5"),
        ("Pong-v5", {"episodic_life": 1}, "episodic_life must be true or false, got 1"),
        ("Pong-v5", {"max_episode_steps": 0}, "must be from 1 to 1073741824, got 0"),
        ("CartPole-v1", {"num_threads": -3}, "num_threads must be from 0 to 1024, got -3"),
        (
            "CartPole-v1",
            {"thread_affinity_offset": 2**40},
            "v1 cannot be made with thread_affinity",
        ),
        ("Pong-v5", {"img_height": 0}, "img_height must be from 1 to 4096, got 0"),
        ("Pong-v5", {"stack_num": 0}, "stack_num must be from 1 to 1024, got 0"),
        ("Pong-v5", {"noop_max": 0}, "noop_max must be from 1 to 1073741824, got 0"),
        ("Pong-v5", {"mode": 1000}, "cannot be made with mode 1000: RuntimeError: Invalid game"),
        ("FrozenLake-v1", {"size": 0}, "cannot be made with size 0: "),
        ("Go9x9-v1", {}, "envpool/Go9x9-v1 must be a single-player task, got 2 players"),
        ("Snake-v1", {}, "floats to be joined, got action_mask, grid, step_count"),
        ("Pong-v5", {"timeout": 1.0}, "timeout must be None for envpool/Pong-v5, got 1.0"),
        ("Pong-v5", {"time_limit": 0}, "time_limit must be at least 1 environment step, got 0"),
    ],
)
def test_mistakes_are_explained(task, options, words):
    with pytest.raises(UserError) as error:
        make_batch(task, 1, **options).reset(0)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_wrong_actions_are_explained():
    batch = make_batch("CartPole-v1", 2)
    batch.reset(0)
    with pytest.raises(UserError, match="must be from 0 to 1, got 2"):
        batch.step(np.array([0, 2]))


def test_tasks_are_listed():
    assert {"CartPole-v1", "HalfCheetah-v5", "Pong-v5"} <= set(list_tasks())


def test_missing_envpool_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(UserError) as error:
        make_batch("CartPole-v1", 1)
    assert str(error.value) == f"envpool is not installed: {install_command('envpool')}"
