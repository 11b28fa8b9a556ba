"""Environments that show which actions are legal: tasks, host tasks, and what check_env says."""

import dataclasses

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from bellmax import UserError
from bellmax.envs import (
    EnvSpec,
    TicTacToe,
    TimeStep,
    check_env,
    from_gymnasium,
    make_batch,
    vectorise,
)
from bellmax.envs.host.loop import LoopBatch
from bellmax.envs.host.vector import HostVector
from helpers.jitted import quick_jit


def play(choose, games, seed=0):
    """Returns of games of tic-tac-toe; `choose` maps key, board planes and mask to an action."""
    env = TicTacToe()

    @quick_jit
    @jax.vmap
    def game(key):
        keys = jax.random.split(key, 12).reshape(6, 2)

        def step(carry, keys):
            state, ts, total, over = carry
            action = choose(keys[0], ts.observation, ts.action_mask)
            state, ts = env.step(state, action, keys[1])
            total = total + jnp.where(over, 0.0, ts.reward)
            return (state, ts, total, over | ts.terminated), None

        start = *env.reset(key), jnp.zeros(()), jnp.zeros((), bool)
        return jax.lax.scan(step, start, keys)[0][2:]

    returns, over = game(jax.random.split(jax.random.key(seed), games))
    assert np.asarray(over).all()
    return np.asarray(returns)


def test_random_games_end_as_known():
    """Both sides at random: the side that begins wins 0.585 and loses 0.288 of the games."""

    def random(key, _, mask):
        return jnp.argmax(jnp.where(mask, jax.random.uniform(key, (9,)), -1.0))

    returns = play(random, 20_000)
    shares = [(returns == r).mean() for r in (1, -1, 0)]
    np.testing.assert_allclose(shares, [0.585, 0.288, 0.127], atol=0.012)


def test_an_illegal_move_loses():
    assert (play(lambda key, board, mask: 4, 50) == -1).all()
    assert TicTacToe().optimal_return == pytest.approx(0.9948, abs=1e-4)


def test_masks_are_the_empty_cells():
    vector = vectorise(TicTacToe(), 3)
    state, seen = vector.reset(jax.random.key(0))
    step = quick_jit(vector.step)
    for t in range(12):
        taken = np.asarray(seen.observation).reshape(3, 9, 2).any(axis=-1)
        np.testing.assert_array_equal(seen.action_mask, ~taken)
        action = np.argmax(np.asarray(seen.action_mask), axis=1)
        state, seen = step(state, action, jax.random.key(t))


@dataclasses.dataclass(frozen=True)
class Wrong(TicTacToe):
    """Tic-tac-toe whose masks are wrong in one way."""

    how: str = ""

    @property
    def spec(self):
        return super().spec._replace(action_mask=self.how != "unannounced")

    def _show(self, state, reward, terminated):
        ts = super()._show(state, reward, terminated)
        masks = {
            "none": (),
            "empty": jnp.zeros(9, bool),
            "floats": jnp.ones(9),
            "few": jnp.ones(3, bool),
        }
        return ts._replace(action_mask=masks.get(self.how, ts.action_mask))


@pytest.mark.parametrize(
    "how, words, refused",
    [
        ("none", "action_mask must be a jax array, got a tuple", "an action_mask of shape"),
        ("floats", "action_mask must have shape (9,) and dtype bool", "dtype bool, got"),
        ("few", "action_mask must have shape (9,)", "shape (9,)"),
        ("unannounced", "the spec does not announce it", "must return no action_mask"),
        ("empty", "action_mask allows no action although", None),
    ],
)
def test_wrong_masks_are_named(how, words, refused):
    problems = check_env(Wrong(how=how))
    assert any(words in problem for problem in problems), problems
    if refused is not None:
        with pytest.raises(UserError) as raised:
            vectorise(Wrong(how=how), 2).reset(jax.random.key(0))
        assert refused in str(raised.value)


def test_a_task_with_continuous_actions_has_no_mask():
    spec = EnvSpec(
        "test/Any", specs.Array((2,), np.float32), specs.Array((2,), np.float32), action_mask=True
    )
    env = TicTacToe()
    with pytest.raises(UserError, match="action_mask must be False unless spec.action is a Discre"):
        vectorise(type("T", (), {"spec": spec, "reset": env.reset, "step": env.step})(), 1)
    assert TimeStep(1, 2, 3, 4).action_mask == ()


class Cells(gymnasium.Env):
    """Three cells are filled one by one; `info` says which are empty."""

    observation_space = gymnasium.spaces.Box(0, 1, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, mask="action_mask"):
        self.mask = mask

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cells = np.zeros(3, np.float32)
        return self.cells.copy(), {self.mask: (self.cells == 0).astype(np.int8)}

    def step(self, action):
        assert self.cells[action] == 0
        self.cells[action] = 1
        info = {self.mask: (self.cells == 0).astype(np.int8)}
        return self.cells.copy(), 1.0, bool(self.cells.all()), False, info


def test_gymnasiums_info_is_the_mask():
    batch = LoopBatch(lambda: from_gymnasium(Cells(), "test/Cells", action_mask=True), 2)
    vector = HostVector(batch)
    assert vector.spec.action_mask
    seen = vector.reset(0)
    for _ in range(9):
        np.testing.assert_array_equal(seen.action_mask, seen.observation == 0)
        assert seen.action_mask.dtype == bool
        seen = vector.step(np.argmax(seen.action_mask, axis=1))
    vector.close()
    assert check_env(from_gymnasium(Cells(), "test/Cells", action_mask=True)) == []


def test_a_missing_mask_is_told():
    task = from_gymnasium(Cells("legal"), "test/Cells", action_mask=True)
    words = "info of test/Cells must have the key 'action_mask', got \\['legal'\\]; leave out"
    with pytest.raises(UserError, match=words):
        task.reset(0)
    with pytest.raises(UserError, match="env.options.action_mask must be true or false, got 'yes'"):
        from_gymnasium(Cells(), "test/Cells", action_mask="yes")


def test_taxi_shows_its_masks():
    batch = make_batch("gymnasium/Taxi-v4", 1, action_mask=True)
    first = batch.reset(0)
    assert first.action_mask.shape == (1, 6) and 0 < first.action_mask.sum() < 6
    batch.close()
