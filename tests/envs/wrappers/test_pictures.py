"""Pictures of JAX tasks: objects are drawn where the state has them."""

import dataclasses
import functools
import math
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from bellmax import UserError
from bellmax.envs import Drawable, EnvSpec, Randomised, TabularMDP, TimeStep, make, vectorise
from bellmax.envs.wrappers import find_drawing, picture_of
from helpers import scripted

ORANGE, BLUE, GREEN = (230, 159, 0), (86, 180, 233), (0, 158, 115)
YELLOW, RED = (240, 228, 66), (213, 94, 0)
OWN = [
    "CartPole",
    "Catch",
    "DeepSea",
    "NoisyGrid",
    "Pendulum",
    "PixelCatch",
    "TicTacToe",
    "TwoStateChain",
]


def where(picture, colour):
    """(row, column) of the middle of a colour's pixels, in pixels; None if there are none."""
    rows, columns = np.nonzero((picture == np.array(colour, np.uint8)).all(-1))
    return (rows.mean(), columns.mean()) if rows.size else None


def cell(picture, colour, rows, columns):
    """The cell of a board in which a colour is."""
    row, column = where(picture, colour)
    height, width = picture.shape[:2]
    return int(row * rows / height), int(column * columns / width)


@functools.cache
def compiled(env):
    return jax.jit(env.reset), jax.jit(env.step)


def steps(env, actions, seed=0):
    """(state, time step) of numpy, from the reset to the end of the episode."""
    reset, step = compiled(env)
    seen = [jax.device_get(reset(jax.random.key(seed)))]
    for t, action in enumerate(actions):
        seen.append(jax.device_get(step(seen[-1][0], jnp.asarray(action), jax.random.key(t))))
        if seen[-1][1].terminated or seen[-1][1].truncated:
            break
    return seen


def episode(env, actions, seed=0):
    """States of numpy, from the reset to the end of the episode."""
    return [state for state, _ in steps(env, actions, seed)]


@pytest.mark.parametrize("name", OWN)
def test_every_task_of_bellmax_draws_pictures_of_one_size(name):
    env = make(f"bellmax/{name}")
    assert isinstance(env, Drawable)
    action = np.zeros(env.spec.action.shape, env.spec.action.dtype)
    pictures = [env.draw(state) for state in episode(env, [action] * 9)]
    assert {p.shape for p in pictures} == {pictures[0].shape}
    assert all(p.dtype == np.uint8 and p.ndim == 3 and p.shape[2] == 3 for p in pictures)
    assert 100 < max(pictures[0].shape[:2]) <= 512


def test_the_diver_sinks_to_the_ground_and_is_where_the_observation_says():
    sea = make("bellmax/DeepSea", size=6, randomise_actions=False)
    states = episode(sea, [1, 1, 0, 1, 0, 1])
    places = [cell(sea.draw(state), ORANGE, 7, 6) for state in states]
    # One row a step; right, right, left, right, left, right.
    assert places == [(0, 0), (1, 1), (2, 2), (3, 1), (4, 2), (5, 1), (6, 2)]
    assert cell(sea.draw(states[0]), GREEN, 7, 6) == (5, 5)  # where going right pays


@pytest.mark.parametrize("name", ["Catch", "PixelCatch"])
def test_ball_and_paddle_are_where_the_board_has_them(name):
    size = {"rows": 7, "columns": 6}
    env, board = make(f"bellmax/{name}", **size), make("bellmax/Catch", **size)
    caught = 0
    for seed in range(6):
        for state, ts in steps(board, [2] * 6, seed):  # both tasks have the same states
            picture = env.draw(state)
            ones = set(map(tuple, np.argwhere(ts.observation).tolist()))
            if len(ones) == 1:
                caught += 1
                assert {cell(picture, GREEN, 7, 6)} == ones
                assert where(picture, ORANGE) is where(picture, BLUE) is None
            else:
                assert {cell(picture, ORANGE, 7, 6), cell(picture, BLUE, 7, 6)} == ones
                assert cell(picture, BLUE, 7, 6)[0] == 6
    assert caught


def test_the_agent_walks_through_rooms_beside_a_tv():
    env = make("bellmax/NoisyGrid", size=5, noise="always", channels=1)
    states = episode(env, [2, 1, 1, 1])  # down, then into the doorway and through it
    pictures = [env.draw(state) for state in states]
    height, width = pictures[0].shape[:2]
    assert [cell(p, ORANGE, 5, 11) for p in pictures] == [(0, 0), (1, 0), (1, 1), (1, 2), (1, 3)]
    assert cell(pictures[0], GREEN, 5, 11) == (4, 4)
    middles = (np.arange(5) * height + height // 2) // 5
    for state, picture in zip(states, pictures, strict=True):
        screen = picture[middles][:, (np.arange(6, 11) * width + width // 2) // 11]
        np.testing.assert_array_equal(screen, state.screen.repeat(3, axis=2))
        walls = (picture[middles][:, middles] == (120, 124, 134)).all(-1)
        np.testing.assert_array_equal(walls, env.walls)


def test_the_tv_has_colours_where_it_has_channels():
    env = make("bellmax/NoisyGrid", size=5, noise="always", channels=4)
    (state,) = episode(env, [])
    height, width = env.draw(state).shape[:2]
    seen = env.draw(state)[height // 10, width - width // 22]
    np.testing.assert_array_equal(seen, state.screen[0, 4, :3])


@pytest.mark.parametrize("angle", [-0.2, 0.0, 0.1])
@pytest.mark.parametrize("position", [-1.5, 0.0, 2.4])
def test_cart_and_pole_are_where_the_physics_says(position, angle):
    env = make("bellmax/CartPole")
    (state,) = episode(env, [])
    picture = env.draw(state._replace(physics=np.array([position, 9.0, angle, -9.0], np.float32)))
    middle = picture.shape[1] / 2
    left, right = (
        where(half, RED)[1] for half in (picture[:, : int(middle)], picture[:, int(middle) :])
    )
    metre = (right + middle - left) / 4.8  # the posts are 2.4 m away
    assert abs(where(picture, BLUE)[1] - (middle + position * metre)) < 1
    rows, columns = np.nonzero((picture == np.array(ORANGE, np.uint8)).all(-1))
    tip = columns[rows == rows.min()].mean()
    assert abs(tip - (middle + position * metre + math.sin(angle) * metre)) < 2.5


@pytest.mark.parametrize("angle", [0.0, 1.0, -2.0, math.pi])
def test_the_pendulum_hangs_at_its_angle(angle):
    env = make("bellmax/Pendulum")
    (state,) = episode(env, [])
    picture = env.draw(state._replace(angle=np.float32(angle)))
    row, column = where(picture, ORANGE)
    up, left = picture.shape[0] / 2 - row, picture.shape[1] / 2 - column
    # As Gymnasium's: counterclockwise from upright. The middle of the rod is far from the pivot.
    assert math.hypot(up, left) > 40
    assert abs(math.remainder(math.atan2(left, up) - angle, 2 * math.pi)) < 0.03


def test_the_states_of_a_chain_are_in_a_row():
    p = np.zeros((4, 1, 4))
    p[[0, 1, 2, 3], 0, [1, 2, 3, 3]] = 1  # each leads to the next
    ends = np.array([False, False, False, True])
    mdp = TabularMDP(p, np.zeros((4, 1)), terminal=ends, initial=np.array([1.0, 0, 0, 0]))
    pictures = [mdp.draw(state) for state in episode(mdp, [0] * 3)]
    assert [cell(p, YELLOW, 1, 4) for p in pictures] == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert cell(pictures[0], RED, 1, 4) == (0, 3) and where(pictures[-1], RED) is None


def test_the_state_is_found_within_wrappers():
    sea = make("bellmax/DeepSea", size=6)
    env, draw = find_drawing(sea)
    assert env is sea
    vector = vectorise(env, 2, time_limit=4, frame_stack=3)
    _, state = scripted.rollout(vector, np.array([[0, 1]], np.int32))
    for i in range(2):
        one = jax.tree.map(lambda x, i=i: x[i], state.env_state)
        np.testing.assert_array_equal(draw(one), sea.draw(one.env_state.env_state))
    pendulum = make("bellmax/Pendulum")
    env, draw = find_drawing(Randomised(pendulum, {"mass": (0.5, 2.0)}))
    (state,) = episode(env, [])
    np.testing.assert_array_equal(draw(state), pendulum.draw(state.env_state))


class Shown(NamedTuple):
    time: jax.Array


@dataclasses.dataclass(frozen=True)
class Screen:
    """Shows numbers of a shape and dtype, other ones at each step."""

    shape: tuple = (3, 5, 2)
    dtype: str = "bool"
    draws: bool = False

    @property
    def spec(self):
        shown = specs.Array(self.shape, np.dtype(self.dtype), "observation")
        return EnvSpec("test/Screen", shown, specs.DiscreteArray(2))

    def reset(self, key):
        return self._show(Shown(jnp.zeros((), jnp.int32)))

    def step(self, state, action, key):
        return self._show(Shown(state.time + 1))

    def _show(self, state):
        count = math.prod(self.shape)
        shown = ((jnp.arange(count) * 37 + 5 * state.time) % 4 == 0).reshape(self.shape)
        no = jnp.zeros((), bool)
        return state, TimeStep(shown.astype(self.dtype), jnp.zeros(()), no, no)


def test_what_a_task_shows_is_its_picture_if_it_draws_none():
    env, draw = find_drawing(Screen())

    @jax.jit
    def run(actions):
        vectors = [vectorise(one, 1, frame_stack=2, time_limit=9) for one in (env, Screen())]
        return [scripted.play(vector, actions) for vector in vectors]

    (seen, states), (wanted, _) = jax.device_get(run(np.zeros((2, 1), np.int32)))
    jax.tree.map(np.testing.assert_array_equal, seen, wanted)
    pictures = []
    for t in range(3):
        pictures.append(draw(jax.tree.map(lambda x, t=t: x[t, 0], states.env_state)))
        newest = wanted.observation[t, 0, ..., 2:]
        np.testing.assert_array_equal(pictures[-1], picture_of(newest, Screen().spec.observation))
    assert (pictures[0] != pictures[1]).any()


def middles(picture, rows, columns):
    """The colours in the middle of each cell."""
    height, width = picture.shape[:2]
    row, column = (
        (np.arange(n) + 0.5) * size / n for n, size in ((rows, height), (columns, width))
    )
    return picture[row.astype(int)][:, column.astype(int)]


def test_planes_have_colours_of_their_own_and_the_first_is_in_front():
    values = np.zeros((1, 4, 3), bool)
    values[0, 0, 0] = values[0, 1, 1] = values[0, 2] = True
    row = middles(picture_of(values, specs.Array(values.shape, bool)), 1, 4)[0]
    np.testing.assert_array_equal(row[:3], [BLUE, ORANGE, BLUE])
    assert row[3].max() < 40  # the cell is empty
    many = picture_of(np.eye(8, dtype=bool)[None], specs.Array((1, 8, 8), bool))
    assert len(np.unique(middles(many, 1, 8)[0], axis=0)) == 8


@pytest.mark.parametrize(
    ("values", "spec", "wanted"),
    [
        (np.array([[[7], [200]]], np.uint8), None, [[7] * 3, [200] * 3]),
        (np.array([[False, True]]), None, [[0] * 3, [255] * 3]),
        (np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8), None, [[1, 2, 3], [4, 5, 6]]),
        (np.array([[[-1.0], [0.0]]], np.float32), (-1, 1), [[0] * 3, [128] * 3]),
        (np.array([[[0.2], [9.0]]], np.float32), None, [[51] * 3, [255] * 3]),
    ],
)
def test_one_channel_is_grey_and_three_of_bytes_are_rgb(values, spec, wanted):
    shape, dtype = values.shape, values.dtype
    bounds = specs.BoundedArray(shape, dtype, *spec) if spec else specs.Array(shape, dtype)
    np.testing.assert_array_equal(middles(picture_of(values, bounds), 1, 2)[0], wanted)


def test_a_frame_of_ataris_size_is_enlarged_without_lines():
    frame = np.random.default_rng(0).integers(0, 256, (84, 84, 1)).astype(np.uint8)
    picture = picture_of(frame, specs.Array(frame.shape, np.uint8))
    np.testing.assert_array_equal(picture, np.kron(frame, np.ones((3, 3, 3))))


@pytest.mark.parametrize(
    ("shape", "dtype"), [((4,), "bool"), ((3, 5), "float32"), ((3, 5, 2), "int32")]
)
def test_what_is_no_picture_is_said_in_a_sentence(shape, dtype):
    with pytest.raises(UserError, match="test/Screen cannot draw pictures; it has no `draw`, and"):
        find_drawing(Screen(shape, dtype))


def test_planes_of_minatar():
    pytest.importorskip("gymnax")
    env, draw = find_drawing(make("gymnax/Breakout-MinAtar"))
    for state in episode(env, [1, 2, 0, 2]):
        colours = middles(draw(state), 10, 10)
        paddle, bricks = state.observation[..., 0], state.observation[..., 3]
        np.testing.assert_array_equal((colours == BLUE).all(-1), paddle)
        front = state.observation[..., :3].any(-1)  # paddle, ball and trail
        np.testing.assert_array_equal((colours == YELLOW).all(-1), bricks & ~front)


def test_xminigrids_picture_has_the_agent_in_its_cell():
    pytest.importorskip("xminigrid")
    env, draw = find_drawing(make("xminigrid/MiniGrid-Empty-6x6"))
    for state in episode(env, [0, 0, 1, 0]):  # forward, forward, turn, forward
        picture = draw(state).astype(int)
        assert picture.shape == (252, 252, 3)
        reddish = picture[..., 0] - picture[..., 1:].max(-1) > 100
        rows, columns = np.nonzero(reddish)
        at = int(rows.mean() // 42), int(columns.mean() // 42)
        assert at == tuple(state.agent.position.tolist())


def test_brax_hands_the_state_to_mujocos_renderer(monkeypatch):
    """Drawing needs OpenGL, which a test machine may lack."""
    pytest.importorskip("brax")
    mujoco = pytest.importorskip("mujoco")
    given = []

    class Renderer:
        def __init__(self, model, height, width):
            self.size = height, width

        def update_scene(self, data, camera):
            given.append((data.qpos.copy(), data.qvel.copy(), data.xpos.copy(), camera))

        def render(self):
            return np.zeros((*self.size, 3), np.uint8)

    def refuse(*_):
        raise RuntimeError("no screen\nat all")

    monkeypatch.setattr(mujoco, "Renderer", Renderer)
    env, draw = find_drawing(make("brax/inverted_pendulum"))
    for place in (0.0, 0.5):
        physics = SimpleNamespace(q=np.array([place, 0.1]), qd=np.array([2.0, 3.0]))
        assert draw(SimpleNamespace(physics=physics)).shape == (240, 320, 3)
    assert [g[0].tolist() for g in given] == [[0.0, 0.1], [0.5, 0.1]]
    assert given[0][1].tolist() == [2.0, 3.0] and given[0][3] == -1  # it has no camera
    # The bodies followed the joints.
    np.testing.assert_allclose((given[1][2] - given[0][2])[1:, 0], 0.5, atol=1e-9)
    monkeypatch.setattr(mujoco, "Renderer", refuse)
    with pytest.raises(UserError, match=r"cannot draw here \(RuntimeError: no screen\).*MUJOCO_GL"):
        make("brax/inverted_pendulum").draw(SimpleNamespace(physics=physics))
