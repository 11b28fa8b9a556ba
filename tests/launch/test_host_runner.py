"""The host runner: what it learns is what the on-device runner learns, and no step is lost."""

import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax.agents.byol_explore import BYOLExploreConfig, make_byol_explore
from bellmax.agents.expectrl import ExpectRLConfig, make_expectrl
from bellmax.agents.munchausen_dqn import MunchausenDQNConfig, make_munchausen_dqn
from bellmax.agents.qr_dqn_retrace import QRDQNRetraceConfig, make_qr_dqn_retrace
from bellmax.agents.va_learning import VALearningConfig, make_va_learning
from bellmax.envs import CartPole, DeepSea, Pendulum, vectorise
from bellmax.envs.host import HostVector
from bellmax.launch.host_evaluation import HostEvaluator
from bellmax.launch.host_runner import HostRunner
from bellmax.launch.replay import make_replay
from bellmax.launch.runner import make_runner
from bellmax.networks import ContinuousNetworkConfig, NetworkConfig, RecurrentNetworkConfig
from helpers.host_tasks import CountingBatch, JaxBatch

SMALL = {"network": NetworkConfig(hidden=(16,)), "batch_size": 16, "epsilon_steps": 500}
RECURRENT = RecurrentNetworkConfig(hidden=(16,), latent_size=8, memory_size=8, head_hidden=())
CASES = {
    "munchausen_dqn": (CartPole(), make_munchausen_dqn, MunchausenDQNConfig(**SMALL), 2),
    "qr_dqn_retrace": (
        CartPole(),
        make_qr_dqn_retrace,
        QRDQNRetraceConfig(**SMALL, num_quantiles=4, n_step=3, target_epsilon=0.1),
        1,
    ),
    "va_learning": (CartPole(), make_va_learning, VALearningConfig(**SMALL), 3),
    # Memory that spans episodes, and outcomes that a bandit observes.
    "expectrl": (
        Pendulum(time_limit=9),
        make_expectrl,
        ExpectRLConfig(
            network=ContinuousNetworkConfig(hidden=(16,)),
            batch_size=16,
            random_steps=30,
            alpha="auto",
        ),
        2,
    ),
    # On-policy: recurrent memory, and no replay.
    "byol_explore": (
        DeepSea(size=5),
        make_byol_explore,
        BYOLExploreConfig(network=RECURRENT, batch_size=2, horizon=2, policy_loss="ppo"),
        4,
    ),
}
NUM_ENVS, SEED = 4, 3


def make_host(agent, observation, make_env, replay, **changes):
    kwargs = {
        "num_envs": NUM_ENVS,
        "num_actors": 1,
        "rollout_length": 1,
        "updates_per_rollout": 1,
        "normalised": False,
        "lock_step": True,
        "ahead": 1,
    }
    return HostRunner(agent, observation, make_env, replay, **kwargs | changes)


def replay_for(agent, length=1, num_envs=NUM_ENVS, capacity=400, **kwargs):
    spec = agent.replay
    if spec.on_policy:
        return None
    return make_replay(
        capacity=capacity,
        num_envs=num_envs,
        rollout_length=length,
        sequence_length=spec.sequence_length,
        batch_size=spec.batch_size,
        **kwargs,
    )


def assert_same(ours, theirs):
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True
    ):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y), jax.tree_util.keystr(path))


@pytest.mark.parametrize("name", CASES)
def test_both_runners_learn_the_same_from_the_same_stream(name):
    """To the bit: the same actions, the same replay, the same updates, the same counts."""
    env, make, config, length = CASES[name]
    agent = make(config, env.spec)
    phases = {"rollout_length": length, "updates_per_rollout": 4}
    warmup = 0 if agent.replay.on_policy else 20
    device = make_runner(agent, vectorise(env, NUM_ENVS), replay_for(agent, length), **phases)
    want, said = device.advance(device.init(jnp.array([SEED])), warmup, 30)

    def make_env():
        return HostVector(JaxBatch(env, NUM_ENVS, SEED))

    host = make_host(agent, env.spec.observation, make_env, replay_for(agent, length), **phases)
    got, told = host.advance(host.init(jnp.array([SEED])), warmup, 30)
    host.close()
    assert_same(got.learner, want.learner)
    assert_same(got.replay, want.replay)
    assert_same(got.actor, want.actor._replace(timestep=()))
    assert_same(told._replace(episode_return=()), said._replace(episode_return=()))
    np.testing.assert_allclose(told.episode_return, said.episode_return, rtol=1e-6)
    assert int(got.learner.steps) == 120 and host.traces == [1]


@pytest.fixture
def counting_agent():
    spec = CountingBatch(0, 1).spec
    return make_munchausen_dqn(MunchausenDQNConfig(**SMALL), spec)


def stored(state):
    """Steps of every environment in the order in which they were added, leaves [C, N, ...]."""
    return jax.tree.map(lambda x: np.asarray(x)[0], state.replay.storage)


@pytest.mark.parametrize("lock_step", [True, False])
def test_no_step_is_lost_or_doubled_by_two_actors_whose_tasks_break(counting_agent, lock_step):
    made, lock = [], threading.Lock()
    broken = [(0, 5), (1, 6), (1, 7), (2, 20), (3, 39)]

    def make_env():
        with lock:
            made.append(CountingBatch(2 * len(made), 2, broken=broken))
        return HostVector(made[-1])

    replay = replay_for(counting_agent, 2, capacity=4 * 60)
    runner = make_host(
        counting_agent,
        made[0].spec.observation if made else CountingBatch(0, 1).spec.observation,
        make_env,
        replay,
        num_actors=2,
        rollout_length=2,
        lock_step=lock_step,
        ahead=3,
    )
    state, interval = runner.advance(runner.init(jnp.array([0])), 10, 10)
    state, more = runner.advance(state, 0, 10)
    runner.close()
    steps = stored(state)
    names, numbers = steps.observation[..., 0], steps.observation[..., 1]
    np.testing.assert_array_equal(names, np.tile(np.arange(4.0), (60, 1)))
    np.testing.assert_array_equal(numbers, np.tile(np.arange(60.0)[:, None], (1, 4)))
    # What follows a step that is not its episode's last is what its action earned.
    going = ~steps.is_last
    np.testing.assert_array_equal(steps.reward[going], numbers[going] + 1)
    # A restart leaves no transition behind, and opens an episode.
    for environment, call in broken:
        assert steps.is_last[call, environment] and steps.is_first[call + 1, environment]
    np.testing.assert_array_equal(steps.is_first[1:], steps.is_last[:-1])
    assert int(state.actor.env_steps[0]) == int(going.sum())
    ends = int((steps.is_last & (steps.discount == 1)).sum()) - len(broken)
    counted = int(interval.episodes[0] + more.episodes[0])
    # Of the last step of all it is not known yet whether it is its episode's last.
    assert counted - ends in range(5) and int(state.actor.episodes[0]) == counted
    assert sum(batch.faults["raised"] for batch in made) >= len(broken)


@pytest.mark.parametrize("prioritised", [False, True])
def test_episodes_in_flight_end_where_another_runner_goes_on(counting_agent, prioritised):
    """Nothing joins the last step of the one to the first step of the other."""
    state: Any = None
    for _ in range(2):
        runner = make_host(
            counting_agent,
            CountingBatch(0, 1).spec.observation,
            lambda: HostVector(CountingBatch(0, NUM_ENVS, length=100)),
            replay_for(counting_agent, prioritised=prioritised),
        )
        state = runner.init(jnp.array([0])) if state is None else state
        state, _ = runner.advance(state, 30, 5)
        runner.close()
    steps = stored(state)
    np.testing.assert_array_equal(steps.is_last[:70].nonzero()[0], [34] * NUM_ENVS)
    np.testing.assert_array_equal(
        steps.is_first[:70].nonzero()[0], [0] * NUM_ENVS + [35] * NUM_ENVS
    )
    np.testing.assert_array_equal(steps.observation[:70, 0, 1], np.arange(70) % 35)
    if prioritised:
        leaves = np.asarray(state.replay.priorities[0])[0][: 70 * NUM_ENVS].reshape(70, NUM_ENVS)
        assert (leaves[34] == 0).all() and (leaves[:34] > 0).all() and (leaves[35:69] > 0).all()


def test_acting_sees_every_update_in_lock_step_and_older_parameters_in_threads():
    """Whose parameters acted is in the behaviour: with threads at most `ahead` rollouts late."""
    env = CartPole()
    agent = make_munchausen_dqn(MunchausenDQNConfig(**SMALL), env.spec)

    def act(params, observation, memory, is_first, key, step, *, evaluate=False):
        out = agent.act(params[0], observation, memory, is_first, key, step, evaluate=evaluate)
        return out._replace(behaviour=jnp.full(observation.shape[0], params[1]))

    witness = agent._replace(
        act=act, actor_params=lambda learner: (agent.actor_params(learner), learner.steps)
    )
    lags = {}
    for lock_step in (True, False):
        runner = make_host(
            witness,
            env.spec.observation,
            lambda: HostVector(CountingCartPole(NUM_ENVS)),
            replay_for(witness, capacity=4 * 100),
            lock_step=lock_step,
            ahead=2,
        )
        state, _ = runner.advance(runner.init(jnp.array([0])), 20, 80)
        runner.close()
        version = stored(state).behaviour[:, 0]
        lags[lock_step] = np.maximum(np.arange(100) - 20, 0) - version
    assert (lags[True] == 0).all()
    # One rollout under way, two that wait, and one that the learner holds.
    assert (lags[False] >= 0).all() and lags[False].max() <= 4


class CountingCartPole(JaxBatch):
    def __init__(self, num_envs):
        super().__init__(CartPole(), num_envs, SEED)


def test_what_stops_an_actor_reaches_the_learner(counting_agent):
    for lock_step in (True, False):
        runner = make_host(
            counting_agent,
            CountingBatch(0, 1).spec.observation,
            lambda: HostVector(CountingBatch(0, NUM_ENVS, raises_at=25)),
            replay_for(counting_agent),
            lock_step=lock_step,
        )
        with pytest.raises(RuntimeError, match="broken for good"):
            runner.advance(runner.init(jnp.array([0])), 20, 30)
        runner.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("actor")]


def test_actors_made_before_one_that_cannot_be_are_closed(counting_agent):
    made, closed = [], []

    class Closing(CountingBatch):
        def close(self):
            closed.append(self)

    def make_env():
        if len(made) == 2:
            raise RuntimeError("no more of them")
        made.append(Closing(0, 1))
        return HostVector(made[-1])

    shape, replay = CountingBatch(0, 1).spec.observation, replay_for(counting_agent)
    runner = make_host(counting_agent, shape, make_env, replay, num_actors=NUM_ENVS)
    with pytest.raises(RuntimeError, match="no more of them"):
        runner.advance(runner.init(jnp.array([0])), 1, 0)
    runner.close()
    assert closed == made and len(made) == 2


def test_asked_to_stop_it_returns_what_it_has(counting_agent):
    runners = []

    class Stopping(CountingBatch):
        def step(self, action):
            if self.calls == 45:
                runners[0].stop()
            return super().step(action)

    for lock_step in (True, False):
        runner = make_host(
            counting_agent,
            CountingBatch(0, 1).spec.observation,
            lambda: HostVector(Stopping(0, NUM_ENVS)),
            replay_for(counting_agent),
            lock_step=lock_step,
        )
        runners[:] = [runner]
        state, interval = runner.advance(runner.init(jnp.array([0])), 20, 10**8)
        runner.close()
        taken = int(state.vector_steps)
        assert taken == 46 if lock_step else 40 <= taken <= 50
        assert int(interval.updates[0]) == taken - 20


def test_waits_and_restarts_are_told(counting_agent):
    runner = make_host(
        counting_agent,
        CountingBatch(0, 1).spec.observation,
        lambda: HostVector(CountingBatch(0, NUM_ENVS, broken=[(0, 3), (2, 3), (1, 9)])),
        replay_for(counting_agent),
    )
    assert runner.report() == {}
    runner.advance(runner.init(jnp.array([0])), 20, 1)
    said = runner.report()
    assert said["restarts_raised"] == 3
    assert said["learner_waited"] > 0 and said["actors_waited"] == 0
    assert runner.report()["learner_waited"] == 0
    runner.close()


def test_observations_are_normalised_by_what_the_learner_has_seen():
    env = CartPole()
    agent = make_munchausen_dqn(MunchausenDQNConfig(**SMALL), env.spec)
    seen = []

    class Recorded(JaxBatch):
        def step(self, action):
            ts, is_first = super().step(action)
            seen.append(ts.observation)
            return ts, is_first

    runner = make_host(
        agent,
        env.spec.observation,
        lambda: HostVector(Recorded(env, NUM_ENVS, SEED)),
        replay_for(agent, 5),
        rollout_length=5,
        normalised=True,
    )
    state, _ = runner.advance(runner.init(jnp.array([SEED])), 12, 0)
    runner.close()
    raw = np.concatenate(seen[: 12 * 5 - 1])
    reset_key = JaxBatch(env, 1, SEED).reset_key
    first = np.asarray(vectorise(env, NUM_ENVS).reset(reset_key)[1].observation)
    raw = np.concatenate([first, raw])
    statistics = jax.tree.map(lambda x: np.asarray(x)[0], state.env.statistics)
    np.testing.assert_allclose(statistics.mean, raw.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(statistics.variance, raw.var(0), rtol=1e-4)
    assert statistics.seen == len(raw)
    # The last rollout was seen through the statistics of those before it.
    before = raw[: 11 * 5 * NUM_ENVS]
    scaled = (raw[11 * 5 * NUM_ENVS :] - before.mean(0)) / np.sqrt(before.var(0) + 1e-8)
    got = stored(state).observation[55:60].reshape(-1, 4)
    np.testing.assert_allclose(got, np.clip(scaled, -10, 10), rtol=1e-3, atol=1e-4)


def test_evaluation_plays_whole_episodes_and_says_what_was_cut(counting_agent):
    made = []

    def make_env():
        made.append(CountingBatch(0, 3, length=5))
        return HostVector(made[-1])

    runner = make_host(
        counting_agent,
        CountingBatch(0, 1).spec.observation,
        lambda: HostVector(CountingBatch(0, NUM_ENVS)),
        replay_for(counting_agent),
    )
    state = runner.init(jnp.array([0]))
    params = counting_agent.actor_params(state.learner)
    evaluate = HostEvaluator(counting_agent, make_env, None)
    episodes = evaluate(params, state.env.statistics, jnp.array([0]), jnp.int32(40))
    np.testing.assert_array_equal(episodes.episode_return, [[15.0] * 3])
    np.testing.assert_array_equal(episodes.episode_length, [[5] * 3])
    assert not episodes.cut.any() and len(made) == 1 and made[0].calls == 5
    short = HostEvaluator(counting_agent, make_env, 3)
    episodes = short(params, state.env.statistics, jnp.array([0]), jnp.int32(40))
    np.testing.assert_array_equal(episodes.episode_return, [[6.0] * 3])
    assert episodes.cut.all()


@pytest.mark.parametrize("prioritised", [False, True])
def test_replay_beside_the_cpu_changes_nothing(prioritised):
    env = CartPole()
    agent = make_munchausen_dqn(MunchausenDQNConfig(**SMALL), env.spec)
    states, intervals = [], []
    for host_memory in (False, True):
        runner = make_host(
            agent,
            env.spec.observation,
            lambda: HostVector(JaxBatch(env, NUM_ENVS, SEED)),
            replay_for(agent, 2, prioritised=prioritised),
            rollout_length=2,
            updates_per_rollout=3,
            host_memory=host_memory,
        )
        state, interval = runner.compile(state := runner.init(jnp.array([SEED])))(state, 20, 20)
        runner.close()
        assert runner.traces == [1]
        states.append(state)
        intervals.append(interval)
    # Compiled apart from sampling, a gradient step may be rounded otherwise.
    for one, other in zip(jax.tree.leaves(states[0]), jax.tree.leaves(states[1]), strict=True):
        if not jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(intervals[0].learn["loss"], intervals[1].learn["loss"], rtol=1e-4)
    assert int(states[1].learner.steps) == 60
