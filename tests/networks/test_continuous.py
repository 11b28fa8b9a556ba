"""Actors and critics: shapes, units, independence of the ensemble's members."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from bellmax.networks import ContinuousNetworkConfig, make_actor, make_critics
from helpers.jitted import quick_jit

KEY = jax.random.key(0)
SEEN = specs.Array((3, 2), np.float32)  # flattened by the network
LOW, HIGH = np.array([-2.0, 1.0], np.float32), np.array([2.0, 5.0], np.float32)
ACTION = specs.BoundedArray((2,), np.float32, LOW, HIGH)
CONFIG = ContinuousNetworkConfig(hidden=(16, 8))


@pytest.mark.parametrize("heads", [1, 3])
def test_an_actor_reaches_its_bounds_and_no_further(heads):
    actor = make_actor(CONFIG, SEEN, ACTION, heads)
    params, apply = quick_jit(actor.init)(KEY), quick_jit(actor.apply)
    observations = np.random.default_rng(0).normal(0.0, 1e4, (500, 3, 2)).astype(np.float32)
    actions = np.asarray(apply(params, observations))
    assert actions.shape == (500, heads, 2) and actions.dtype == np.float32
    assert (actions >= LOW).all() and (actions <= HIGH).all()
    np.testing.assert_allclose(actions.min((0, 1)), LOW, atol=1e-5)
    np.testing.assert_allclose(actions.max((0, 1)), HIGH, atol=1e-5)
    centre = np.asarray(apply(jax.tree.map(np.zeros_like, params), observations))
    np.testing.assert_allclose(centre, np.broadcast_to((LOW + HIGH) / 2, centre.shape))
    for k in range(1, heads):
        assert np.abs(actions[:, k] - actions[:, 0]).max() > 0.1


@pytest.mark.parametrize(("count", "heads"), [(1, 1), (2, 1), (3, 4)])
def test_critics_are_independent_and_see_actions_without_their_units(count, heads):
    critics = make_critics(CONFIG, SEEN, ACTION, count, heads)
    params, generator = quick_jit(critics.init)(KEY), np.random.default_rng(0)
    observations = generator.normal(size=(7, 3, 2)).astype(np.float32)
    actions = generator.uniform(LOW, HIGH, (7, 2)).astype(np.float32)

    @quick_jit
    def run(params):
        """Values, and the gradient of each critic's in the parameters of all."""
        value = lambda p: critics.apply(p, observations, actions)  # noqa: E731
        return value(params), jax.jacrev(lambda p: value(p).sum(axis=(0, 2)))(params)

    values, gradients = jax.tree.map(np.asarray, run(params))
    assert values.shape == (7, count, heads) and values.dtype == np.float32
    assert len(np.unique(values.round(6))) == values.size
    unit = specs.BoundedArray((2,), np.float32, -1.0, 1.0)
    scaled = (actions - (LOW + HIGH)[None] / 2) / ((HIGH - LOW)[None] / 2)
    scaleless = make_critics(CONFIG, SEEN, unit, count, heads)
    same = quick_jit(scaleless.apply)(params, observations, scaled)
    np.testing.assert_allclose(values, same, rtol=1e-5, atol=1e-6)
    # A critic's value depends on its own parameters alone.
    for c in range(count):
        for leaf in jax.tree.leaves(gradients):
            assert leaf.shape[1] == count and not np.delete(leaf[c], c, axis=0).any()


@pytest.mark.slow
def test_half_precision_inside_gives_single_precision_outside():
    config = ContinuousNetworkConfig(hidden=(16, 8), dtype="bfloat16")
    observations = np.random.default_rng(0).normal(size=(50, 3, 2)).astype(np.float32)
    actor, full = (make_actor(c, SEEN, ACTION) for c in (config, CONFIG))
    params = quick_jit(actor.init)(KEY)
    assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    actions = np.asarray(quick_jit(actor.apply)(params, observations))
    exact = np.asarray(quick_jit(full.apply)(params, observations))
    assert actions.dtype == np.float32 and 0 < np.abs(actions - exact).max() < 0.1
    critics, whole = (make_critics(c, SEEN, ACTION, 2) for c in (config, CONFIG))
    params = quick_jit(critics.init)(KEY)
    values = np.asarray(quick_jit(critics.apply)(params, observations, exact[:, 0]))
    wanted = np.asarray(quick_jit(whole.apply)(params, observations, exact[:, 0]))
    assert values.dtype == np.float32 and 0 < np.abs(values - wanted).max() < 0.1


def test_gradients_of_critics_are_those_of_plain_products():
    critics = make_critics(CONFIG, SEEN, ACTION, num_critics=2)
    params, generator = critics.init(KEY), np.random.default_rng(1)
    observations = generator.normal(size=(7, 3, 2)).astype(np.float32)
    actions = generator.uniform(LOW, HIGH, (7, 2)).astype(np.float32)
    weights = generator.normal(size=(7, 2, 1)).astype(np.float32)

    def plain(params, actions):
        scaled = (actions - (LOW + HIGH)[None] / 2) / ((HIGH - LOW)[None] / 2)
        x = jnp.concatenate([observations.reshape(7, 6), scaled], axis=-1)

        def value(layers):
            hidden = x
            for name in ("Dense_0", "Dense_1"):
                layer = layers["MLP_0"][name]
                hidden = jax.nn.relu(hidden @ layer["kernel"] + layer["bias"][None])
            return hidden @ layers["Dense_0"]["kernel"] + layers["Dense_0"]["bias"][None]

        values = jax.vmap(value, out_axes=1)(params["params"])
        return (values * weights).sum()

    def ours(params, actions):
        return (critics.apply(params, observations, actions) * weights).sum()

    got, expected = (quick_jit(jax.grad(f, argnums=(0, 1)))(params, actions) for f in (ours, plain))
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-6)
