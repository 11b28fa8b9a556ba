"""Target policies and trace coefficients of agents that correct windows off-policy."""

from typing import Any

import jax
import jax.numpy as jnp

from bellmax import losses


def epsilon_greedy(selector: jax.Array, epsilon: Any, *, masked: bool = False) -> jax.Array:
    """Return probabilities [T, A] of the policy that is epsilon-greedy in values [T, A].

    masked: whether illegal actions have values of -inf.
    """
    num_actions = selector.shape[-1]
    greedy = jax.nn.one_hot(jnp.argmax(selector, axis=-1), num_actions)
    if not masked:
        return greedy * (1.0 - epsilon) + epsilon / num_actions
    legal = selector > -jnp.inf
    return greedy * (1.0 - epsilon) + epsilon * legal / jnp.sum(legal, axis=-1, keepdims=True)


def trace_coefficients(
    trace: str,
    action: jax.Array,
    pi: jax.Array,
    log_prob: Any,
    trace_t: jax.Array,
    *,
    lambda_: Any,
) -> jax.Array:
    """Return the coefficients [T] of a window's successors, ends not included.

    Args:
      trace: `q_lambda` or `retrace`.
      action: [T], taken at the successor of each transition.
      pi: [T, A], the target policy there.
      log_prob: [T], of the action under the actor; () where it is not stored, as a greedy policy
        needs none.
      trace_t: [T], 0 where the successor is the last step of its episode, whose action and
        probability are placeholders.
      lambda_: decay in [0, 1].
    """
    if trace == "q_lambda":
        return losses.q_lambda_coefficients(action, lambda_=lambda_)
    no_behaviour = isinstance(log_prob, tuple)
    mu = jnp.ones(trace_t.shape) if no_behaviour else jnp.where(trace_t > 0, jnp.exp(log_prob), 1.0)
    return losses.retrace_coefficients(action, pi, mu, lambda_=lambda_)
