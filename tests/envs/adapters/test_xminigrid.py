"""xminigrid's MiniGrid tasks through the adapter. Programs are shared: compiling is slow."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import UserError
from bellmax.envs import Countable, check_env, make, vectorise
from bellmax.envs.options import install_command
from helpers.compiling import compiled

xminigrid = pytest.importorskip("xminigrid")
TASKS = sorted(n for n in xminigrid.registered_environments() if not n.startswith("XLand"))
FORWARD, RIGHT, LEFT, PICK_UP, PUT_DOWN, TOGGLE = range(6)
TO_THE_GOAL = [FORWARD, FORWARD, RIGHT, FORWARD, FORWARD]  # of Empty-5x5
# Numbers of xminigrid's tiles and colours.
EMPTY, FLOOR, WALL, GOAL, KEY, LOCKED, OPEN = 0, 1, 2, 6, 7, 8, 10
GREEN, YELLOW, GREY, BLACK = 2, 5, 6, 7
LETTERS = {"#": (WALL, GREY), ".": (FLOOR, BLACK), "G": (GOAL, GREEN)}
LETTERS |= {"K": (KEY, YELLOW), "D": (LOCKED, YELLOW)}


ONE_KEY = jax.random.key(0)
LIMIT = 21
HANDFUL = "MiniGrid-BlockedUnlockPickUp", "MiniGrid-DoorKey-5x5", "MiniGrid-MemoryS8"


@functools.cache
def env_of(task, **options):
    """An environment, and its compiled reset and step."""
    env = make(f"xminigrid/{task}", **options)
    state, _ = jax.eval_shape(env.reset, ONE_KEY)
    return env, compiled(env.reset, ONE_KEY), compiled(env.step, state, jnp.int32(0), ONE_KEY)


def play(actions, state=None):
    """Empty-5x5, cut after LIMIT steps: (state, time step) from a reset, or from a state, on.

    The step of all of MiniGrid's tasks but Memory's is the same program: a state may show any grid.
    """
    _, reset, step = env_of("MiniGrid-Empty-5x5", max_steps=LIMIT)
    seen = [reset(ONE_KEY) if state is None else (state, None)]
    for action in actions:
        seen.append(step(seen[-1][0], jnp.int32(action), jax.random.key(1)))
    return seen


def kinds(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_as_its_spec_says(task):
    """By tracing alone; a step of all but Memory's is the same program."""
    env = make(f"xminigrid/{task}")
    state, ts = jax.eval_shape(env.reset, ONE_KEY)
    if task in HANDFUL:
        first = ts
        new, ts = jax.eval_shape(env.step, state, jnp.int32(0), ONE_KEY)
        assert kinds((state, first)) == kinds((new, ts))
    view = 3 if "Memory" in task else 7
    assert ts.observation.shape == env.spec.observation.shape == (view, view, 25)
    assert ts.observation.dtype == env.spec.observation.dtype == bool
    assert (ts.reward.dtype, ts.terminated.dtype, ts.truncated.dtype) == ("float32", "bool", "bool")
    assert env.spec.action.num_values == 6 and env.spec.name == f"xminigrid/{task}"
    assert isinstance(env, Countable)


def test_limits_are_minigrids():
    limits = {task: make(f"xminigrid/{task}").spec.time_limit for task in TASKS}
    assert len(limits) == 23
    assert limits["MiniGrid-DoorKey-16x16"] == 10 * 16 * 16
    assert limits["MiniGrid-Empty-8x8"] == 4 * 8 * 8
    assert limits["MiniGrid-MemoryS16"] == 5 * 16 * 16
    assert limits["MiniGrid-FourRooms"] == 100


@pytest.mark.slow
def test_random_play_equals_xminigrids_own():
    ours = make("xminigrid/MiniGrid-DoorKey-8x8", max_steps=60)
    ids = make("xminigrid/MiniGrid-DoorKey-8x8", max_steps=60, encoding="ids")
    theirs, params = xminigrid.make("MiniGrid-DoorKey-8x8", max_steps=60)
    actions = jax.random.randint(jax.random.key(1), (60,), 0, 6)

    def run(key):
        with jax.numpy_rank_promotion("allow"):
            wanted = theirs.reset(params, key)
        (state, first), (_, first_ids) = ours.reset(key), ids.reset(key)

        def body(carry, action):
            wanted, state = carry
            with jax.numpy_rank_promotion("allow"):
                wanted = theirs.step(params, wanted, action)
            _, ts_ids = ids.step(state, action, key)  # the compiler finds the same step twice
            state, ts = ours.step(state, action, key)
            seen = (wanted.observation, wanted.reward, wanted.discount, wanted.last())
            return (wanted, state), (*seen, ts, ts_ids.observation)

        start = (wanted.observation, first.observation, first_ids.observation)
        return start, jax.lax.scan(body, (wanted, state), actions)[1]

    (wanted, first, first_ids), rest = compiled(run, ONE_KEY)(ONE_KEY)
    observations, rewards, discounts, last, ts, ts_ids = rest
    for layers, one_hot, plain in (
        (wanted[None], first[None], first_ids[None]),
        (observations, ts.observation, ts_ids),
    ):
        np.testing.assert_array_equal(plain, layers)
        np.testing.assert_array_equal(one_hot[..., :13].argmax(-1), layers[..., 0])
        np.testing.assert_array_equal(one_hot[..., 13:].argmax(-1), layers[..., 1])
        np.testing.assert_array_equal(one_hot[..., :13].sum(-1), 1)
        np.testing.assert_array_equal(one_hot[..., 13:].sum(-1), 1)
    assert ts_ids.dtype == np.uint8 and len(np.unique(observations[..., 0])) >= 4
    np.testing.assert_array_equal(ts.reward, rewards)
    np.testing.assert_array_equal(ts.terminated, discounts == 0)
    np.testing.assert_array_equal(ts.terminated | ts.truncated, last)
    assert ts.truncated[-1] and not np.any(ts.terminated)


def test_the_view_is_the_agents():
    """In Empty-5x5 it stands at (1, 1) and looks right: the goal is 2 ahead and 2 to its right."""
    [(_, ts)] = play([])
    assert np.argwhere(ts.observation[..., GOAL]).tolist() == [[6 - 2, 3 + 2]]
    assert np.argwhere(ts.observation[..., 13 + GREEN]).tolist() == [[4, 5]]
    wall = np.zeros((7, 7), bool)
    wall[3:7, 2] = wall[3:7, 6] = wall[3, 2:7] = True  # cells behind it are hidden
    np.testing.assert_array_equal(ts.observation[..., WALL], wall)


@pytest.mark.parametrize("turns", [0, 16])  # a turn is four times LEFT
def test_only_success_terminates_in_the_last_step_too(turns):
    seen = play([LEFT] * turns + TO_THE_GOAL)
    steps = turns + 5
    before = [(ts.reward, ts.terminated, ts.truncated) for _, ts in seen[:steps]]
    assert before == [(0, False, False)] * steps
    last = seen[steps][1]
    assert last.terminated and not last.truncated
    np.testing.assert_allclose(last.reward, 1 - 0.9 * steps / LIMIT, rtol=1e-5)


def test_the_limit_truncates():
    ends = [(bool(ts.terminated), bool(ts.truncated)) for _, ts in play([LEFT] * LIMIT)]
    assert ends == [(False, False)] * LIMIT + [(False, True)]
    assert make("xminigrid/MiniGrid-Empty-5x5", max_steps=LIMIT).spec.time_limit == LIMIT


@pytest.mark.slow
def test_the_stream_shows_the_final_observation():
    seen = play(TO_THE_GOAL)
    vector = vectorise(make("xminigrid/MiniGrid-Empty-5x5", max_steps=4), 1)

    def run(key):
        def body(state, action):
            return vector.step(state, action[None], key)

        return jax.lax.scan(body, vector.reset(key)[0], jnp.array([*TO_THE_GOAL, FORWARD]))[1]

    stream = compiled(run, ONE_KEY)(ONE_KEY)
    np.testing.assert_array_equal(stream.is_last[:, 0], [0, 0, 0, 1, 0, 0])
    np.testing.assert_array_equal(stream.truncated[:, 0], [0, 0, 0, 1, 0, 0])
    np.testing.assert_array_equal(stream.is_first[:, 0], [0, 0, 0, 0, 1, 0])
    np.testing.assert_array_equal(stream.discount, 1.0)
    wanted = [seen[i][1].observation for i in (1, 2, 3, 4, 0, 1)]
    np.testing.assert_array_equal(stream.observation[:, 0], wanted)


def test_memory_terminates_at_the_wrong_choice_too():
    rewards = set()
    _, reset, step = env_of("MiniGrid-MemoryS8")
    for seed in range(6):
        state, ts = reset(jax.random.key(seed))
        while not ts.terminated:  # right to the end of the corridor, then always up
            action = FORWARD if state.agent.position[1] < 6 or state.agent.direction == 0 else LEFT
            state, ts = step(state, jnp.int32(action), jax.random.key(0))
        assert not ts.truncated
        rewards.add(round(float(ts.reward), 1))
    assert rewards == {0.0, 1.0}


@pytest.mark.slow
def test_a_cell_is_the_place_and_what_was_achieved():
    env = make("xminigrid/MiniGrid-DoorKey-5x5")
    [(state, _)] = play([])
    rows = ["#####", "#.D.#", "#K#.#", "#.#G#", "#####"]
    grid = jnp.array([[LETTERS[letter] for letter in row] for row in rows], jnp.uint8)
    agent = state.agent.replace(position=jnp.array([1, 1]), direction=jnp.int32(2))  # down
    way = [PICK_UP, LEFT, TOGGLE, FORWARD, FORWARD, RIGHT, FORWARD, FORWARD]
    seen = play(way, state.replace(grid=grid, agent=agent))
    cells = [int(env.cell(state)) for state, _ in seen]
    holds, opened = 50, 25
    places = [6, 6, 6, 6, 7, 8, 8, 13, 18]
    wanted = np.array(places) + holds * (np.arange(9) > 0) + opened * (np.arange(9) > 2)
    np.testing.assert_array_equal(cells, wanted)
    assert max(cells) < env.num_cells == 100
    assert seen[-1][1].terminated
    np.testing.assert_allclose(seen[-1][1].reward, 1 - 0.9 * 8 / LIMIT, rtol=1e-5)
    dropped = play([PICK_UP, PUT_DOWN], seen[0][0])
    assert [int(env.cell(state)) for state, _ in dropped] == [6, 56, 6]


def test_cells_of_a_batch():
    env = make("xminigrid/MiniGrid-EmptyRandom-8x8")
    keys = jax.random.split(ONE_KEY, 400)
    cells = compiled(jax.vmap(lambda key: env.cell(env.reset(key)[0])), keys)(keys)
    assert cells.dtype == np.int32
    places = [row * 8 + column for row in range(1, 7) for column in range(1, 7)]
    assert set(cells.tolist()) == set(places[:-1])  # the goal is in the last one


@pytest.mark.slow
def test_check_env_passes():
    assert check_env("xminigrid/MiniGrid-Empty-5x5") == []


def test_view_size_is_an_option():
    env = make("xminigrid/MiniGrid-Empty-5x5", view_size=5)
    _, ts = jax.eval_shape(env.reset, jax.random.key(0))
    assert ts.observation.shape == env.spec.observation.shape == (5, 5, 25)


@pytest.mark.slow
def test_a_layout_is_that_of_all_episodes():
    def rooms(**options):
        env = make("xminigrid/MiniGrid-EmptyRandom-6x6", **options)
        state, _ = compiled(jax.vmap(env.reset), keys)(keys)
        return np.column_stack([state.agent.position, state.agent.direction])

    keys = jax.random.split(jax.random.key(3), 8)
    drawn, own, other = rooms(), rooms(layout=0), rooms(layout=5)
    assert len(np.unique(drawn, axis=0)) > 1
    assert len(np.unique(own, axis=0)) == len(np.unique(other, axis=0)) == 1
    assert (own != other).any()


@pytest.mark.parametrize(
    ("task", "options", "words"),
    [
        ("MiniGrid-DorKey-8x8", {}, "of xminigrid; did you mean MiniGrid-DoorKey-8x8?"),
        ("XLand-MiniGrid-R1-9x9", {}, "unknown MiniGrid task 'XLand"),
        ("MiniGrid-Unlock", {"max_step": 3}, "did you mean max_steps"),
        ("MiniGrid-Unlock", {"max_steps": 0}, "max_steps must be at least 1 environment step"),
        ("MiniGrid-Unlock", {"max_steps": 9.5}, "max_steps must be a whole number, got 9.5"),
        ("MiniGrid-Unlock", {"layout": True}, "layout must be a whole number, got True"),
        ("MiniGrid-Unlock", {"layout": -1}, "layout must be from 0 to 2**31 - 1, got -1"),
        ("MiniGrid-Unlock", {"view_size": 4}, "view_size must be odd and at least 3, got 4"),
        ("MiniGrid-Unlock", {"encoding": "onehot"}, "got 'onehot'; did you mean one_hot"),
    ],
)
def test_mistakes_are_explained(task, options, words):
    with pytest.raises(UserError) as error:
        make(f"xminigrid/{task}", **options)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_missing_xminigrid_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "xminigrid", None)
    with pytest.raises(UserError) as error:
        make("xminigrid/MiniGrid-Empty-5x5")
    assert str(error.value) == f"xminigrid is not installed: {install_command('xminigrid')}"
