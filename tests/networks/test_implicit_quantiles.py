"""The network of IQN: its formula, its fractions, and where it stands in each torso."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from bellmax.networks import NetworkConfig, implicit_quantile_head, make_q_network
from bellmax.networks.heads import ImplicitQuantileHead, cosine_features
from helpers.jitted import quick_jit

KEY = jax.random.key(0)
SIZES = {"num_actions": 3, "num_quantiles": 6, "embedding_size": 5}


def relu(x):
    return np.maximum(x, 0.0)


def by_hand(params, features, fractions):
    """[B, N, A] of the paper's formula, one example and fraction after the other, in float64."""
    layers = {
        name: (np.asarray(x["kernel"], float), np.asarray(x["bias"], float))
        for name, x in params["params"].items()
    }
    output = np.zeros((*fractions.shape, 3))
    for b, n in np.ndindex(*fractions.shape):
        cosines = np.array([np.cos(np.pi * i * fractions[b, n]) for i in (1, 2, 3, 4, 5)])
        kernel, bias = layers["embedding"]
        x = features[b] * relu(cosines @ kernel + bias)
        if "hidden" in layers:
            kernel, bias = layers["hidden"]
            x = relu(x @ kernel + bias)
        kernel, bias = layers["quantiles"]
        output[b, n] = x @ kernel + bias
    return output


@pytest.mark.parametrize("width", [0, 7])
def test_quantiles_follow_the_formula(width):
    head = ImplicitQuantileHead(**SIZES, width=width)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4, 8)).astype(np.float32)
    fractions = rng.random((4, 9)).astype(np.float32)
    params = quick_jit(head.init)(KEY, features)
    output = quick_jit(head.apply)(params, features, fractions)
    wanted = by_hand(params, features, fractions)
    np.testing.assert_allclose(output.quantiles, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(output.q_values, wanted.mean(axis=1), rtol=1e-4, atol=1e-5)
    midpoints = np.tile((np.arange(6) + 0.5) / 6, (4, 1))
    output = quick_jit(head.apply)(params, features)
    wanted = by_hand(params, features, midpoints)
    np.testing.assert_allclose(output.quantiles, wanted, rtol=1e-4, atol=1e-5)


def test_cosines_are_of_single_precision_in_a_half_precision_network():
    """In bfloat16, 64 pi tau would have an error of up to 0.5 before its cosine."""
    fractions = np.linspace(0, 1, 50, dtype=np.float32)
    found = quick_jit(cosine_features, static_argnums=1)(fractions, 64)
    assert found.dtype == jnp.float32
    wanted = np.cos(np.pi * np.arange(1, 65) * fractions.astype(float)[:, None])
    np.testing.assert_allclose(found, wanted, atol=5e-5)
    head = ImplicitQuantileHead(3, 6, dtype=jnp.bfloat16)
    trace = jax.make_jaxpr(head.init)(KEY, jnp.ones((1, 8), jnp.bfloat16))
    cosines = [e for e in trace.eqns if e.primitive.name == "cos"]
    assert [e.invars[0].aval.dtype for e in cosines] == [jnp.float32]


@pytest.mark.parametrize(
    "torso, shape, features, width",
    [
        ("mlp", (4,), 7, 5),
        ("minatar", (10, 10, 4), 1024, 128),
        ("nature", (84, 84, 4), 3136, 512),
        ("impala", (64, 64, 3), 2048, 256),
    ],
)
def test_the_embedding_multiplies_what_comes_before_the_last_layer(torso, shape, features, width):
    config = NetworkConfig(torso=torso, hidden=(7, 5))
    head = implicit_quantile_head(6, 64)
    network = make_q_network(config, specs.Array(shape, np.uint8), 3, head)
    params = jax.eval_shape(network.init, KEY)["params"]
    layers = params["ImplicitQuantileHead_0"]
    shapes = {name: layer["kernel"].shape for name, layer in layers.items()}
    assert shapes == {
        "embedding": (64, features),
        "hidden": (features, width),
        "quantiles": (width, 3),
    }
    observation = jax.ShapeDtypeStruct((2, *shape), np.uint8)
    fractions = jax.ShapeDtypeStruct((2, 9), np.float32)
    output = jax.eval_shape(network.apply, {"params": params}, observation, fractions)
    assert (output.q_values.shape, output.quantiles.shape) == ((2, 3), (2, 9, 3))


def test_a_network_without_hidden_layers_has_the_observation_as_features():
    config = NetworkConfig(hidden=())
    network = make_q_network(config, specs.Array((4,), np.float32), 3, implicit_quantile_head(6, 5))
    params = jax.eval_shape(network.init, KEY)["params"]["ImplicitQuantileHead_0"]
    shapes = {name: layer["kernel"].shape for name, layer in params.items()}
    assert shapes == {"embedding": (5, 4), "quantiles": (4, 3)}
