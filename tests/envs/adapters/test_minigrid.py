"""MiniGrid's tasks through the adapter, compared with MiniGrid's own."""

import sys

import gymnasium
import numpy as np
import pytest

from bellmax import UserError
from bellmax.envs.host import HostVector
from bellmax.envs.host.loop import task_seed
from bellmax.envs.options import install_command

minigrid = pytest.importorskip("minigrid")
from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX, STATE_TO_IDX  # noqa: E402

from bellmax.envs import make_batch as make_any  # noqa: E402
from bellmax.envs.adapters.minigrid import list_tasks, make  # noqa: E402

LEFT, RIGHT, FORWARD, PICK_UP, DROP, TOGGLE = range(6)
TO_THE_GOAL = [FORWARD, FORWARD, RIGHT, FORWARD, FORWARD]  # of Empty-5x5
OBJECTS, COLOURS = slice(0, 11), slice(11, 17)


def make_batch(task, num_envs, **options):
    return make_any(f"minigrid/{task}", num_envs, **options)


def play(env, actions, seed=0):
    return [env.reset(seed), *(env.step(np.int32(action)) for action in actions)]


@pytest.mark.parametrize("task", list_tasks())
def test_every_task_is_as_its_spec_says(task):
    env = make(task)
    spec = env.spec
    seen = play(env, np.arange(12) % spec.action.num_values)
    for ts in seen:
        assert ts.observation.shape == spec.observation.shape == (7, 7, 20)
        assert ts.observation.dtype == spec.observation.dtype == bool
        np.testing.assert_array_equal(ts.observation.sum(-1), 3)
    assert spec.action.num_values == (3 if "Obstacles" in task else 7)
    assert spec.reward_range == ((-1, 1) if "Obstacles" in task else (0, 1))
    assert spec.name == f"minigrid/{task}" and spec.time_limit == env.env.max_steps


def test_the_numbers_are_minigrids():
    assert max(OBJECT_TO_IDX.values()) == 10 and max(COLOR_TO_IDX.values()) == 5
    assert max(STATE_TO_IDX.values()) == 2
    limits = {task: make(task).spec.time_limit for task in ("DoorKey-16x16", "FourRooms")}
    assert limits == {"DoorKey-16x16": 10 * 16 * 16, "FourRooms": 100}


@pytest.mark.parametrize("task", ["DoorKey-8x8", "Dynamic-Obstacles-8x8", "LavaGapS5"])
def test_random_play_equals_minigrids_own(task):
    theirs = gymnasium.make(f"MiniGrid-{task}-v0", max_steps=60)
    one_hot, ids = make(task, max_steps=60), make(task, max_steps=60, encoding="ids")
    rng, ends = np.random.default_rng(0), set()
    for seed in range(8):
        wanted, over = theirs.reset(seed=seed)[0], False
        ours, plain = one_hot.reset(seed), ids.reset(seed)
        assert (ours.reward, ours.terminated, ours.truncated) == (0, False, False)
        while not over:
            image = wanted["image"]
            np.testing.assert_array_equal(plain.observation, image)
            assert plain.observation.dtype == np.uint8
            np.testing.assert_array_equal(ours.observation[..., OBJECTS].argmax(-1), image[..., 0])
            np.testing.assert_array_equal(ours.observation[..., COLOURS].argmax(-1), image[..., 1])
            np.testing.assert_array_equal(ours.observation[..., 17:].argmax(-1), image[..., 2])
            action = rng.integers(theirs.action_space.n, dtype=np.int32)
            wanted, reward, terminated, truncated, _ = theirs.step(action)
            ours, plain = one_hot.step(action), ids.step(action)
            assert (ours.reward, ours.terminated) == (reward, terminated)
            assert ours.truncated == (truncated and not terminated)
            over = terminated or truncated
        ends.add("ended" if terminated else "cut")
    assert ends >= ({"cut"} if task == "DoorKey-8x8" else {"ended"})


def test_the_view_is_the_agents():
    """In Empty-5x5 it stands at (1, 1) and looks right: the goal is 2 ahead and 2 to its right."""
    ts = make("Empty-5x5").reset(0)
    goal, wall = OBJECT_TO_IDX["goal"], OBJECT_TO_IDX["wall"]
    assert np.argwhere(ts.observation[..., goal]).tolist() == [[3 + 2, 6 - 2]]
    assert np.argwhere(ts.observation[..., 11 + COLOR_TO_IDX["green"]]).tolist() == [[5, 4]]
    wanted = np.ones(
        (7, 7), bool
    )  # cells beyond the grid are walls too: everything is visible in this task
    wanted[3:6, 4:7] = False
    np.testing.assert_array_equal(ts.observation[..., wall], wanted)


def test_what_the_agent_carries_is_seen():
    env = make("DoorKey-5x5")
    env.reset(0)
    key = minigrid.core.world_object.Key("yellow")
    env.env.grid.set(*env.env.front_pos, key)
    before, after = env.step(np.int32(6)), env.step(np.int32(PICK_UP))
    seen = OBJECT_TO_IDX["key"], 11 + COLOR_TO_IDX["yellow"]
    assert before.observation[3, 5, seen].all() and not before.observation[3, 6, seen[0]]
    assert after.observation[3, 6, seen].all() and not after.observation[3, 5, seen[0]]


@pytest.mark.parametrize("limit", [4, 5, 50])
def test_only_success_terminates(limit):
    seen = play(make("Empty-5x5", max_steps=limit), TO_THE_GOAL[: min(limit, 5)])
    for ts in seen[:4]:
        assert (ts.reward, ts.terminated, ts.truncated) == (0, False, False)
    assert (seen[4].terminated, seen[4].truncated) == (False, limit == 4)
    if limit > 4:
        assert seen[5].terminated and not seen[5].truncated
        assert seen[5].reward == pytest.approx(1 - 0.9 * 5 / limit)


def test_the_stream():
    """Task 0 succeeds in 5 steps, task 1 turns until it is cut after 4."""
    actions = np.array([[*TO_THE_GOAL, LEFT, FORWARD], [LEFT] * 7]).T
    for batch, lasts in [
        (make_batch("Empty-5x5", 2, time_limit=6), [[5], [6]]),
        (make_batch("Empty-5x5", 2, max_steps=4), [[4], [4]]),
    ]:
        vector = HostVector(batch, frame_stack=2)
        assert vector.spec.observation.shape == (7, 7, 40)
        stream = [vector.reset(0), *map(vector.step, actions)]
        ends = np.stack([ts.is_last for ts in stream])
        assert [np.flatnonzero(column).tolist() for column in ends.T] == lasts
        truncated = np.stack([ts.truncated for ts in stream])
        np.testing.assert_array_equal(truncated[:, 1], ends[:, 1])
        assert truncated[:, 0].any() == (lasts[0] == [4])
        for before, ts in zip(stream, stream[1:], strict=False):
            np.testing.assert_array_equal(ts.is_first, before.is_last)
            for i in range(2):
                older = ts if ts.is_first[i] else before
                wanted = older.observation[i, ..., 20:]
                np.testing.assert_array_equal(ts.observation[i, ..., :20], wanted)
    success = HostVector(make_batch("Empty-5x5", 1))
    success.reset(0)
    *_, last = [success.step(np.array([action])) for action in TO_THE_GOAL]
    assert last.episode_return[0] == pytest.approx(1 - 0.9 * 5 / 100) and last.discount[0] == 0


def test_seeds_are_those_of_the_batch():
    batch = make_batch("DoorKey-8x8", 3, encoding="ids")
    once, again, other = (batch.reset(seed).observation for seed in (5, 5, 6))
    wanted = [make("DoorKey-8x8", encoding="ids").reset(task_seed(5, i)) for i in range(3)]
    np.testing.assert_array_equal(once, [ts.observation for ts in wanted])
    np.testing.assert_array_equal(once, again)
    assert np.any(once != other) and np.any(once[0] != once[1])


def test_a_process_of_its_own_shows_the_same():
    batch = make_batch("DoorKey-8x8", 1, timeout=300.0)
    try:
        observation = batch.reset(5).observation
        ts, _ = batch.step(np.array([RIGHT]))
    finally:
        batch.close()
    plain = make_batch("DoorKey-8x8", 1)
    np.testing.assert_array_equal(observation, plain.reset(5).observation)
    np.testing.assert_array_equal(ts.observation, plain.step(np.array([RIGHT]))[0].observation)


def test_pictures():
    batch = make_batch("Empty-5x5", 1)
    batch.reset(0)
    picture = batch.render()
    assert picture.shape == (5 * 32, 5 * 32, 3) and picture.dtype == np.uint8
    assert picture[3 * 32 + 16, 3 * 32 + 16].argmax() == 1  # the goal is green
    theirs = gymnasium.make("MiniGrid-Empty-5x5-v0", render_mode="rgb_array")
    theirs.reset(seed=0)
    np.testing.assert_array_equal(picture, theirs.render())


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("DoorKey-16x16", "MiniGrid-DoorKey-16x16-v0"),
        ("DoorKey-16x16-v0", "MiniGrid-DoorKey-16x16-v0"),
        ("MiniGrid-DoorKey-16x16", "MiniGrid-DoorKey-16x16-v0"),
        ("MultiRoom-N4-S5", "MiniGrid-MultiRoom-N4-S5-v1"),
        ("MultiRoom-N4-S5-v0", "MiniGrid-MultiRoom-N4-S5-v0"),
    ],
)
def test_short_names(short, full):
    assert make(short).spec.name == f"minigrid/{full}"


@pytest.mark.parametrize(
    ("task", "options", "words"),
    [
        ("DorKey-8x8", {}, "unknown task 'DorKey-8x8' of minigrid; did you mean DoorKey-8x8"),
        ("MiniGrid-DorKey-8x8-v0", {}, "did you mean MiniGrid-DoorKey-8x8-v0"),
        ("Unlock", {"max_step": 3}, "did you mean max_steps"),
        ("Unlock", {"max_steps": 0}, "max_steps must be a whole number of at least 1, got 0"),
        ("Unlock", {"encoding": "onehot"}, "got 'onehot'; did you mean one_hot"),
    ],
)
def test_mistakes_are_explained(task, options, words):
    with pytest.raises(UserError) as error:
        make_batch(task, 1, **options)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_missing_minigrid_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "minigrid", None)
    with pytest.raises(UserError) as error:
        make_batch("DoorKey-8x8", 1)
    assert str(error.value) == f"minigrid is not installed: {install_command('minigrid')}"
