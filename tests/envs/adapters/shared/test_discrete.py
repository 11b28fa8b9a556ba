"""Observations that are one of many numbers: no table of one-hot vectors, and an embedding."""

import tracemalloc

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from bellmax import UserError
from bellmax.agents.registry import load
from bellmax.envs import HostVector, LoopBatch, from_gymnasium, vectorise
from bellmax.envs.adapters.dm_env import convert_observation as convert_dm
from bellmax.envs.adapters.shared.gymnasium_spaces import convert_observation
from bellmax.networks import NetworkConfig, make_q_network
from helpers.odd_tasks import JaxChanged, gym_with

MANY = 200_000


def spaces(count):
    """The conversions of a space of `count` numbers, which start at 0."""
    yield convert_observation(gymnasium.spaces.Discrete(count), "mine")
    yield convert_dm(specs.DiscreteArray(count))


@pytest.mark.parametrize("count", [1, 500, 4096])
def test_few_numbers_are_one_hot(count):
    for conversion in spaces(count):
        assert conversion.spec.shape == (count,)
        seen = conversion.convert(np.int64(count - 1))
        assert seen.dtype == np.float32 and seen.sum() == 1 and seen[count - 1] == 1


@pytest.mark.parametrize("count", [4097, MANY, 2**31 - 1])
def test_many_numbers_stay_numbers_and_take_no_memory(count):
    tracemalloc.start()
    for conversion in spaces(count):
        assert conversion.spec == specs.DiscreteArray(count, np.int32, "observation")
        for value in (count - 1, np.array([count - 1])):
            seen = conversion.convert(value)
            assert (seen.dtype, seen.shape, seen) == (np.int32, (), count - 1)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("count", [5, MANY])
@pytest.mark.parametrize("start", [-3, 7])
def test_numbers_outside_the_space_are_refused(count, start):
    conversion = convert_observation(gymnasium.spaces.Discrete(count, start=start), "mine")
    assert np.argmax(conversion.convert(start)) == 0
    for value in (start - 1, start + count):
        with pytest.raises(UserError, match=f"of mine must be from {start} to .*, got {value}"):
            conversion.convert(value)


def many_states():
    place = gymnasium.spaces.Discrete(MANY)
    return gym_with(
        observation_space=place,
        reset=lambda self, *, seed=None, options=None: (MANY - 1, {}),
        step=lambda self, action: (7, 1.0, False, False, {}),
    )


def test_a_stream_of_numbers():
    vector = HostVector(LoopBatch(lambda: from_gymnasium(many_states(), "mine"), 2))
    assert vector.reset(0).observation.tolist() == [MANY - 1] * 2
    assert vector.step(np.zeros(2, np.int32)).observation.tolist() == [7, 7]
    with pytest.raises(UserError, match="frame_stack must be 1 for mine, got 4; its"):
        HostVector(LoopBatch(lambda: from_gymnasium(many_states(), "mine"), 1), frame_stack=4)


def test_a_network_embeds_them():
    network = make_q_network(NetworkConfig(hidden=(4, 3)), specs.DiscreteArray(10, np.int32), 2)
    params = network.init(jax.random.key(0))
    q_values = network.apply(params, jnp.array([3, 3, 9], jnp.int32)).q_values
    assert q_values.shape == (3, 2)
    np.testing.assert_array_equal(q_values[0], q_values[1])
    assert np.any(q_values[0] != q_values[2])
    embedding = [leaf.shape for leaf in jax.tree.leaves(params) if leaf.shape == (10, 4)]
    assert len(embedding) == 1  # the first layer, as of a one-hot vector


class ManyStates(JaxChanged):
    """A sound JAX task whose observation is one of many numbers; `action` replaces its action."""

    action = None

    @property
    def spec(self):
        number = specs.DiscreteArray(MANY, np.int32, "observation")
        spec = self.inner.spec._replace(name="mine", observation=number)
        return spec if self.action is None else spec._replace(action=self.action)


@pytest.mark.parametrize("agent", ["dqn", "qr_dqn_retrace", "on_policy", "byol_explore"])
def test_agents_that_embed(agent):
    config, make_agent = load(agent)
    built = make_agent(config(), ManyStates().spec)
    state = jax.eval_shape(built.init, jax.random.key(0))
    assert any(leaf.shape[:1] == (MANY,) for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("agent", ["rnd", "icm", "td3"])
def test_agents_that_do_not_embed(agent):
    config, make_agent = load(agent)
    task = ManyStates()
    if agent == "td3":
        task.action = specs.BoundedArray((1,), np.float32, -1.0, 1.0)
    with pytest.raises(UserError, match="observations for .* must be arrays, got one of 200000"):
        jax.eval_shape(make_agent(config(), task.spec).init, jax.random.key(0))


def test_numbers_are_not_normalised():
    with pytest.raises(UserError, match="env.normalise_observations must be false for mine"):
        vectorise(ManyStates(), 2, normalise_observations=True)
