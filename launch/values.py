"""One value against one type: conversion that accepts what fits exactly, and words for what fits.

YAML 1.1 reads `1e-3` as a string and the command line reads everything as one, so text is read as
whatever the field asks for.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, Union

import annotated_types as at
import yaml

_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
UNIONS = (Union, types.UnionType)


class Argument(str):
    """Text from the command line, where `10` in a free-form section means the number."""


FLAG = Argument("true")  # an option given without a value; compared by identity


class MismatchError(Exception):
    """A value does not fit a type; `schema.build` turns it into a sentence that names the key."""


UNFIT = (MismatchError, ValueError, OverflowError)  # what `convert` raises


def convert(hint: Any, value: Any) -> Any:
    """Returns `value` as the type that `hint` asks for; raises if it does not fit exactly."""
    base, bounds = unwrap(hint)
    origin, args = typing.get_origin(base), typing.get_args(base)
    if origin in UNIONS:
        return _union(args, bounds, value)
    if origin is Literal:
        result = next((a for a in args if a == value and type(a) is type(value)), None)
        result = result if result is not None else {str(a): a for a in args}.get(_text(value))
        _require(result is not None)
    elif origin is tuple:
        result = _tuple(args, value)
    elif origin is dict:
        value = _yaml(value) if isinstance(value, Argument) else value
        _require(isinstance(value, Mapping) and all(isinstance(key, str) for key in value))
        result = {key: convert(args[1], item) for key, item in value.items()}
    elif base in _SCALARS:
        result = _SCALARS[base](value)
        _require(base is not float or math.isfinite(result) or result in bounds.values())
    else:
        _require(base is Any)
        result = value
    size = len(result) if isinstance(result, tuple | dict) else result
    _require(_inside(bounds, size))
    return result


def _union(args: tuple[Any, ...], bounds: dict[str, Any], value: Any) -> Any:
    null = value is None or (isinstance(value, Argument) and value.lower() in ("null", "none"))
    if type(None) in args and null:
        return None
    if isinstance(value, Argument) and value is not FLAG and str in args and len(args) > 2:
        parsed = _yaml(value)  # a free-form scalar: read it as YAML does, then 1e-3
        value = parsed if type(parsed) in args else str(value)
        value = _float_or_text(value) if float in args else value
    exact = [arg for arg in args if arg is type(value)]
    for arg in exact or [arg for arg in args if arg is not type(None)]:
        try:
            result = convert(arg, value)
        except UNFIT:
            continue
        _require(_inside(bounds, result))
        return result
    raise MismatchError


def _tuple(args: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    if isinstance(value, str) and value is not FLAG:  # `64,64` and `[64, 64]` mean the same
        inner = value.strip().removeprefix("[").removesuffix("]").strip().rstrip(",")
        value = [Argument(part.strip()) for part in inner.split(",")] if inner else []
    _require(isinstance(value, list | tuple))
    hints = [args[0]] * len(value) if args[-1] is ... else args
    _require(len(hints) == len(value))
    return tuple(convert(hint, item) for hint, item in zip(hints, value, strict=True))


def _int(value: Any) -> int:
    _require(isinstance(value, int | float | str) and not isinstance(value, bool))
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            value = float(value)  # 1e6
    _require(value == int(value))
    return int(value)


def _float(value: Any) -> float:
    _require(isinstance(value, int | float | str) and not isinstance(value, bool))
    return float(value)


def _bool(value: Any) -> bool:
    result = value if isinstance(value, bool) else _WORDS.get(_text(value).lower())
    _require(isinstance(result, bool))
    return bool(result)


def _string(value: Any) -> str:
    _require(isinstance(value, str) and value is not FLAG)
    return str(value)


_SCALARS: dict[Any, Any] = {int: _int, float: _float, bool: _bool, str: _string}


def _yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return str(text)


def _text(value: Any) -> str:
    return str(value) if isinstance(value, str) else ""


def _float_or_text(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _require(condition: bool) -> None:
    if not condition:
        raise MismatchError


def unwrap(hint: Any) -> tuple[Any, dict[str, Any]]:
    """Splits Annotated[T, Ge(1), ...] into T and {"ge": 1, ...}."""
    if typing.get_origin(hint) is not typing.Annotated:
        return hint, {}
    base, *metadata = typing.get_args(hint)
    bounds: dict[str, Any] = {}
    for item in metadata:
        for part in item if isinstance(item, at.GroupedMetadata) else [item]:
            if not isinstance(part, at.Ge | at.Gt | at.Le | at.Lt | at.MultipleOf | at.MinLen):
                raise TypeError(f"{part} is not a bound that bellmax checks")
            bounds |= {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
    return base, bounds


def _inside(bounds: dict[str, Any], value: Any) -> bool:
    checks = {
        "ge": lambda bound: value >= bound,
        "gt": lambda bound: value > bound,
        "le": lambda bound: value <= bound,
        "lt": lambda bound: value < bound,
        "multiple_of": lambda bound: value % bound == 0,
        "min_length": lambda bound: value >= bound,
    }
    return all(checks[name](bound) for name, bound in bounds.items())


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


def show(value: Any) -> str:
    """Returns a value as it would be typed, shortened, on one line."""
    if value is FLAG:
        return "no value"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) and abs(value) > 10**90:
        return "a very large integer" if value > 0 else "a very small integer"
    text = repr(str(value)) if isinstance(value, str) else str(value).replace("\n", " ")
    return text if len(text) <= 90 else f"{text[:87]}..."


def describe(hint: Any) -> str:
    """Returns in words what a type hint allows, such as `an integer >= 1 or null`."""
    base, bounds = unwrap(hint)
    origin, args = typing.get_origin(base), typing.get_args(base)
    if origin in UNIONS:
        parts = [describe(arg) + _range(bounds) for arg in args if arg is not type(None)]
        return " or ".join(parts + ["null"] * (type(None) in args))
    if origin is Literal:
        return ("one of " if len(args) > 1 else "") + ", ".join(str(arg) for arg in args)
    if origin is tuple:
        size = "a list" if args[-1] is ... else f"a list of {len(args)}"
        return f"{size}{_range(bounds)} where each is {describe(args[0])}, such as 64,64"
    if origin is dict:
        return f"a section of keys where each is {describe(args[1])}"
    words = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
    return words.get(base, "anything") + _range(bounds)
