"""Actions of several numbers, which agents take as one."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs
from gymnasium import spaces

from bellmax import UserError
from bellmax.envs import JointArray, check_env, describe_spaces, make_batch
from bellmax.envs.adapters.dm_env import convert_action as convert_dm
from bellmax.envs.adapters.shared.gymnasium_spaces import convert_action
from bellmax.envs.joint import MAX_JOINT

COUNTS = [(2, 3), (4,), (3, 1, 2), (2,) * 8]


@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_joint_actions_count_as_numpy_does(counts):
    spec = JointArray(counts)
    every = np.arange(spec.num_values)
    wanted = np.stack(np.unravel_index(every, counts), axis=-1)
    assert spec.num_values == np.prod(counts) and (spec.shape, spec.dtype) == ((), np.int32)
    np.testing.assert_array_equal(spec.split(every), wanted)
    found = jax.jit(spec.split)(jnp.asarray(every.reshape(-1, 1), jnp.int32))
    assert found.shape == (spec.num_values, 1, len(counts)) and found.dtype == jnp.int32
    np.testing.assert_array_equal(found[:, 0], wanted)
    assert spec.split(every[-1]).tolist() == [n - 1 for n in counts]


def test_starts_and_shapes_are_the_tasks():
    spec = JointArray([[2, 2], [1, 3]], [[0, 5], [7, -1]])
    assert spec.split(np.int32(0)).tolist() == [[0, 5], [7, -1]]
    assert spec.split(np.int32(1)).tolist() == [[0, 5], [7, 0]]
    assert spec.split(np.zeros(4, int)).shape == (4, 2, 2)
    assert pickle.loads(pickle.dumps(spec)) == spec != JointArray([[2, 2], [1, 3]])
    assert str(JointArray((2, 3), (0, 5))) == "one of 6 joint actions of [2, 3] from [0, 5]"


@pytest.mark.parametrize("counts", [[257], [16, 17], [2] * 9, [], [3, 0]], ids=str)
def test_too_many_are_refused(counts):
    with pytest.raises(UserError, match="a JointArray must have 1 to 256 joint actions, got "):
        JointArray(counts)


@pytest.mark.parametrize(
    "space",
    [spaces.MultiDiscrete([2, 3], start=[-1, 5]), spaces.MultiBinary(3), spaces.MultiBinary([2, 2])]
    + [spaces.MultiDiscrete([[2, 3], [4, 1]]), spaces.MultiDiscrete([3, 2], dtype=np.int32)],
    ids=str,
)
def test_every_action_of_a_space_is_one_joint_action(space):
    converted = convert_action(space, "task")
    actions = [converted.convert(np.int32(a)) for a in range(converted.spec.num_values)]
    assert all(space.contains(action) for action in actions)
    counts = getattr(space, "nvec", np.full(space.shape, 2))
    assert len({action.tobytes() for action in actions}) == len(actions) == counts.prod()


def test_integers_of_dm_env_are_joint_actions():
    bounds = specs.BoundedArray((2,), np.int16, [1, 0], [2, 2])
    converted = convert_dm(bounds, "task")
    assert converted.spec == JointArray((2, 3), (1, 0))
    for action in range(6):
        bounds.validate(converted.convert(np.int32(action)))
    assert converted.convert(np.int32(4)).tolist() == [2, 1]


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (spaces.MultiBinary(9), r"got MultiBinary\(9\) with 512; wrap it in a gymnasium.ActionW"),
        (spaces.MultiDiscrete([9, 9, 9]), r"got MultiDiscrete\(\[9 9 9\]\) with 729; wrap"),
    ],
)
def test_what_to_do_with_too_many_is_told(space, words):
    start = f"^task's action space must have 1 to {MAX_JOINT} joint actions, "
    with pytest.raises(UserError, match=start + words):
        convert_action(space, "task")
    with pytest.raises(UserError, match="^task's actions must have 1 to 256 joint actions, got "):
        convert_dm(specs.BoundedArray((9,), np.int32, 0, 1), "task")


@pytest.mark.parametrize("options", [{}, {"binary": True}, {"masked": True, "action_mask": True}])
def test_check_env_passes(options):
    assert check_env("helpers.two_levers:TwoLevers", **options) == []


def test_check_env_tells_of_too_many_and_describes_the_others():
    (problem,) = check_env("helpers.two_levers:Many")
    assert "action space must have 1 to 256 joint actions, got MultiDiscrete([17 16])" in problem
    lines = describe_spaces("helpers.two_levers:TwoLevers")
    assert lines[1] == "actions: one of 6 joint actions of [2, 3] from [0, 5]"


def test_a_process_of_its_own_takes_joint_actions():
    batch = make_batch("helpers.two_levers:TwoLevers", 2, timeout=60)
    try:
        right = batch.reset(0).observation
        action = 3 * right[:, :2].argmax(axis=1) + right[:, 2:].argmax(axis=1)
        ts, _ = batch.step(action.astype(np.int32))
        assert ts.reward.tolist() == [1, 1] and not any(batch.faults.values())
    finally:
        batch.close()
