"""jumanji's tasks through the adapter."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from bellmax import UserError
from bellmax.envs import JointArray, check_env, make, vectorise
from bellmax.envs.adapters.jumanji import from_jumanji
from bellmax.envs.options import install_command
from helpers.compiling import compiled

jumanji = pytest.importorskip("jumanji")
KEY = jax.random.key(0)
# Observation, number of actions, whether there is a mask, time limit.
TASKS = {
    "CVRP-v1": ((126,), 21, True, None),
    "Cleaner-v0": ((106,), 64, True, 100),
    "Game2048-v1": ((16,), 4, True, None),
    "GraphColoring-v1": ((421,), 20, True, None),
    "Knapsack-v1": ((150,), 50, True, None),
    "Maze-v0": ((104,), 4, True, 100),
    "Minesweeper-v0": ((101,), 100, True, None),
    "PacMan-v1": ((1524,), 5, True, 1000),
    "RubiksCube-partly-scrambled-v0": ((6, 3, 3), 18, False, 20),
    "RubiksCube-v0": ((6, 3, 3), 18, False, 200),
    "SlidingTilePuzzle-v0": ((27,), 4, True, 500),
    "Snake-v1": ((12, 12, 5), 4, True, 4000),
    "TSP-v1": ((61,), 20, True, None),
    "Tetris-v0": ((116,), 40, True, 400),
}
REFUSED = {
    "BinPack-v2": "jumanji/BinPack-v2's action must have 1 to 256 joint actions, got numbers of",
    "Connector-v3": "must be a task for one agent, got rewards of shape (10,)",
    "FlatPack-v0": "1 to 256 joint actions, got numbers of [25, 4, 9, 9] with 8,100; wrap it",
    "JobShop-v0": "must have 1 to 256 joint actions",
    "LevelBasedForaging-v0": "must be a task for one agent, got rewards of shape (2,)",
    "MMST-v0": "must have 1 to 256 joint actions",
    "MultiCVRP-v0": "jumanji/MultiCVRP-v0's actions must be discrete, got BoundedArray",
    "RobotWarehouse-v0": "got numbers of [5, 5, 5, 5] with 625",
    "SearchAndRescue-v0": "must be a task for one agent",
    "Sudoku-v0": "got numbers of [9, 9, 9] with 729",
    "Sudoku-very-easy-v0": "got numbers of [9, 9, 9] with 729",
}
DOWNLOADS = {"Sokoban-v0"}


def test_every_task_is_known():
    assert {*TASKS, *REFUSED, *DOWNLOADS} == set(jumanji.registered_environments())


def kinds(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_as_its_spec_says(task):
    """By tracing alone."""
    env, (shape, actions, masked, limit) = make(f"jumanji/{task}"), TASKS[task]
    spec = env.spec
    assert (spec.observation.shape, spec.action.num_values) == (shape, actions)
    assert (spec.action_mask, spec.time_limit) == (masked, limit)
    state, first = jax.eval_shape(env.reset, KEY)
    new, ts = jax.eval_shape(env.step, state, jnp.int32(0), KEY)
    assert kinds((state, first)) == kinds((new, ts))
    assert (ts.observation.shape, ts.observation.dtype) == (shape, spec.observation.dtype)
    assert (ts.reward.dtype, ts.terminated.dtype, ts.truncated.dtype) == ("float32", "bool", "bool")


@pytest.mark.parametrize("task", REFUSED)
def test_tasks_for_other_agents_are_refused(task):
    with pytest.raises(UserError) as error:
        make(f"jumanji/{task}")
    assert REFUSED[task] in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "task", ["Maze-v0", *(pytest.param(t, marks=pytest.mark.slow) for t in sorted(TASKS))]
)
def test_check_env_passes(task):
    limit = {} if TASKS[task][3] is None else {"time_limit": 30}
    assert check_env(f"jumanji/{task}", **limit) == []


def test_steps_equal_jumanjis_own_and_limits_are_not_deaths():
    limit = 6
    env, theirs = make("jumanji/Snake-v1", time_limit=limit), jumanji.make("Snake-v1", time_limit=6)

    def run(key, first):
        with jax.numpy_rank_promotion("allow"):
            their_state, wanted = theirs.reset(key)
        state, ts = env.reset(key)
        seen = [(wanted.observation.grid, wanted.observation.action_mask, 0.0, False, ts)]
        for i in range(limit):
            action = jnp.where(i == 0, first, jnp.argmax(ts.action_mask)).astype(jnp.int32)
            with jax.numpy_rank_promotion("allow"):
                their_state, wanted = theirs.step(their_state, action)
            state, ts = env.step(state, action, key)
            shown = wanted.observation.grid, wanted.observation.action_mask
            seen.append((*shown, wanted.reward, wanted.last(), ts))
        return jax.tree.map(lambda *x: jnp.stack([jnp.asarray(y) for y in x]), *seen)

    grids, masks, rewards, last, ts = compiled(run, KEY, jnp.int32(0))(KEY, jnp.int32(0))
    np.testing.assert_array_equal(ts.observation, grids)
    np.testing.assert_array_equal(ts.reward, rewards)
    np.testing.assert_array_equal(ts.action_mask, masks | ~masks.any(1, keepdims=True))
    np.testing.assert_array_equal(ts.terminated | ts.truncated, last)
    np.testing.assert_array_equal(ts.truncated, np.arange(limit + 1) == limit)
    assert not ts.terminated.any()


def test_a_death_in_the_last_step_is_a_death():
    from jumanji.environments import Snake

    env = from_jumanji(Snake(num_rows=2, num_cols=2, time_limit=1))  # every cell is at two walls

    def run(key, into_the_wall):
        state, ts = env.reset(key)
        action = jnp.where(into_the_wall, jnp.argmin(ts.action_mask), jnp.argmax(ts.action_mask))
        return env.step(state, action.astype(jnp.int32), key)[1]

    program = compiled(run, KEY, jnp.bool_(True))
    died, lived = program(KEY, jnp.bool_(True)), program(KEY, jnp.bool_(False))
    assert (died.terminated, died.truncated) == (True, False)
    assert (lived.terminated, lived.truncated) == (False, True)


def test_a_mask_for_each_agent_is_one_for_joint_actions():
    env = make("jumanji/Cleaner-v0", time_limit=3)
    assert env.spec.action == JointArray((4, 4, 4))
    state, ts = jax.jit(env.reset)(KEY)
    each = np.asarray(state.inner.action_mask)
    wanted = [all(each[i, a] for i, a in enumerate(env.spec.action.split(n))) for n in range(64)]
    np.testing.assert_array_equal(ts.action_mask, wanted)
    assert 0 < sum(wanted) < 64


def test_episodes_of_a_batch_are_cut_at_the_limit_and_begin_again():
    vector = vectorise(make("jumanji/Maze-v0", time_limit=3), 2)
    state, seen = vector.reset(KEY)
    step = compiled(vector.step, state, jnp.zeros(2, int), KEY)
    ends = []
    for i in range(8):
        state, seen = step(state, jnp.argmax(seen.action_mask, axis=1), jax.random.key(i))
        ends.append(seen)
    ends = jax.tree.map(lambda *x: np.stack(x), *ends)
    np.testing.assert_array_equal(ends.is_last[:, 0], [0, 0, 1, 0, 0, 0, 1, 0])
    np.testing.assert_array_equal(ends.truncated, ends.is_last)
    np.testing.assert_array_equal(ends.discount, 1)


def test_objects_are_taken_and_wrappers_refused():
    from jumanji.environments import Snake
    from jumanji.wrappers import AutoResetWrapper

    env = from_jumanji(Snake(num_rows=5, num_cols=4, time_limit=9))
    assert env.spec.time_limit == 9 and env.spec.name == "jumanji/Snake"
    assert env.spec.observation == specs.Array((5, 4, 5), np.float32, "observation")
    with pytest.raises(UserError, match="must not be in a wrapper, got a AutoResetWrapper"):
        from_jumanji(AutoResetWrapper(Snake()))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("jumanji/Snak-v1", {}, "did you mean Snake-v1?"),
        ("jumanji/Snake-v1", {"time_limits": 3}, "did you mean time_limit?"),
        ("jumanji/Snake-v1", {"time_limit": 0}, "time_limit must be at least 1 environment step"),
        ("jumanji/Snake-v1", {"time_limit": 2.5}, "time_limit must be a whole number, got 2.5"),
        ("jumanji/Game2048-v1", {"time_limit": 3}, "unknown option 'time_limit' of jumanji/Game"),
    ],
)
def test_mistakes_are_explained(name, options, words):
    with pytest.raises(UserError) as error:
        make(name, **options)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_missing_jumanji_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "jumanji", None)
    with pytest.raises(UserError) as error:
        make("jumanji/Snake-v1")
    assert str(error.value) == f"jumanji is not installed: {install_command('jumanji')}"
