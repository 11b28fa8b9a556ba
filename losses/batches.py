"""From one example to a batch: a rule with its hyper-parameters bound, and a mean under a mask."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from bellmax.losses._checks import NUMBER, Spec, check_arrays, promote
from bellmax.losses._masking import finite_where


def batched(rule: Callable[..., Any], **hyper: Any) -> Callable[..., Any]:
    """`jax.vmap` of a rule over the first axis of its arrays, with hyper-parameters bound.

    `jax.vmap(rule)(..., temperature=0.1)` fails, as `jax.vmap` maps keyword arguments too. Here
    `batched(rule, temperature=0.1)(...)` binds them for the whole batch. What the returned function
    is called with is mapped, by position or by keyword: a hyper-parameter of shape [B] by keyword
    is one per example. An array that all examples share, such as the fractions of quantiles, is
    bound by name here; the arrays after it are then given by name too.

    Args:
      rule: a function of this package, or any function of one example.
      **hyper: keyword arguments of the rule that are the same for the whole batch.

    Returns:
      A function of the rule's arrays, each with a leading axis [B], whose outputs have one too.

    Raises:
      TypeError: the rule has no argument of such a name.
    """
    inspect.signature(rule).bind_partial(**hyper)
    return jax.vmap(functools.partial(rule, **hyper))


def masked_mean(values: chex.Array, mask: chex.Array) -> jax.Array:
    """Mean of the values, weighted by a mask: `sum(values * mask) / sum(mask)`.

    Values where the mask is 0 have no influence, whatever they hold. Their gradient is 0 too, but
    a nan *inside* the function that computed them still makes its gradient nan: 0 times nan. Mask
    what goes into that function then.

    Args:
      values: [...] float, any shape.
      mask: [...] float, int or bool, of the same shape, at least 0.

    Returns:
      [] float32 or wider; 0 where the mask is 0 everywhere.

    Raises:
      ValueError: a shape or dtype differs from the above; names the argument.
    """
    axes = "abcdefghijklmnopqrstuvwxyz"[: np.ndim(values)]
    check_arrays(values=Spec(values, axes), mask=Spec(mask, axes, NUMBER))
    values, mask = promote(values, mask)
    total = jnp.sum(mask)
    return jnp.sum(finite_where(mask == 0, values) * mask) / jnp.where(total == 0, 1.0, total)
