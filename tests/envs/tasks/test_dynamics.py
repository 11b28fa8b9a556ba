"""Our tasks against the reference environments, step by step."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bsuite.environments import catch, deep_sea

from bellmax import UserError
from bellmax.envs import CartPole, Catch, Countable, DeepSea, Pendulum
from bellmax.envs.tasks.cartpole import CartPoleState
from bellmax.envs.tasks.pendulum import PendulumState

KEY = jax.random.key(0)


def test_cartpole_equals_gymnasium():
    theirs = gymnasium.make("CartPole-v1")
    ours, rng = CartPole(), np.random.default_rng(0)
    step, ends = jax.jit(ours.step), 0
    theirs.reset(seed=0)
    time = 0
    for _ in range(600):
        # Both start each step from the same state, so that rounding errors do not accumulate.
        before = np.array(theirs.unwrapped.state, np.float32)
        theirs.unwrapped.state = before.astype(np.float64)
        action = int(rng.integers(2))
        wanted, reward, terminated, truncated, _ = theirs.step(action)
        state = CartPoleState(before, np.int32(time))
        _, ts = jax.device_get(step(state, np.int32(action), KEY))
        np.testing.assert_allclose(ts.observation, wanted, rtol=1e-5, atol=1e-6)
        assert (ts.reward, ts.terminated, ts.truncated) == (reward, terminated, truncated)
        time += 1
        if terminated or truncated:
            theirs.reset()
            time, ends = 0, ends + 1
    assert ends > 10


def test_cartpole_truncates_like_gymnasium():
    theirs = gymnasium.make("CartPole-v1")
    theirs.reset(seed=0)
    step = jax.jit(CartPole().step)
    for time in range(500):
        theirs.unwrapped.state = np.zeros(4)  # a pole that never falls
        _, _, terminated, truncated, _ = theirs.step(0)
        state = CartPoleState(np.zeros(4, np.float32), np.int32(time))
        _, ts = jax.device_get(step(state, np.int32(0), KEY))
        assert (ts.terminated, ts.truncated) == (terminated, truncated)
    assert truncated


@pytest.mark.parametrize("outside", [(2.5, 0), (-2.5, 0), (0, 0.3), (0, -0.3)])
def test_cartpole_terminates_on_every_side(outside):
    physics = jnp.array([outside[0], 0.0, outside[1], 0.0], jnp.float32)
    _, ts = CartPole().step(CartPoleState(physics, jnp.int32(499)), 0, jax.random.key(0))
    assert ts.terminated and not ts.truncated


def test_cartpole_starts_like_gymnasium():
    _, ts = jax.jit(jax.vmap(CartPole().reset))(jax.random.split(KEY, 1000))
    assert -0.05 <= ts.observation.min() < -0.049 and 0.049 < ts.observation.max() < 0.05


@pytest.mark.parametrize("changed", [{}, {"mass": 2.0, "length": 0.7, "gravity": 4.0}], ids=str)
def test_pendulum_equals_gymnasium(changed):
    """Torques beyond the bounds, speeds at them, and angles many turns away among the steps."""
    theirs = gymnasium.make("Pendulum-v1", max_episode_steps=2000).unwrapped
    theirs.reset(seed=0)
    theirs.m, theirs.l = changed.get("mass", 1.0), changed.get("length", 1.0)
    theirs.g = changed.get("gravity", 10.0)
    ours, rng = Pendulum().with_parameters(changed), np.random.default_rng(0)
    step, fast = jax.jit(ours.step), 0
    for time in range(300):
        before = np.array(rng.uniform([-20.0, -8.0], [20.0, 8.0]), np.float32)
        theirs.state = before.astype(np.float64)
        action = rng.uniform(-3.0, 3.0, 1).astype(np.float32)
        wanted, reward, terminated, truncated, _ = theirs.step(action)
        state = PendulumState(*before, np.int32(time % 200))
        state, ts = jax.device_get(step(state, action, KEY))
        np.testing.assert_allclose(ts.observation, wanted, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(ts.reward, reward, rtol=1e-4, atol=1e-4)
        assert not (ts.terminated or terminated or truncated)
        assert ts.truncated == (time % 200 == 199)
        low, high = ours.spec.reward_range
        assert low <= ts.reward <= high
        fast += abs(float(state.speed)) == 8.0
    assert fast > 3


def test_pendulum_starts_like_gymnasium():
    _, ts = jax.device_get(jax.jit(jax.vmap(Pendulum().reset))(jax.random.split(KEY, 4000)))
    angle = np.arctan2(ts.observation[:, 1], ts.observation[:, 0])
    for values, bound in ((angle, np.pi), (ts.observation[:, 2], 1.0)):
        assert -bound <= values.min() < -0.98 * bound and 0.98 * bound < values.max() <= bound
        np.testing.assert_allclose(values.std(), bound / np.sqrt(3), rtol=0.05)


def test_a_batch_of_pendulums_is_each_alone():
    masses = jnp.array([0.5, 1.0, 2.0])
    state, _ = Pendulum().reset(jax.random.key(3))

    def go(env):
        return env.step(state, jnp.ones(1), jax.random.key(0))[1]

    @jax.jit
    def run(masses):
        many = jax.vmap(lambda mass: go(Pendulum().with_parameters({"mass": mass})))(masses)
        return many, [go(Pendulum(mass=mass)) for mass in (0.5, 1.0, 2.0)]

    many, alone = jax.device_get(run(masses))
    np.testing.assert_allclose(many.observation, [a.observation for a in alone], rtol=1e-6)
    assert len(np.unique(many.observation[:, 2])) == 3
    with pytest.raises(UserError, match="unknown parameter 'masss' of .*; did you mean mass"):
        Pendulum().with_parameters({"masss": 1.0})
    with pytest.raises(UserError, match="length must be above 0, got 0"):
        Pendulum(length=0.0)


class Scripted:
    """Stands in for the random generator of a bsuite environment."""

    def rand(self):
        return self.uniform

    def randn(self):
        return self.normal


@pytest.mark.filterwarnings("ignore:Environment is in debug mode")
@pytest.mark.parametrize(
    ("size", "deterministic", "randomise"), [(5, True, True), (4, False, True), (6, True, False)]
)
def test_deep_sea_equals_bsuite(size, deterministic, randomise):
    theirs = deep_sea.DeepSea(size, deterministic, randomize_actions=randomise, mapping_seed=3)
    ours = DeepSea(size, deterministic, randomise, mapping_seed=3)
    draws = theirs._rng = Scripted()
    rng, reset, step = np.random.default_rng(0), jax.jit(ours.reset), jax.jit(ours.step)
    draw = jax.jit(lambda a, b: (jax.random.uniform(a), jax.random.normal(b)))
    wanted, (state, ts) = theirs.reset(), jax.device_get(reset(KEY))
    rewards = []
    for t in range(300):
        np.testing.assert_array_equal(ts.observation, wanted.observation)
        assert ts.terminated == wanted.last() and not ts.truncated
        assert ours.cell(state) == theirs._row * size + theirs._column < ours.num_cells
        if wanted.last():
            wanted, (state, ts) = theirs.reset(), jax.device_get(reset(KEY))
            continue
        key = jax.random.key(t)
        draws.uniform, draws.normal = map(float, draw(*jax.random.split(key)))
        # Mostly right, so that the far corner is reached.
        right = theirs._action_mapping[theirs._row, theirs._column]
        action = int(right if rng.random() < 0.9 else 1 - right)
        wanted, (state, ts) = theirs.step(action), jax.device_get(step(state, action, key))
        np.testing.assert_allclose(ts.reward, wanted.reward, rtol=1e-6, atol=1e-6)
        assert wanted.discount == 1 - float(ts.terminated)
        rewards.append(wanted.reward)
    assert max(rewards) > 0.9
    assert ours.optimal_return == theirs._optimal_return
    assert isinstance(ours, Countable) and not isinstance(Catch(), Countable)


def test_catch_equals_bsuite():
    theirs, ours, rng = catch.Catch(seed=0), Catch(), np.random.default_rng(0)
    step, reset_ours, opened = jax.jit(ours.step), jax.jit(ours.reset), {}
    for seed in range(40):  # until a ball fell in every column
        state, ts = jax.device_get(reset_ours(jax.random.key(seed)))
        opened[int(state.ball_x)] = state, ts.observation
    assert len(opened) == 5

    def reset():
        wanted = theirs.reset()
        state, observation = opened[theirs._ball_x]
        np.testing.assert_array_equal(observation, wanted.observation)
        return state

    state, rewards = reset(), []
    for _ in range(300):
        action = int(rng.integers(3))
        wanted = theirs.step(action)
        state, ts = jax.device_get(step(state, np.int32(action), KEY))
        np.testing.assert_array_equal(ts.observation, wanted.observation)
        assert ts.reward == wanted.reward and not ts.truncated
        assert ts.terminated == wanted.last()
        rewards.append(wanted.reward)
        if wanted.last():
            state = reset()
    assert set(rewards) == {-1, 0, 1}


def test_catch_drops_balls_everywhere():
    state, _ = jax.jit(jax.vmap(Catch().reset))(jax.random.split(jax.random.key(0), 1000))
    counts = np.bincount(np.asarray(state.ball_x), minlength=5)
    assert len(counts) == 5 and counts.min() > 150  # 200 expected, deviation 13


def test_bad_sizes_are_named():
    for make, word in (
        (lambda: DeepSea(1), "size"),
        (lambda: Catch(rows=1), "rows"),
        (lambda: CartPole(time_limit=0), "time_limit"),
    ):
        with pytest.raises(UserError, match=word):
            make()
