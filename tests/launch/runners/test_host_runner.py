"""The host runner learns the same as the device runner, and stops when asked."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax.agents.byol_explore import BYOLExploreConfig, make_byol_explore
from bellmax.agents.dqn import DQNConfig, make_dqn
from bellmax.agents.expectrl import ExpectRLConfig, make_expectrl
from bellmax.agents.iqn import IQNConfig, make_iqn
from bellmax.agents.munchausen_dqn import MunchausenDQNConfig, make_munchausen_dqn
from bellmax.agents.qr_dqn_retrace import QRDQNRetraceConfig, make_qr_dqn_retrace
from bellmax.envs import CartPole, DeepSea, Gamble, Pendulum, TicTacToe, vectorise
from bellmax.envs.host import HostVector
from bellmax.launch.runners.device_runner import make_runner
from bellmax.networks import ContinuousNetworkConfig, NetworkConfig, RecurrentNetworkConfig
from helpers.host_runners import NUM_ENVS, SEED, SMALL, make_counting_agent, make_host, replay_for
from helpers.host_tasks import CountingBatch, JaxBatch
from helpers.jitted import user_jit
from helpers.marked import some_slow

RECURRENT = RecurrentNetworkConfig(hidden=(16,), latent_size=8, memory_size=8, head_hidden=())
SEQUENCES = {
    "network": NetworkConfig(hidden=(16,), memory="lstm", memory_size=8),
    "batch_size": 8,
    "sequence_length": 6,
    "burn_in": 2,
}
CASES = {
    "qr_dqn_retrace": (
        CartPole(),
        make_qr_dqn_retrace,
        QRDQNRetraceConfig(**SMALL, num_quantiles=4, n_step=3, target_epsilon=0.1),
        1,
    ),
    # A loss that draws random numbers.
    "iqn": (
        CartPole(),
        make_iqn,
        IQNConfig(**SMALL, num_quantiles=4, num_target_quantiles=3, num_policy_quantiles=5),
        3,
    ),
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
    # The memory before each step in replay.
    "recurrent": (CartPole(), make_dqn, DQNConfig(**SEQUENCES), 2),
    # Action masks in replay.
    "masked": (TicTacToe(), make_munchausen_dqn, MunchausenDQNConfig(**SMALL), 2),
    # Acting sees rewards.
    "objective": (
        Gamble(),
        make_qr_dqn_retrace,
        QRDQNRetraceConfig(
            **SMALL, num_quantiles=4, objective="cvar:0.5", return_range=(-1.0, 5.0)
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
# The others have behaviour in replay, memory that spans episodes and outcomes.
SLOW = ("iqn", "expectrl", "byol_explore", "masked", "objective")


def assert_same(ours, theirs):
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True
    ):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y), jax.tree_util.keystr(path))


@pytest.mark.parametrize("name", some_slow(list(CASES), SLOW))
def test_both_runners_learn_the_same_from_the_same_stream(name, monkeypatch):
    """Bit for bit: actions, replay, updates and counts are equal."""
    monkeypatch.setattr(jax, "jit", user_jit)
    env, make, config, length = CASES[name]
    agent = make(config, env.spec)
    phases = {"rollout_length": length, "updates_per_rollout": 4}
    warmup = 0 if agent.replay.on_policy else 20
    device = make_runner(agent, vectorise(env, NUM_ENVS), replay_for(agent, length), **phases)
    want, said = device.advance(device.init(jnp.array([SEED])), warmup, 30)

    def make_env():
        return HostVector(JaxBatch(env, NUM_ENVS, SEED))

    masks = {"mask_size": 9} if env.spec.action_mask else {}
    given = agent, env.spec.observation, make_env, replay_for(agent, length)
    host = make_host(*given, **phases, **masks)
    got, told = host.advance(host.init(jnp.array([SEED])), warmup, 30)
    host.close()
    assert_same(got.learner, want.learner)
    assert_same(got.replay, want.replay)
    assert_same(got.actor, want.actor._replace(timestep=()))
    assert_same(told._replace(episode_return=()), said._replace(episode_return=()))
    np.testing.assert_allclose(told.episode_return, said.episode_return, rtol=1e-6)
    assert int(got.learner.steps) == 120 and host.traces == [1]


@pytest.mark.parametrize("prioritised", [pytest.param(False, marks=pytest.mark.slow), True])
def test_replay_in_host_memory_gives_the_same_run(prioritised):
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
    # A gradient step that is compiled separately from sampling may round differently.
    for one, other in zip(jax.tree.leaves(states[0]), jax.tree.leaves(states[1]), strict=True):
        if not jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(intervals[0].learn["loss"], intervals[1].learn["loss"], rtol=1e-4)
    assert int(states[1].learner.steps) == 60


@pytest.fixture(scope="module")
def counting_agent():
    return make_counting_agent()


def test_what_stops_an_actor_reaches_the_learner(counting_agent):
    for lock_step in (True, False):
        runner = make_host(
            counting_agent,
            CountingBatch(0, 1).spec.observation,
            lambda: HostVector(CountingBatch(0, NUM_ENVS, raises_at=25)),
            replay_for(counting_agent),
            ahead=None if lock_step else 1,
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
            ahead=None if lock_step else 1,
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
