"""Networks: shapes, scaling and precision."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from bellmax import networks
from bellmax.networks import NetworkConfig, make_q_network
from helpers.jitted import quick_jit

KEY = jax.random.key(0)
WINDOWS = ((8, 4), (3, 1), (3, 2), (1, 1))  # width and stride of a convolution


def run(module, x):
    """Output and parameters of a module."""

    def both(key, x):
        params = module.init(key, x)
        return module.apply(params, x), params

    return quick_jit(both)(KEY, x)


@pytest.mark.parametrize(
    "module, shape, features",
    [
        (networks.MLP((7, 5)), (3, 2, 4), 5),
        (networks.MLP(()), (3, 2, 4), 8),
        (networks.MinAtarConv(), (3, 10, 10, 4), 128),
        (networks.NatureConv(), (3, 84, 84, 4), 512),
        (networks.ImpalaResNet(), (3, 64, 64, 3), 256),
        (networks.ImpalaResNet(stages=(4, 8), blocks=1), (3, 9, 7, 2), 256),
    ],
    ids=lambda x: getattr(type(x), "__name__", None) if isinstance(x, nn.Module) else None,
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.uint8, jnp.bool_])
def test_torsos_map_batches_to_features(module, shape, features, dtype):
    def both(key, x):
        params = module.init(key, x)
        return module.apply(params, x), params

    output, params = jax.eval_shape(both, KEY, jax.ShapeDtypeStruct(shape, dtype))
    assert output.shape == (3, features) and output.dtype == jnp.float32
    assert {p.dtype for p in jax.tree.leaves(params)} <= {np.dtype(np.float32)}


def test_parameter_counts_are_the_papers():
    """Nature DQN: 8*8*4*32+32 + 4*4*32*64+64 + 3*3*64*64+64 + 3136*512+512 = 1,684,128."""
    for module, shape, wanted in [
        (networks.NatureConv(), (1, 84, 84, 4), 1_684_128),
        (networks.MinAtarConv(), (1, 10, 10, 4), 9 * 4 * 16 + 16 + 1024 * 128 + 128),
        (networks.NatureConv(width=0), (1, 84, 84, 4), 77_984),
        (
            networks.ImplicitQuantileHead(18, 32, width=512),
            (1, 3136),
            65 * 3136 + 1_606_144 + 9_234,
        ),
    ]:
        params = jax.eval_shape(module.init, KEY, jax.ShapeDtypeStruct(shape, jnp.float32))
        assert sum(np.prod(p.shape) for p in jax.tree.leaves(params)) == wanted


@pytest.mark.parametrize(
    "module",
    [
        networks.NatureConv(),
        networks.ImpalaResNet((4,), 1),
        networks.MinAtarConv(),
        networks.MLP((8,)),
    ],
    ids=["nature", "impala", "minatar", "mlp"],
)
def test_bytes_are_scaled_to_the_unit_interval(module):
    bytes_ = np.random.default_rng(0).integers(0, 256, (2, 36, 36, 1), np.uint8)
    output, params = run(module, bytes_)
    apply = quick_jit(module.apply)
    scaled = apply(params, np.float32(bytes_ / 255.0))
    np.testing.assert_allclose(output, scaled, atol=1e-6)
    unscaled = apply(params, np.float32(bytes_))
    assert np.abs(unscaled).max() > 50 * np.abs(output).max() > 0


def test_booleans_are_zeros_and_ones():
    x = np.random.default_rng(0).random((2, 10, 10, 3)) < 0.3
    for module in (networks.MinAtarConv(), networks.MLP((4,))):
        output, params = run(module, x)
        np.testing.assert_array_equal(output, quick_jit(module.apply)(params, np.float32(x)))


@pytest.mark.parametrize("width", [1, 2, 3])
def test_patch_convolution_is_a_convolution(width):
    x = jax.random.normal(KEY, (2, 6, 5, 3))
    output, params = run(networks.PatchConv(4, width), x)
    dense = params["params"]["Dense_0"]
    kernel = np.asarray(dense["kernel"]).reshape(width, width, 3, 4)
    conv = nn.Conv(4, (width, width), padding="VALID")
    wanted = quick_jit(conv.apply)({"params": {"kernel": kernel, "bias": dense["bias"]}}, x)
    assert output.shape == wanted.shape == (2, 7 - width, 6 - width, 4)
    np.testing.assert_allclose(output, wanted, atol=1e-5)


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
@pytest.mark.parametrize(
    "width, stride", [(4, 2), *(pytest.param(*x, marks=pytest.mark.slow) for x in WINDOWS)]
)
def test_convolutions_are_flax_s(width, stride, padding):
    """In value and in gradients, on images whose sides the stride does not divide, and of seeds."""
    module = networks.conv(4, width, jnp.float32, stride=stride, padding=padding)
    flax_s = nn.Conv(4, (width, width), stride, padding=padding)
    x = np.random.default_rng(0).normal(size=(2, 13, 10, 3)).astype(np.float32)

    def results(layer):
        """Parameters, their output and gradients, and the output under vmap of two seeds."""

        def value(params, x):
            output = layer.apply(params, x)
            return jnp.sum(jnp.sin(output)), output

        params = layer.init(KEY, x)
        gradients, output = jax.grad(value, argnums=(0, 1), has_aux=True)(params, x)
        seeds = jax.tree.map(lambda p: jnp.stack([p, 2.0 * p]), params)
        return params, output, gradients, jax.vmap(layer.apply, in_axes=(0, None))(seeds, x)

    ours, theirs = (quick_jit(lambda layer=layer: results(layer))() for layer in (module, flax_s))
    assert ours[1].shape == theirs[1].shape
    jax.tree.map(np.testing.assert_array_equal, ours[0], theirs[0])
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), ours[2], theirs[2])
    np.testing.assert_allclose(ours[3][0], ours[1], atol=1e-5)
    np.testing.assert_allclose(ours[3][1], 2.0 * np.asarray(ours[1]), atol=1e-5)


def test_an_accelerator_has_its_own_convolutions():
    x, module = jnp.zeros((1, 84, 84, 4)), networks.NatureConv()
    params = jax.eval_shape(module.init, KEY, x)
    for platform in ("cpu", "cuda", "tpu"):
        lowered = jax.jit(module.apply).trace(params, x).lower(lowering_platforms=(platform,))
        assert ("stablehlo.convolution" in lowered.as_text()) == (platform != "cpu")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_heads(dtype):
    x = jax.random.normal(KEY, (5, 6))
    plain, _ = run(networks.QHead(3, dtype), x)
    assert isinstance(plain, networks.QOutput) and plain.q_values.shape == (5, 3)
    dueling, params = run(networks.DuelingHead(3, dtype), x)
    assert isinstance(dueling, networks.DuelingOutput)
    assert (dueling.value.shape, dueling.advantage.shape) == ((5,), (5, 3))
    assert {y.dtype for y in (*plain, *dueling)} == {np.dtype(np.float32)}
    dueling = jax.tree.map(np.asarray, dueling)
    np.testing.assert_allclose(dueling.advantage.mean(-1), np.zeros(5), atol=1e-6)
    np.testing.assert_allclose(dueling.q_values.mean(-1), dueling.value, atol=1e-5)
    # Equal shifts of all advantages change nothing.
    bias = np.asarray(params["params"]["Dense_1"]["bias"])
    shifted = {**params["params"]["Dense_1"], "bias": bias + 8.0}
    shifted = {"params": {**params["params"], "Dense_1": shifted}}
    again = quick_jit(networks.DuelingHead(3, dtype).apply)(shifted, x)
    tolerance = 1e-5 if dtype == jnp.float32 else 0.1
    np.testing.assert_allclose(again.q_values, dueling.q_values, atol=tolerance)


@pytest.mark.parametrize("torso, shape", [("mlp", (6,)), ("minatar", (10, 10, 4))])
@pytest.mark.parametrize("dueling", [False, True])
def test_bfloat16_inside_float32_outside(torso, shape, dueling):
    x = jax.random.normal(KEY, (4, *shape))
    spec = specs.Array(shape, np.float32)
    half, full = (
        make_q_network(NetworkConfig(torso, dueling=dueling, dtype=dtype), spec, 3)
        for dtype in ("bfloat16", "float32")
    )
    params = quick_jit(half.init)(KEY)
    output = quick_jit(half.apply)(params, x)
    assert isinstance(output, networks.DuelingOutput if dueling else networks.QOutput)
    assert output.q_values.shape == (4, 3)
    leaves = jax.tree.leaves((params, output))
    assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float32)}
    exact = quick_jit(full.apply)(params, x).q_values
    error = np.abs(np.subtract(output.q_values, exact)).max()
    assert 0 < error < 0.05


def test_layer_normalisation_stands_before_the_activation():
    """Of the units of a dense layer, and of the channels at each position of a convolution."""
    x = np.random.default_rng(0).normal(size=(3, 10, 10, 4)).astype(np.float32)
    patches = [x[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
    first = np.concatenate(patches, axis=-1)
    for module, y in [
        (networks.MinAtarConv(norm="layer"), first),
        (networks.MLP((7, 5), norm="layer"), x.reshape(3, -1)),
    ]:
        output, params = run(module, x)
        params = params["params"]
        layers = [params[name] for name in sorted(params) if "LayerNorm" not in name]
        for i, layer in enumerate(reversed(layers) if "PatchConv_0" in params else layers):
            y = np.float64(y.reshape(3, -1) if layer is params.get("Dense_0") else y)
            layer = layer.get("Dense_0", layer)
            y = y @ np.float64(layer["kernel"]) + np.float64(layer["bias"])
            y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-6)
            norm = params[f"LayerNorm_{i}"]
            assert (norm["scale"] == 1).all() and (norm["bias"] == 0).all()
            y = np.maximum(y, 0.0)
        np.testing.assert_allclose(output, y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "torso, shape, count",
    [("mlp", (6,), 2), ("minatar", (10, 10, 4), 2), ("nature", (84, 84, 4), 4)]
    + [("impala", (16, 16, 3), 14)],  # 3 stages of 2 blocks of 2 convolutions, the last two
)
def test_network_norm_normalises_every_layer_of_a_torso(torso, shape, count):
    spec = specs.Array(shape, np.float32)
    for norm, expected in (("none", 0), ("layer", count)):
        network = make_q_network(NetworkConfig(torso, norm=norm), spec, 3)
        params = jax.eval_shape(network.init, KEY)["params"]
        (module,) = (params[name] for name in params if "Head" not in name)
        assert sum("LayerNorm" in name for name in module) == expected
    config = networks.RecurrentNetworkConfig(torso, norm="layer")
    recurrent = networks.make_recurrent_network(config, spec, 3)
    encoder = jax.eval_shape(recurrent.init, KEY).encoder["params"]
    assert "LayerNorm_0" in encoder[next(name for name in encoder if name != "Dense_0")]


def test_normalised_features_do_not_depend_on_the_scale_of_kernels():
    x = np.random.default_rng(0).normal(size=(3, 10, 10, 4)).astype(np.float32)
    for norm, close in (("layer", True), ("none", False)):
        module = networks.MinAtarConv(norm=norm)
        output, params = run(module, x)
        scaled = jax.tree_util.tree_map_with_path(
            lambda path, p: 10 * p if path[-1].key == "kernel" else p, params
        )
        assert np.allclose(quick_jit(module.apply)(scaled, x), output, atol=1e-3) == close
