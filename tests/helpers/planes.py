"""Agents on the plane: TD3 and ExpectRL, random batches, and their networks and losses by hand."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from bellmax.agents import ActInput
from bellmax.agents.expectrl import ExpectRLConfig, make_expectrl
from bellmax.agents.shared.base import Batch
from bellmax.agents.td3 import TD3Config, make_td3
from bellmax.envs import EnvSpec, Step
from bellmax.networks import ContinuousNetworkConfig
from helpers.jitted import compile_agent, random_like

LOW, HIGH = np.array([-2.0, 1.0], np.float32), np.array([2.0, 4.0], np.float32)
ACTION = specs.BoundedArray((2,), np.float32, LOW, HIGH)
SPEC = EnvSpec("test/Plane", specs.Array((3,), np.float32), ACTION)
KEY = jax.random.key(0)
SMALL = {"network": ContinuousNetworkConfig(hidden=(5,)), "batch_size": 8, "learning_rate": 0.01}
TD3 = TD3Config(**SMALL, target_rate=0.1)
EXPECTRL = ExpectRLConfig(**SMALL, target_rate=0.1)
AUTO = replace(EXPECTRL, alpha="auto", alphas=(0.2, 0.5, 0.7))
AGENTS = {
    "td3": (make_td3, TD3),
    "mean": (make_td3, replace(TD3, reduce="mean", num_critics=3)),
    "single": (make_td3, replace(TD3, num_critics=1)),
    "expectrl": (make_expectrl, EXPECTRL),
    "auto": (make_expectrl, AUTO),
}
every_agent = pytest.mark.parametrize("make, config", AGENTS.values(), ids=AGENTS)


def random_batch(size=8, seed=0, garbage=0.0):
    """Windows of two steps with both kinds of end; the third starts at a closing step."""
    rng = np.random.default_rng(seed)
    last = np.zeros((size, 2), bool)
    last[2, 0] = last[0, 1] = last[1, 1] = True
    discount = np.ones((size, 2))
    discount[0, 0] = 0.0  # terminated; row 1 was truncated
    observation = rng.normal(size=(size, 2, 3))
    action = rng.uniform(LOW, HIGH, size=(size, 2, 2))
    reward = rng.normal(size=(size, 2))
    reward[2, 0] += garbage
    action[2, 0] += garbage
    fields = (x.astype(np.float32) for x in (observation, action, reward, discount))
    steps = Step(*map(jnp.asarray, fields), jnp.zeros((size, 2), bool), jnp.asarray(last))
    weights = jnp.asarray(rng.uniform(0.5, 1.0, size), jnp.float32)
    return Batch(steps, weights)


@functools.cache
def compiled(make, config):
    """The agent on the plane, its functions under jit."""
    return compile_agent(make(config, SPEC))


def dense(layer, x):
    return jnp.einsum("io,i->o", layer["kernel"], x) + layer["bias"]


def actor_by_hand(params, observation):
    """[K, D] actions of one observation."""
    hidden = jax.nn.relu(dense(params["params"]["MLP_0"]["Dense_0"], observation))
    flat = jnp.tanh(dense(params["params"]["Dense_0"], hidden)).reshape(-1, 2)
    return (HIGH + LOW)[None] / 2 + (HIGH - LOW)[None] / 2 * flat


def critic_by_hand(params, c, observation, action):
    """[K] values of critic c for one action."""
    one = jax.tree.map(lambda x: x[c], params["params"])
    scaled = (action - (HIGH + LOW) / 2) / ((HIGH - LOW) / 2)
    hidden = dense(one["MLP_0"]["Dense_0"], jnp.concatenate([observation, scaled]))
    return dense(one["Dense_0"], jax.nn.relu(hidden))


def num_critics(config):
    return getattr(config, "num_critics", 1)


def critic_loss_by_hand(config, state, batch, noise):
    """The critics' loss, transition by transition, as a function of their parameters."""
    steps, target = batch.steps, state.target_params
    alphas = {"auto": getattr(config, "alphas", ())}.get(getattr(config, "alpha", 0), None)
    alphas = alphas or (getattr(config, "alpha", 0.5),)

    def one(params, step, noise):
        total, actions = 0.0, actor_by_hand(target.actor, step.observation[1])
        for k, alpha in enumerate(alphas):
            clipped = jnp.clip(noise * config.target_noise, -0.5, 0.5) * (HIGH - LOW) / 2
            action = jnp.clip(actions[k] + clipped, LOW, HIGH)
            q_t = jnp.stack(
                [
                    critic_by_hand(target.critics, c, step.observation[1], action)[k]
                    for c in range(num_critics(config))
                ]
            )
            reduced = jnp.mean(q_t) if config == AGENTS["mean"][1] else jnp.min(q_t)
            y = step.reward[0] + 0.99 * step.discount[0] * reduced
            for c in range(num_critics(config)):
                q = critic_by_hand(params, c, step.observation[0], step.action[0])[k]
                total += 2 * jnp.where(y - q < 0, 1 - alpha, alpha) * (y - q) ** 2
        return total

    def loss_of(params):
        each = jax.vmap(one, (None, 0, 0))(params, steps, noise)
        counts = ~steps.is_last[:, 0]
        return jnp.sum(jnp.where(counts, batch.weights * each, 0.0)) / jnp.sum(counts)

    return loss_of


def actor_loss_by_hand(state, batch):
    steps = batch.steps

    def one(params, observation):
        actions = enumerate(actor_by_hand(params, observation))
        values = (critic_by_hand(state.params.critics, 0, observation, a)[k] for k, a in actions)
        return -sum(values)

    def loss_of(params):
        each = jax.vmap(one, (None, 0))(params, steps.observation[:, 0])
        counts = ~steps.is_last[:, 0]
        return jnp.sum(jnp.where(counts, each, 0.0)) / jnp.sum(counts)

    return loss_of


def random_state(agent):
    """Another target network, and biases that are not zero."""
    state = agent.init(KEY)

    def moved(tree, seed):
        noise = random_like(tree, seed, 0.5)
        return jax.tree.map(lambda x, y: jnp.asarray(np.add(x, y)), tree, noise)

    return state._replace(params=moved(state.params, 1), target_params=moved(state.params, 2))


def assert_close(a, b, rtol=2e-4, atol=2e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


def act(agent, state, observation, step=10**6, key=KEY, **kwargs):
    memory = agent.initial_memory(len(observation))
    first = np.ones(len(observation), bool)
    params = agent.actor_params(state)
    inputs = ActInput(observation, memory, first, key, np.int32(step))
    return agent.act(params, inputs, **kwargs)
