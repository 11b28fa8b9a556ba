"""The mark of hyper-parameters whose values may be traced. Reading it imports no jax."""

import types
import typing
from dataclasses import dataclass
from typing import Any, Union


@dataclass(frozen=True)
class Traceable:
    """In the `Annotated` of a number: its value may be a tracer, so learners may differ in it.

    No code may branch on such a value in Python, and no shape may depend on it.
    """


TRACEABLE = Traceable()


def is_traceable(hint: Any) -> bool:
    """Return whether a type hint, or a member of its union, has the mark."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        return any(map(is_traceable, typing.get_args(hint)))
    return TRACEABLE in getattr(hint, "__metadata__", ())
