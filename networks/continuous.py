"""Networks for continuous actions: deterministic actors, and ensembles of critics.

Both may have K heads on one trunk: K policies, and K values of one action. Inputs and outputs are
actions in the environment's units; internally the actor ends in a tanh and the critic scales
actions to [-1, 1].
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from bellmax import UserError, must
from bellmax.networks.build import (
    Network,
    check_arrays,
    check_single,
    load_module,
    reader_of,
)
from bellmax.networks.config import ContinuousNetworkConfig
from bellmax.networks.torsos import MLP


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _product(x: jax.Array, kernel: jax.Array, dimensions: Any, precision: Any) -> jax.Array:
    """[..., D] and [D, F] -> [..., F]; reverse-mode gradients only.

    jax's gradient of the kernel is a product that is transposed after. With an axis of critics XLA
    on a CPU leaves the transposition to what reads the gradient, and Adam takes longer.
    """
    return jax.lax.dot_general(x, kernel, dimensions, precision)


def _product_forward(x: jax.Array, kernel: jax.Array, dimensions: Any, precision: Any):
    return _product(x, kernel, dimensions, precision), (x, kernel)


def _product_backward(dimensions: Any, precision: Any, saved: tuple[jax.Array, jax.Array], g):
    """The gradients of x and of the kernel, each laid out as its argument."""
    del dimensions
    x, kernel = saved
    batch = tuple(range(x.ndim - 1))
    to_x = jax.lax.dot_general(g, kernel, (((x.ndim - 1,), (1,)), ((), ())), precision)
    return to_x, jax.lax.dot_general(x, g, ((batch, batch), ((), ())), precision)


_product.defvjp(_product_forward, _product_backward)


class Actor(nn.Module):
    """[B, ...] -> [B, K, D] float32 in [-1, 1]: K policies on one trunk."""

    hidden: tuple[int, ...]
    num_heads: int
    action_size: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = MLP(self.hidden, self.dtype)(x)
        x = nn.Dense(self.num_heads * self.action_size, dtype=self.dtype)(x).astype(jnp.float32)
        return jnp.tanh(x).reshape(-1, self.num_heads, self.action_size)


class Critic(nn.Module):
    """Observations [B, ...] and actions [B, D] in [-1, 1] -> [B, K] float32, in reward units."""

    hidden: tuple[int, ...]
    num_heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, action: jax.Array) -> jax.Array:
        x = jnp.concatenate([x.reshape(x.shape[0], -1).astype(jnp.float32), action], axis=-1)
        x = MLP(self.hidden, self.dtype, dot_general=_product)(x)
        layer = nn.Dense(self.num_heads, dtype=self.dtype, dot_general=_product)
        return layer(x).astype(jnp.float32)


def make_actor(
    config: ContinuousNetworkConfig,
    observation: specs.Array,
    action: specs.BoundedArray,
    num_heads: int = 1,
) -> Network:
    """The actor: apply(params, observations [B, ...]) -> actions [B, K, D], in the task's units."""
    check_arrays(observation, "an actor")
    read = reader_of(observation)
    size = action.shape[0]
    module: nn.Module = Actor(tuple(config.hidden), num_heads, size, jnp.dtype(config.dtype))
    if config.actor is not None:
        arguments = {"action_size": size, "num_heads": num_heads}
        module = load_module(config.actor, arguments, config.options, "actor")
        _check_shape("actor", module, (2, num_heads, size), observation)
    else:
        check_single(observation)
    centre, half = _centre_and_half(action)

    def init(key: jax.Array) -> Any:
        return module.init(key, read(jnp.zeros((1, *observation.shape), observation.dtype)))

    def apply(params: Any, observations: jax.Array) -> jax.Array:
        unit: Any = module.apply(params, read(observations))
        return centre + half * unit

    return Network(init, apply)


def make_critics(
    config: ContinuousNetworkConfig,
    observation: specs.Array,
    action: specs.BoundedArray,
    num_critics: int = 1,
    num_heads: int = 1,
) -> Network:
    """C critics: apply(params, observations [B, ...], actions [B, D]) -> values [B, C, K].

    Parameters have a leading [C]. Gradients are of reverse mode: `jax.grad`, not `jax.jvp`.
    """
    check_arrays(observation, "a critic")
    read = reader_of(observation)
    module: nn.Module = Critic(tuple(config.hidden), num_heads, jnp.dtype(config.dtype))
    if config.critic is not None:
        module = load_module(config.critic, {"num_heads": num_heads}, config.options, "critic")
        _check_shape("critic", module, (2, num_heads), observation, action)
    else:
        check_single(observation)
    centre, half = _centre_and_half(action)

    def init(key: jax.Array) -> Any:
        seen = read(jnp.zeros((1, *observation.shape), observation.dtype))
        act = jnp.zeros((1, *action.shape))
        return jax.vmap(lambda k: module.init(k, seen, act))(jax.random.split(key, num_critics))

    def apply(params: Any, observations: jax.Array, actions: jax.Array) -> jax.Array:
        scaled = (actions - centre[0]) / half[0]
        # Broadcast the inputs per critic: with shared inputs XLA joins the products and transposes
        # after.
        count = jax.tree.leaves(params)[0].shape[0]
        inputs = read(observations), scaled
        wide = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), inputs)
        each: Any = jax.vmap(module.apply)(params, *wide)
        return jnp.swapaxes(each, 0, 1)

    return Network(init, apply)


def action_bounds(action: specs.BoundedArray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds of the action, each [D] float32."""
    low, high = (np.broadcast_to(x, action.shape) for x in (action.minimum, action.maximum))
    return low.astype(np.float32), high.astype(np.float32)


def _check_shape(key: str, module: nn.Module, shape: tuple[int, ...], *inputs: specs.Array) -> None:
    """Raises UserError if the user's own module does not map a batch of 2 to the shape."""
    seen = [jax.ShapeDtypeStruct((2, *spec.shape), spec.dtype) for spec in inputs]

    def first_output(*batches: jax.Array) -> Any:
        each = zip(inputs, batches, strict=True)
        read = [reader_of(spec)(batch) for spec, batch in each]
        return module.init_with_output(jax.random.key(0), *read)[0]

    try:
        output = jax.eval_shape(first_output, *seen)
    except Exception as error:  # the user's module may raise any exception
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"agent.network.{key} does not accept {[x.shape for x in seen]}: {reason}"
        ) from error
    if getattr(output, "shape", None) != shape:
        allowed = f"shape {shape} for {[x.shape for x in seen]}"
        got = getattr(output, "shape", type(output).__name__)
        hint = "the first axis is the batch"
        raise UserError(must(f"agent.network.{key}", allowed, got, hint, verb="return"))


def _centre_and_half(action: specs.BoundedArray) -> tuple[np.ndarray, np.ndarray]:
    """Middle of the action's range and half of its width, each [1, 1, D]."""
    low, high = action_bounds(action)
    return ((low + high) / 2)[None, None], ((high - low) / 2)[None, None]
