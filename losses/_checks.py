"""Checks of named arguments, and the one dtype rule.

The rule: a function computes in the widest dtype of its float arrays and hyper-parameters, in
float32 at least, and returns it. Python numbers are weakly typed, as everywhere in jax: they do not
widen. Arrays that only select or mask (selectors, `mask`) do not count, and the states of running
statistics keep their own dtype.
"""

import operator
from collections.abc import Collection
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from bellmax import must

# Integers up to this size are exact in float32.
EXACT = 2**24
NUMBER = "number"
_DTYPES = {
    float: (jnp.floating,),
    int: (jnp.integer,),
    bool: (jnp.bool_,),
    NUMBER: (jnp.floating, jnp.integer, jnp.bool_),
}


class Spec(NamedTuple):
    """An argument and its expected axes, one letter each, and dtype.

    The dtype is `float`, `int` or `bool`; or NUMBER: floats, and integers and flags that `promote`
    makes floats, such as rewards, discounts and masks.
    """

    value: Any
    axes: str
    kind: Any = float


def check_arrays(**arguments: Spec) -> None:
    """Checks rank and dtype of each argument, and that axes with the same letter agree in size.

    Raises:
      ValueError: one sentence with the argument's name, its actual and its expected form.
    """
    sizes: dict[str, tuple[str, int]] = {}
    for name, (value, axes, kind) in arguments.items():
        shape = _check_rank_and_dtype(name, value, axes, kind)
        for axis, size in zip(axes, shape, strict=True):
            along = f"entries along its axis [{axis}]"
            if size == 0:
                raise ValueError(must(name, f"1 or more {along}", size, verb="have"))
            first, wanted = sizes.setdefault(axis, (name, size))
            if size != wanted:
                allowed = f"{wanted} {along}, as {first} has"
                raise ValueError(must(name, allowed, size, verb="have"))


def _check_rank_and_dtype(name: str, value: Any, axes: str, kind: Any) -> tuple[int, ...]:
    form = _form(value)
    if form is None or len(form[0]) != len(axes):
        allowed = f"an array of rank {len(axes)} ([{', '.join(axes)}])"
        if form is None:
            got = "None" if value is None else f"a {type(value).__name__}"
        else:
            got = f"rank {len(form[0])} (shape {form[0]})"
        raise ValueError(must(name, allowed, got, "use jax.vmap over other axes"))
    shape, dtype = form
    if not any(jnp.issubdtype(dtype, allowed) for allowed in _DTYPES[kind]):
        kinds = "numbers" if kind == NUMBER else f"{kind.__name__}s"
        raise ValueError(must(name, f"an array of {kinds}", f"dtype {dtype}"))
    if kind == NUMBER and isinstance(value, int | np.integer | np.ndarray):
        if jnp.issubdtype(dtype, jnp.integer) and np.any(np.abs(value) > EXACT):
            allowed = "floats, or integers from -2**24 to 2**24, which float32 holds exactly"
            raise ValueError(must(name, allowed, f"{np.max(np.abs(value))} in size"))
    return shape


def _form(value: Any) -> tuple[tuple[int, ...], Any] | None:
    """Shape and dtype of an array or number; None for anything else."""
    if value is None or isinstance(value, list | tuple | str):
        return None
    try:
        return np.shape(value), jnp.result_type(value)
    except (TypeError, ValueError):
        return None


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

    Concrete are numbers of Python and NumPy. Traced values and arrays of jax skip the range check,
    as their values are unknown when tracing.

    Raises:
      ValueError: one sentence with the hyper-parameter's name, its value and the allowed values.
    """
    for name, value in values.items():
        form = _form(value)
        if form is None:
            raise ValueError(must(name, "a number", f"{value!r:.80}"))
        if form[0]:
            raise ValueError(must(name, "a scalar", f"shape {form[0]}"))
        if not isinstance(value, int | float | np.generic | np.ndarray):
            continue
        number = float(value)
        for wrong, allowed in (
            (number != number, "a number"),
            (name in above_zero and not number > 0, "above 0"),
            (name in from_zero and number < 0, "at least 0"),
            (name in up_to_zero and number > 0, "at most 0"),
            (name in below_one and not number < 1, "below 1"),
            (name in up_to_one and number > 1, "at most 1"),
        ):
            if wrong:
                raise ValueError(must(name, allowed, value))


def whole_number(name: str, value: Any) -> int:
    """The value of a static argument that sets a size, as an int.

    Raises:
      ValueError: it is not an integer of Python or NumPy, or is below 1.
    """
    try:
        number = 0 if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(must(name, "an integer of at least 1", f"{value!r:.80}"))
    return number


def widen(x: chex.Numeric) -> jax.Array:
    """`x` in float32, or in its own dtype if that is wider."""
    return promote(x)[0]


def promote(*arrays: chex.Numeric) -> list[jax.Array]:
    """The arrays in their widest dtype, float32 at least."""
    dtype = jnp.promote_types(jnp.result_type(*arrays), jnp.float32)
    return [jnp.asarray(x, dtype) for x in arrays]


def one_of(name: str, value: str, options: Collection[str]) -> None:
    """Checks an argument that selects a variant.

    Raises:
      ValueError: it is none of the options; names the argument.
    """
    if value not in options:
        raise ValueError(must(name, f"one of {', '.join(options)}", repr(value)))
