"""Parameters of a task that are drawn for every episode."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from bellmax import UserError
from bellmax.envs import (
    CartPole,
    EnvConfig,
    EnvSpec,
    Parametric,
    Randomised,
    TimeStep,
    check_env,
    make_vector_env,
    vectorise,
)
from bellmax.envs.options import check_parameters

NOMINAL = {"mass": 1.0, "wind": 0.0}
LENGTH = 4


class SledState(NamedTuple):
    position: jax.Array
    time: jax.Array


@dataclasses.dataclass(frozen=True)
class Sled:
    """Moves by (action + wind) / mass a step and shows its position; cut after LENGTH steps."""

    changed: Mapping[str, float | jax.Array] = dataclasses.field(default_factory=dict)

    @property
    def spec(self):
        return EnvSpec(
            name="test/Sled",
            observation=specs.Array((1,), np.float32, "observation"),
            action=specs.BoundedArray((1,), np.float32, -1.0, 1.0, "action"),
            time_limit=LENGTH,
        )

    @property
    def parameters(self):
        return dict(NOMINAL)

    def with_parameters(self, values):
        check_parameters("test/Sled", values, NOMINAL)
        return Sled(dict(values))

    def reset(self, key):
        no = jnp.zeros((), bool)
        state = SledState(jax.random.uniform(key), jnp.zeros((), jnp.int32))
        return state, TimeStep(state.position[None], jnp.zeros(()), no, no)

    def step(self, state, action, key):
        del key
        values = {name: jnp.float32(v) for name, v in (NOMINAL | dict(self.changed)).items()}
        position = state.position + (action[0] + values["wind"]) / values["mass"]
        state = SledState(position, state.time + 1)
        over = state.time >= LENGTH
        return state, TimeStep(position[None], position, jnp.zeros((), bool), over)


def stream(env, num_envs, steps, *, seed=0):
    """Positions and states [T, N, ...] of a vector environment whose actions are all 1."""
    vector = vectorise(env, num_envs)
    state, first = vector.reset(jax.random.key(seed))

    def body(state, key):
        new, ts = vector.step(state, jnp.ones((num_envs, 1)), key)
        return new, (new.env_state.parameters, ts)

    keys = jax.random.split(jax.random.key(seed + 1), steps)
    _, (parameters, rest) = jax.jit(lambda s: jax.lax.scan(body, s, keys))(state)
    parameters = jax.tree.map(
        lambda a, b: np.concatenate([a[None], b]), state.env_state.parameters, parameters
    )
    return parameters, jax.tree.map(lambda a, b: np.concatenate([a[None], b]), first, rest)


def test_draws_hold_for_one_episode_and_set_what_moves():
    parameters, ts = stream(Randomised(Sled(), {"mass": (0.5, 2.0)}), 16, 3 * (LENGTH + 1))
    mass = parameters["mass"]
    first = ts.is_first
    assert first.sum() == 16 * 4
    # The observed speed is that of this episode's mass.
    speed = np.diff(ts.observation[..., 0], axis=0)
    expected = 1.0 / mass[1:]
    np.testing.assert_allclose(speed[~first[1:]], expected[~first[1:]], rtol=1e-5)
    np.testing.assert_array_equal(mass[1:][~first[1:]], mass[:-1][~first[1:]])
    draws = mass[first]
    assert len(np.unique(draws)) == len(draws)  # between episodes, and between environments
    assert np.all((draws >= 0.5) & (draws <= 2.0))
    assert (
        set(parameters) == {"mass"} and ts.observation.shape[-1] == 1
    )  # and the agent does not observe it


def test_draws_are_uniform_and_independent():
    env = Randomised(Sled(), {"mass": (0.1, 3.0), "wind": (-1.0, 1.0)})
    state, _ = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 4000))
    mass, wind = (np.asarray(state.parameters[name]) for name in ("mass", "wind"))
    for draws, low, high in ((mass, 0.1, 3.0), (wind, -1.0, 1.0)):
        counts, _ = np.histogram(draws, bins=4, range=(low, high))
        assert counts.sum() == 4000 and np.all(abs(counts - 1000) < 4 * np.sqrt(750))
    assert abs(np.corrcoef(mass, wind)[0, 1]) < 4 / np.sqrt(4000)
    # The start state is drawn independently of the parameters.
    assert abs(np.corrcoef(mass, state.env_state.position)[0, 1]) < 4 / np.sqrt(4000)


def test_one_more_parameter_shifts_nothing():
    key = jax.random.key(3)
    alone, _ = Randomised(Sled(), {"wind": (-1.0, 1.0)}).reset(key)
    both, _ = Randomised(Sled(), {"wind": (-1.0, 1.0), "mass": (1.0, 2.0)}).reset(key)
    assert alone.env_state.position == both.env_state.position
    assert alone.parameters["wind"] == both.parameters["wind"]


def test_equal_bounds_give_exactly_that_environment():
    fixed, plain = Randomised(Sled(), {"mass": (0.7, 0.7)}), Sled().with_parameters({"mass": 0.7})
    state, _ = fixed.reset(jax.random.key(0))
    assert state.parameters["mass"] == np.float32(0.7)
    _, ts = fixed.step(state, jnp.ones(1), jax.random.key(1))
    _, wanted = plain.step(state.env_state, jnp.ones(1), jax.random.key(1))
    np.testing.assert_array_equal(ts.observation, wanted.observation)


def test_it_keeps_to_the_contract():
    assert check_env(Randomised(Sled(), {"mass": (0.5, 2.0)})) == []
    assert isinstance(Sled(), Parametric) and not isinstance(CartPole(), Parametric)


@pytest.mark.parametrize("evaluation", [False, True])
def test_config_reaches_the_environment(evaluation):
    config = EnvConfig("gymnax/Pendulum-v1", num_envs=5, randomise={"m": (0.5, 2.0)})
    pytest.importorskip("gymnax")
    state, _ = make_vector_env(config, evaluation=evaluation).reset(jax.random.key(0))
    masses = state.env_state.parameters["m"]
    assert len(np.unique(masses)) == 5 and masses.min() >= 0.5 and masses.max() <= 2.0


@pytest.mark.parametrize(
    ("env", "ranges", "words"),
    [
        (CartPole(), {"mass": (0.0, 1.0)}, "must be empty for bellmax/CartPole"),
        (Sled(), {"mas": (0.0, 1.0)}, "unknown parameter 'mas' of test/Sled; did you mean mass"),
        (Sled(), {"mass": (2.0, 1.0)}, "mass must be (low, high) with low <= high, got"),
        (Sled(), {"wind": (0.0, float("inf"))}, "wind must be (low, high)"),
    ],
)
def test_mistakes_are_explained(env, ranges, words):
    with pytest.raises(UserError) as error:
        Randomised(env, ranges)
    assert words in str(error.value) and "\n" not in str(error.value)
