"""Environments of dm_env, bsuite and dm_control as host environments."""

import functools

import bsuite
import numpy as np
import pytest
from bsuite.environments import catch
from dm_env import specs

from bellmax import UserError
from bellmax.envs import from_dm_env, is_host, make, make_batch
from bellmax.envs.adapters.dm_env import convert_action, convert_observation
from bellmax.envs.host.loop import task_seed
from helpers.scripted_host import DmCounter


@pytest.mark.parametrize(("discount", "terminated"), [(0.0, True), (1.0, False), (0.5, False)])
def test_the_last_discount_tells_an_end_from_a_cut(discount, terminated):
    task = from_dm_env(functools.partial(DmCounter, last_discount=discount), "mine")
    first = task.reset(0)
    shown = [task.step(np.int32(a)) for a in (2, 0, 1)]
    assert (first.reward, first.terminated, first.truncated) == (0.0, False, False)
    assert [ts.reward for ts in shown] == [1, -1, 1]  # actions are -1, 0 and 1
    assert [ts.terminated for ts in shown] == [False, False, terminated]
    assert [ts.truncated for ts in shown] == [False, False, not terminated]
    assert task.spec.reward_range == (-1.0, 1.0)
    assert task.spec.action == specs.DiscreteArray(3, np.int32, "action")


def test_observations_are_joined_in_the_order_of_their_names():
    task = from_dm_env(DmCounter, "mine")
    assert task.spec.observation == specs.Array((3,), np.float32, "observation")
    drawn = np.random.default_rng(9).integers(1000, size=2)
    np.testing.assert_array_equal(task.reset(9).observation, [0, drawn[0], 0])  # a, then z
    shown = [task.step(np.int32(1)).observation for _ in range(3)]
    np.testing.assert_array_equal(shown, [[t, drawn[0], t == 2] for t in (1, 2, 3)])
    assert shown[0].dtype == np.float32
    np.testing.assert_array_equal(task.reset(None).observation, [0, drawn[1], 0])
    np.testing.assert_array_equal(task.reset(9).observation, [0, drawn[0], 0])
    flat = from_dm_env(functools.partial(DmCounter, nested=False), "mine")
    np.testing.assert_array_equal(flat.reset(9).observation, [0, drawn[0]])


def test_a_seed_that_the_user_set_stays():
    task = from_dm_env(functools.partial(DmCounter, seed=4), "mine")
    number = np.random.default_rng(4).integers(1000)
    for seed in (1, 2):
        assert task.reset(seed).observation[1] == number


def test_a_factory_of_the_user():
    assert is_host("helpers.scripted_host:DmCounter")
    with pytest.raises(UserError, match="helpers.scripted_host:DmCounter is a host environment"):
        make("helpers.scripted_host:DmCounter")
    batch = make_batch("helpers.scripted_host:DmCounter", 2, last_discount=1.0)
    wanted = [np.random.default_rng(task_seed(5, i)).integers(1000) for i in range(2)]
    np.testing.assert_array_equal(batch.reset(5).observation[:, 1], wanted)
    for _ in range(3):
        ts, _ = batch.step(np.zeros(2, np.int32))
    assert ts.truncated.all() and batch.spec.name == "helpers.scripted_host:DmCounter"


def test_kinds_of_specs():
    image = convert_observation({"pixels": specs.BoundedArray((4, 4, 3), np.uint8, 0, 255)})
    assert image.spec == specs.BoundedArray((4, 4, 3), np.uint8, 0, 255, "observation")
    assert image.convert({"pixels": np.zeros((4, 4, 3), np.uint8)}).dtype == np.uint8
    number = convert_observation(specs.DiscreteArray(3))
    np.testing.assert_array_equal(number.convert(1), [0, 1, 0])
    half_open = specs.BoundedArray((1, 2), np.float64, [0.0, 0.0], [1.0, np.inf])
    assert convert_observation(half_open).spec == specs.Array((2,), np.float32, "observation")
    force = convert_action(specs.BoundedArray((2,), np.float64, -1.0, [1.0, 2.0]), "mine")
    assert force.spec == specs.BoundedArray((2,), np.float32, [-1, -1], [1, 2], "action")
    assert force.convert(np.zeros(2, np.float32)).dtype == np.float64
    with pytest.raises(UserError, match="mine's actions must be bounded integers or floats"):
        convert_action(specs.Array((2,), np.int32), "mine")
    with pytest.raises(UserError, match="observation 'a/b' must have a numeric spec, got"):
        convert_observation({"a": {"b": specs.StringArray(())}})


def test_catch_equals_bsuites():
    batch = make_batch("bsuite/catch/0", 2)
    theirs = [catch.Catch(seed=task_seed(3, i)) for i in range(2)]
    shown = np.stack([env.reset().observation for env in theirs])
    np.testing.assert_array_equal(batch.reset(3).observation, shown)
    for actions in np.random.default_rng(0).integers(0, 3, (40, 2)).astype(np.int32):
        ts, is_first = batch.step(actions)
        steps = [env.step(int(a)) for env, a in zip(theirs, actions, strict=True)]
        np.testing.assert_array_equal(is_first, [step.first() for step in steps])
        np.testing.assert_array_equal(ts.terminated, [step.last() for step in steps])
        np.testing.assert_array_equal(ts.reward, [step.reward or 0 for step in steps])
        np.testing.assert_array_equal(ts.observation, [step.observation for step in steps])
    assert not ts.truncated.any() and batch.spec.observation.shape == (10, 5)


def test_bsuites_settings_and_seeds():
    assert make_batch("bsuite/deep_sea/2", 1).spec.observation.shape == (14, 14)
    settings = bsuite.sweep.SETTINGS["deep_sea/2"]
    assert settings["size"] == 14
    rewards = {}
    for seed in (0, 0, 1):
        batch = make_batch("bsuite/deep_sea_stochastic/0", 2, size=4)
        batch.reset(seed)
        shown = np.stack([batch.step(np.ones(2, np.int32))[0].reward for _ in range(30)])
        rewards.setdefault(seed, []).append(shown)
    np.testing.assert_array_equal(*rewards[0])
    assert np.any(rewards[0][0] != rewards[1][0]) and np.any(np.diff(rewards[0][0], axis=1))
    assert make_batch("bsuite/bandit/0", 1).spec.observation.shape == (1,)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("bsuite/catchh/0", {}, "unknown task 'catchh/0' of bsuite; did you mean catch/0"),
        ("bsuite/catch/0", {"row": 3}, "unknown option 'row' of bsuite/catch/0; did you mean rows"),
        ("bsuite/catch/0", {"seed": 3}, "unknown option 'seed' of bsuite/catch"),
        ("bsuite/catch/0", {"rows": "abc"}, "cannot be made with rows 'abc': TypeError"),
        ("bsuite/catch", {}, "unknown task 'catch' of bsuite"),
    ],
)
def test_mistakes_are_explained(name, options, words):
    with pytest.raises(UserError) as error:
        make_batch(name, 1, **options)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_bsuite_draws_nothing():
    with pytest.raises(UserError, match="bsuite/catch/0 cannot draw pictures"):
        make_batch("bsuite/catch/0", 1, render=True).render()


def test_cheetah_equals_dm_controls():
    pytest.importorskip("dm_control")
    batch = make_batch("dm_control/cheetah-run", 2, seconds=0.05)  # 0.01 s a step
    assert batch.spec.time_limit == 5 and batch.spec.observation.shape == (17,)
    assert batch.spec.action == specs.BoundedArray((6,), np.float32, [-1] * 6, [1] * 6, "action")
    from dm_control import suite

    theirs = suite.load(
        "cheetah", "run", task_kwargs={"random": task_seed(2, 1), "time_limit": 0.05}
    )
    steps, shown = [theirs.reset()], [batch.reset(2)]
    actions = np.random.default_rng(0).uniform(-1, 1, (12, 2, 6)).astype(np.float32)
    for action in actions:
        steps.append(theirs.step(action[1]))
        shown.append(batch.step(action)[0])
    for step, ts in zip(steps, shown, strict=True):
        wanted = np.concatenate([step.observation["position"], step.observation["velocity"]])
        np.testing.assert_array_equal(ts.observation[1], wanted.astype(np.float32))
        assert ts.reward[1] == np.float32(step.reward or 0)
        assert ts.truncated[1] == step.last() and not ts.terminated[1]
    assert sum(step.last() for step in steps) == 2


def test_mistakes_in_names_of_dm_control():
    pytest.importorskip("dm_control")
    for name, options, words in [
        ("cheeta-run", {}, "unknown task 'cheeta-run' of dm_control; did you mean cheetah-run"),
        (
            "cheetah-run",
            {"second": 3},
            "unknown option 'second' of dm_control/cheetah-run; did you mean seconds",
        ),
        ("cheetah-run", {"seconds": 0}, "seconds must be a number above 0, got 0"),
        ("cheetah-run", {"seconds": "abc"}, "seconds must be a number above 0, got 'abc'"),
    ]:
        with pytest.raises(UserError, match=words):
            make_batch(f"dm_control/{name}", 1, **options)
