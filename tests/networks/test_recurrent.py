"""The recurrent network: flax's GRU, chunks that join, and a memory that knows no future."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from bellmax import UserError
from bellmax.networks import (
    GRU,
    RecurrentMemory,
    RecurrentNetworkConfig,
    make_recurrent_network,
)
from bellmax.networks.orthogonal import orthogonal

CONFIG = RecurrentNetworkConfig(hidden=(16,), latent_size=6, memory_size=5, head_hidden=(7,))
SPEC = specs.Array((3, 2), np.float32)
NUM_ACTIONS, T, B = 4, 9, 3
NET = make_recurrent_network(CONFIG, SPEC, NUM_ACTIONS)


def random_like(tree, seed=0):
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return structure.unflatten(
        [jax.random.normal(k, x.shape) * 0.6 for k, x in zip(keys, leaves, strict=True)]
    )


PARAMS = random_like(NET.init(jax.random.key(0)))


def stream(seed=1):
    keys = jax.random.split(jax.random.key(seed), 3)
    observations = jax.random.normal(keys[0], (T, B, 3, 2))
    actions = jax.random.randint(keys[1], (T, B), 0, NUM_ACTIONS)
    is_first = jnp.zeros((T, B), bool).at[0, 0].set(True).at[4, 1].set(True).at[8, 2].set(True)
    belief = jax.random.normal(keys[2], (B, 5))
    return observations, actions, is_first, RecurrentMemory(belief, jnp.array([3, 0, 1]))


def unroll(observations, actions, is_first, memory):
    latents = NET.encode(PARAMS.encoder, observations)
    return NET.unroll(PARAMS.cell, latents, actions, is_first, memory)


def test_the_cell_is_flax_gru_cell():
    cell = GRU(5)
    carry, x = jax.random.normal(jax.random.key(1), (2, 5)), jnp.ones((2, 3)) * 0.3
    params = random_like(cell.init(jax.random.key(0), carry, x, method="both"))
    ours = params["params"]
    theirs = {}
    for i, gate in enumerate("rzn"):
        part = slice(5 * i, 5 * i + 5)
        bias = ours["input"]["bias"][part]
        # flax has one bias for r and z; the new gate has one on each side of the reset.
        both = bias + ours["hidden"]["bias"][part] if gate != "n" else bias
        theirs[f"i{gate}"] = {"kernel": ours["input"]["kernel"][:, part], "bias": both}
        theirs[f"h{gate}"] = {"kernel": ours["hidden"]["kernel"][:, part]}
    theirs["hn"]["bias"] = ours["hidden"]["bias"][10:]
    expected, _ = nn.GRUCell(5).apply({"params": theirs}, carry, x)
    np.testing.assert_allclose(cell.apply(params, carry, x, method="both"), expected, rtol=1e-5)


def test_hidden_kernels_start_orthogonal():
    kernel = GRU(5).init(jax.random.key(0), jnp.zeros((1, 5)), jnp.zeros((1, 3)), method="both")
    kernel = kernel["params"]["hidden"]["kernel"]
    for block in np.split(np.asarray(kernel), 3, axis=1):
        np.testing.assert_allclose(block @ block.T, np.eye(5), atol=1e-5)


@pytest.mark.parametrize("cut", [1, 4, 5, 8])
def test_two_chunks_are_the_whole(cut):
    observations, actions, is_first, memory = stream()
    whole = unroll(observations, actions, is_first, memory)
    first = unroll(observations[:cut], actions[:cut], is_first[:cut], memory)
    carried = RecurrentMemory(first[-1], actions[cut - 1])
    second = unroll(observations[cut:], actions[cut:], is_first[cut:], carried)
    np.testing.assert_allclose(jnp.concatenate([first, second]), whole, rtol=1e-5, atol=1e-6)


def test_acting_step_by_step_is_the_unroll():
    observations, actions, is_first, memory = stream()
    whole = unroll(observations, actions, is_first, memory)
    for t in range(T):
        latents = NET.encode(PARAMS.encoder, observations[t])
        belief = NET.step(PARAMS.cell, latents, is_first[t], memory)
        np.testing.assert_allclose(belief, whole[t], rtol=1e-5, atol=1e-6)
        memory = RecurrentMemory(belief, actions[t])


def test_a_belief_knows_the_past_of_its_episode_and_no_more():
    observations, actions, is_first, memory = stream()

    def reached(i, t):
        """Whether belief t of stream i changes with [observation, belief before] of each step."""
        latents = NET.encode(PARAMS.encoder, observations)
        run = jax.jacobian(
            lambda x, b: NET.unroll(PARAMS.cell, x, actions, is_first, memory._replace(belief=b))[
                t, i
            ],
            argnums=(0, 1),
        )
        to_latents, to_belief = run(latents, memory.belief)
        return [bool(jnp.any(to_latents[:, s, i] != 0)) for s in range(T)], bool(
            jnp.any(to_belief[:, i] != 0)
        )

    assert reached(1, 3) == ([True] * 4 + [False] * 5, True)
    assert reached(1, 6) == ([False] * 4 + [True] * 3 + [False] * 2, False)
    assert reached(0, 2) == ([True] * 3 + [False] * 6, False)
    # Of one environment only.
    other = jax.grad(lambda x: NET.unroll(PARAMS.cell, x, actions, is_first, memory)[8, 0].sum())(
        NET.encode(PARAMS.encoder, observations)
    )
    assert jnp.any(other[:, 0] != 0) and not jnp.any(other[:, 1:] != 0)


def test_an_action_is_seen_from_the_next_step_on():
    observations, actions, is_first, memory = stream()
    whole = unroll(observations, actions, is_first, memory)
    changed = actions.at[2].set((actions[2] + 1) % NUM_ACTIONS)
    other = unroll(observations, changed, is_first, memory)
    np.testing.assert_array_equal(other[:3], whole[:3])
    assert np.abs(other[3] - whole[3]).max(axis=-1).min() > 1e-3
    # The first step of an episode does not know the last action of the one before.
    changed = actions.at[3, 1].set((actions[3, 1] + 1) % NUM_ACTIONS)
    np.testing.assert_array_equal(unroll(observations, changed, is_first, memory), whole)


def test_a_fresh_policy_is_nearly_uniform():
    params = NET.init(jax.random.key(3))
    observations, actions, is_first, memory = stream()
    latents = NET.encode(params.encoder, observations)
    logits, values = NET.heads(
        params.heads, NET.unroll(params.cell, latents, actions, is_first, memory)
    )
    assert logits.shape == (T, B, NUM_ACTIONS) and values.shape == (T, B)
    assert jnp.abs(logits).max() < 0.05 and jnp.abs(values).max() > 0.05


def test_bfloat16_inside_float32_outside():
    net = make_recurrent_network(
        RecurrentNetworkConfig(hidden=(16,), latent_size=6, memory_size=5, dtype="bfloat16"),
        SPEC,
        NUM_ACTIONS,
    )
    params = net.init(jax.random.key(0))
    observations, actions, is_first, memory = stream()
    latents = net.encode(params.encoder, observations)
    beliefs = net.unroll(params.cell, latents, actions, is_first, memory)
    outputs = latents, beliefs, *net.heads(params.heads, beliefs)
    assert {x.dtype for x in outputs} == {jnp.dtype(jnp.float32)}


def test_a_torso_for_images_needs_images():
    with pytest.raises(UserError, match="torso must be mlp .* got nature; it needs images"):
        make_recurrent_network(RecurrentNetworkConfig(torso="nature"), SPEC, 2)


@pytest.mark.parametrize("shape", [(5, 5), (8, 3), (3, 8), (64, 64), (1, 4), (4, 1)])
def test_orthogonal_kernels_are_those_of_flax(shape):
    key = jax.random.key(7)
    expected = nn.initializers.orthogonal(0.5)(key, shape)
    np.testing.assert_allclose(orthogonal(0.5)(key, shape), expected, atol=2e-4)


def test_the_program_that_makes_parameters_calls_no_lapack():
    def calls_it(function, *args):
        return re.search(
            r"= (qr|geqrf|householder_product)\[", str(jax.make_jaxpr(function)(*args))
        )

    assert not calls_it(jax.vmap(NET.init), jax.random.split(jax.random.key(0), 4))
    assert calls_it(lambda key: nn.initializers.orthogonal()(key, (3, 3)), jax.random.key(0))
