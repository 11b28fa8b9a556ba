"""Environments under jax_enable_x64 and strict dtype promotion: the same dtypes as without."""

import contextlib
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from bellmax.envs import (
    CartPole,
    DeepSea,
    NoisyGrid,
    Pendulum,
    Randomised,
    list_names,
    make,
    random_mdp,
    vectorise,
)
from helpers.odd_tasks import JaxChanged

FLAGS = {
    "x64": lambda: jax.enable_x64(True),
    "strict": lambda: jax.numpy_dtype_promotion("strict"),
}
SUITES = {
    "gymnax": ("gymnax/CartPole-v1", "gymnax/Breakout-MinAtar"),
    "xminigrid": ("xminigrid/MiniGrid-Empty-5x5",),
}
NAMES = [name for name in list_names() if name.startswith("bellmax/")]
NAMES += [n for suite, names in SUITES.items() if importlib.util.find_spec(suite) for n in names]


def dtypes(make_env, **options):
    """The dtypes of the time steps of a scan, traced, by leaf."""
    env = vectorise(make_env(), 2, **options)
    action = jnp.zeros((2, *env.spec.action.shape), env.spec.action.dtype)

    def play(key):
        state, first = env.reset(key)
        keys = jax.random.split(key, 3)
        return first, jax.lax.scan(lambda s, k: env.step(s, action, k), state, keys)[1]

    shapes = jax.eval_shape(play, jax.random.key(0))
    return [leaf.dtype for leaf in jax.tree.leaves(shapes)]


def check(make_env, **options):
    wanted = dtypes(make_env, **options)
    for flag in FLAGS.values():
        with flag():
            assert dtypes(make_env, **options) == wanted
    assert np.float64 not in wanted


@pytest.mark.parametrize("name", NAMES)
def test_every_task(name):
    check(lambda: make(name))


@pytest.mark.parametrize(
    ("make_env", "options"),
    [
        (CartPole, {"normalise_observations": True, "reward_clip": 1.0}),
        (CartPole, {"frame_stack": 3, "time_limit": 2}),
        (lambda: DeepSea(deterministic=False), {"coverage": True}),
        (lambda: NoisyGrid(noise="remote"), {"normalise_observations": True}),
        (lambda: Randomised(Pendulum(), {"mass": (0.5, 2.0)}), {"time_limit": 7}),
    ],
)
def test_wrappers_and_options(make_env, options):
    check(make_env, **options)


class Wide(JaxChanged):
    """A task whose leaves have jax's default dtype, float64 under jax_enable_x64."""

    @property
    def spec(self):
        observation = specs.Array((3,), np.float32, "observation")
        return self.inner.spec._replace(observation=observation)

    def reset(self, key):
        state, ts = self.inner.reset(key)
        return state, ts._replace(observation=jax.random.uniform(key, (3,)), reward=jnp.zeros(()))

    def step(self, state, action, key):
        state, ts = self.inner.step(state, action, key)
        return state, ts._replace(observation=jax.random.uniform(key, (3,)), reward=jnp.ones(()))


def test_a_task_of_the_user_with_default_dtypes():
    check(Wide)


def test_random_mdps_are_the_same():
    tables = []
    for flag in (contextlib.nullcontext, FLAGS["x64"], FLAGS["strict"]):
        with flag():
            mdp = random_mdp(jax.random.key(3), 5, 2)
            tables.append((mdp.p, mdp.r))
    for p, r in tables[1:]:
        np.testing.assert_allclose(p, tables[0][0], rtol=1e-6)
        np.testing.assert_allclose(r, tables[0][1], rtol=1e-6)
