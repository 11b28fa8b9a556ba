"""All answers of a tiny language model, two tokens of two kinds, and exact expectations over them.

Its parameters are logits [3, 2]: of the first token, of the second after 0 and after 1.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from helpers.jitted import quick_jit

ANSWERS = np.array(list(itertools.product(range(2), repeat=2)))  # [4, 2]
ROWS = np.stack([np.zeros(4, int), 1 + ANSWERS[:, 0]], axis=1)  # of the logits, by token
THETA = np.array([[0.5, -0.5], [1.0, 0.0], [-0.3, 0.7]])
REF = np.array([[0.0, 0.0], [0.2, -0.2], [0.4, 0.1]])
MASK = np.ones(2)


def in_float64(function, *arguments):
    """Return the result of a function of float64 arrays, compiled as one program."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), arguments)
        return jax.device_get(quick_jit(function)(*wide))


def evaluate(function):
    """Return the result of a function without arguments, compiled as one program in float32."""
    return jax.device_get(quick_jit(function)())


def token_log_probs(theta):
    """[4, 2] log-probabilities of the tokens of all answers."""
    return jax.nn.log_softmax(jnp.asarray(theta))[ROWS, ANSWERS]


def log_probs(theta):
    """[4] log-probabilities of all answers."""
    return jnp.sum(token_log_probs(theta), axis=1)


def mean_over(loss, log_mu):
    """The mean of losses [4] of all answers, drawn from a fixed distribution."""
    return jnp.sum(jax.lax.stop_gradient(jnp.exp(log_mu)) * loss)


def mean_over_groups(loss, log_mu, size):
    """The mean of `loss(indices)` over groups of answers drawn independently, with replacement.

    Args:
      loss: of the indices [K] of a group's answers, in the order in which they were drawn.
      log_mu: [N] log-probabilities of all answers.
      size: K.
    """
    groups = np.array(list(itertools.product(range(log_mu.shape[0]), repeat=size)))
    odds = jnp.exp(jnp.sum(jax.lax.stop_gradient(log_mu)[groups], axis=1))
    return jnp.sum(odds * jax.vmap(loss)(jnp.asarray(groups)))
