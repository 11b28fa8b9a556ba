"""The optimiser against optax's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bellmax.agents.value_based import ValueConfig, make_optimizer
from helpers.jitted import quick_jit

STEPS = 50


def path(optimizer):
    """Parameters after each of STEPS noisy gradient steps, whose scale grows a thousandfold."""
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


def assert_close(ours, theirs):
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, path(ours), path(theirs))


@pytest.mark.parametrize("epsilon", [1e-8, 3.125e-4, 1.0])
@pytest.mark.parametrize("norm", [None, 10.0])
def test_adam_is_optax_adam(epsilon, norm):
    ours = make_optimizer(
        ValueConfig(learning_rate=1e-2, adam_epsilon=epsilon, max_gradient_norm=norm)
    )
    theirs = optax.adam(1e-2, eps=epsilon)
    if norm is not None:
        theirs = optax.chain(optax.clip_by_global_norm(norm), theirs)
    assert_close(ours, theirs)


def test_the_step_size_decays_to_the_last():
    ours = make_optimizer(
        ValueConfig(learning_rate=1e-2, final_learning_rate=0.0, learning_rate_steps=10)
    )
    theirs = optax.adam(optax.linear_schedule(1e-2, 0.0, 10))
    assert_close(ours, theirs)
    jax.tree.map(lambda x: np.testing.assert_array_equal(x[-2], x[-1]), path(ours))
