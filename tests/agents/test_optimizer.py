"""The optimiser against optax's."""

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


@pytest.mark.parametrize("epsilon", [1e-8, 3.125e-4, 1.0])
@pytest.mark.parametrize("norm", [None, 10.0])
def test_adam_is_optax_adam(epsilon, norm):
    ours = make_optimizer(
        ValueConfig(learning_rate=1e-2, adam_epsilon=epsilon, max_gradient_norm=norm)
    )
    theirs = optax.adam(1e-2, eps=epsilon)
    if norm is not None:
        theirs = optax.chain(optax.clip_by_global_norm(norm), theirs)
    for a, b in zip(path(ours), path(theirs), strict=True):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), a, b)


def test_the_step_size_decays_to_the_last():
    ours = make_optimizer(
        ValueConfig(learning_rate=1e-2, final_learning_rate=0.0, learning_rate_steps=10)
    )
    theirs = optax.adam(optax.linear_schedule(1e-2, 0.0, 10))
    for a, b in zip(path(ours), path(theirs), strict=True):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), a, b)
    *_, before, last = path(ours)
    jax.tree.map(np.testing.assert_array_equal, before, last)
