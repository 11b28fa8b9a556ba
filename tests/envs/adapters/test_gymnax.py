"""gymnax's tasks through the adapter."""

import sys

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from bellmax import UserError
from bellmax.envs import Parametric, check_env, list_names, make, vectorise
from bellmax.envs.checks.rollout import sample_action, widened_bounds
from bellmax.envs.options import install_command
from helpers import scripted
from helpers.compiling import compiled

gymnax = pytest.importorskip("gymnax")
DOWNLOADS = {"gymnax/MNISTBandit-bsuite"}
NAMES = [n for n in list_names(with_gymnax=True) if n.startswith("gymnax/") and n not in DOWNLOADS]

SLOW_CHECK = pytest.param("MemoryChain-bsuite", marks=pytest.mark.slow)
# Discrete and continuous actions; observations that are bool, bounded, and without bounds.
HANDFUL = ["gymnax/Breakout-MinAtar", "gymnax/CartPole-v1", "gymnax/Reacher-misc"]


def test_all_tasks_are_listed():
    assert len(NAMES) + len(DOWNLOADS) == len(gymnax.registered_envs) >= 26


@pytest.mark.parametrize("name", NAMES)
def test_every_task_is_as_its_spec_says(name):
    """Tasks are only traced, because compiling them is slow."""
    env = make(name)
    spec, key = env.spec, jax.random.key(0)
    state, first = jax.eval_shape(env.reset, key)
    action = jax.eval_shape(lambda key: sample_action(spec.action, key), key)
    new, ts = jax.eval_shape(env.step, state, action, key)
    assert kinds((state, first)) == kinds((new, ts))
    assert (ts.observation.shape, ts.observation.dtype) == (
        spec.observation.shape,
        spec.observation.dtype,
    )
    assert (ts.reward.dtype, ts.terminated.dtype, ts.truncated.dtype) == ("float32", "bool", "bool")
    assert spec.time_limit == env.params.max_steps_in_episode


def kinds(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


@pytest.mark.parametrize(
    "name", [n if n in HANDFUL else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]
)
def test_every_task_steps_as_its_spec_says(name):
    env = make(name)
    spec = env.spec

    def run(key):
        state, first = env.reset(key)

        def body(state, key):
            return env.step(state, sample_action(spec.action, key), key)

        _, rest = jax.lax.scan(body, state, jax.random.split(key, 20))
        return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)

    keys = jax.random.split(jax.random.key(0), 3)
    ts = compiled(jax.vmap(run), keys)(keys)
    assert ts.observation.shape == (3, 21, *spec.observation.shape)
    over = np.asarray(ts.terminated | ts.truncated)
    assert not np.any(ts.terminated & ts.truncated)
    assert ts.observation.dtype == spec.observation.dtype
    if isinstance(spec.observation, specs.BoundedArray):
        # Steps after an episode's end are undefined.
        valid = np.cumsum(over, axis=1) - over == 0
        low, high = widened_bounds(spec.observation)
        seen = np.asarray(ts.observation)[valid]
        assert np.all((seen >= low) & (seen <= high))


def test_minatar_is_bool_and_loses_nothing():
    task, params = gymnax.make("Breakout-MinAtar")
    env = make("gymnax/Breakout-MinAtar")

    @jax.jit
    def reset(key):
        return task.reset_env(key, params)[0], env.reset(key)[1]

    wanted, ts = reset(jax.random.key(0))
    assert ts.observation.dtype == bool
    np.testing.assert_array_equal(ts.observation.astype(np.float32), wanted)


def test_time_limit_truncates_and_the_final_observation_is_shown():
    env = make("gymnax/MountainCar-v0", max_steps_in_episode=5)
    assert env.spec.time_limit == 5
    vector = vectorise(env, 2)
    stream, _ = scripted.rollout(vector, np.ones((7, 2), np.int32))
    first, stream = (
        jax.tree.map(lambda x, part=part: x[part], stream) for part in (0, slice(1, 8))
    )
    np.testing.assert_array_equal(stream.is_last[:, 0], [0, 0, 0, 0, 1, 0, 0])
    np.testing.assert_array_equal(stream.truncated[:, 0], [0, 0, 0, 0, 1, 0, 0])
    np.testing.assert_array_equal(stream.is_first[:, 0], [0, 0, 0, 0, 0, 1, 0])
    np.testing.assert_array_equal(stream.discount, 1.0)
    # The car rolls on without a jump into the step that is cut; the reset is a jump.
    position = np.concatenate([first.observation[None], stream.observation])[:, 0, 0]
    velocity = np.asarray(stream.observation)[:, 0, 1]
    np.testing.assert_allclose(np.diff(position)[:5], velocity[:5], atol=1e-6)


@pytest.mark.parametrize("name", ["Pendulum-v1", SLOW_CHECK])
def test_check_env_passes(name):
    assert check_env(f"gymnax/{name}") == []


@pytest.mark.parametrize("name", ["Pendulum-v1", "MountainCarContinuous-v0", "Reacher-misc"])
def test_continuous_actions_have_finite_bounds_of_their_own_shape(name):
    spec = make(f"gymnax/{name}").spec.action
    assert spec.dtype == np.float32 and len(spec.shape) == 1
    assert spec.minimum.shape == spec.maximum.shape == spec.shape
    assert np.all(np.isfinite(spec.minimum)) and np.all(spec.minimum < spec.maximum)


def step_pendulum(values, angle, speed, time, action):
    env, key = make("gymnax/Pendulum-v1").with_parameters(values), jax.random.key(0)
    state = env.reset(key)[0].replace(theta=angle, theta_dot=speed, time=time)
    return env.step(state, action, key)[1]


@pytest.mark.parametrize("changed", [{}, {"m": 0.3}, {"l": 1.7, "g": 4.0}])
def test_pendulum_equals_gymnasium(changed):
    theirs = gymnasium.make("Pendulum-v1").unwrapped
    theirs.reset(seed=0)
    for name, value in changed.items():
        setattr(theirs, name, value)
    rng = np.random.default_rng(0)
    angle, speed = rng.uniform([-4, -8], [4, 8], (100, 2)).astype(np.float32).T
    action = rng.uniform(-3, 3, (100, 1)).astype(np.float32)  # beyond the torque's bounds
    time = np.array([*range(99), 199], np.int32)
    step = jax.jit(jax.vmap(step_pendulum, (None, 0, 0, 0, 0)))
    ts = jax.device_get(step(changed, angle, speed, time, action))
    for i in range(100):
        theirs.state = np.array([angle[i], speed[i]], np.float64)
        wanted, reward, terminated, _, _ = theirs.step(action[i])
        np.testing.assert_allclose(ts.observation[i], wanted, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(ts.reward[i], reward, rtol=1e-5, atol=1e-5)
        assert not terminated
    assert not ts.terminated.any()
    np.testing.assert_array_equal(ts.truncated, time == 199)


def test_parameters_are_the_float_fields():
    env = make("gymnax/Pendulum-v1", m=2)  # an int, as YAML reads it
    nominal = {"max_speed": 8.0, "max_torque": 2.0, "dt": 0.05, "g": 10.0, "m": 2.0, "l": 1.0}
    assert env.parameters == nominal and isinstance(env, Parametric)
    assert make("gymnax/Breakout-MinAtar").parameters == {}


def test_parameters_that_are_not_named_are_nominal_again():
    env = make("gymnax/Pendulum-v1")
    again = env.with_parameters({"m": 3.0}).with_parameters({"g": 5.0})
    assert again.changed == {"g": 5.0} and env.changed == {}
    assert again.parameters == env.parameters

    @jax.jit
    def speeds(key):
        state, _ = env.reset(key)
        shown = [some.step(state, jnp.ones(1), key)[1].observation for some in (env, again)]
        return state.theta, shown[0][2], shown[1][2]

    angle, strong, weak = jax.device_get(speeds(jax.random.key(0)))
    # The equation of Gymnasium: speed += (3 g / 2 l sin(angle) + 3 / m l^2 torque) dt.
    np.testing.assert_allclose(strong - weak, 1.5 * (10 - 5) * np.sin(angle) * 0.05, rtol=1e-4)


def test_a_batch_of_parameters_equals_each_alone():
    env = make("gymnax/Pendulum-v1")

    def run(mass):
        changed = env.with_parameters({"m": mass})
        state, first = changed.reset(jax.random.key(0))
        _, ts = changed.step(state, jnp.ones(1), jax.random.key(1))
        return first.observation, ts.observation

    masses, alone = jnp.array([0.5, 1.0, 2.0]), jax.jit(run)
    firsts, seconds = jax.jit(jax.vmap(run))(masses)
    assert len(np.unique(seconds[:, 2])) == 3 and len(np.unique(firsts[:, 2])) == 1
    for i, mass in enumerate(masses):
        np.testing.assert_allclose(seconds[i], alone(mass)[1], rtol=1e-6)


def test_unknown_parameter_is_explained():
    with pytest.raises(UserError, match="unknown parameter 'gravit'.* did you mean gravity"):
        make("gymnax/CartPole-v1").with_parameters({"gravit": 1.0})


def test_constructor_options_reach_the_task():
    env = make("gymnax/DeepSea-bsuite", size=4)
    assert env.spec.observation.shape == (4, 4) and env.spec.time_limit == 4


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("gymnax/CartPole-v1", {"max_step_in_episode": 5}, "did you mean max_steps_in_episode"),
        ("gymnax/CartPole-v1", {"gravity": "x"}, "gravity must be a number, got 'x'"),
        ("gymnax/CartPol-v1", {}, "did you mean CartPole-v1"),
        ("gymnax/FrozenLake-misc", {"map_name": "9x9"}, "map_name must be"),
    ],
)
def test_mistakes_are_explained(name, options, words):
    with pytest.raises(UserError, match=words):
        make(name, **options)


def test_failed_download_is_explained(monkeypatch):
    def no_network(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("gymnax.utils.load_mnist.load_mnist", no_network)
    with pytest.raises(UserError, match="MNISTBandit-bsuite .it downloads its data.: no network"):
        make("gymnax/MNISTBandit-bsuite")


def test_missing_gymnax_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnax", None)
    with pytest.raises(UserError) as error:
        make("gymnax/CartPole-v1")
    assert str(error.value) == f"gymnax is not installed: {install_command('gymnax')}"
