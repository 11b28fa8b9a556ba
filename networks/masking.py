"""Outputs of networks over the legal actions of each observation."""

from typing import Any

import jax
import jax.numpy as jnp


def mask_outputs(output: Any, mask: Any) -> Any:
    """Return a network's output in which illegal actions have values and logits of -inf.

    Advantages are centred again, over the legal actions alone. Where no action is legal, as at the
    end of an episode, all of them count.

    Args:
      output: named tuple of a q-network, leaves [B, ...]. These fields are masked, if it has them:
        q_values, advantage and behaviour_logits [B, A], quantiles [B, N, A].
      mask: [B, A] bool, the legal actions; () if all are.
    """
    if isinstance(mask, tuple):
        return output
    legal = mask | ~jnp.any(mask, axis=-1, keepdims=True)
    changed: dict[str, Any] = {}
    if hasattr(output, "advantage"):
        logits = jnp.zeros_like(output.advantage)
        if hasattr(output, "behaviour_logits"):
            logits = changed["behaviour_logits"] = _masked(output.behaviour_logits, legal)
        mu = jax.lax.stop_gradient(jax.nn.softmax(_masked(logits, legal)))
        raw = jnp.where(legal, output.advantage, 0.0)
        advantage = raw - jnp.sum(mu * raw, axis=-1, keepdims=True)
        changed["advantage"] = _masked(advantage, legal)
        changed["q_values"] = _masked(output.value[:, None] + advantage, legal)
    else:
        changed["q_values"] = _masked(output.q_values, legal)
    if hasattr(output, "quantiles"):
        changed["quantiles"] = _masked(output.quantiles, legal[:, None])
    return output._replace(**changed)


def mask_logits(logits: jax.Array, mask: Any) -> jax.Array:
    """Return logits [..., A] of a policy over the legal actions; all of them if the mask is ().

    Illegal actions have a large negative logit: their probability is 0, and its product with their
    log-probability too.
    """
    if isinstance(mask, tuple):
        return logits
    legal = mask | ~jnp.any(mask, axis=-1, keepdims=True)
    return jnp.where(legal, logits, -1e9)


def _masked(values: jax.Array, legal: jax.Array) -> jax.Array:
    return jnp.where(legal, values, -jnp.inf)
