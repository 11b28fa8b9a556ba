"""Recurrent cells, and networks for actors: an encoder, a GRU, a policy and a value.

Arrays over time are time-major, [T, B, ...].
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from dm_env import specs

from bellmax.networks.build import check_torso, count_values, make_torso
from bellmax.networks.config import RecurrentNetworkConfig
from bellmax.networks.orthogonal import orthogonal


class RecurrentMemory(NamedTuple):
    """belief: [B, C] float32, the cell's state. action: [B] int32, the previous action."""

    belief: jax.Array
    action: jax.Array


class RecurrentParams(NamedTuple):
    """Parameters by part: `encoder` and `cell` form the representation, `heads` use it."""

    encoder: Any
    cell: Any
    heads: Any


class RecurrentNetwork(NamedTuple):
    """init(key) -> RecurrentParams
    encode(encoder, observations [..., *shape]) -> latents [..., D] float32
    step(cell, latents [B, D], is_first [B], RecurrentMemory) -> beliefs [B, M]
    unroll(cell, latents [T, B, D], actions [T, B], is_first [T, B], RecurrentMemory) ->
        beliefs [T, B, M]; action t is an input from step t + 1 on
    heads(heads, beliefs [..., M]) -> policy logits [..., A] and values [...], float32
    initial_memory(B) -> RecurrentMemory
    """

    init: Callable[[jax.Array], RecurrentParams]
    encode: Callable[[Any, jax.Array], jax.Array]
    step: Callable[[Any, jax.Array, jax.Array, RecurrentMemory], jax.Array]
    unroll: Callable[..., jax.Array]
    heads: Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]]
    initial_memory: Callable[[int], RecurrentMemory]


class Encoder(nn.Module):
    """Maps observations to latents: [B, ...] -> [B, D] float32."""

    config: RecurrentNetworkConfig
    num_values: int = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        shape = config.torso, config.hidden, dtype, self.num_values
        x = make_torso(*shape, norm=config.norm)(x)
        return nn.Dense(config.latent_size, dtype=dtype)(x).astype(jnp.float32)


class GRU(nn.Module):
    """A gated recurrent unit whose inputs can be projected for all steps at once.

    project: [..., D] -> [..., 3 M]. __call__(carry [B, M], projected [B, 3 M]) -> [B, M].

    Equal to `nn.GRUCell` with joined products: two per step instead of six.
    Source: Cho et al. 2014, arXiv:1406.1078, the variant with the reset gate after the product.
    """

    features: int
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self.input = nn.Dense(3 * self.features, dtype=self.dtype)
        self.hidden = nn.Dense(3 * self.features, kernel_init=_blocks(3), dtype=self.dtype)

    @property
    def carry_size(self) -> int:
        """M."""
        return self.features

    def project(self, x: jax.Array) -> jax.Array:
        return self.input(x)

    def __call__(self, carry: jax.Array, projected: jax.Array) -> jax.Array:
        from_input = jnp.split(projected, 3, axis=-1)
        from_carry = jnp.split(self.hidden(carry), 3, axis=-1)
        reset = nn.sigmoid(from_input[0] + from_carry[0])
        update = nn.sigmoid(from_input[1] + from_carry[1])
        new = nn.tanh(from_input[2] + reset * from_carry[2])
        return ((1.0 - update) * new + update * carry).astype(jnp.float32)

    def both(self, carry: jax.Array, x: jax.Array) -> jax.Array:
        """One step from an unprojected input [B, D]."""
        return self(carry, self.project(x))


class LSTM(nn.Module):
    """A long short-term memory with the interface of `GRU`; carry [B, 2 M]: outputs, then cells.

    Equal to `nn.OptimizedLSTMCell`, but the forget gate's bias starts at 1.
    Source: Hochreiter and Schmidhuber 1997; the bias: Jozefowicz et al. 2015.
    """

    features: int
    dtype: Any = jnp.float32

    def setup(self) -> None:
        def forget(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
            del key
            return jnp.zeros(shape, dtype).at[self.features : 2 * self.features].set(1.0)

        self.input = nn.Dense(4 * self.features, use_bias=False, dtype=self.dtype)
        self.hidden = nn.Dense(
            4 * self.features, kernel_init=_blocks(4), bias_init=forget, dtype=self.dtype
        )

    @property
    def carry_size(self) -> int:
        """2 M."""
        return 2 * self.features

    def project(self, x: jax.Array) -> jax.Array:
        return self.input(x)

    def __call__(self, carry: jax.Array, projected: jax.Array) -> jax.Array:
        output, cell = jnp.split(carry, 2, axis=-1)
        write, forget, new, read = jnp.split(projected + self.hidden(output), 4, axis=-1)
        cell = nn.sigmoid(forget) * cell + nn.sigmoid(write) * nn.tanh(new)
        output = nn.sigmoid(read) * nn.tanh(cell)
        return jnp.concatenate([output, cell], axis=-1).astype(jnp.float32)

    def both(self, carry: jax.Array, x: jax.Array) -> jax.Array:
        """One step from an unprojected input [B, D]."""
        return self(carry, self.project(x))


def _blocks(count: int) -> Any:
    """Initialiser of `count` orthogonal kernels side by side."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        square = shape[0], shape[1] // count
        keys = jax.random.split(key, count)
        return jnp.concatenate([orthogonal()(k, square, dtype) for k in keys], axis=1)

    return init


class Core(NamedTuple):
    """A cell over time, whose inputs are latents and previous actions.

    init(key, latent_size) -> params
    step(params, latents [B, D], is_first [B], RecurrentMemory) -> beliefs [B, C]
    unroll(params, latents [T, B, D], actions [T, B], is_first [T, B], RecurrentMemory) -> beliefs
        [T, B, C]; action t is an input from step t + 1 on
    initial_memory(B) -> RecurrentMemory
    """

    init: Callable[[jax.Array, int], Any]
    step: Callable[[Any, jax.Array, jax.Array, RecurrentMemory], jax.Array]
    unroll: Callable[..., jax.Array]
    initial_memory: Callable[[int], RecurrentMemory]


def make_core(cell: GRU | LSTM, num_actions: int) -> Core:
    """Make the functions of a cell over time for A actions."""

    def init(key: jax.Array, latent_size: int) -> Any:
        latent = jnp.zeros((1, latent_size + num_actions))
        return cell.init(key, initial_memory(1).belief, latent, method="both")

    def unroll(
        params: Any,
        latents: jax.Array,
        actions: jax.Array,
        is_first: jax.Array,
        memory: RecurrentMemory,
    ) -> jax.Array:
        continues = 1.0 - is_first.astype(jnp.float32)
        before = jnp.concatenate([memory.action[None], actions[:-1]], axis=0)
        taken = jax.nn.one_hot(before, num_actions) * continues[..., None]
        joined = jnp.concatenate([latents, taken], axis=-1)
        projected: Any = cell.apply(params, joined, method="project")

        def body(belief: jax.Array, inputs: tuple[jax.Array, jax.Array]):
            projected, continues = inputs
            new: Any = cell.apply(params, belief * continues[:, None], projected)
            return new, new

        return jax.lax.scan(body, memory.belief, (projected, continues))[1]

    def step(params: Any, latents: jax.Array, is_first: jax.Array, memory: RecurrentMemory):
        one = latents[None], memory.action[None], is_first[None]
        return unroll(params, *one, memory)[0]

    def initial_memory(batch_size: int) -> RecurrentMemory:
        belief = jnp.zeros((batch_size, cell.carry_size))
        return RecurrentMemory(belief, jnp.zeros(batch_size, jnp.int32))

    return Core(init, step, unroll, initial_memory)


class PolicyValue(nn.Module):
    """[..., M] -> logits [..., A] and values [...], each with its own layers."""

    num_actions: int
    hidden: tuple[int, ...]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        outputs = []
        for size, scale in ((self.num_actions, 0.01), (1, 1.0)):
            y = x
            for width in self.hidden:
                y = nn.relu(nn.Dense(width, dtype=self.dtype)(y))
            # Small logits: a policy that has learned nothing is nearly uniform.
            outputs.append(nn.Dense(size, kernel_init=orthogonal(scale), dtype=self.dtype)(y))
        logits, value = (y.astype(jnp.float32) for y in outputs)
        return logits, value[..., 0]


def make_recurrent_network(
    config: RecurrentNetworkConfig, observation: specs.Array, num_actions: int
) -> RecurrentNetwork:
    """Builds encoder, GRU and heads for one observation spec and A actions.

    Raises:
      UserError: the torso does not accept these observations.
    """
    check_torso(config.torso, observation)
    dtype = jnp.dtype(config.dtype)
    encoder = Encoder(config, count_values(observation))
    cell = GRU(config.memory_size, dtype)
    policy_value = PolicyValue(num_actions, tuple(config.head_hidden), dtype)

    core = make_core(cell, num_actions)

    def init(key: jax.Array) -> RecurrentParams:
        keys = jax.random.split(key, 3)
        seen = jnp.zeros((1, *observation.shape), observation.dtype)
        return RecurrentParams(
            encoder.init(keys[0], seen),
            core.init(keys[1], config.latent_size),
            policy_value.init(keys[2], core.initial_memory(1).belief),
        )

    def encode(params: Any, observations: jax.Array) -> jax.Array:
        lead = observations.shape[: observations.ndim - len(observation.shape)]
        flat = observations.reshape(-1, *observation.shape)
        latents: Any = encoder.apply(params, flat)
        return latents.reshape(*lead, -1)

    def heads(params: Any, beliefs: jax.Array) -> tuple[jax.Array, jax.Array]:
        answer: Any = policy_value.apply(params, beliefs)
        return answer

    return RecurrentNetwork(init, encode, core.step, core.unroll, heads, core.initial_memory)
