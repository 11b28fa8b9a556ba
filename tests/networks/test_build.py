"""A user's own network: supported modules, and a message for each mistake."""

import sys

import jax
import numpy as np
import pytest
from dm_env import specs

from bellmax import UserError, agents, networks
from bellmax.networks import NetworkConfig, make_q_network
from helpers.jitted import quick_jit

KEY = jax.random.key(0)

OWN = """
import flax.linen as nn
from bellmax.networks import DuelingOutput

class Own(nn.Module):
    num_actions: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.num_actions)(x.reshape(x.shape[0], -1))

class Tuple(nn.Module):
    num_actions: int

    @nn.compact
    def __call__(self, x):
        q = nn.Dense(self.num_actions)(x)
        return DuelingOutput(q, q[:, 0], q)

class TooWide(nn.Module):
    num_actions: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.num_actions + 1)(x)

class Unbatched(nn.Module):
    num_actions: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.num_actions)(x)[0]

class NoActions(nn.Module):
    pass

class Breaks(nn.Module):
    num_actions: int

    def __call__(self, x):
        raise RuntimeError("only images\\nand a second line")

class Strings(nn.Module):
    num_actions: int

    def __call__(self, x):
        return "q"
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_networks.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_networks", None)


def test_own_modules(own):
    spec = specs.Array((4,), np.float32)
    for name, kind in [("Own", networks.QOutput), ("Tuple", networks.DuelingOutput)]:
        network = make_q_network(NetworkConfig(module=f"own_networks:{name}"), spec, 3)
        run = quick_jit(lambda key, x, network=network: network.apply(network.init(key), x))
        output = run(KEY, np.ones((5, 4), np.float32))
        assert isinstance(output, kind) and output.q_values.shape == (5, 3)


@pytest.mark.parametrize(
    "config, shape, words",
    [
        ({"module": "own_networks:TooWide"}, (4,), ["(2, 4)", "(2, 3)", "own_networks:TooWide"]),
        ({"module": "own_networks:Unbatched"}, (4,), ["(3,)", "(2, 3)"]),
        ({"module": "own_networks:Breaks"}, (4,), ["own_networks:Breaks", "(2, 4)", "only images"]),
        ({"module": "own_networks:Strings"}, (4,), ["own_networks:Strings"]),
        ({"module": "own_networks:NoActions"}, (4,), ["num_actions", "package.module:Name"]),
        ({"module": "own_networks:Absent"}, (4,), ["Absent", "package.module:Name"]),
        ({"module": "own_networks"}, (4,), ["'own_networks'", "package.module:Name"]),
        ({"module": "no_such_module:X"}, (4,), ["no_such_module", "package.module:Name"]),
        ({"module": ":X"}, (4,), ["':X'", "package.module:Name"]),
        ({"torso": "nature"}, (4,), ["nature", "(4,)", "must be mlp"]),
        ({"torso": "minatar"}, (4, 4), ["minatar", "(4, 4)"]),
        ({"torso": "impala"}, (), ["impala", "()"]),
        ({"torso": "nature"}, (10, 10, 3), ["nature; it needs 36 x 36", "[10, 10, 3]"]),
        ({"torso": "minatar"}, (2, 2, 3), ["minatar", "(2, 2, 2, 3)"]),
    ],
    ids=str,
)
def test_a_network_that_does_not_fit_is_one_sentence(own, config, shape, words):
    with pytest.raises(UserError) as caught:
        make_q_network(NetworkConfig(**config), specs.Array(shape, np.float32), 3)
    message = str(caught.value)
    assert message.startswith("agent.network") and "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize("torso", ["mlp", "minatar", "nature", "impala"])
@pytest.mark.parametrize("shape", [(3, 84, 84), (4, 84, 96), (12, 36, 36)])
def test_images_with_channels_first_are_refused(torso, shape):
    words = r"must be images \[height, width, channels\], got .*, which looks like \[channels"
    observation = specs.Array(shape, np.uint8)
    with pytest.raises(UserError, match=words):
        make_q_network(NetworkConfig(torso=torso), observation, 3)
    with pytest.raises(UserError, match=words):
        config = networks.RecurrentNetworkConfig(torso=torso)
        networks.make_recurrent_network(config, observation, 3)


@pytest.mark.parametrize("shape", [(84, 84, 4), (7, 7, 20), (3, 3, 25), (10, 10, 4), (13, 13, 2)])
def test_images_with_channels_last_are_taken(shape):
    config = NetworkConfig(torso="impala")
    network = make_q_network(config, specs.Array(shape, np.uint8), 3)
    params = jax.eval_shape(network.init, KEY)
    assert params


@pytest.mark.parametrize(("side", "fits"), [(35, False), (36, True)])
def test_nature_needs_36_pixels(side, fits):
    config, observation = NetworkConfig(torso="nature"), specs.Array((84, side, 4), np.uint8)
    if fits:
        make_q_network(config, observation, 3)
    else:
        with pytest.raises(UserError, match=r"for images of shape \[84, 35, 4\], got nature"):
            make_q_network(config, observation, 3)


def test_a_network_without_time_has_no_memory():
    with pytest.raises(UserError, match="memory must be none for this agent, got gru"):
        make_q_network(NetworkConfig(memory="gru"), specs.Array((3,), np.float32), 2)


@pytest.mark.parametrize("package", [agents, networks])
def test_a_folder_lists_what_it_offers_and_has_nothing_else(package):
    assert dir(package) == sorted(package.__all__)
    assert all(hasattr(package, name) for name in package.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'make_nothing'"):
        _ = package.make_nothing
