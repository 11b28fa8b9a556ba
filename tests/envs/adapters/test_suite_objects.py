"""A factory may return an environment object of a JAX suite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import UserError
from bellmax.envs import check_env, is_host, make, make_batch, vectorise
from helpers import suite_objects

# brax imports packages that warn.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
KEY = jax.random.key(0)
SLOW = pytest.mark.slow


def mine(name):
    return f"helpers.suite_objects:{name}"


def shapes(name, num_envs=2):
    """The first two time steps of a vector environment, traced."""
    env = vectorise(make(mine(name)), num_envs)
    action = jnp.zeros((num_envs, *env.spec.action.shape), env.spec.action.dtype)
    state, first = jax.eval_shape(env.reset, KEY)
    return env.spec, (first, jax.eval_shape(env.step, state, action, KEY)[1])


@pytest.mark.parametrize(
    ("name", "spec_name", "time_limit"),
    [
        ("gymnax_pair", "gymnax/Pendulum-v1", 200),
        ("gymnax_env", "gymnax/CartPole-v1", 500),
        ("gymnax_own", "gymnax/CartPole-v1", 7),
        ("brax_own", "brax/count", 1000),
        ("xminigrid_pair", "xminigrid/Empty", 9),
        ("jumanji_env", "jumanji/Snake", 9),
        ("navix_env", "navix/Room", 7),
        ("pgx_env", "pgx/tic_tac_toe", None),
        ("playground_own", "playground/Count", 6),
        pytest.param("craftax_env", "craftax/Craftax-Classic-Symbolic-v1", 10_000, marks=SLOW),
    ],
)
def test_objects_step_as_their_specs_say(name, spec_name, time_limit):
    suite = name.partition("_")[0]
    pytest.importorskip({"playground": "mujoco_playground"}.get(suite, suite))
    assert not is_host(mine(name))
    spec, steps = shapes(name)
    assert spec.name.startswith(spec_name) and spec.time_limit == time_limit
    for ts in steps:
        assert ts.observation.shape == (2, *spec.observation.shape)
        assert ts.observation.dtype == spec.observation.dtype


def test_options_reach_the_factory():
    pytest.importorskip("gymnax")
    assert make(mine("gymnax_pair"), max_steps_in_episode=9).spec.time_limit == 9
    with pytest.raises(UserError, match="gymnax_pair is a JAX environment"):
        make_batch(mine("gymnax_pair"), 1)


def test_brax_objects_keep_their_info():
    pytest.importorskip("brax")
    env = make(mine("brax_own"))
    state, ts = env.reset(KEY)
    rewards, ends = [], []
    for _ in range(3):
        state, ts = env.step(state, jnp.array([0.5, 2.0]), KEY)  # 2 is clipped to 1
        rewards.append(float(ts.reward))
        ends.append(bool(ts.terminated))
    assert rewards == [1, 2, 3] and ends == [False, False, True]
    np.testing.assert_allclose(ts.observation, [4.5])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gymnax_wrapped", "must not be in a wrapper, got a FlattenObservationWrapper"),
        ("brax_wrapped", "must not be in a wrapper, got a EpisodeWrapper; make it with brax.envs"),
        ("brax_dict", "the observation of brax/count must be one array, got a dict"),
        ("xminigrid_wrapped", "must not be in a wrapper, got a GymAutoResetWrapper"),
        ("three_values", "must return an Environment .*, got a tuple"),
    ],
)
def test_objects_that_no_adapter_takes(name, words):
    if (suite := name.partition("_")[0]) in ("gymnax", "brax", "xminigrid"):
        pytest.importorskip(suite)
    with pytest.raises(UserError, match=words):
        make(mine(name))


def test_check_env_takes_objects():
    pytest.importorskip("brax")
    assert check_env(suite_objects.brax_own()) == []
