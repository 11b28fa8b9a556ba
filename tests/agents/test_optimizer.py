"""The optimiser: what a configuration says reaches optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bellmax.agents.value_based import ValueConfig, make_optimizer

STEPS = 50


def path(optimizer):
    """Parameters after each of STEPS noisy gradient steps, whose scale grows a thousandfold."""
    params = {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(3)}
    state = optimizer.init(params)
    for i, key in enumerate(jax.random.split(jax.random.key(0), STEPS)):
        noise = jax.tree.map(lambda p, key=key: jax.random.normal(key, p.shape), params)
        gradients = jax.tree.map(lambda n, i=i: n * 10 ** (3 * i / STEPS), noise)
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        yield params


def assert_same_path(config, theirs):
    for a, b in zip(path(make_optimizer(config)), path(theirs), strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)


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
    assert_same_path(config, optax.adam(optax.linear_schedule(1e-2, 0.0, 10)))
    *_, before, last = path(make_optimizer(config))
    jax.tree.map(np.testing.assert_array_equal, before, last)
