"""The device runner: one compilation, exact counts, and results that do not depend on grouping."""

import dataclasses
import functools
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from bellmax.agents.byol_explore import BYOLExploreConfig, make_byol_explore
from bellmax.agents.dqn import DQNConfig, make_dqn
from bellmax.agents.expectrl import ExpectRLConfig, make_expectrl
from bellmax.agents.iqn import IQNConfig, make_iqn
from bellmax.agents.pqn import PQNConfig, make_pqn
from bellmax.agents.qr_dqn_retrace import QRDQNRetraceConfig, make_qr_dqn_retrace
from bellmax.agents.rnd import RNDConfig, make_rnd
from bellmax.agents.td3 import TD3Config, make_td3
from bellmax.envs import CartPole, EnvSpec, Pendulum, TimeStep, vectorise
from bellmax.launch.replay.ring import make_replay
from bellmax.launch.runners.device_runner import make_runner
from bellmax.networks import ContinuousNetworkConfig, NetworkConfig, RecurrentNetworkConfig
from helpers.marked import some_slow

NUM_ENVS = 3
SMALL = {"network": NetworkConfig(hidden=(8,)), "batch_size": 16, "epsilon_steps": 500}
AGENT = DQNConfig(**SMALL, n_step=2)
PRESET = {"network": NetworkConfig(), "batch_size": 128, "epsilon_steps": 500}
RETRACE = QRDQNRetraceConfig(**PRESET, num_quantiles=32, n_step=3)
EPSILON = QRDQNRetraceConfig(**SMALL, num_quantiles=4, n_step=3, target_epsilon=0.1)
IQN = IQNConfig(**SMALL, num_quantiles=8, num_target_quantiles=8, num_policy_quantiles=16)
WIDE = {"network": ContinuousNetworkConfig(hidden=(64, 64)), "batch_size": 256, "random_steps": 60}
TD3 = TD3Config(**WIDE)
AUTO = ExpectRLConfig(
    network=ContinuousNetworkConfig(hidden=(16,)), batch_size=16, random_steps=60, alpha="auto"
)
RECURRENT = RecurrentNetworkConfig(hidden=(16,), latent_size=8, memory_size=8, head_hidden=())
BYOL = BYOLExploreConfig(network=RECURRENT, batch_size=1, horizon=3, policy_loss="ppo")
RND = RNDConfig(network=RECURRENT, batch_size=1, rnd_hidden=(16,), rnd_features=8)
PQN = PQNConfig(**SMALL | {"batch_size": 4}, num_quantiles=4)
MAKE = {
    BYOLExploreConfig: make_byol_explore,
    RNDConfig: make_rnd,
    DQNConfig: make_dqn,
    PQNConfig: make_pqn,
    QRDQNRetraceConfig: make_qr_dqn_retrace,
    IQNConfig: make_iqn,
    TD3Config: make_td3,
    ExpectRLConfig: make_expectrl,
}
# (rollout_length, updates_per_rollout, prioritised, agent)
KINDS = {
    "plain": (1, 1, False, AGENT),
    "retrace": (1, 1, False, RETRACE),
    # Not greedy: the log-probabilities of what the actor did are in replay.
    "retrace_epsilon": (4, 3, True, replace(EPSILON, anchor="every")),
    "m_iqn": (4, 3, True, replace(IQN, munchausen=True, n_step=2)),
    "variance_weighting": (1, 1, False, replace(AGENT, variance_weighting=True)),
    "td3": (1, 1, False, TD3),
    # A bandit in the learner's state, an arm in the actor's memory.
    "auto": (4, 3, True, AUTO),
    # No replay; memory in the actor's state, a target encoder and a normaliser in the learner's.
    "byol": (6, 3, False, BYOL),
    # RND's state of each environment is in the actor's memory too.
    "rnd": (4, 3, False, RND),
    # Minibatches of transitions; a key of its own in the learner's state.
    "pqn": (4, 6, False, PQN),
}
ON_POLICY = ("byol", "rnd", "pqn")
# Together they have almost every part of a state.
FAST = ("retrace_epsilon", "auto")
# These have one of their own, or, as the first, the sizes of a preset.
SLOW = ("retrace", "m_iqn", "variance_weighting", "byol", "rnd", "pqn")
each_kind = pytest.mark.parametrize("kind", some_slow([*FAST, *SLOW], SLOW))
CALLS = ((15, 0), (0, 200))  # (warmup, rollouts)


def build(kind, num_seeds=1, env=None, capacity=900, **changed):
    length, updates, prioritised, config = KINDS[kind]
    task = Pendulum() if kind in ("td3", "auto") else CartPole()
    vector = env or vectorise(task, NUM_ENVS, time_limit=20)
    agent = MAKE[type(config)](replace(config, **changed), vector.spec)
    replay = (
        None
        if agent.replay.on_policy
        else make_replay(
            capacity=capacity,
            num_envs=vector.num_envs,
            rollout_length=length,
            sequence_length=agent.replay.sequence_length,
            batch_size=agent.replay.batch_size,
            prioritised=prioritised,
        )
    )
    return make_runner(
        agent,
        vector,
        replay,
        rollout_length=length,
        updates_per_rollout=updates,
        num_seeds=num_seeds,
    )


compiled = functools.cache(build)  # (kind, num_seeds): tests share what takes seconds to make


def run(kind, seeds, calls, make=compiled):
    """The last state and the intervals of `calls` calls."""
    runner = make(kind, len(seeds))
    state, intervals = runner.init(jnp.array(seeds)), []
    for warmup, rollouts in calls:
        state, interval = runner.advance(state, warmup, rollouts)
        intervals.append(jax.tree.map(np.asarray, interval))
    assert runner.traces == [1] and runner.advance._cache_size() == 1
    return plain(state), intervals


def plain(state):
    """The state with NumPy leaves: keys become their data."""

    def leaf(x):
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if is_key else x)

    return jax.tree.map(leaf, state)


def assert_bitwise(a, b):
    def compare(x, y):
        assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())

    jax.tree.map(compare, a, b)


def assert_same_run(a, b):
    """Up to rounding: XLA orders and fuses the sums of one seed and of eight differently."""
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), a, b)


def one_seed(state, i):
    """Row i as a run of one seed; the ring position and vector_steps, scalars, are shared."""
    return jax.tree.map(lambda x: x[i : i + 1] if x.ndim else x, state)


@each_kind
def test_one_compilation_serves_every_call(kind):
    """For warm-up and learning, long and short calls; `run` asserts it in every test too."""
    runner = compiled(kind, 1)
    state = runner.init(jnp.array([5]))
    for warmup, rollouts in ((15, 0), (0, 9), (2, 1), (0, 0)):
        state, _ = runner.advance(state, warmup, rollouts)
    assert runner.traces == [1] and runner.advance._cache_size() == 1


@each_kind
def test_splitting_an_interval_changes_no_bit(kind):
    whole, [_, interval] = run(kind, (5,), CALLS)
    split, [_, *parts] = run(kind, (5,), ((15, 0), (0, 100), (0, 99), (0, 1)))
    assert_bitwise(whole, split)
    for name in ("updates", "episodes", "episode_length"):
        assert getattr(interval, name) == sum(getattr(part, name) for part in parts)
    returns = sum(part.episode_return for part in parts)
    np.testing.assert_allclose(interval.episode_return, returns, rtol=1e-6)
    assert_bitwise(whole, run(kind, (5,), ((15, 200),))[0])


@each_kind
def test_one_seed_of_eight_is_that_seed_alone(kind):
    calls = (15, 0), (0, 12)  # few, because learning amplifies differences in rounding
    seeds = (9, 2, 5, 1, 0, 7, 8, 3)
    eight, intervals = run(kind, seeds, calls)
    alone, own = run(kind, (5,), calls)
    assert_same_run(one_seed(eight, 2), alone)
    assert_same_run([jax.tree.map(lambda x: x[2:3], i) for i in intervals], own)
    with pytest.raises(AssertionError):  # another seed is another run
        assert_same_run(one_seed(eight, 3), alone)
    for kernel in jax.tree.leaves(eight.learner.params):
        assert len(np.unique(kernel.reshape(8, -1), axis=0)) == 8
    # Four streams of eight seeds: no two draw the same.
    assert len(np.unique(np.concatenate(eight.keys), axis=0)) == 32


def test_the_same_seed_is_bitwise_the_same_run():
    assert_bitwise(run("plain", (5,), CALLS), run("plain", (5,), CALLS, make=build))


@each_kind
def test_counts_are_true(kind):
    length, updates, *_ = KINDS[kind]
    state, [warm, interval] = run(kind, (5,), CALLS)
    assert state.vector_steps == 215 * length
    assert state.learner.steps == interval.updates == 200 * updates
    if kind not in ON_POLICY:
        # Replay holds the whole stream while it is not full: count in it.
        filled = int(state.replay.filled)
        assert filled == min(215 * length, 900 // NUM_ENVS // length * length)
    if kind == "retrace":
        last = state.replay.storage.is_last[0, : filled * NUM_ENVS]
        assert last.any() and state.actor.env_steps[0] == (~last).sum()
    ended = warm.episode_length + interval.episode_length
    running = np.where(state.env.is_last, 0, state.env.episode_length).sum()
    assert state.actor.env_steps == ended + running
    assert state.actor.episodes == warm.episodes + interval.episodes > 10
    # CartPole pays 1 a step, and the time limit of 20 was met.
    if kind not in ("td3", "auto"):
        np.testing.assert_array_equal(interval.episode_return, interval.episode_length)
    assert 8 < ended / state.actor.episodes <= 20


def test_warm_up_learns_nothing():
    runner = compiled("plain", 1)
    state = runner.init(jnp.array([5]))
    before = plain(state.learner)
    state, interval = runner.advance(state, 40, 0)
    assert_bitwise(before, plain(state.learner))
    assert interval.updates == 0 and interval.episodes > 0
    assert {float(x[0]) for x in interval.learn.values()} == {0.0}
    assert state.actor.env_steps > 0 and state.vector_steps == 40


def test_a_bandit_learns_from_the_episodes_of_the_run():
    """It learns in the warm-up too; TD3 has no bandit and no such state."""
    state, [warm, interval] = run("auto", (5,), CALLS)
    chooser = state.learner.aux
    assert chooser.episodes == warm.episodes + interval.episodes > 20
    assert np.abs(chooser.bandit.weights).max() > 0.01
    played = state.replay.storage.action[0, : int(state.replay.filled) * NUM_ENVS]
    assert len(np.unique(played)) > 100 and chooser.last_return < 0
    assert jax.eval_shape(compiled("td3", 1).init, jnp.array([5])).learner.aux == ()


def test_a_delayed_update_is_skipped_and_not_computed_in_vain():
    """A condition that differs between seeds would compute both branches under `vmap`."""
    runner = compiled("td3", 2)
    state = jax.eval_shape(runner.init, jnp.arange(2))
    program = str(jax.make_jaxpr(lambda s: runner.advance(s, 0, 1))(state))
    assert program.count("cond[") == 1


def test_the_state_is_donated():
    runner = compiled("plain", 1)
    state = runner.init(jnp.array([5]))
    pointer = state.replay.storage.observation.unsafe_buffer_pointer()
    new, _ = runner.advance(state, 2, 3)
    assert all(x.is_deleted() for x in jax.tree.leaves((state.learner, state.replay)))
    assert new.replay.storage.observation.unsafe_buffer_pointer() == pointer


class Clock(NamedTuple):
    time: jax.Array
    cursed: jax.Array


@dataclasses.dataclass(frozen=True)
class NanAt:
    """One endless episode; for half of the seeds, reward number `moment` is NaN."""

    moment: int
    continuous: bool = False

    @property
    def spec(self):
        action = Pendulum().spec.action if self.continuous else specs.DiscreteArray(2)
        return EnvSpec("test/Nan", specs.Array((1,), np.float32), action)

    def reset(self, key):
        no = jnp.zeros((), bool)
        state = Clock(jnp.zeros((), jnp.int32), jax.random.bernoulli(key))
        return state, TimeStep(jnp.zeros(1), jnp.zeros(()), no, no)

    def step(self, state, action, key):
        state = state._replace(time=state.time + 1)
        planted = state.cursed & (state.time == self.moment)
        no = jnp.zeros((), bool)
        reward = jnp.where(planted, jnp.nan, 1.0)
        return state, TimeStep(jnp.ones(1) * jnp.sin(1.0 * state.time), reward, no, no)


@pytest.mark.parametrize("kind", ["plain", pytest.param("td3", marks=pytest.mark.slow)])
def test_stops_at_the_first_loss_that_is_not_finite(kind):
    """Reward 30 can be drawn after 31 vector steps, 10 of them warm-up: at gradient step 21."""
    env = vectorise(NanAt(30, continuous=kind == "td3"), 1)
    changed = {} if kind == "td3" else {"n_step": 1}
    runner = build(kind, 4, env, 100, batch_size=512, **changed)
    state, interval = runner.advance(runner.init(jnp.arange(4)), 10, 500)
    cursed = np.asarray(state.env.env_state.cursed)[:, 0]
    assert 0 < cursed.sum() < 4
    np.testing.assert_array_equal(interval.finite, ~cursed)
    assert set(np.asarray(interval.updates).tolist()) == {21} and state.vector_steps == 31
    assert state.learner.steps == 21
    np.testing.assert_array_equal(np.isnan(interval.learn["loss"]), cursed)


@pytest.mark.slow
def test_stops_after_the_first_rollout_whose_loss_is_not_finite():
    """Reward 30 ends the third rollout that learns: at its first gradient step, the seventh."""
    runner = build("byol", 4, vectorise(NanAt(30), 1))
    state, interval = runner.advance(runner.init(jnp.arange(4)), 2, 500)
    cursed = np.asarray(state.env.env_state.cursed)[:, 0]
    assert 0 < cursed.sum() < 4
    np.testing.assert_array_equal(interval.finite, ~cursed)
    np.testing.assert_array_equal(interval.updates, np.where(cursed, 7, 9))
    assert state.vector_steps == 30 and state.learner.steps == 9
