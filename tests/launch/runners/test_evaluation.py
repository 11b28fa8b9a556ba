"""Evaluation: complete greedy episodes, one per environment, with raw returns; marks of cuts."""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from bellmax.agents.dqn import DQNConfig, make_dqn
from bellmax.envs import EnvConfig, EnvSpec, RunningStatistics, TimeStep, make_vector_env
from bellmax.launch.runners.evaluation import evaluation_rows, make_evaluator
from bellmax.networks import NetworkConfig

EPISODES = 32


class Play(NamedTuple):
    time: jax.Array
    length: jax.Array
    good: jax.Array


@dataclasses.dataclass(frozen=True)
class Scripted:
    """Shows which of two actions is good: it earns 10, the other -5. Episodes take 3 to 8 steps."""

    longest: int = 8
    spec = EnvSpec("test/Scripted", specs.Array((2,), np.float32), specs.DiscreteArray(2))

    def _show(self, state, reward):
        observation = (jnp.arange(2) == state.good).astype(jnp.float32)
        over = state.time >= state.length
        return state, TimeStep(observation, reward, over, jnp.zeros((), bool))

    def reset(self, key):
        length = jax.random.randint(key, (), 3, self.longest + 1)
        return self._show(Play(jnp.zeros((), jnp.int32), length, length % 2), jnp.zeros(()))

    def step(self, state, action, key):
        reward = jnp.where(action == state.good, 10.0, -5.0)
        good = jax.random.bernoulli(key).astype(jnp.int32)
        return self._show(Play(state.time + 1, state.length, good), reward)


@dataclasses.dataclass(frozen=True)
class Constant:
    """Always shows 1; action 0 pays 1. One step an episode, but for the first few."""

    spec = EnvSpec("test/Constant", specs.Array((1,), np.float32), specs.DiscreteArray(2))

    def reset(self, key):
        no = jnp.zeros((), bool)
        return jnp.zeros((), jnp.int32), TimeStep(jnp.ones(1), jnp.zeros(()), no, no)

    def step(self, state, action, key):
        reward = 1.0 * (action == 0)
        return state + 1, TimeStep(jnp.ones(1), reward, state + 1 >= 5, jnp.zeros((), bool))


class Dense(nn.Module):
    num_actions: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.num_actions)(x)


def params(kernels, bias=(0.0, 0.0)):
    """Parameters of one linear policy a seed, [S, ...]."""
    kernels = jnp.asarray(kernels, jnp.float32)
    biases = jnp.tile(jnp.asarray(bias), (len(kernels), 1))
    return {"params": {"Dense_0": {"kernel": kernels, "bias": biases}}}


def build(name="Scripted", max_steps=None, wrap=lambda env: env, **env_config):
    config = EnvConfig(name=f"{__name__}:{name}", num_envs=2, **env_config)
    env = wrap(make_vector_env(config, num_envs=EPISODES, evaluation=True))
    # Acting randomly in training: evaluation must not.
    network = NetworkConfig(module=f"{__name__}:Dense")
    agent = make_dqn(DQNConfig(network=network, epsilon_start=1.0, epsilon_end=1.0), env.spec)
    return make_evaluator(agent, env, max_steps)


def run(evaluator, kernels, seeds=(0, 1), step=0, statistics=()):
    args = params(kernels), statistics, jnp.array(seeds), jnp.int32(step)
    return jax.tree.map(np.asarray, evaluator(*args))


BOTH = np.stack([np.eye(2), -np.eye(2)])  # always right, always wrong


def test_returns_are_raw_and_greedy_under_a_reward_clip():
    evaluator = build(reward_clip=1.0)
    episodes = run(evaluator, BOTH)
    assert episodes.episode_return.shape == (2, EPISODES) and not episodes.cut.any()
    np.testing.assert_array_equal(episodes.episode_return[0], 10 * episodes.episode_length[0])
    np.testing.assert_array_equal(episodes.episode_return[1], -5 * episodes.episode_length[1])
    for lengths in episodes.episode_length:
        assert set(lengths.tolist()) == set(range(3, 9))
    again, other, later = (
        run(evaluator, BOTH, seeds=s, step=t).episode_length
        for s, t in [((0, 1), 0), ((0, 2), 0), ((0, 1), 7)]
    )
    np.testing.assert_array_equal(again, episodes.episode_length)
    np.testing.assert_array_equal(other[0], again[0])  # seeds do not disturb each other
    assert (other[1] != again[1]).any() and (later[0] != again[0]).any()


def test_episodes_that_do_not_end_are_cut_and_told():
    whole, cut = (run(build(max_steps=m), BOTH) for m in (8, 5))
    np.testing.assert_array_equal(cut.cut, whole.episode_length > 5)
    np.testing.assert_array_equal(cut.episode_length, np.minimum(whole.episode_length, 5))
    np.testing.assert_array_equal(cut.episode_return[0], 10 * cut.episode_length[0])
    rows = evaluation_rows(cut, [4, 9], 700)
    assert [row["seed"] for row in rows] == [4, 9] and rows[0]["step"] == 700
    for i, row in enumerate(rows):
        assert row["cut_episodes"] == cut.cut[i].sum() > 0 and row["episodes"] == EPISODES
        assert row["episode_return"] == cut.episode_return[i].mean()
        assert row["episode_return_min"] == cut.episode_return[i].min()
        assert row["episode_return_max"] == cut.episode_return[i].max()
        assert row["episode_length"] == cut.episode_length[i].mean()


def test_a_time_limit_is_long_enough_and_no_cut():
    episodes = run(build(time_limit=4), BOTH)
    assert not episodes.cut.any()
    assert set(episodes.episode_length.reshape(-1).tolist()) == {3, 4}


def test_only_the_first_episode_of_an_environment_counts():
    """Returns of later episodes are larger by 1000 each; the results contain none of them."""

    def numbered(env):
        def reset(key, *, statistics=None):
            state, ts = env.reset(key, statistics=statistics)
            return (state, jnp.zeros(EPISODES)), ts

        def step(state, action, key):
            inner, ts = env.step(state[0], action, key)
            number = state[1] + ts.is_first
            shown = ts._replace(episode_return=ts.episode_return + 1000 * number)
            return (inner, number), shown

        return env._replace(reset=reset, step=step)

    numbered_, usual = run(build(wrap=numbered), BOTH), run(build(), BOTH)
    jax.tree.map(np.testing.assert_array_equal, numbered_, usual)


def test_normalisation_is_the_training_states_and_frozen():
    """Shown is (1 - mean) / deviation; action 0 is greedy while that is above 0.05.

    Means 0.9, 0.99: 0.1 and 0.01. If statistics were updated, the mean of the first would approach
    1 and its greedy action would change.
    """
    evaluator = build("Constant", normalise_observations=True)
    means = jnp.array([[0.9], [0.99]])
    statistics = RunningStatistics(jnp.ones(2), means, jnp.ones((2, 1)))
    args = params([[[1.0, 0.0]]] * 2, bias=(0.0, 0.05)), statistics
    episodes = evaluator(*args, jnp.arange(2), jnp.int32(0))
    wanted = np.array([[5.0] * EPISODES, [0.0] * EPISODES])
    np.testing.assert_array_equal(episodes.episode_return, wanted)
