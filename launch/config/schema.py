"""Validation of frozen dataclasses by pydantic: one sentence for every wrong key or value.

YAML files, overrides and options of commands are all validated by `build`.
"""

import contextlib
import functools
import math
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, TypeVar

import pydantic
from annotated_types import Interval

from bellmax.envs.options import did_you_mean, unknown
from bellmax.launch.config.aliases import known_as
from bellmax.launch.config.fields import comments, default_of, hints, key_of, keys, section_type
from bellmax.launch.config.sentences import (
    FLAG,
    INT32,
    NOTHING,
    UNIONS,
    Argument,
    ConfigError,
    choices_of,
    describe,
    must,
    show,
    unwrap,
)
from bellmax.launch.config.yaml_files import read_scalar

T = TypeVar("T")
# pydantic converts no types; `_readings` lists the accepted interpretations of a value.
_STRICT = pydantic.ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
_PLAIN = "text, a number, true or false, null, or a list or section of these"


def build(
    cls: type[T], mapping: Any, *, where: str = "", types: Mapping[str, Any] | None = None
) -> T:
    """Build a frozen dataclass from a nested mapping; keys left out keep their default.

    Args:
      cls: a dataclass; fields may be int, float, bool, str, Literal, `X | None`, tuples,
        dict[str, scalar], other dataclasses, and Annotated with bounds from annotated_types.
      mapping: nested mapping of keys, as `fields.key_of` names them, to values.
      where: origin of the values, for messages; "" names none.
      types: replace the types of top-level fields of `cls`.

    Raises:
      ConfigError: a line for each unknown key, missing key, wrong type, or value out of range.
    """
    types = types or {}
    try:
        return _adapter(cls, tuple(types.items())).validate_python(mapping)
    except pydantic.ValidationError as error:
        known = keys(cls, types)
        lines = [_sentence(one, known) for one in error.errors(include_url=False)]
        raise ConfigError(lines, where) from None


def json_schema(cls: type, types: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the JSON schema of the mappings that `build` accepts; comments are descriptions."""
    return _adapter(cls, tuple((types or {}).items())).json_schema()


@functools.cache
def _adapter(cls: type, types: tuple[tuple[str, Any], ...]) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(_section(cls, dict(types), None))


def _section(cls: Any, types: Mapping[str, Any], instance: Any) -> Any:
    """Return the pydantic model of a section, with the fields of its dataclass.

    Keys left out of a section are those of `instance`, the default of the field that holds it.
    """
    members: dict[str, Any] = {}
    for name, hint in hints(cls, types).items():
        default, inner = default_of(cls, name, instance), section_type(hint)
        kind = _readable(hint) if inner is None else _section(inner, {}, default)
        kind = kind if inner is None or inner is hint else kind | None
        given = {"default": default}
        if default is NOTHING:  # validated, so that a missing key is reported like a wrong value
            given = {"default_factory": lambda: NOTHING, "validate_default": True}
        details = {"alias": key_of(cls, name), "description": comments(cls).get(name)}
        # Not the name itself: pydantic's models have attributes such as `json`.
        members[f"{name}_"] = kind, pydantic.Field(**details, **given)
    model = pydantic.create_model(cls.__name__, __config__=_STRICT, __doc__=cls.__doc__, **members)
    return Annotated[
        model, pydantic.AfterValidator(lambda values: cls(**{n[:-1]: v for n, v in values}))
    ]


def _readable(hint: Any) -> Any:
    """Return the hint of a leaf with a validator that tries every reading of a value."""
    base, _ = unwrap(hint)
    if typing.get_origin(base) is dict:
        held = typing.get_args(base)[1]
        free = Annotated[Any, pydantic.BeforeValidator(_plain)]
        kind = dict[str, free if held is Any else _readable(held)]
        return Annotated[kind, pydantic.BeforeValidator(_read_mapping)]
    allowed, choices = describe(hint), choices_of(hint)

    def read(value: Any, validate: Callable[[Any], Any]) -> Any:
        for reading in _readings(value):
            with contextlib.suppress(pydantic.ValidationError):
                return validate(reading)
        raise ValueError(allowed, choices)

    return Annotated[_bounded(hint), pydantic.WrapValidator(read)]


def _bounded(hint: Any) -> Any:
    """Return a hint in which integers have the bounds that `unwrap` returns."""
    base, bounds = unwrap(hint)
    origin, args = typing.get_origin(base), typing.get_args(base)
    metadata = getattr(hint, "__metadata__", ())
    if origin in UNIONS:
        base = typing.Union[tuple(map(_bounded, args))]  # noqa: UP007
        if int in args:
            base = Annotated[base, pydantic.BeforeValidator(_no_large_integer)]
    elif origin is tuple:
        base = tuple[tuple(arg if arg is ... else _readable(arg) for arg in args)]
    elif base is int:
        metadata = *metadata, Interval(**{k: bounds[k] for k in ("ge", "le") if k in bounds})
    return Annotated[(base, *metadata)] if metadata else base


def _readings(value: Any) -> Iterator[Any]:
    """Yield the possible interpretations of a value, the likeliest first.

    YAML 1.1 and the command line give text for `1e6`, `64,64` or `null`. Text in a file stays text
    if the field accepts text. On the command line `nan` and `inf` are numbers, and refused.
    """
    if value is FLAG:
        yield True
    elif isinstance(value, Argument) and value.lower().lstrip("+-") in ("nan", "inf", "infinity"):
        return
    elif isinstance(value, str):
        text, typed, scalar = str(value), isinstance(value, Argument), read_scalar(value)
        if typed and text.lower() in ("null", "none"):
            yield None
        readings = [scalar, text] if typed else [text, scalar]
        for reading in [*readings, read_scalar(f"[{text}]")]:
            if not isinstance(reading, str | None):
                yield from _readings(reading)
            elif reading is not None:
                yield reading
    else:
        yield value
        if isinstance(value, float) and value.is_integer():
            yield int(value)
        if isinstance(value, list):
            yield tuple(value)


def _plain(value: Any) -> Any:
    """Return a plain YAML value; text from the command line is parsed as YAML."""
    if value is FLAG:
        return True
    if isinstance(value, Argument):
        value = read_scalar(value)
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, float) and math.isnan(value):
        raise ValueError(f"{_PLAIN}, but not NaN", ())
    if value is not None and not isinstance(value, bool | int | float | str):
        raise ValueError(_PLAIN, ())
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("an integer of at most 64 bits", ())
    return value


def _no_large_integer(value: Any) -> Any:
    """Refuse an integer out of range, which `int | float` would otherwise accept as a float."""
    if isinstance(value, int) and not -INT32 - 1 <= value <= INT32:
        raise ValueError
    return value


def _read_mapping(value: Any) -> Any:
    read = read_scalar(value) if isinstance(value, Argument) else value
    is_null = read is None or (isinstance(value, Argument) and value.lower() == "none")
    return {} if is_null else read  # null clears the section of a preset


def _sentence(error: Any, known: list[str]) -> str:
    """Return the message for one error of pydantic."""
    path, got = [str(part) for part in error["loc"]], error["input"]
    key = ".".join(path)
    if error["type"] == "value_error":
        allowed, choices = error["ctx"]["error"].args
        key = key if key in known else key.removesuffix("_")  # the model's name of a missing key
        several = isinstance(got, Argument) and "," in got and "a list" not in allowed
        hint = "`bellmax sweep` trains a run for each of several values" if several else ""
        return must(key, allowed, got, hint=did_you_mean(str(got), choices) or hint)
    if error["type"] in ("extra_forbidden", "invalid_key"):
        siblings = [k for k in known if k.rpartition(".")[0] == key.rpartition(".")[0]]
        if ours := known_as(key, known):
            return f"unknown key {show(key)}; did you mean {ours}?"
        return str(unknown("key", key, known, siblings))
    if path[-1:] == ["[key]"]:
        return must(".".join(path[:-2]), "a section of keys that are text", error["input"])
    named = f"{key}.name" if isinstance(got, str) and f"{key}.name" in known else ""
    hint = f"did you mean {named}?" if named else ""
    return must(key or "the configuration", "a section of keys", got, hint=hint)
