"""Error messages of configurations: descriptions of type hints and of values."""

import dataclasses
import reprlib
import types
import typing
from collections.abc import Iterable
from typing import Any, Literal, Union

import annotated_types as at

import bellmax
from bellmax import UserError
from bellmax.agents import Traceable

UNIONS = (Union, types.UnionType)
NOTHING = object()  # marks a value that was not given
INT32 = 2**31 - 1  # the largest integer that jax holds by default
_SHORT = reprlib.Repr()
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = _SHORT.maxset = 40
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 90


class Argument(str):
    """Text from the command line, where `10` in a free-form section means the number."""


FLAG = Argument("true")  # an option given without a value; compared by identity


class ConfigError(UserError):
    """Several mistakes, one line each, prefixed with `where` unless that is ""."""

    def __init__(self, lines: Iterable[str], where: str = ""):
        super().__init__("\n".join(f"{where}: {line}" if where else line for line in lines))


def must(field: str, allowed: str, got: Any, *, hint: str = "") -> str:
    """Return the message for a value that is not allowed."""
    return bellmax.must(" ".join(field.split()), allowed, show(got), hint)


def show(value: Any) -> str:
    """Return a value as the user would type it, shortened, on one line."""
    if value is FLAG:
        return "no value"
    if value is NOTHING:
        return "nothing"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) and abs(value) > 10**90:
        return "a very large integer" if value > 0 else "a very small integer"
    if isinstance(value, str):
        text = repr(str(value[:100]))
    else:  # reprlib, because YAML aliases make small files into huge lists
        text = (_SHORT.repr(value) if _is_nested(value) else str(value)).replace("\n", " ")
    return text if len(text) <= 90 else f"{text[:87]}..."


def _is_nested(value: Any) -> bool:
    return isinstance(value, list | tuple | dict | set | frozenset | bytes)


def describe(hint: Any) -> str:
    """Return in words what a type hint allows, such as `a number > 0 or null`.

    Raises:
      TypeError: a bound of an unsupported kind.
    """
    base, bounds = unwrap(hint)
    origin, args = typing.get_origin(base), typing.get_args(base)
    if origin in UNIONS:
        parts = [describe(arg) + _range(bounds) for arg in args if arg is not type(None)]
        return " or ".join(parts + ["null"] * (type(None) in args))
    if origin is Literal:
        return ("one of " if len(args) > 1 else "") + ", ".join(str(arg) for arg in args)
    if origin is tuple:
        size = "a list" if args[-1] is ... else f"a list of {len(args)}"
        example = "a,b" if unwrap(args[0])[0] is str else "64,64"
        return f"{size}{_range(bounds)} where each is {describe(args[0])}, such as {example}"
    if origin is dict:
        return f"a section of keys where each is {describe(args[1])}"
    if dataclasses.is_dataclass(base):
        return "a section of keys"
    if base is str and bounds.get("min_length"):
        return "text that is not empty"
    words = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
    return words.get(base, "anything") + _range(bounds)


def choices_of(hint: Any) -> list[str]:
    """Return the words of the Literals in a type hint."""
    base = unwrap(hint)[0]
    members = typing.get_args(base) if typing.get_origin(base) in UNIONS else [base]
    literals = [m for m in members if typing.get_origin(m) is Literal]
    return [str(word) for literal in literals for word in typing.get_args(literal)]


def unwrap(hint: Any) -> tuple[Any, dict[str, Any]]:
    """Split Annotated[T, Ge(1), ...] into T and {"ge": 1, ...}; integers are bounded by int32."""
    annotated = typing.get_origin(hint) is typing.Annotated
    base, *metadata = typing.get_args(hint) if annotated else (hint,)
    bounds: dict[str, Any] = {}
    for item in metadata:
        for part in item if isinstance(item, at.GroupedMetadata) else [item]:
            if isinstance(part, Traceable):
                continue
            if not isinstance(part, at.Ge | at.Gt | at.Le | at.Lt | at.MultipleOf | at.MinLen):
                raise TypeError(f"{part} is not a bound that bellmax checks")
            bounds |= {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
    if base is int:
        low = {} if "gt" in bounds else {"ge": -INT32 - 1}
        high = {} if "lt" in bounds else {"le": INT32}
        bounds = low | high | bounds
    return base, bounds


def _range(bounds: dict[str, Any]) -> str:
    low = bounds.get("ge", bounds.get("gt"))
    high = bounds.get("le", bounds.get("lt"))
    text = ""
    if low is not None and high is not None:
        text = f" in {'[' if 'ge' in bounds else '('}{low}, {high}{']' if 'le' in bounds else ')'}"
    elif low is not None:
        text = f" {'>=' if 'ge' in bounds else '>'} {low}"
    elif high is not None:
        text = f" {'<=' if 'le' in bounds else '<'} {high}"
    text += f" that is a multiple of {bounds['multiple_of']}" if "multiple_of" in bounds else ""
    return text + (f" of at least {bounds['min_length']}" if bounds.get("min_length") else "")
