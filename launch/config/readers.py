"""Type hints as pydantic judges them: strictly, after text was read as the value it stands for.

YAML 1.1 and the command line give text where `1e6`, `64,64` or `null` is meant.
"""

import functools
import math
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal

import pydantic

from bellmax.launch.config.sentences import FLAG, UNIONS, Argument, unwrap
from bellmax.launch.config.yaml_files import read_scalar

_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def strict(hint: Any) -> Any:
    """Return the hint of a leaf with a reader of text and, below it, a strict check."""
    base, bounds = unwrap(hint)
    origin, args = typing.get_origin(base), typing.get_args(base)
    checks = [pydantic.Strict()]
    if origin in UNIONS:
        base, checks, reader = _strict_union(args), [], functools.partial(_read_union, args)
    elif origin is Literal:
        checks, reader = [], functools.partial(_read_literal, args)
    elif origin is tuple:
        base, reader = tuple[tuple(a if a is ... else strict(a) for a in args)], _read_tuple
    elif origin is dict:
        base, reader = dict[Annotated[str, pydantic.Strict()], strict(args[1])], _read_mapping
    elif base in _READERS:
        checks, reader = _checks(base, bounds), _READERS[base]
    else:
        return hint
    metadata = getattr(hint, "__metadata__", ())
    return Annotated[(base, *checks, *metadata, pydantic.BeforeValidator(reader))]


def _checks(base: Any, bounds: dict[str, Any]) -> list[Any]:
    infinite = base is not float or math.inf in bounds.values()
    return [pydantic.Strict()] + [pydantic.AllowInfNan(False)] * (not infinite)


def _strict_union(args: tuple[Any, ...]) -> Any:
    members = [arg for arg in args if arg is not type(None)]
    if len(members) == 1:
        return strict(members[0]) | None
    # The type of a value decides: 1.0 is the second of `int | float`. No reader sees it first.
    exact = [
        Annotated[(member, *_checks(*unwrap(member)))] if unwrap(member)[0] in _READERS else member
        for member in members
    ]
    return typing.Union[(*exact, *[type(None)] * (len(members) < len(args)))]  # noqa: UP007


def _read_int(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            value = float(value)  # 1e6
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _read_float(value: Any) -> Any:
    return float(value) if isinstance(value, str) else value


def _read_bool(value: Any) -> Any:
    return _WORDS.get(value.lower(), value) if isinstance(value, str) else value


def _read_text(value: Any) -> Any:
    if value is FLAG:
        raise ValueError
    return str(value) if isinstance(value, str) else value


_READERS: dict[Any, Callable[[Any], Any]] = {
    int: _read_int,
    float: _read_float,
    bool: _read_bool,
    str: _read_text,
}


def _read_literal(choices: tuple[Any, ...], value: Any) -> Any:
    return {str(c): c for c in choices}.get(value, value) if isinstance(value, str) else value


def _read_tuple(value: Any) -> Any:
    if isinstance(value, str) and value is not FLAG:  # `64,64` and `[64, 64]` mean the same
        inner = value.strip().removeprefix("[").removesuffix("]").strip().rstrip(",")
        return tuple(Argument(part.strip()) for part in inner.split(",")) if inner else ()
    return tuple(value) if isinstance(value, list) else value


def _read_mapping(value: Any) -> Any:
    return read_scalar(value) if isinstance(value, Argument) else value


def _read_union(args: tuple[Any, ...], value: Any) -> Any:
    """Read text as the one of several types that YAML gives it; text in a file stays text."""
    typed = isinstance(value, Argument)
    bases = [unwrap(arg)[0] for arg in args if arg is not type(None)]
    if typed and len(bases) < len(args) and value.lower() in ("null", "none"):
        return None
    if not isinstance(value, str) or len(bases) == 1 or (str in bases and not typed):
        return value
    read = read_scalar(value)
    number = isinstance(read, str) or (type(read) is int and int not in bases)
    if number and float in bases:  # `nan` and 1 are no numbers of YAML's, or not of this type
        try:
            read = float(read)
        except ValueError:
            pass
    return read if type(read) in bases else str(value)
