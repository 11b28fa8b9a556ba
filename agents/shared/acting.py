"""Networks of value-based agents for one step, with or without memory, and random actions."""

from typing import Any

import jax
import jax.numpy as jnp

from bellmax import UserError, must
from bellmax.agents.configs.value_based import ValueConfig
from bellmax.agents.shared.base import Memory, Params, count_actions
from bellmax.agents.shared.recurrent import check_lengths
from bellmax.envs import EnvSpec
from bellmax.networks import (
    Head,
    Network,
    RecurrentQNetwork,
    make_q_network,
    make_recurrent_q_network,
    mask_outputs,
)


def make_network(
    config: ValueConfig, spec: EnvSpec, head: Head | None, *, own_target: bool
) -> Network | RecurrentQNetwork:
    """Make the q-network of an agent.

    Args:
      config, spec: of the agent.
      head: as in `make_q_network`.
      own_target: whether the structure of the target parameters is the agent's own.

    Raises:
      UserError: the network does not fit, or with memory: a sequence is too short, or the target
        parameters have another structure.
    """
    given = config.network, spec.observation, count_actions(spec), head
    if config.network.memory == "none":
        return make_q_network(*given)
    check_lengths(config)
    if own_target:
        hint = "its target parameters have a structure of their own"
        raise UserError(
            must("agent.network.memory", "none for this agent", config.network.memory, hint)
        )
    return make_recurrent_q_network(*given)


def apply_step(
    network: Network | RecurrentQNetwork,
    params: Params,
    observation: Any,
    memory: Memory,
    is_first: jax.Array,
    action_mask: Any = (),
) -> tuple[Any, Any]:
    """Return the network's output for one step, and the belief after it; () without memory."""
    if isinstance(network, RecurrentQNetwork):
        features, belief = network.step(params, observation, is_first, memory)
        output = network.head(params, features)
    else:
        output, belief = network.apply(params, observation), ()
    return mask_outputs(output, action_mask), belief


def draw_action(choice: jax.Array, num_actions: int, mask: Any) -> tuple[jax.Array, Any]:
    """Return uniform legal actions [N] int32 and the number of them.

    Args:
      choice: [N] float32, uniform in [0, 1).
      num_actions: A.
      mask: [N, A] bool, legal actions; () if all are. Where none is legal, all count.
    """
    if isinstance(mask, tuple):
        random = jnp.minimum(choice * num_actions, num_actions - 1).astype(jnp.int32)
        return random, num_actions
    legal = mask | ~jnp.any(mask, axis=-1, keepdims=True)
    count = jnp.sum(legal, axis=-1)
    number = jnp.minimum((choice * count).astype(jnp.int32), count - 1)
    reached = jnp.cumsum(legal, axis=-1) > number[:, None]
    return jnp.argmax(reached, axis=-1).astype(jnp.int32), count
