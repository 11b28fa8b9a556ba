"""Gymnasium's tasks as host environments."""

import warnings

import gymnasium
import numpy as np
import pytest
from dm_env import specs
from gymnasium import spaces

from bellmax import UserError
from bellmax.envs import from_gymnasium, is_host, list_names, make, make_batch
from bellmax.envs.adapters import gymnasium as gymnasium_adapter
from bellmax.envs.adapters.shared.gymnasium_spaces import convert_action, convert_observation
from bellmax.envs.host.loop import task_seed
from helpers.scripted_host import GymCounter


def act(*actions):
    return np.array(actions, np.int32)


@pytest.mark.parametrize("time_limit", [None, 12])
def test_cartpole_equals_gymnasiums_own_vector(time_limit):
    batch = make_batch("gymnasium/CartPole-v1", 3, max_episode_steps=30, time_limit=time_limit)
    limit = time_limit or 30
    vector = gymnasium.vector.SyncVectorEnv(
        [lambda: gymnasium.make("CartPole-v1", max_episode_steps=limit)] * 3,
        autoreset_mode=gymnasium.vector.AutoresetMode.NEXT_STEP,
    )
    observation, _ = vector.reset(seed=[task_seed(8, i) for i in range(3)])
    np.testing.assert_array_equal(batch.reset(8).observation, observation)
    assert batch.spec.time_limit == limit
    over = np.zeros(3, bool)
    ended = {"terminated": 0, "truncated": 0}
    # One falls, one mostly stands, one is at random.
    rng = np.random.default_rng(0)
    for t in range(150):
        actions = act(1, t % 2, rng.integers(2))
        ts, is_first = batch.step(actions)
        observation, reward, terminated, truncated, _ = vector.step(actions)
        np.testing.assert_array_equal(is_first, over)
        np.testing.assert_array_equal(ts.observation, observation)
        np.testing.assert_array_equal(ts.reward, reward)
        np.testing.assert_array_equal(ts.terminated, terminated)
        np.testing.assert_array_equal(ts.truncated, truncated & ~terminated)
        over = terminated | truncated
        ended["terminated"] += terminated.sum()
        ended["truncated"] += (truncated & ~terminated).sum()
    assert min(ended.values()) >= 2
    vector.close()
    batch.close()


def test_one_seed_is_one_stream():
    streams = []
    for seed in (1, 1, 2):
        batch = make_batch("gymnasium/Pendulum-v1", 2, time_limit=4)
        shown = [batch.reset(seed).observation]
        shown += [batch.step(np.full((2, 1), 0.5, np.float32))[0].observation for _ in range(9)]
        streams.append(np.stack(shown))
    np.testing.assert_array_equal(streams[0], streams[1])
    assert not np.any(np.all(streams[0] == streams[2], axis=(1, 2)))
    assert not np.any(np.all(streams[0][:, 0] == streams[0][:, 1], axis=1))


def test_an_env_object_of_the_user():
    task = from_gymnasium(GymCounter("rgb_array"), "mine", observation_key="place")
    assert task.spec.name == "mine" and task.spec.time_limit is None
    assert task.spec.action == specs.DiscreteArray(3, np.int32, "action")
    one_hot = np.eye(5, dtype=np.float32)
    np.testing.assert_array_equal(task.reset(0).observation, one_hot[0])
    shown = [task.step(np.int32(a)) for a in (2, 0, 1, 2, 2, 2, 2)]  # +1, -1, 0, +1, +1, +1, +1
    for ts, place in zip(shown, (-1, -2, -2, -1, 0, 1, 2), strict=True):
        np.testing.assert_array_equal(ts.observation, one_hot[place + 2])
        assert ts.observation.dtype == np.float32
    assert [ts.reward for ts in shown] == [1, -1, 0, 1, 1, 1, 1]
    assert [ts.terminated for ts in shown] == [False] * 5 + [True] * 2
    assert not any(ts.truncated for ts in shown)  # a termination at the limit is a termination
    np.testing.assert_array_equal(task.render(), np.full((4, 6, 3), 4))


def test_a_factory_of_the_user():
    assert is_host("helpers.scripted_host:GymCounter", size=3)
    joined = make_batch("helpers.scripted_host:GymCounter", 1)  # place of 5, speed
    np.testing.assert_array_equal(joined.reset(0).observation[0, :5], np.eye(5)[0])
    assert joined.spec.observation == specs.Array((7,), np.float32, "observation")
    one = make_batch("helpers.scripted_host:GymCounter", 1, observation_key="place")
    assert one.spec.observation.shape == (5,)
    batch = make_batch("helpers.scripted_host:place_or_speed", 2, key="speed", time_limit=2)
    assert batch.spec.observation == specs.Array((2,), np.float32, "observation")
    np.testing.assert_array_equal(batch.reset(0).observation, [[0, 4], [0, 4]])
    assert batch.step(act(0, 2))[0].observation.dtype == np.float32


def test_spaces_of_observations():
    def convert(space, **kwargs):
        return convert_observation(space, "task", **kwargs)

    image = convert(spaces.Box(0, 255, (4, 4, 3), np.uint8))
    assert image.spec == specs.BoundedArray((4, 4, 3), np.uint8, 0, 255, "observation")
    assert image.convert(np.ones((4, 4, 3), np.uint8)).dtype == np.uint8
    low, high = np.array([-1.0, 0.5]), np.array([2.0, 3.0])
    for dtype in (np.float32, np.float64):
        box = convert(spaces.Box(low.astype(dtype), high.astype(dtype), dtype=dtype))
        assert box.spec.dtype == np.float32 and box.convert(high.astype(dtype)).dtype == np.float32
        np.testing.assert_array_equal([box.spec.minimum, box.spec.maximum], [low, high])
    # Older tasks of Gymnasium use the largest float32 for "no bound".
    for bound in (np.inf, np.finfo(np.float32).max):
        open_ = convert(spaces.Box(np.array([-1, -bound]), np.ones(2), dtype=np.float64))
        assert open_.spec == specs.Array((2,), np.float32, "observation")
    bits = convert(spaces.MultiBinary([2, 2]))
    assert bits.spec == specs.BoundedArray((2, 2), np.float32, 0, 1, "observation")
    assert bits.convert(np.ones((2, 2), np.int8)).dtype == np.float32
    alone = convert(spaces.Dict(image=spaces.Box(0, 255, (4, 4, 3), np.uint8)))
    assert alone.spec == image.spec and alone.convert({"image": 7}) == 7
    pair = spaces.Tuple([spaces.Discrete(3), spaces.Dict(a=spaces.Discrete(2))])
    np.testing.assert_array_equal(convert(pair, key=0).convert((2, {"a": 0})), [0, 0, 1])
    for space, key, words in [
        (spaces.Tuple([image_space(), spaces.Discrete(2)]), 2, "one of 0, 1, got 2; --env.options"),
        (spaces.Dict(a=spaces.Discrete(5000)), "b", "observation_key must be one of 'a'"),
        (spaces.Dict(front=image_space(), back=image_space()), "fron", "did you mean front"),
        (
            spaces.Discrete(2),
            "a",
            "must be left out for task, got 'a'; it has a single observation",
        ),
        (spaces.Text(3), None, "observation space must be Box, Discrete, MultiBinary, Mul"),
    ]:
        with pytest.raises(UserError, match=words):
            convert(space, key=key)


# Gymnasium sorts the names of a mapping.
DICT = spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Box(0, 9, (2,))})


@pytest.mark.parametrize(
    ("space", "value", "vector"),
    [
        (spaces.MultiDiscrete([2, 3]), [1, 2], [0, 1, 0, 0, 1]),
        (spaces.MultiDiscrete([2, 2], start=[5, -1]), [5, 0], [1, 0, 0, 1]),
        (DICT, {"a": [3, 4], "b": 1}, [3, 4, 0, 1]),
        (spaces.Tuple([spaces.MultiBinary(2), spaces.Box(0, 9, ())]), ([1, 0], 7), [1, 0, 7]),
        (
            spaces.Dict(x=spaces.Dict(z=spaces.Discrete(2)), y=spaces.Box(0, 9, (1,), np.int64)),
            {"x": {"z": 0}, "y": [8]},
            [1, 0, 8],
        ),
    ],
)
def test_flat_entries_are_joined_in_the_order_of_the_space(space, value, vector):
    joined = convert_observation(space, "task")
    found, size = joined.convert(value), (len(vector),)
    np.testing.assert_array_equal(found, vector)
    assert found.shape == joined.spec.shape == size and found.dtype == joined.spec.dtype
    sampled = joined.convert(space.sample())
    assert sampled.shape == joined.spec.shape


def image_space():
    return spaces.Box(0, 255, (2, 2), np.uint8)


def test_spaces_of_actions():
    torque = convert_action(spaces.Box(-2, 2, (1,), np.float32), "task")
    assert torque.spec == specs.BoundedArray((1,), np.float32, [-2.0], [2.0], "action")
    double = convert_action(spaces.Box(-2, 2, (1,), np.float64), "task")
    assert double.spec.dtype == np.float32
    assert double.convert(np.ones(1, np.float32)).dtype == np.float64
    shifted = convert_action(spaces.Discrete(3, start=5), "task")
    assert [shifted.convert(np.int32(a)) for a in range(3)] == [5, 6, 7]
    with pytest.raises(UserError, match="task's action space must be Discrete, MultiDiscrete, "):
        convert_action(spaces.Box(0, 9, (1,), np.int64), "task")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("CartPole-v2", {}, "unknown task 'CartPole-v2' of gymnasium; did you mean CartPole-v1"),
        ("CartPole", {}, "did you mean CartPole-v1"),
        ("no_such_module:Task-v0", {}, "needs the module 'no_such_module'"),
        ("CartPole-v1", {"sutton_barto": True}, "did you mean sutton_barto_reward"),
        ("Hopper-v5", {"mass": 3}, "unexpected keyword argument 'mass'"),
        ("Hopper-v5", {"xml_file": "no.xml"}, "v5 cannot be made with xml_file 'no.xml': OSError"),
        ("CartPole-v1", {"max_episode_steps": 0}, "made with max_episode_steps 0: AssertionError"),
        ("FrozenLake-v1", {"map_name": "foo"}, "cannot be made with map_name 'foo': KeyError"),
        ("Blackjack-v1", {"observation_key": 3}, "observation_key must be one of 0, 1, 2, got 3"),
    ],
)
def test_mistakes_are_explained(name, options, words):
    if name == "Hopper-v5":
        pytest.importorskip("mujoco")
    with pytest.raises(UserError) as error:
        make_batch(f"gymnasium/{name}", 1, **options)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_options_reach_the_task():
    batch = make_batch("gymnasium/CartPole-v1", 1, sutton_barto_reward=True, max_episode_steps=6)
    batch.reset(0)
    assert batch.spec.time_limit == 6
    np.testing.assert_array_equal(batch.step(act(1))[0].reward, [0])
    blackjack = make_batch("gymnasium/Blackjack-v1", 1, observation_key=0)
    assert blackjack.spec.observation.shape == (32,)


def test_checking_wrappers_are_off_and_old_tasks_are_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task = gymnasium_adapter.make("CartPole-v0")
    names, env = [], task.env
    while env is not env.unwrapped:
        names.append(type(env).__name__)
        env = env.env
    assert names == ["TimeLimit"] and task.spec.time_limit == 200


def test_pictures_only_when_asked_for():
    with pytest.raises(UserError, match="make it with render=True"):
        make_batch("gymnasium/CartPole-v1", 1).render()
    pytest.importorskip("pygame")
    batch = make_batch("gymnasium/CartPole-v1", 1, render=True)
    batch.reset(0)
    picture = batch.render()
    assert picture.dtype == np.uint8 and picture.shape == (400, 600, 3) and picture.std() > 0
    batch.close()


def test_make_says_where_host_environments_are_made():
    with pytest.raises(UserError, match="gymnasium/CartPole-v1 is a host environment; make it"):
        make("gymnasium/CartPole-v1")
    assert is_host("gymnasium/CartPole-v1") and "gymnasium/<Task>" in list_names()
