"""Recurrent networks of action values: a torso, a recurrent cell and a head."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from dm_env import specs

from bellmax import UserError, must
from bellmax.networks.build import Head, check_torso, count_values, make_torso, value_head
from bellmax.networks.config import NetworkConfig
from bellmax.networks.recurrent import GRU, LSTM, RecurrentMemory, RecurrentParams, make_core


class RecurrentQNetwork(NamedTuple):
    """Functions of a recurrent network; arrays over time are batch-major, [B, T, ...].

    init(key) -> RecurrentParams
    step(params, observations [B, ...], is_first [B], RecurrentMemory) -> (features [B, M], belief)
    unroll(params, observations [B, T, ...], actions [B, T], is_first [B, T], RecurrentMemory) ->
        (features [B, T, M], RecurrentMemory after the last step); action t is an input from step
        t + 1 on
    head(params, features [B, M], further inputs of the head) -> its output, a named tuple
    initial_memory(B) -> RecurrentMemory
    """

    init: Callable[[jax.Array], RecurrentParams]
    step: Callable[..., tuple[jax.Array, jax.Array]]
    unroll: Callable[..., tuple[jax.Array, RecurrentMemory]]
    head: Callable[..., Any]
    initial_memory: Callable[[int], RecurrentMemory]


class _Encoder(nn.Module):
    config: NetworkConfig
    num_values: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        config = self.config
        shape = config.torso, config.hidden, jnp.dtype(config.dtype), self.num_values
        torso = make_torso(*shape, norm=config.norm)
        return torso(x).astype(jnp.float32)


def make_recurrent_q_network(
    config: NetworkConfig, observation: specs.Array, num_actions: int, head: Head | None = None
) -> RecurrentQNetwork:
    """Build the recurrent q-network of a config for one observation spec.

    The inputs of the cell are the torso's features and the previous action.

    Args:
      config: `memory` is gru or lstm.
      observation: spec of one observation, unbatched.
      num_actions: A.
      head: as in `make_q_network`.

    Raises:
      UserError: the config names a module of the user's own, or the torso does not accept these
        observations.
    """
    if config.module is not None:
        hint = "a recurrent network is made of a torso, a cell and a head"
        allowed = f"left out for agent.network.memory {config.memory}"
        raise UserError(must("agent.network.module", allowed, config.module, hint))
    check_torso(config.torso, observation)
    dtype, size = jnp.dtype(config.dtype), config.memory_size
    encoder = _Encoder(config, count_values(observation))
    core = make_core({"gru": GRU, "lstm": LSTM}[config.memory](size, dtype), num_actions)
    head = value_head(config, head)
    width = (size,) if head.has_last_layer else ()
    outputs = head.module(num_actions, dtype, *width)

    def init(key: jax.Array) -> RecurrentParams:
        keys = jax.random.split(key, 3)
        seen = jnp.zeros((1, *observation.shape), observation.dtype)
        latent, encoding = encoder.init_with_output(keys[0], seen)
        width = latent.shape[-1]
        return RecurrentParams(
            encoding, core.init(keys[1], width), outputs.init(keys[2], jnp.zeros((1, size)))
        )

    def step(
        params: RecurrentParams, observations: jax.Array, is_first: jax.Array, memory: Any
    ) -> tuple[jax.Array, jax.Array]:
        latents: Any = encoder.apply(params.encoder, observations)
        belief = core.step(params.cell, latents, is_first, memory)
        return belief[:, :size], belief

    def unroll(
        params: RecurrentParams,
        observations: jax.Array,
        actions: jax.Array,
        is_first: jax.Array,
        memory: RecurrentMemory,
    ) -> tuple[jax.Array, RecurrentMemory]:
        batch, length = is_first.shape
        flat: Any = encoder.apply(
            params.encoder, observations.reshape(batch * length, *observation.shape)
        )
        latents = jnp.swapaxes(flat.reshape(batch, length, -1), 0, 1)
        beliefs = core.unroll(params.cell, latents, actions.T, is_first.T, memory)
        after = RecurrentMemory(beliefs[-1], actions[:, -1])
        return jnp.swapaxes(beliefs[..., :size], 0, 1), after

    def read(params: RecurrentParams, features: jax.Array, *inputs: jax.Array) -> Any:
        return outputs.apply(params.heads, features, *inputs)

    return RecurrentQNetwork(init, step, unroll, read, core.initial_memory)
