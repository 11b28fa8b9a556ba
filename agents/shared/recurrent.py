"""Value-based agents with a recurrent network: stored memory, burn-in, and windows of a sequence.

The actor stores its memory before each step. Both networks unroll a sequence from there; its first
`burn_in` steps give only a memory, without gradient. The agent's loss then sees the remaining steps
as windows of n + 1 steps, as it sees those of a feed-forward agent: an observation is the number of
a step, and the network reads the outputs of that step.

Source: Kapturowski et al. 2019 (R2D2). Deviations: sequences may start at any step, the previous
reward is not an input, and no rescaling of values.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bellmax import UserError, must
from bellmax.agents.configs.value_based import ValueConfig
from bellmax.agents.shared.base import Params
from bellmax.envs import Step
from bellmax.networks import Network, RecurrentMemory, RecurrentQNetwork, mask_outputs


class RecurrentBehaviour(NamedTuple):
    """What an actor stores with an action: its memory before the step, and `own`, the agent's."""

    memory: RecurrentMemory
    own: Any = ()


class Table(NamedTuple):
    """What a network says of B * T' steps, in place of its parameters.

    output: of its head, leaves [B * T', ...]. features: [B * T', M], inputs of the head. params:
        the network's own. mask: [B * T', A] bool, legal actions; () if all are.
    """

    output: Any
    features: jax.Array
    params: Params
    mask: Any


class Windows(NamedTuple):
    """The windows of B sequences, W of each: the arguments of an agent's loss.

    network: reads a Table at numbers of steps. params, target_params: the Tables of the online and
        of the target network.
    steps: [B * W, n + 1] steps, whose observations are numbers of steps, int32.
    """

    network: Network
    params: Any
    target_params: Any
    steps: Step


def check_lengths(config: ValueConfig) -> None:
    """Raise UserError if a sequence has no window after its burn-in."""
    least, length = config.burn_in + config.n_step, config.sequence_length
    if length <= least:
        memory = f"for agent.network.memory {config.network.memory}"
        allowed = f"above agent.burn_in + agent.n_step = {least} {memory}"
        raise UserError(must("agent.sequence_length", allowed, length))


def cut_windows(
    network: RecurrentQNetwork, config: ValueConfig, params: Params, target_params: Any, steps: Step
) -> Windows:
    """Unroll both networks through sequences [B, T] and cut all windows of n + 1 steps."""
    batch, burn = steps.reward.shape[0], config.burn_in
    behaviour: RecurrentBehaviour = steps.behaviour
    stored = jax.tree.map(lambda x: x[:, 0], behaviour.memory)
    head = jax.tree.map(lambda x: x[:, :burn], steps)
    rest = jax.tree.map(lambda x: x[:, burn:], steps)

    def table(params: Params) -> Table:
        memory = stored
        if burn:
            _, memory = network.unroll(params, head.observation, head.action, head.is_first, memory)
            memory = jax.tree.map(jax.lax.stop_gradient, memory)
        features, _ = network.unroll(params, rest.observation, rest.action, rest.is_first, memory)
        features, mask = features.reshape(-1, features.shape[-1]), rest.action_mask
        mask = mask if isinstance(mask, tuple) else mask.reshape(-1, mask.shape[-1])
        output = mask_outputs(network.head(params, features), mask)
        return Table(output, features, params, mask)

    length = rest.reward.shape[1]
    starts = jnp.arange(length - config.n_step)
    places = starts[:, None] + jnp.arange(config.n_step + 1)[None]

    def cut(x: jax.Array) -> jax.Array:
        return x[:, places].reshape(-1, config.n_step + 1, *x.shape[2:])

    numbers = jnp.arange(batch * length).reshape(batch, length)
    own = {"observation": numbers, "behaviour": rest.behaviour.own, "action_mask": ()}
    cuts = jax.tree.map(cut, rest._replace(**own))
    reader = Network(network.init, functools.partial(_read, network))
    return Windows(reader, table(params), table(target_params), cuts)


def _read(network: RecurrentQNetwork, table: Table, number: jax.Array, *inputs: jax.Array) -> Any:
    """Return outputs at numbers of steps; with further inputs of the head, its output for these."""
    if not inputs:
        return jax.tree.map(lambda x: x[number], table.output)
    mask = table.mask if isinstance(table.mask, tuple) else table.mask[number]
    return mask_outputs(network.head(table.params, table.features[number], *inputs), mask)


def mix_priorities(priority: jax.Array, mask: jax.Array, share: float, batch: int) -> jax.Array:
    """Return priorities [B] of sequences from those of their windows [B * W].

    Args:
      priority: of the windows, 0 where the mask is.
      mask: of the windows.
      share: eta, weight of the largest; the mean has the rest.
      batch: B.
    """
    each, counts = priority.reshape(batch, -1), mask.reshape(batch, -1)
    mean = jnp.sum(each, axis=1) / jnp.maximum(jnp.sum(counts, axis=1), 1e-6)
    return share * jnp.max(each, axis=1) + (1.0 - share) * mean
