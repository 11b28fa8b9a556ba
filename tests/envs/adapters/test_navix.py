"""navix's grids through the adapter."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import UserError
from bellmax.envs import check_env, make
from bellmax.envs.adapters.navix import from_navix
from bellmax.envs.options import install_command
from helpers.compiling import compiled

navix = pytest.importorskip("navix")
KEY = jax.random.key(0)
LEFT, RIGHT, FORWARD, DONE = 0, 1, 2, 6
TASKS = sorted(navix.registry())
GOAL, PLAYER, WALL = 8, 10, 2  # tags


def kinds(tree):
    return [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_as_its_spec_says(task):
    """By tracing alone."""
    env = make(f"navix/{task}")
    spec = env.spec
    state, first = jax.eval_shape(env.reset, KEY)
    new, ts = jax.eval_shape(env.step, state, jnp.int32(0), KEY)
    assert kinds((state, first)) == kinds((new, ts))
    assert jax.tree.structure((state, first)) == jax.tree.structure((new, ts))
    assert ts.observation.shape == spec.observation.shape and ts.observation.dtype == bool
    assert spec.observation.shape[2] == 21 and spec.action.num_values == 7
    assert (ts.reward.dtype, ts.terminated.dtype, ts.truncated.dtype) == ("float32", "bool", "bool")
    assert spec.time_limit == 100 and spec.name == f"navix/{task}"
    near = make(f"navix/{task}", view="first_person", encoding="ids").spec.observation
    assert near.shape == (7, 7, 3) and near.dtype == np.uint8


@pytest.mark.parametrize(
    "task",
    ["Navix-Empty-5x5-v0"]
    + [
        pytest.param(f"Navix-{t}-v0", marks=pytest.mark.slow)
        for t in ("DoorKey-5x5", "Dynamic-Obstacles-5x5", "GoToDoor-5x5", "KeyCorridorS3R1")
    ],
)
def test_check_env_passes(task):
    assert check_env(f"navix/{task}") == []


def test_the_goal_terminates_and_the_limit_truncates():
    env = make("navix/Navix-Empty-5x5-v0", max_steps=5)
    ids = make("navix/Navix-Empty-5x5-v0", max_steps=5, encoding="ids")

    def run(key, actions):
        state, first = env.reset(key)
        ids_first = ids.reset(key)[1].observation

        def body(state, action):
            _, ts_ids = ids.step(state, action, key)
            state, ts = env.step(state, action, key)
            return state, (ts, ts_ids.observation)

        return first, ids_first, jax.lax.scan(body, state, actions)[1]

    to_the_goal = jnp.array([FORWARD, FORWARD, RIGHT, FORWARD, FORWARD])
    program = compiled(run, KEY, to_the_goal)
    first, ids_first, (ts, seen) = program(KEY, to_the_goal)
    assert tuple(ids_first[1, 1]) == (PLAYER, 0, 0) and ids_first[3, 3, 0] == GOAL
    assert (ids_first[0, :, 0] == WALL).all()
    for one_hot, symbols in ((first.observation[None], ids_first[None]), (ts.observation, seen)):
        layers = one_hot[..., :11], one_hot[..., 11:17], one_hot[..., 17:]
        for i, layer in enumerate(layers):
            np.testing.assert_array_equal(layer.argmax(-1), symbols[..., i])
            np.testing.assert_array_equal(layer.sum(-1), 1)
    # The last step is both: it is a termination.
    np.testing.assert_array_equal(ts.reward, [0, 0, 0, 0, 1])
    np.testing.assert_array_equal(ts.terminated, [0, 0, 0, 0, 1])
    assert not ts.truncated.any()
    _, _, (ts, _) = program(KEY, jnp.array([LEFT] * 5))
    np.testing.assert_array_equal(ts.truncated, [0, 0, 0, 0, 1])
    assert not ts.terminated.any() and not ts.reward.any()


def test_balls_move_by_the_key_of_the_step():
    env = make("navix/Navix-Dynamic-Obstacles-6x6-v0", encoding="ids")
    state, _ = env.reset(KEY)
    step = jax.jit(jax.vmap(lambda key: env.step(state, DONE, key)[1].observation))
    seen = step(jax.random.split(KEY, 8))
    assert len(np.unique(seen.reshape(8, -1), axis=0)) > 1
    np.testing.assert_array_equal(seen, step(jax.random.split(KEY, 8)))


def test_objects_are_taken():
    from navix import observations

    env = from_navix(navix.make("Navix-Empty-5x5-v0", observation_fn=observations.rgb))
    assert env.spec.observation.shape == (40, 40, 3) and env.spec.observation.dtype == np.uint8
    state, first = jax.eval_shape(env.reset, KEY)
    new, ts = jax.eval_shape(env.step, state, jnp.int32(0), KEY)
    assert kinds((state, first)) == kinds((new, ts))
    plain = from_navix(navix.make("Navix-Empty-5x5-v0", max_steps=7))
    assert plain.spec.time_limit == 7 and plain.spec.observation.shape == (5, 5, 21)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_steps": 0}, "max_steps must be a whole number of environment steps, at least 1"),
        ({"max_steps": 2.5}, "at least 1, got 2.5"),
        ({"view": "first"}, "view must be one of full, first_person, got 'first'"),
        ({"encoding": "rgb"}, "encoding must be one of one_hot, ids"),
        ({"max_step": 3}, "did you mean max_steps?"),
    ],
)
def test_mistakes_are_explained(options, words):
    with pytest.raises(UserError) as error:
        make("navix/Navix-Empty-5x5-v0", **options)
    assert words in str(error.value)
    with pytest.raises(UserError, match="unknown task 'Navix-Empty-5x5' of navix; did you mean"):
        make("navix/Navix-Empty-5x5")


def test_missing_navix_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "navix", None)
    with pytest.raises(UserError) as error:
        make("navix/Navix-Empty-5x5-v0")
    assert str(error.value) == f"navix is not installed: {install_command('navix')}"
