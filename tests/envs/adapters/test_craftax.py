"""craftax's symbolic tasks through the adapter. The full game is only traced: it compiles long."""

import builtins

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from bellmax import UserError
from bellmax.envs import make
from bellmax.envs.options import install_command
from helpers.compiling import compiled

pytest.importorskip("craftax")
CLASSIC = "craftax/Craftax-Classic-Symbolic-v1"
FULL = "craftax/Craftax-Symbolic-v1"
LAVA = 14  # of the classic game's blocks


@pytest.mark.parametrize(
    ("name", "size", "actions", "limit"),
    [
        (CLASSIC, 1345, 17, 10_000),
        pytest.param(FULL, 8268, 43, 100_000, marks=pytest.mark.slow),
    ],
)
def test_every_task_is_as_its_spec_says(name, size, actions, limit):
    env = make(name)
    assert env.spec.name == name and env.spec.time_limit == limit
    assert env.spec.observation.shape == (size,) and env.spec.action.num_values == actions
    assert isinstance(env.spec.observation, specs.BoundedArray) == (name == CLASSIC)
    state, first = jax.eval_shape(env.reset, jax.random.key(0))
    new, ts = jax.eval_shape(env.step, state, jnp.int32(0), jax.random.key(0))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), (state, first)) == jax.tree.map(
        lambda x: (x.shape, x.dtype), (new, ts)
    )
    assert (ts.observation.shape, ts.observation.dtype) == ((size,), np.float32)
    assert (ts.reward.dtype, ts.terminated.dtype, ts.truncated.dtype) == ("float32", "bool", "bool")


@pytest.mark.slow
def test_steps_equal_craftaxs_own_and_limits_are_not_deaths():
    env = make(CLASSIC, max_timesteps=50)
    theirs, params = env.env, env.params
    assert env.spec.time_limit == params.max_timesteps == 50
    key = jax.random.key(0)

    def start(key):
        with jax.numpy_rank_promotion("allow"):
            return env.reset(key), theirs.reset_env(key, params)[0]

    def step(state, action):
        with jax.numpy_rank_promotion("allow"):
            wanted = theirs.step_env(key, state, action, params)
        return env.step(state, action, key), (wanted[0], wanted[2], wanted[3])

    (state, first), wanted = compiled(start, key)(key)
    np.testing.assert_array_equal(first.observation, wanted)
    assert np.all((wanted >= 0) & (wanted <= 1)) and not first.terminated | first.truncated
    run = compiled(step, state, jnp.int32(0))

    def outcome(state, action):
        (state, ts), (observation, reward, over) = run(state, jnp.int32(action))
        np.testing.assert_array_equal(ts.observation, observation)
        np.testing.assert_allclose(ts.reward, reward)
        assert over == (ts.terminated | ts.truncated)
        return state, (ts.reward, ts.terminated, ts.truncated)

    for action, achieved in ((1, 0), (2, 0), (5, 1)):
        after, ends = outcome(state, action)
        assert ends == (achieved, False, False) and after.timestep == 1
        assert after.achievements.sum() == achieved
    rested = state.replace(player_health=jnp.int32(3), player_recover=jnp.float32(26))
    assert outcome(rested, 0)[1] == (pytest.approx(0.1), False, False)
    late = state.replace(timestep=jnp.int32(49))
    assert outcome(late, 0)[1] == (0, False, True)
    burning = jnp.full_like(state.map, LAVA)
    died = pytest.approx(-0.1 * int(state.player_health))
    for before in (state, late):  # a death in the last step is a death
        assert outcome(before.replace(map=burning), 0)[1] == (died, True, False)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("craftax/Craftax-Clasic-Symbolic-v1", {}, f"did you mean {CLASSIC[8:]}"),
        ("craftax/Craftax-Pixels-v1", {}, "unknown symbolic task 'Craftax-Pixels-v1' of craftax"),
        (CLASSIC, {"max_timestep": 3}, f"of {CLASSIC}; did you mean max_timesteps?"),
        (CLASSIC, {"max_timesteps": 0}, "max_timesteps must be at least 1 environment step, got 0"),
        (CLASSIC, {"max_timesteps": 2.5}, "max_timesteps must be a whole number, got 2.5"),
        (CLASSIC, {"max_timesteps": True}, "max_timesteps must be a whole number, got True"),
        (CLASSIC, {"always_diamond": 1}, "always_diamond must be true or false, got 1"),
    ],
)
def test_mistakes_are_explained(name, options, words):
    with pytest.raises(UserError) as error:
        make(name, **options)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_an_int_stands_for_a_float():
    assert make(CLASSIC, spawn_cow_chance=1).params.spawn_cow_chance == 1


def test_missing_craftax_is_explained(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("craftax"):
            raise ModuleNotFoundError("No module named 'craftax'", name="craftax")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError) as error:
        make(CLASSIC)
    assert str(error.value) == f"craftax is not installed: {install_command('craftax')}"
