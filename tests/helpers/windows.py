"""A linear agent of each kind, and windows of steps with ends anywhere."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from bellmax.agents.dqn import DQNConfig, make_dqn
from bellmax.agents.munchausen_dqn import MunchausenDQNConfig, make_munchausen_dqn
from bellmax.agents.shared.base import Batch
from bellmax.envs import EnvSpec, Step
from bellmax.networks import NetworkConfig
from helpers.jitted import compile_agent

NUM_ACTIONS = 3
SPEC = EnvSpec("test/Any", specs.Array((4,), np.float32), specs.DiscreteArray(NUM_ACTIONS))
KEY = jax.random.key(0)


class Linear(nn.Module):
    num_actions: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.num_actions, use_bias=False)(x)


NETWORK = NetworkConfig(module=f"{__name__}:Linear")
SMALL = {"network": NETWORK, "batch_size": 16, "learning_rate": 0.1}
AGENTS = {
    "dqn": (make_dqn, DQNConfig(**SMALL)),
    "double": (make_dqn, DQNConfig(**SMALL, double=True, n_step=2)),
    "munchausen": (make_munchausen_dqn, MunchausenDQNConfig(**SMALL, temperature=0.5)),
    "munchausen_3": (make_munchausen_dqn, MunchausenDQNConfig(**SMALL, n_step=3)),
}
every_agent = pytest.mark.parametrize("make, config", AGENTS.values(), ids=AGENTS)


def random_steps(length, batch=16, seed=0, garbage=0.0):
    """Random windows with ends anywhere; closing steps have garbage besides observations."""
    rng = np.random.default_rng(seed)
    last = rng.random((batch, length)) < 0.3
    last[:2, 0] = False, True
    reward = rng.normal(size=last.shape) + garbage * last
    terminated = np.roll(last, -1, 1) & (rng.random(last.shape) < 0.5)
    discount = np.where(last, 1.0 + garbage, 1.0 - terminated)
    observation = rng.normal(size=(*last.shape, 4))
    action = rng.integers(0, NUM_ACTIONS, last.shape)
    fields = observation, action, reward, discount, np.roll(last, 1, 1), last
    dtypes = np.float32, np.int32, np.float32, np.float32, bool, bool
    return Step(*(jnp.asarray(x.astype(d)) for x, d in zip(fields, dtypes, strict=True)))


@functools.cache
def compiled(make, config):
    """The agent, its functions under jit."""
    return compile_agent(make(config, SPEC))


def learn_once(make, config, steps, weights=None, seed=0):
    """State, output and the gradient of one step: Adam's first moment is a tenth of it."""
    agent = compiled(make, config)
    state = agent.init(jax.random.key(seed))
    other = jax.random.normal(jax.random.key(7), state.params["params"]["Dense_0"]["kernel"].shape)
    state = state._replace(target_params={"params": {"Dense_0": {"kernel": other}}})
    weights = np.ones(len(steps.reward)) if weights is None else weights
    state, output = agent.learn(state, Batch(steps, np.asarray(weights, np.float32)), KEY)
    return state, output, 10 * np.asarray(state.opt_state[0].mu["params"]["Dense_0"]["kernel"])


def closing_windows(steps):
    """The same number of windows, all of which start at a closing step."""
    rows = np.resize(np.flatnonzero(steps.is_last[:, 0]), len(steps.reward))
    return jax.tree.map(lambda x: np.asarray(x)[rows], steps)
