"""PixelCatch is Catch step by step, drawn at Atari's size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import UserError
from bellmax.envs import Catch, PixelCatch, check_env, make, vectorise


def enlarged(board):
    """A board [rows, columns] of zeros and ones as the frame that it should be, pixel by pixel."""
    row, column = ([int(i * size / 84) for i in range(84)] for size in board.shape)
    return np.uint8(255) * board[np.ix_(row, column)].astype(np.uint8)[..., None]


@pytest.mark.parametrize(("rows", "columns"), [(10, 5), (7, 12), (84, 84), (2, 1)])
def test_it_is_catch_step_by_step(rows, columns):
    ours, plain = PixelCatch(rows, columns), Catch(rows, columns)
    rng, rewards = np.random.default_rng(0), set()

    @jax.jit
    def reset(key):
        return ours.reset(key), plain.reset(key)

    @jax.jit
    def step(state, other, action, key):
        return ours.step(state, action, key), plain.step(other, action, key)

    for episode in range(6):
        key = jax.random.key(episode)
        (state, ts), (other, wanted) = jax.device_get(reset(key))
        for t in range(rows):
            np.testing.assert_array_equal(ts.observation, enlarged(wanted.observation))
            assert ts.observation.dtype == np.uint8
            for name in ("reward", "terminated", "truncated"):
                assert getattr(ts, name) == getattr(wanted, name)
            jax.tree.map(np.testing.assert_array_equal, state, other)
            if ts.terminated:
                assert t == rows - 1
                rewards.add(float(ts.reward))
                break
            action = np.int32(rng.integers(3))
            (state, ts), (other, wanted) = jax.device_get(step(state, other, action, key))
        assert ts.terminated
    assert columns == 1 or -1 in rewards


def test_it_keeps_the_contract_and_its_spec_is_catchs():
    env = make("bellmax/PixelCatch", rows=6, columns=4)
    assert env == PixelCatch(6, 4) and check_env(env) == []
    spec, plain = env.spec, Catch(6, 4).spec
    assert (spec.action, spec.reward_range) == (plain.action, plain.reward_range)
    assert (spec.observation.shape, spec.observation.dtype) == ((84, 84, 1), np.uint8)


def test_stacked_frames_are_those_of_atari_and_move():
    """The newest frame is last; a reset fills all four; the ball falls one row a frame."""
    env = vectorise(PixelCatch(), 3, frame_stack=4)
    assert env.spec.observation.shape == (84, 84, 4)
    assert env.spec.observation.dtype == np.uint8
    state, ts = env.reset(jax.random.key(0))
    frames = np.asarray(ts.observation)
    np.testing.assert_array_equal(frames, np.repeat(frames[..., :1], 4, -1))
    step = jax.jit(env.step)
    seen = [frames[..., -1]]
    for t in range(1, 10):
        state, ts = step(state, jnp.ones(3, jnp.int32), jax.random.key(t))
        frames = np.asarray(ts.observation)
        assert frames.dtype == np.uint8
        seen.append(frames[..., -1])
        for back in range(4):
            np.testing.assert_array_equal(frames[..., 3 - back], seen[max(t - back, 0)])
        top = (frames[..., -1].max(axis=2) > 0).argmax(axis=1)
        np.testing.assert_array_equal(top, np.full(3, -(-84 * t // 10)))
        assert ts.is_last.all() == (t == 9)


@pytest.mark.parametrize(
    ("rows", "columns", "words"),
    [
        (1, 5, "rows must be from 2 to 84, got 1"),
        (85, 5, "rows must be from 2 to 84, got 85"),
        (10, 0, "columns must be from 1 to 84, got 0"),
        (10, 85, "columns must be from 1 to 84, got 85"),
    ],
)
def test_boards_that_cannot_be_drawn_are_refused(rows, columns, words):
    with pytest.raises(UserError, match=words):
        PixelCatch(rows, columns)
