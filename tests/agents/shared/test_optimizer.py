"""The optimiser has the settings of the configuration."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bellmax.agents.shared.epsilon_greedy import with_schedule
from bellmax.agents.shared.value_based import ValueConfig, make_optimizer
from helpers.jitted import quick_jit

STEPS = 50


def path(optimizer):
    """Return the parameters after each of STEPS noisy steps; their scale grows a thousandfold."""
    params = {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(3)}
    generator, scale = np.random.default_rng(0), 10.0 ** (3 * np.arange(STEPS) / STEPS)
    noise = {name: generator.normal(size=(STEPS, *p.shape)) for name, p in params.items()}
    gradients = {name: np.float32((x.T * scale).T) for name, x in noise.items()}

    def step(carry, gradients):
        params, state = carry
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    run = quick_jit(lambda params: jax.lax.scan(step, (params, optimizer.init(params)), gradients))
    return run(params)[1]


def assert_same_path(config, theirs):
    ours, theirs = path(make_optimizer(config)), path(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    return ours


@pytest.mark.parametrize("epsilon", [1e-8, 3.125e-4, 1.0])
@pytest.mark.parametrize("norm", [None, 10.0])
def test_adam_has_the_configured_epsilon_and_gradients_the_configured_norm(epsilon, norm):
    theirs = optax.adam(1e-2, eps=epsilon)
    if norm is not None:
        theirs = optax.chain(optax.clip_by_global_norm(norm), theirs)
    config = ValueConfig(learning_rate=1e-2, adam_epsilon=epsilon, max_gradient_norm=norm)
    assert_same_path(config, theirs)


def test_the_step_size_decays_to_the_last():
    config = ValueConfig(learning_rate=1e-2, final_learning_rate=0.0, learning_rate_steps=10)
    theirs = optax.adam(optax.linear_schedule(1e-2, 0.0, 10))
    ours = assert_same_path(config, theirs)
    jax.tree.map(lambda x: np.testing.assert_array_equal(x[-2], x[-1]), ours)


def test_an_algorithm_of_an_agent_has_the_same_schedule_and_clipping():
    config = ValueConfig(learning_rate=1e-2, final_learning_rate=0.0, learning_rate_steps=10)
    config = dataclasses.replace(config, max_gradient_norm=10.0)
    theirs = optax.radam(optax.linear_schedule(1e-2, 0.0, 10))
    theirs = optax.chain(optax.clip_by_global_norm(10.0), theirs)
    ours = path(with_schedule(config, optax.radam)), path(theirs)
    jax.tree.map(np.testing.assert_array_equal, *ours)
