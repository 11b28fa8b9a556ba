"""pgx's games through the adapter: one player's side of them."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import UserError
from bellmax.envs import check_env, make, vectorise
from bellmax.envs.adapters.pgx import from_pgx
from bellmax.envs.options import install_command
from helpers.compiling import compiled

pgx = pytest.importorskip("pgx")
KEY = jax.random.key(0)
TASKS = pgx.available_envs()
QUICK = ("2048", "connect_four", "kuhn_poker", "tic_tac_toe", "minatar-breakout")
LIMITS = {"animal_shogi": 128, "chess": 256, "gardner_chess": 128, "shogi": 256}


def kinds(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


@pytest.mark.parametrize(
    "task", [t if t in QUICK else pytest.param(t, marks=pytest.mark.slow) for t in TASKS]
)
def test_every_task_is_as_its_spec_says(task):
    """By tracing alone, which takes up to a minute in shogi."""
    env = make(f"pgx/{task}")
    spec = env.spec
    state, first = jax.eval_shape(env.reset, KEY)
    new, ts = jax.eval_shape(env.step, state, jnp.int32(0), KEY)
    assert kinds((state, first)) == kinds((new, ts))
    assert ts.observation.shape == spec.observation.shape
    assert ts.observation.dtype == spec.observation.dtype
    assert (ts.reward.dtype, ts.terminated.dtype, ts.truncated.dtype) == ("float32", "bool", "bool")
    assert ts.action_mask.shape == (spec.action.num_values,) and ts.action_mask.dtype == bool
    assert spec.action_mask and spec.time_limit == LIMITS.get(task)
    assert spec.name == f"pgx/{task}"


@pytest.mark.parametrize(
    "task",
    ["tic_tac_toe", *(pytest.param(t, marks=pytest.mark.slow) for t in ("2048", "connect_four"))]
    + [pytest.param(t, marks=pytest.mark.slow) for t in ("backgammon", "kuhn_poker", "othello")]
    + [pytest.param("animal_shogi", marks=pytest.mark.slow)],
)
def test_check_env_passes(task):
    assert check_env(f"pgx/{task}") == []


def play(env, games, choose):
    """Final time step, return and start of games, and whether the opponent moved first."""

    def game(key):
        keys = jax.random.split(key, 10)
        state, first = env.reset(keys[0])

        def step(carry, key):
            state, ts, total = carry
            over = ts.terminated | ts.truncated
            new, after = env.step(state, choose(key, ts.action_mask), key)
            total += jnp.where(over, 0.0, after.reward)
            kept = jax.tree.map(lambda a, b: jnp.where(over, a, b), (state, ts), (new, after))
            return (*kept, total), None

        (_, ts, total), _ = jax.lax.scan(step, (state, first, jnp.float32(0)), keys[1:])
        return first, ts, total

    keys = jax.random.split(KEY, games)
    return jax.device_get(compiled(jax.vmap(game), keys)(keys))


def uniform(key, mask):
    return jnp.argmax(jnp.where(mask, jax.random.uniform(key, mask.shape), -1.0))


def lowest(key, mask):
    return jnp.argmax(mask)


def test_the_agent_plays_both_sides_and_its_rewards_are_its_own():
    first, last, returns = play(make("pgx/tic_tac_toe"), 4_000, uniform)
    assert last.terminated.all() and not last.truncated.any() and not first.terminated.any()
    moved = first.observation.reshape(4_000, -1).sum(axis=1)  # by the opponent
    assert set(moved) == {0, 1} and abs(moved.mean() - 0.5) < 0.03
    # At random the side that begins wins 0.585 of the games and loses 0.288.
    for begins, (wins, losses) in ((True, (0.585, 0.288)), (False, (0.288, 0.585))):
        mine = returns[moved == (0 if begins else 1)]
        shares = [(mine == r).mean() for r in (1, -1)]
        np.testing.assert_allclose(shares, [wins, losses], atol=0.035)
    # The final observation is from the agent's side: planes are its own pieces and the others'.
    own, other = last.observation[..., 0].sum((1, 2)), last.observation[..., 1].sum((1, 2))
    assert (own[returns == 1] >= 3).all() and (other[returns == -1] >= 3).all()
    full = own + other < 9
    assert (returns[full] != 0).all()


def test_a_winning_opponent_takes_what_wins():
    random = play(make("pgx/tic_tac_toe"), 500, lowest)[2]
    winning = play(make("pgx/tic_tac_toe", opponent="winning"), 500, lowest)[2]
    assert winning.mean() < random.mean() - 0.2


def test_an_opponent_may_be_a_function():
    env = from_pgx(pgx.make("tic_tac_toe"), lambda state, key: jnp.argmax(state.legal_action_mask))
    first, *_ = play(env, 20, lowest)
    moved = first.observation.reshape(20, -1).sum(axis=1) == 1
    assert moved.any() and first.observation[moved, 0, 0, 1].all()  # always the first cell


def test_an_illegal_action_loses():
    env = make("pgx/tic_tac_toe")

    def two(key):
        state, _ = env.reset(key)
        state, _ = env.step(state, 4, key)
        return env.step(state, 4, key)[1]

    ts = compiled(two, KEY)(KEY)
    assert ts.terminated and ts.reward == -1


def test_a_new_game_begins_after_the_last_step():
    vector = vectorise(make("pgx/tic_tac_toe"), 4)
    state, seen = vector.reset(KEY)
    step = compiled(vector.step, state, jnp.zeros(4, int), KEY)
    lengths = []
    for i in range(20):
        before = seen
        state, seen = step(state, jnp.argmax(seen.action_mask, axis=1), jax.random.key(i))
        np.testing.assert_array_equal(seen.is_first, before.is_last)
        assert (seen.observation.reshape(4, -1).sum(1)[seen.is_first] <= 1).all()
        lengths += seen.episode_length[seen.is_last].tolist()
    assert len(lengths) > 8 and set(lengths) <= {2, 3, 4, 5}


@pytest.mark.slow
def test_a_draw_by_the_number_of_moves_is_a_truncation():
    env = make("pgx/animal_shogi")
    state, seen = jax.jit(env.reset)(KEY)
    step = jax.jit(env.step)
    for moves, cut in ((100, False), (254, True)):
        late = state.replace(_step_count=jnp.int32(moves))
        _, ts = step(late, jnp.argmax(seen.action_mask), KEY)
        assert not ts.terminated and ts.truncated == cut and ts.reward == 0
    illegal = jnp.argmin(seen.action_mask)
    _, ts = step(state.replace(_step_count=jnp.int32(255)), illegal, KEY)
    assert ts.terminated and not ts.truncated and ts.reward == -1


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("pgx/connect_for", {}, "did you mean connect_four?"),
        ("pgx/bridge_bidding", {}, "unknown game 'bridge_bidding' of pgx"),
        ("pgx/chess", {"opponent": "winning"}, "opponent must be random for pgx/chess, got 'win"),
        ("pgx/tic_tac_toe", {"opponent": "randon"}, "opponent must be one of random, winning, got"),
        ("pgx/tic_tac_toe", {"oponent": "random"}, "did you mean opponent?"),
    ],
)
def test_mistakes_are_explained(name, options, words):
    with pytest.raises(UserError) as error:
        make(name, **options)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_missing_pgx_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "pgx", None)
    with pytest.raises(UserError) as error:
        make("pgx/tic_tac_toe")
    assert str(error.value) == f"pgx is not installed: {install_command('pgx')}"
