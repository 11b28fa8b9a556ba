"""The optimiser of value-based agents: Adam, whose moments are rounded in one way only."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def make_optimizer(
    learning_rate: Any,
    *,
    final_learning_rate: Any = None,
    learning_rate_steps: int = 1,
    adam_epsilon: Any = 1e-8,
    max_gradient_norm: Any = None,
) -> optax.GradientTransformation:
    """Adam, with a linear decay of the step size and gradient clipping where given."""
    rate = learning_rate
    if final_learning_rate is not None:
        rate = optax.linear_schedule(rate, final_learning_rate, learning_rate_steps)
    optimizer = optax.chain(scale_by_adam(adam_epsilon), optax.scale_by_learning_rate(rate))
    if max_gradient_norm is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(max_gradient_norm), optimizer)


def scale_by_adam(
    epsilon: Any, *, decay: float = 0.9, square_decay: float = 0.999
) -> optax.GradientTransformation:
    """`optax.scale_by_adam`, with moments written `m + (1 - b) (g - m)`.

    optax writes `b m + (1 - b) g`. Compilers fuse either product with the sum, and choose otherwise
    for one seed than for eight, so that one of eight would not be that seed alone to the last bit.

    Source: Kingma and Ba 2015, arXiv:1412.6980, algorithm 1.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        mu = jax.tree.map(lambda m, g: m + (1 - decay) * (g - m), state.mu, updates)
        nu = jax.tree.map(lambda v, g: v + (1 - square_decay) * (g * g - v), state.nu, updates)
        count = optax.safe_increment(state.count)
        scale, square_scale = 1 / (1 - decay**count), 1 / (1 - square_decay**count)
        moved = jax.tree.map(
            lambda m, v: m * scale / (jnp.sqrt(v * square_scale) + epsilon), mu, nu
        )
        return moved, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(optax.scale_by_adam().init, update)
