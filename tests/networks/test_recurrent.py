"""The recurrent network: flax's GRU, chunks that join, and a memory that knows no future."""

import functools
import re

import flax.linen as nn
import jax
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
from helpers.jitted import quick_jit, random_like

CONFIG = RecurrentNetworkConfig(hidden=(16,), latent_size=6, memory_size=5, head_hidden=(7,))
SPEC = specs.Array((3, 2), np.float32)
NUM_ACTIONS, T, B = 4, 9, 3
NET = make_recurrent_network(CONFIG, SPEC, NUM_ACTIONS)


PARAMS = random_like(jax.eval_shape(NET.init, jax.random.key(0)), 0, 0.6)


def stream(seed=1):
    generator = np.random.default_rng(seed)
    observations = generator.normal(size=(T, B, 3, 2)).astype(np.float32)
    actions = generator.integers(NUM_ACTIONS, size=(T, B)).astype(np.int32)
    is_first = np.zeros((T, B), bool)
    is_first[[0, 4, 8], [0, 1, 2]] = True
    belief = generator.normal(size=(B, 5)).astype(np.float32)
    return observations, actions, is_first, RecurrentMemory(belief, np.array([3, 0, 1], np.int32))


@quick_jit
def unroll(observations, actions, is_first, memory):
    latents = NET.encode(PARAMS.encoder, observations)
    return NET.unroll(PARAMS.cell, latents, actions, is_first, memory)


def test_the_cell_is_flax_gru_cell():
    cell = GRU(5)
    carry = np.random.default_rng(1).normal(size=(2, 5)).astype(np.float32)
    x, key = np.full((2, 3), 0.3, np.float32), jax.random.key(0)
    init = functools.partial(cell.init, method="both")
    params = random_like(jax.eval_shape(init, key, carry, x), 0, 0.6)
    ours = jax.tree.map(np.asarray, params["params"])
    theirs = {}
    for i, gate in enumerate("rzn"):
        part = slice(5 * i, 5 * i + 5)
        bias = ours["input"]["bias"][part]
        # flax has one bias for r and z; the new gate has one on each side of the reset.
        both = bias + ours["hidden"]["bias"][part] if gate != "n" else bias
        theirs[f"i{gate}"] = {"kernel": ours["input"]["kernel"][:, part], "bias": both}
        theirs[f"h{gate}"] = {"kernel": ours["hidden"]["kernel"][:, part]}
    theirs["hn"]["bias"] = ours["hidden"]["bias"][10:]
    expected, _ = quick_jit(nn.GRUCell(5).apply)({"params": theirs}, carry, x)
    got = quick_jit(functools.partial(cell.apply, method="both"))(params, carry, x)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_hidden_kernels_start_orthogonal():
    init = quick_jit(functools.partial(GRU(5).init, method="both"))
    kernel = init(jax.random.key(0), np.zeros((1, 5), np.float32), np.zeros((1, 3), np.float32))
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
    np.testing.assert_allclose(np.concatenate([first, second]), whole, rtol=1e-5, atol=1e-6)


def test_acting_step_by_step_is_the_unroll():
    observations, actions, is_first, memory = stream()
    whole = unroll(observations, actions, is_first, memory)

    @quick_jit
    def step(observation, is_first, memory):
        latents = NET.encode(PARAMS.encoder, observation)
        return NET.step(PARAMS.cell, latents, is_first, memory)

    for t in range(T):
        belief = step(observations[t], is_first[t], memory)
        np.testing.assert_allclose(belief, whole[t], rtol=1e-5, atol=1e-6)
        memory = RecurrentMemory(belief, actions[t])


def test_a_belief_knows_the_past_of_its_episode_and_no_more():
    observations, actions, is_first, memory = stream()

    latents = quick_jit(NET.encode)(PARAMS.encoder, observations)

    def beliefs(latents, belief):
        memory_then = memory._replace(belief=belief)
        return NET.unroll(PARAMS.cell, latents, actions, is_first, memory_then)

    jacobians = quick_jit(jax.jacobian(beliefs, argnums=(0, 1)))(latents, memory.belief)
    to_latents, to_belief = map(np.asarray, jacobians)  # [T, B, D] by [T, B, D], and by [B, D]

    def reached(i, t):
        """Whether belief t of stream i changes with the latents of each step, and the memory."""
        return to_latents[t, i, :, :, i].any(axis=(0, 2)).tolist(), to_belief[t, i, :, i].any()

    assert reached(1, 3) == ([True] * 4 + [False] * 5, True)
    assert reached(1, 6) == ([False] * 4 + [True] * 3 + [False] * 2, False)
    assert reached(0, 2) == ([True] * 3 + [False] * 6, False)
    # Of one environment only.
    other = to_latents[8, 0]
    assert other[:, :, 0].any() and not other[:, :, 1:].any()


def test_an_action_is_seen_from_the_next_step_on():
    observations, actions, is_first, memory = stream()
    whole = unroll(observations, actions, is_first, memory)
    changed = actions.copy()
    changed[2] = (changed[2] + 1) % NUM_ACTIONS
    other = unroll(observations, changed, is_first, memory)
    np.testing.assert_array_equal(other[:3], whole[:3])
    assert np.abs(np.subtract(other, whole))[3].max(axis=-1).min() > 1e-3
    # The first step of an episode does not know the last action of the one before.
    changed = actions.copy()
    changed[3, 1] = (changed[3, 1] + 1) % NUM_ACTIONS
    np.testing.assert_array_equal(unroll(observations, changed, is_first, memory), whole)


def test_a_fresh_policy_is_nearly_uniform():
    @quick_jit
    def run(key, observations, actions, is_first, memory):
        params = NET.init(key)
        latents = NET.encode(params.encoder, observations)
        beliefs = NET.unroll(params.cell, latents, actions, is_first, memory)
        return NET.heads(params.heads, beliefs)

    logits, values = map(np.asarray, run(jax.random.key(3), *stream()))
    assert logits.shape == (T, B, NUM_ACTIONS) and values.shape == (T, B)
    assert np.abs(logits).max() < 0.05 and np.abs(values).max() > 0.05


def test_bfloat16_inside_float32_outside():
    net = make_recurrent_network(
        RecurrentNetworkConfig(hidden=(16,), latent_size=6, memory_size=5, dtype="bfloat16"),
        SPEC,
        NUM_ACTIONS,
    )

    @quick_jit
    def run(key, observations, actions, is_first, memory):
        params = net.init(key)
        latents = net.encode(params.encoder, observations)
        beliefs = net.unroll(params.cell, latents, actions, is_first, memory)
        return latents, beliefs, *net.heads(params.heads, beliefs)

    assert {x.dtype for x in run(jax.random.key(0), *stream())} == {np.dtype(np.float32)}


def test_a_torso_for_images_needs_images():
    with pytest.raises(UserError, match="torso must be mlp .* got nature; it needs images"):
        make_recurrent_network(RecurrentNetworkConfig(torso="nature"), SPEC, 2)


@pytest.mark.parametrize("shape", [(5, 5), (8, 3), (3, 8), (64, 64), (1, 4), (4, 1)])
def test_orthogonal_kernels_are_those_of_flax(shape):
    key = jax.random.key(7)
    ours, flax_s = (
        quick_jit(make(0.5), static_argnums=1)(key, shape)
        for make in (orthogonal, nn.initializers.orthogonal)
    )
    np.testing.assert_allclose(ours, flax_s, atol=2e-4)


def test_the_program_that_makes_parameters_calls_no_lapack():
    def calls_it(function, *args):
        return re.search(
            r"= (qr|geqrf|householder_product)\[", str(jax.make_jaxpr(function)(*args))
        )

    assert not calls_it(jax.vmap(NET.init), jax.random.split(jax.random.key(0), 4))
    assert calls_it(lambda key: nn.initializers.orthogonal()(key, (3, 3)), jax.random.key(0))
