"""The stream of the host runner: no step is lost or doubled, and actors see the right data."""

import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax.agents.munchausen_dqn import MunchausenDQNConfig, make_munchausen_dqn
from bellmax.envs import CartPole, vectorise
from bellmax.envs.host import HostVector
from bellmax.launch.runners.host_evaluation import HostEvaluator
from helpers.host_runners import (
    NUM_ENVS,
    SEED,
    SMALL,
    make_counting_agent,
    make_host,
    replay_for,
    stored,
)
from helpers.host_tasks import CountingBatch, JaxBatch


@pytest.fixture(scope="module")
def counting_agent():
    return make_counting_agent()


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
        ahead=None if lock_step else 3,
    )
    state, interval = runner.advance(runner.init(jnp.array([0])), 10, 10)
    state, more = runner.advance(state, 0, 10)
    runner.close()
    steps = stored(state)
    names, numbers = steps.observation[..., 0], steps.observation[..., 1]
    np.testing.assert_array_equal(names, np.tile(np.arange(4.0), (60, 1)))
    np.testing.assert_array_equal(numbers, np.tile(np.arange(60.0)[:, None], (1, 4)))
    # The reward after a step that is not last is that of its action.
    going = ~steps.is_last
    np.testing.assert_array_equal(steps.reward[going], numbers[going] + 1)
    # A restart has no transition before it, and opens an episode.
    for environment, call in broken:
        assert steps.is_last[call, environment] and steps.is_first[call + 1, environment]
    np.testing.assert_array_equal(steps.is_first[1:], steps.is_last[:-1])
    assert int(state.actor.env_steps[0]) == int(going.sum())
    ends = int((steps.is_last & (steps.discount == 1)).sum()) - len(broken)
    counted = int(interval.episodes[0] + more.episodes[0])
    # Whether the newest step is the last of its episode is not known yet.
    assert counted - ends in range(5) and int(state.actor.episodes[0]) == counted
    assert sum(batch.faults["raised"] for batch in made) >= len(broken)


@pytest.mark.parametrize("prioritised", [False, True])
def test_episodes_in_flight_end_where_another_runner_continues(counting_agent, prioritised):
    """No transition joins the last step of one to the first step of the other."""
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
    """The behaviour records which parameters acted: with threads at most `ahead` rollouts late."""
    env = CartPole()
    agent = make_munchausen_dqn(MunchausenDQNConfig(**SMALL), env.spec)

    def act(params, inputs, *, evaluate=False):
        out = agent.act(params[0], inputs, evaluate=evaluate)
        return out._replace(behaviour=jnp.full(inputs.observation.shape[0], params[1]))

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
            ahead=None if lock_step else 2,
        )
        state, _ = runner.advance(runner.init(jnp.array([0])), 20, 80)
        runner.close()
        version = stored(state).behaviour[:, 0]
        lags[lock_step] = np.maximum(np.arange(100) - 20, 0) - version
    assert (lags[True] == 0).all()
    # One rollout in progress, two that wait, and one in the learner.
    assert (lags[False] >= 0).all() and lags[False].max() <= 4


class CountingCartPole(JaxBatch):
    def __init__(self, num_envs):
        super().__init__(CartPole(), num_envs, SEED)


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
    # The last rollout was normalised with the statistics of the earlier ones.
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
