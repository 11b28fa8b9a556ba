"""Acting of value-based agents: epsilon-greedy, with or without memory."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from bellmax import UserError, must
from bellmax.agents.configs.value_based import ValueConfig
from bellmax.agents.shared.base import Act, ActInput, ActorOutput, Memory, Params, count_actions
from bellmax.agents.shared.recurrent import RecurrentBehaviour, check_lengths
from bellmax.envs import EnvSpec
from bellmax.networks import (
    Head,
    Network,
    RecurrentMemory,
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


def make_act(
    network: Network | RecurrentQNetwork,
    num_actions: int,
    epsilon: optax.Schedule,
    keep_log_prob: bool,
) -> Act:
    """Make the epsilon-greedy `act` of a network.

    Args:
      network: with or without memory.
      num_actions: A.
      epsilon: from environment steps to the probability of a random action.
      keep_log_prob: whether the log-probability of the action is stored with it.
    """
    recurrent = isinstance(network, RecurrentQNetwork)

    def choose(
        greedy: jax.Array, inputs: ActInput, evaluate: bool
    ) -> tuple[jax.Array, jax.Array | tuple[()]]:
        """Return actions and, if they are stored, their log-probabilities."""
        if evaluate:
            return greedy, jnp.zeros(greedy.shape) if keep_log_prob else ()
        # A single call draws both: splitting the key and `randint` would make four more draws per
        # step.
        explore, choice = jax.random.uniform(inputs.key, (2, *greedy.shape))
        random, count = draw_action(choice, num_actions, inputs.action_mask)
        rate = epsilon(inputs.step)
        action = jnp.where(explore < rate, random, greedy)
        if not keep_log_prob:
            return action, ()
        # A random action may equal the greedy one; among ties the first action is greedy.
        probability = rate / count + (1.0 - rate) * (action == greedy)
        return action, jnp.log(probability)

    def act(params: Params, inputs: ActInput, *, evaluate: bool = False) -> ActorOutput:
        before = inputs.memory
        seen = inputs.observation, before, inputs.is_first, inputs.action_mask
        output, belief = apply_step(network, params, *seen)
        greedy = output.q_values.argmax(axis=-1).astype(jnp.int32)
        action, stored = choose(greedy, inputs, evaluate)
        if not recurrent:
            return ActorOutput(action, before, stored)
        return ActorOutput(
            action, RecurrentMemory(belief, action), RecurrentBehaviour(before, stored)
        )

    return act
