"""Networks of the user's own: arguments from the configuration, and sentences for other kinds."""

import dataclasses

import flax.linen as nn
import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from bellmax import UserError
from bellmax.agents import registry
from bellmax.envs import EnvSpec
from bellmax.networks.build import make_q_network
from bellmax.networks.config import ContinuousNetworkConfig, NetworkConfig
from bellmax.networks.continuous import make_actor, make_critics

OBSERVATION = specs.BoundedArray((3,), np.float32, -1, 1)
ACTION = specs.BoundedArray((2,), np.float32, -2, 2)


class Sized(nn.Module):
    num_actions: int
    width: int = 1
    widths: tuple = ()

    @nn.compact
    def __call__(self, x):
        for width in (*self.widths, self.width):
            x = nn.Dense(width)(x)
        return nn.Dense(self.num_actions)(x)


class OwnActor(nn.Module):
    action_size: int
    num_heads: int
    width: int = 1

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.num_heads * self.action_size)(nn.Dense(self.width)(x))
        return jnp.tanh(x).reshape(-1, self.num_heads, self.action_size)


class Fails(OwnActor):
    @nn.compact
    def __call__(self, x):
        raise ValueError("first line\nsecond line")


class OwnCritic(nn.Module):
    num_heads: int
    width: int = 1

    @nn.compact
    def __call__(self, x, action):
        return nn.Dense(self.num_heads)(nn.Dense(self.width)(jnp.concatenate([x, action], -1)))


class Flat(OwnActor):
    def __call__(self, x):
        return x


class OfNnx(flax.nnx.Module):
    def __init__(self, num_actions):
        self.num_actions = num_actions


class AnyNnx(flax.nnx.Module):
    def __init__(self, **arguments):
        del arguments


class Raises(nn.Module):
    num_actions: int

    def __post_init__(self):
        raise KeyError("width")


def plain(num_actions):
    return lambda x: x


def any_function(**arguments):
    return lambda x: arguments


def named(name, **options):
    return NetworkConfig(module=f"{__name__}:{name}", options=options)


def sizes(params):
    return sorted(leaf.shape for leaf in jax.tree.leaves(params) if leaf.ndim == 2)


def test_options_are_arguments_of_the_module():
    network = make_q_network(named("Sized", width=5, widths=[7]), OBSERVATION, 4)
    assert sizes(network.init(jax.random.key(0))["params"]) == [(3, 7), (5, 4), (7, 5)]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("OfNnx", {}, "must be a flax.linen module, .* a OfNnx of flax.nnx"),
        ("plain", {}, "must be a flax.linen module, .* a function"),
        ("Raises", {}, "cannot build .* KeyError: 'width'"),
        ("Sized", {"wide": 3}, "cannot build .*wide=3.* TypeError"),
        ("Sized", {"width": "x"}, "does not accept observations"),
        ("Nothing", {}, "cannot build .* AttributeError"),
    ],
)
def test_what_is_no_module_is_refused_in_words(name, options, words):
    with pytest.raises(UserError, match=words) as caught:
        make_q_network(named(name, **options), OBSERVATION, 4)
    assert "\n" not in str(caught.value)


def test_an_equinox_module_is_refused_in_words(monkeypatch):
    equinox = pytest.importorskip("equinox")

    class Own(equinox.Module):
        num_actions: int

    monkeypatch.setitem(globals(), "OfEquinox", Own)
    with pytest.raises(UserError, match="a Own of equinox"):
        make_q_network(named("OfEquinox"), OBSERVATION, 4)


def keys_of_modules(agent):
    fields = dataclasses.fields(registry.config_class(agent)().network)
    return [f.name for f in fields if f.name in ("module", "actor", "critic")]


@pytest.mark.parametrize("kind", ["nnx", "equinox", "a function"])
@pytest.mark.parametrize(
    ("agent", "key"), [(agent, key) for agent in registry.names() for key in keys_of_modules(agent)]
)
def test_every_agent_with_a_module_of_ones_own_refuses_those_of_others(
    agent, key, kind, monkeypatch
):
    if kind == "equinox":
        equinox = pytest.importorskip("equinox")

        class Own(equinox.Module):
            def __init__(self, **arguments):
                del arguments

        monkeypatch.setitem(globals(), "AnyEquinox", Own)
    names = {"nnx": "AnyNnx", "equinox": "AnyEquinox", "a function": "any_function"}
    make_config, make_agent = registry.load(agent)
    network = type(make_config().network)(**{key: f"{__name__}:{names[kind]}"})
    action = specs.DiscreteArray(2) if key == "module" else ACTION
    config = make_config(network=network)
    with pytest.raises(UserError, match=f"{key} must be a flax.linen module, .*{kind}") as caught:
        make_agent(config, EnvSpec("task", OBSERVATION, action))
    assert "\n" not in str(caught.value)


def test_the_agents_that_take_modules_of_ones_own():
    taking = {agent: keys_of_modules(agent) for agent in registry.names()}
    assert taking["dqn"] == taking["qr_dqn_retrace"] == taking["va_learning"] == ["module"]
    assert taking["td3"] == taking["expectrl"] == ["actor", "critic"]
    assert taking["rnd"] == taking["on_policy"] == []


@pytest.mark.slow
def test_actors_and_critics_of_the_users_own_act_in_the_tasks_units():
    names = {"actor": f"{__name__}:OwnActor", "critic": f"{__name__}:OwnCritic"}
    config = ContinuousNetworkConfig(**names, options={"width": 6})
    actor = make_actor(config, OBSERVATION, ACTION, 2)
    critics = make_critics(config, OBSERVATION, ACTION, 3, 2)
    params = actor.init(jax.random.key(0))
    assert sizes(params) == [(3, 6), (6, 4)]
    seen = 100 * jnp.ones((5, 3))
    actions = actor.apply(params, seen)
    assert actions.shape == (5, 2, 2) and 1 < jnp.abs(actions).max() <= 2
    values = critics.apply(critics.init(jax.random.key(1)), seen, actions[:, 0])
    assert values.shape == (5, 3, 2)


@pytest.mark.parametrize(
    ("key", "name", "words"),
    [
        ("actor", "Fails", r"agent.network.actor does not accept \[\(2, 3\)\]: first line$"),
        ("actor", "Flat", "agent.network.actor must return shape"),
        ("actor", "OwnCritic", "agent.network.actor: cannot build"),
        ("critic", "plain", "agent.network.critic: cannot build"),
    ],
)
def test_a_wrong_actor_or_critic_is_one_sentence(key, name, words):
    config = ContinuousNetworkConfig(**{key: f"{__name__}:{name}"})
    make = make_actor if key == "actor" else make_critics
    with pytest.raises(UserError, match=words):
        make(config, OBSERVATION, ACTION)
