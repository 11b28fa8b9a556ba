"""NoisyGrid against a loop over a map drawn by hand."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import UserError
from bellmax.envs import Countable, NoisyGrid, check_env, make, vectorise
from bellmax.envs.tasks.noisy_grid import NOISES, NoisyGridState
from helpers import scripted

MAP = """\
...#...
.......
...#...
#.###.#
...#...
.......
...#..G""".splitlines()
MOVES = {0: (-1, 0), 1: (0, 1), 2: (1, 0), 3: (0, -1), 4: (0, 0)}


def walk(place, action):
    """Return the row and column that a move on the hand-drawn map leads to."""
    row, column = (old + change for old, change in zip(place, MOVES[action], strict=True))
    inside = 0 <= row < 7 and 0 <= column < 7
    return (row, column) if inside and MAP[row][column] != "#" else place


@pytest.mark.parametrize("noise", NOISES)
def test_dynamics_equal_the_hand_drawn_map(noise):
    env, rng = NoisyGrid(7, noise, channels=2, time_limit=40), np.random.default_rng(0)
    reset, step = jax.jit(env.reset), jax.jit(env.step)
    place, time, ends = None, 0, collections.Counter()
    screen = None
    for t in range(900):
        key = jax.random.key(t)
        if place is None:
            state, ts = jax.device_get(reset(key))
            place, time, reward, terminated, truncated = (0, 0), 0, 0.0, False, False
            changes = noise == "always"
            screen = np.zeros((7, 7, 2)) if noise != "always" else None
        else:
            # Mostly towards the goal, so that it is reached.
            action = int(rng.choice(5, p=[0.1, 0.35, 0.35, 0.1, 0.1]))
            state, ts = jax.device_get(step(state, action, key))
            place, time = walk(place, action), time + 1
            terminated = MAP[place[0]][place[1]] == "G"
            reward, truncated = float(terminated), time == 40 and not terminated
            changes = noise == "always" or (noise == "remote" and action == 4)
        assert ts.observation.shape == (7, 7, 3) and ts.observation.dtype == np.uint8
        agent = np.zeros((7, 7))
        agent[place] = 255
        np.testing.assert_array_equal(ts.observation[..., 0], agent)
        seen = np.asarray(ts.observation[..., 1:])
        if changes:
            assert screen is None or np.mean(seen != screen) > 0.9
            assert not np.array_equal(seen[..., 0], seen[..., 1])
        else:
            np.testing.assert_array_equal(seen, screen)
        screen = seen
        assert (ts.reward, ts.terminated, ts.truncated) == (reward, terminated, truncated)
        assert env.cell(state) == place[0] * 7 + place[1]
        ends["terminated"] += terminated
        ends["truncated"] += truncated
        if terminated or truncated:
            place = None
    assert min(ends["terminated"], ends["truncated"]) > 5


@pytest.mark.parametrize("size", [5, 7, 13])
def test_every_cell_is_reachable_and_the_goal_by_the_documented_path(size):
    env = NoisyGrid(size)
    distance, todo = {(0, 0): 0}, collections.deque([(0, 0)])
    while todo:
        row, column = todo.popleft()
        for down, right in MOVES.values():
            place = row + down, column + right
            inside = 0 <= min(place) and max(place) < size
            if inside and not env.walls[place] and place not in distance:
                distance[place] = distance[row, column] + 1
                todo.append(place)
    assert distance[size - 1, size - 1] == 2 * (size - 1)
    assert len(distance) == env.num_cells - (2 * size - 5) == np.sum(~env.walls)


def test_noise_is_uniform_and_of_the_key_alone():
    env = NoisyGrid(noise="remote", channels=3)
    state, _ = jax.jit(env.reset)(jax.random.key(0))
    press = jax.jit(jax.vmap(lambda key: env.step(state, 4, key)[1].observation[..., 1:]))
    keys = jax.random.split(jax.random.key(1), 200)
    screens = np.asarray(press(keys), np.float64)  # 101,400 bytes: the mean deviates by 0.23
    np.testing.assert_array_equal(screens, press(keys))
    assert abs(screens.mean() - 127.5) < 1.2 and abs(screens.std() - 73.9) < 1
    assert screens.min() == 0 and screens.max() == 255
    assert np.ptp(screens.mean((0, 1, 2))) > 0 and np.ptp(screens.mean((1, 2, 3))) > 0


def test_the_goal_in_the_last_step_is_a_termination():
    env = NoisyGrid(5, time_limit=9)
    for time, reward, terminated, truncated in ((7, 1, True, False), (8, 1, True, False)):
        state = NoisyGridState(
            jnp.int32(4), jnp.int32(3), jnp.int32(time), jnp.zeros((5, 5, 1), jnp.uint8)
        )
        _, ts = env.step(state, 1, jax.random.key(0))
        assert (ts.reward, ts.terminated, ts.truncated) == (reward, terminated, truncated)
    _, ts = env.step(state, 0, jax.random.key(0))
    assert (ts.reward, ts.terminated, ts.truncated) == (0, False, True)


def test_the_stream_shows_the_final_observation():
    vector = vectorise(make("bellmax/NoisyGrid", size=5, time_limit=3), 1)
    stream, _ = scripted.rollout(vector, np.ones((5, 1), np.int32))
    stream = jax.tree.map(lambda x: x[1:], stream)
    np.testing.assert_array_equal(stream.is_last[:, 0], [0, 0, 1, 0, 0])
    np.testing.assert_array_equal(stream.truncated[:, 0], [0, 0, 1, 0, 0])
    np.testing.assert_array_equal(stream.discount, 1.0)
    # Right twice: into the wall's column 2 is not possible in row 0.
    places = np.argmax(stream.observation[:, 0, ..., 0].reshape(5, 25), axis=-1)
    np.testing.assert_array_equal(places, [1, 1, 1, 0, 1])


def test_check_env_passes():
    env = NoisyGrid(noise="remote")  # its screen changes only at some actions
    assert check_env(env) == [] and isinstance(env, Countable)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"noise": "allways"}, "noise must be one of none, always, remote, got 'allways'; did you"),
        ({"size": 6}, "size must be odd and at least 5, got 6"),
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"time_limit": 0}, "time_limit must be at least 1, got 0"),
        ({"chanels": 2}, "unknown option 'chanels' of bellmax/NoisyGrid; did you mean channels"),
    ],
)
def test_mistakes_are_explained(options, words):
    with pytest.raises(UserError) as error:
        make("bellmax/NoisyGrid", **options)
    assert words in str(error.value) and "\n" not in str(error.value)
