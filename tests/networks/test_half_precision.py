"""bfloat16 networks: outputs and gradients are near those of float32, and losses are float32."""

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from bellmax.networks import (
    NetworkConfig,
    RecurrentMemory,
    RecurrentNetworkConfig,
    make_q_network,
    make_recurrent_network,
)
from helpers.jitted import quick_jit

ACTIONS, T, B = 4, 12, 3


def minatar_loss(dtype):
    """(loss of parameters, their initialiser) of a MinAtar network; the loss has no layer."""
    spec = specs.Array((10, 10, 4), np.bool_)
    network = make_q_network(NetworkConfig(torso="minatar", dtype=dtype), spec, ACTIONS)
    generator = np.random.default_rng(0)
    seen = generator.random((16, 10, 10, 4)) < 0.1
    target = generator.normal(size=(16, ACTIONS)).astype(np.float32)

    def loss(params):
        q_values = network.apply(params, seen).q_values
        return jnp.mean(jnp.square(q_values - target)), q_values

    return loss, network.init


def recurrent_loss(dtype):
    """The same of a recurrent network over a window with two episodes."""
    config = RecurrentNetworkConfig(
        hidden=(32,), latent_size=16, memory_size=16, head_hidden=(16,), dtype=dtype
    )
    network = make_recurrent_network(config, specs.Array((6,), np.float32), ACTIONS)
    generator = np.random.default_rng(1)
    seen = generator.normal(size=(T, B, 6)).astype(np.float32)
    actions = generator.integers(ACTIONS, size=(T, B)).astype(np.int32)
    is_first = np.zeros((T, B), bool)
    is_first[[0, 7]] = True
    target = generator.normal(size=(T, B)).astype(np.float32)
    memory = RecurrentMemory(np.zeros((B, 16), np.float32), np.zeros(B, np.int32))

    def loss(params):
        latents = network.encode(params.encoder, seen)
        beliefs = network.unroll(params.cell, latents, actions, is_first, memory)
        logits, values = network.heads(params.heads, beliefs)
        entropy = jnp.sum(jax.nn.log_softmax(logits)[..., 0])
        return jnp.mean(jnp.square(values - target)) + 0.1 * entropy / (T * B), values

    return loss, network.init


def check(make_loss):
    """Compare both precisions from the same parameters."""
    found = {}
    for dtype in ("float32", "bfloat16"):
        loss, init = make_loss(dtype)
        step = jax.value_and_grad(loss, has_aux=True)
        params = quick_jit(make_loss("float32")[1])(jax.random.key(0))
        assert ("bf16" in str(jax.make_jaxpr(step)(params))) == (dtype == "bfloat16")
        assert jax.eval_shape(init, jax.random.key(0)) == jax.eval_shape(lambda p=params: p)
        found[dtype] = jax.tree.map(np.asarray, quick_jit(step)(params))
        assert {x.dtype for x in jax.tree.leaves(found[dtype])} == {np.dtype(np.float32)}
    ((loss, output), gradient), ((half_loss, half_output), half_gradient) = found.values()
    assert half_loss != loss  # it is computed in another precision
    np.testing.assert_allclose(half_loss, loss, rtol=0.01)
    np.testing.assert_allclose(half_output, output, atol=0.02 * np.abs(output).max())
    for half, single in zip(*map(jax.tree.leaves, (half_gradient, gradient)), strict=True):
        assert np.linalg.norm(half - single) <= 0.08 * np.linalg.norm(single) + 1e-6


def test_minatars_torso():
    check(minatar_loss)


def test_the_recurrent_network():
    check(recurrent_loss)


def test_the_bound_would_catch_fewer_bits():
    """A control: parameters that are rounded to float8 leave the bounds."""

    def coarse(dtype):
        loss, init = minatar_loss("float32")
        if dtype == "float32":
            return loss, init

        def rounded(params):
            kept = jax.tree.map(lambda x: x.astype(jnp.float8_e4m3fn).astype(jnp.float32), params)
            half, _ = minatar_loss("bfloat16")
            return half(kept)

        return rounded, init

    try:
        check(coarse)
    except AssertionError:
        return
    raise AssertionError("rounding to three bits passed as half precision")
