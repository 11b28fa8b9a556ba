"""Checks of named arguments with chex, whose own messages only say "input 0"."""

import math
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp


class Spec(NamedTuple):
    """An argument and its expected axes, one letter each, and dtype, `float` or `int`."""

    value: Any
    axes: str
    kind: type = float


def check_arrays(**arguments: Spec) -> None:
    """Checks rank and dtype of each argument, and that axes with the same letter agree in size.

    Raises:
      ValueError: one sentence with the argument's name, its actual and its expected form.
    """
    sizes: dict[str, tuple[str, int]] = {}
    for name, (value, axes, kind) in arguments.items():
        _check_rank_and_dtype(name, value, axes, kind)
        for axis, size in zip(axes, getattr(value, "shape", ()), strict=False):
            first, wanted = sizes.setdefault(axis, (name, size))
            if size != wanted:
                raise ValueError(
                    f"{name} has {size} entries along its axis [{axis}], but {first} has {wanted}: "
                    "they must agree."
                )


def _check_rank_and_dtype(name: str, value: Any, axes: str, kind: type) -> None:
    wanted = f"rank {len(axes)} ([{', '.join(axes)}]) is wanted; use jax.vmap over other axes"
    if isinstance(value, list | tuple):
        raise ValueError(f"{name} is a {type(value).__name__}, but an array of {wanted}.")
    try:
        chex.assert_rank(value, len(axes))
    except AssertionError:
        shape = jnp.shape(value)
        came = f"{name} has rank {len(shape)} (shape {shape})"
        raise ValueError(f"{came}, but {wanted}.") from None
    try:
        chex.assert_type(value, kind)
    except AssertionError:
        came = f"{name} has dtype {jnp.result_type(value)}"
        raise ValueError(f"{came}, but an array of {kind.__name__}s is wanted.") from None


def check_scalars(
    *,
    above_zero: tuple[str, ...] = (),
    from_zero: tuple[str, ...] = (),
    up_to_zero: tuple[str, ...] = (),
    below_one: tuple[str, ...] = (),
    up_to_one: tuple[str, ...] = (),
    **values,
):
    """Checks that hyper-parameters are scalars, and that concrete numbers are in range.

    Traced values and arrays skip the range check, as their values are unknown when tracing.

    Raises:
      ValueError: one sentence with the hyper-parameter's name, its value and the allowed values.
    """
    for name, value in values.items():
        if jnp.shape(value):
            raise ValueError(f"{name} has shape {jnp.shape(value)}, but a scalar is wanted.")
        if not isinstance(value, int | float):
            continue
        if math.isnan(value):
            raise ValueError(f"{name} is nan, but a number is wanted.")
        if name in above_zero and not value > 0:
            raise ValueError(f"{name} is {value}, but must be above 0.")
        if name in from_zero and value < 0:
            raise ValueError(f"{name} is {value}, but must be at least 0.")
        if name in up_to_zero and value > 0:
            raise ValueError(f"{name} is {value}, but must be at most 0.")
        if name in below_one and not value < 1:
            raise ValueError(f"{name} is {value}, but must be below 1.")
        if name in up_to_one and value > 1:
            raise ValueError(f"{name} is {value}, but must be at most 1.")


def widen(x: chex.Numeric) -> jax.Array:
    """`x` in float32, or in its own dtype if that is wider."""
    return jnp.asarray(x, jnp.promote_types(jnp.result_type(x), jnp.float32))
