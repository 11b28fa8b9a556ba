"""Adam with moment updates that round alike for any number of vmapped seeds."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

DECAY, SQUARE_DECAY = 0.9, 0.999


def make_adam(
    learning_rate: Any, epsilon: Any = 1e-8, max_gradient_norm: Any = None
) -> optax.GradientTransformation:
    """Makes Adam, with gradient clipping by global norm if a norm is given.

    Args:
      learning_rate: a number or an optax schedule.
      epsilon: above 0.
      max_gradient_norm: above 0; None does not clip.
    """
    adam = optax.chain(scale_by_adam(epsilon), optax.scale_by_learning_rate(learning_rate))
    if max_gradient_norm is None:
        return adam
    return optax.chain(optax.clip_by_global_norm(max_gradient_norm), adam)


def scale_by_adam(epsilon: Any) -> optax.GradientTransformation:
    """`optax.scale_by_adam` with default decays, and moments computed as `m + (1 - b) (g - m)`.

    optax computes `b m + (1 - b) g`, of which a compiler may fuse either product with the sum. It
    chooses differently for one seed and for eight vmapped seeds, which would break bitwise equality
    of the two.

    Source: Kingma and Ba 2015, arXiv:1412.6980, algorithm 1.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        mu = jax.tree.map(lambda m, g: m + (1 - DECAY) * (g - m), state.mu, updates)
        nu = jax.tree.map(lambda v, g: v + (1 - SQUARE_DECAY) * (g * g - v), state.nu, updates)
        count = optax.safe_increment(state.count)
        scale, square_scale = 1 / (1 - DECAY**count), 1 / (1 - SQUARE_DECAY**count)
        moved = jax.tree.map(
            lambda m, v: m * scale / (jnp.sqrt(v * square_scale) + epsilon), mu, nu
        )
        return moved, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(optax.scale_by_adam().init, update)
