"""What epsilon-greedy agents share, with replay and without: acting, schedules, optimisers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bellmax.agents.configs.value_based import EpsilonGreedyConfig
from bellmax.agents.shared.base import Act, ActInput, ActorOutput, Params
from bellmax.networks import Network


def make_epsilon_greedy(
    config: EpsilonGreedyConfig,
    network: Network,
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
    epsilon = epsilon_schedule(config)

    def act(params: Params, inputs: ActInput, *, evaluate: bool = False) -> ActorOutput:
        observation, memory, _, key, step = inputs
        output = network.apply(params, observation)
        greedy = output.q_values.argmax(axis=-1).astype(jnp.int32)
        if evaluate:
            kept = () if keep is None else keep(output, jnp.zeros(greedy.shape))
            return ActorOutput(greedy, memory, kept)
        # A single call draws both: splitting the key and `randint` would make four more draws per
        # step.
        explore, choice = jax.random.uniform(key, (2, *greedy.shape))
        random = jnp.minimum(choice * num_actions, num_actions - 1).astype(jnp.int32)
        rate = epsilon(step)
        action = jnp.where(explore < rate, random, greedy)
        if keep is None:
            return ActorOutput(action, memory, ())
        # A random action may equal the greedy one; among ties the first action is greedy.
        probability = rate / num_actions + (1.0 - rate) * (action == greedy)
        return ActorOutput(action, memory, keep(output, jnp.log(probability)))

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
    epsilon, rate = epsilon_schedule(config), learning_rate(config)
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
