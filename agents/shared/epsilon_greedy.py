"""What epsilon-greedy agents share, with replay and without: acting, schedules, optimisers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bellmax.agents.configs.value_based import EpsilonGreedyConfig
from bellmax.agents.shared.acting import apply_step, draw_action
from bellmax.agents.shared.base import Act, ActInput, ActorOutput, Params
from bellmax.agents.shared.recurrent import RecurrentBehaviour
from bellmax.networks import Network, RecurrentMemory, RecurrentQNetwork


def make_epsilon_greedy(
    config: EpsilonGreedyConfig,
    network: Network | RecurrentQNetwork,
    num_actions: int,
    keep: Callable[[Any, jax.Array], Any] | None = None,
) -> Act:
    """Make the `act` of an epsilon-greedy agent whose parameters are those of its network.

    Args:
      config: the schedule of epsilon.
      network: its output has `q_values`.
      num_actions: A.
      keep: (output of the network, log-probabilities [N] of the actions) -> behaviour; None keeps
        nothing.
    """
    epsilon, recurrent = epsilon_schedule(config), isinstance(network, RecurrentQNetwork)

    def choose(output: Any, inputs: ActInput, evaluate: bool) -> tuple[jax.Array, Any]:
        """Return actions, and what is kept with them."""
        greedy = output.q_values.argmax(axis=-1).astype(jnp.int32)
        if evaluate:
            return greedy, () if keep is None else keep(output, jnp.zeros(greedy.shape))
        # A single call draws both: splitting the key and `randint` would make four more draws per
        # step.
        explore, choice = jax.random.uniform(inputs.key, (2, *greedy.shape))
        random, count = draw_action(choice, num_actions, inputs.action_mask)
        rate = epsilon(inputs.step)
        action = jnp.where(explore < rate, random, greedy)
        if keep is None:
            return action, ()
        # A random action may equal the greedy one; among ties the first action is greedy.
        probability = rate / count + (1.0 - rate) * (action == greedy)
        return action, keep(output, jnp.log(probability))

    def act(params: Params, inputs: ActInput, *, evaluate: bool = False) -> ActorOutput:
        before = inputs.memory
        seen = inputs.observation, before, inputs.is_first, inputs.action_mask
        output, belief = apply_step(network, params, *seen)
        action, kept = choose(output, inputs, evaluate)
        if not recurrent:
            return ActorOutput(action, before, kept)
        memory = RecurrentMemory(belief, action)
        return ActorOutput(action, memory, RecurrentBehaviour(before, kept))

    return act


def epsilon_schedule(config: EpsilonGreedyConfig) -> optax.Schedule:
    """Epsilon after a number of environment steps: linear, then constant."""
    return optax.linear_schedule(config.epsilon_start, config.epsilon_end, config.epsilon_steps)


def learning_rate(config: EpsilonGreedyConfig) -> optax.Schedule:
    """The learning rate after a number of gradient steps: constant, or with linear decay."""
    start, end = config.learning_rate, config.final_learning_rate
    if end is None:
        return lambda count: start
    return optax.linear_schedule(start, end, config.learning_rate_steps)


def make_schedules(config: EpsilonGreedyConfig) -> dict[str, Callable[[int, int], Any]]:
    """The `schedules` of an agent that uses `make_epsilon_greedy` and `with_schedule`."""
    # In one program each: called as it is, a schedule of optax compiles each of its operations.
    epsilon, rate = jax.jit(epsilon_schedule(config)), learning_rate(config)
    if config.final_learning_rate is not None:
        rate = jax.jit(rate)
    return {
        "epsilon": lambda gradient_steps, env_steps: epsilon(env_steps),
        "learning_rate": lambda gradient_steps, env_steps: rate(gradient_steps),
    }


def with_schedule(
    config: EpsilonGreedyConfig, algorithm: Callable[[Any], optax.GradientTransformation]
) -> optax.GradientTransformation:
    """An optimiser with linear decay of the learning rate and gradient clipping if configured.

    Args:
      config: learning rate and clipping.
      algorithm: (learning rate, or its schedule) -> optimiser, such as `optax.radam`.
    """
    constant = config.final_learning_rate is None
    rule = algorithm(config.learning_rate if constant else learning_rate(config))
    if config.max_gradient_norm is None:
        return rule
    return optax.chain(optax.clip_by_global_norm(config.max_gradient_norm), rule)
