"""Strict merge of plain mappings onto frozen dataclasses: every wrong key or value is one sentence.

YAML files and command-line overrides both come through `build`, so both speak the same errors.
"""

import dataclasses
import difflib
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, TypeVar

from bellmax import UserError
from bellmax.launch.values import UNFIT, UNIONS, convert, describe, show, unwrap

T = TypeVar("T")


class Field(NamedTuple):
    """One leaf of a configuration.

    key: dotted name, or what the field's metadata says under "key".
    hint: its type. owner: the dataclass that declares it. name: the name that it has there.
    """

    key: str
    hint: Any
    owner: type
    name: str


def build(
    cls: type[T], mapping: Any, *, where: str = "", sections: Mapping[str, type] | None = None
) -> T:
    """Builds a frozen dataclass from a nested mapping; keys left out keep their default.

    Args:
      cls: a dataclass; fields may be int, float, bool, str, Literal, `X | None`, tuples,
        dict[str, scalar], other dataclasses, and Annotated with bounds from annotated_types.
      mapping: nested mapping of keys (dashes count as underscores) to values.
      where: what the values came from, for messages; "" leaves it out.
      sections: dataclasses for top-level fields of `cls` that are annotated `Any`.

    Raises:
      UserError: unknown key, missing key, wrong type, or value out of range.
    """
    sections = sections or {}
    known = [name for name, _ in _sections(cls, sections)] + [f.key for f in fields(cls, sections)]
    try:
        return _build(cls, mapping, "", sections, known)
    except UserError as error:
        raise UserError(f"{where}: {error}" if where else str(error)) from None


def to_dict(config: Any) -> Any:
    """Returns a dataclass as plain dicts, lists and scalars; `build` of it gives an equal one."""
    if dataclasses.is_dataclass(config):
        return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(key): to_dict(value) for key, value in config.items()}
    return [to_dict(value) for value in config] if isinstance(config, list | tuple) else config


def fields(cls: Any, sections: Mapping[str, type] | None = None) -> Iterator[Field]:
    """Yields every leaf of a dataclass with its dotted key, depth first, in declared order."""
    for prefix, section in [("", cls), *_sections(cls, sections or {})]:
        hints = _hints(section, sections if section is cls else None)
        for name, hint in hints.items():
            if _section_type(hint) is None:
                metadata = section.__dataclass_fields__[name].metadata
                key = metadata.get("key", f"{prefix}.{name}".lstrip("."))
                yield Field(key, hint, section, name)


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """Returns the choice most like `word`, by the whole, by its last part, or by initials."""
    last = word.rpartition(".")[2]

    def likeness(choice: str) -> float:
        tail = choice.rpartition(".")[2]
        initials = "".join(part[:1] for part in tail.split("_"))
        return max(
            difflib.SequenceMatcher(None, word, choice).ratio(),
            difflib.SequenceMatcher(None, last, tail).ratio() - 0.01,
            0.8 * (len(last) > 1 and last == initials),
        )

    parents = [choice for choice in choices if not word.startswith(f"{choice}.")]
    best = max(parents, key=likeness, default=None)
    return best if best is not None and likeness(best) >= 0.6 else None


def unknown(
    kind: str, word: str, choices: Iterable[str], instead: Iterable[str] | None = None
) -> UserError:
    """Returns the error for a name that is not among `choices`, with the nearest one.

    `instead` is what to list when none is near; None lists the choices.
    """
    choices = list(choices)
    near = nearest(word, choices)
    options = ", ".join(choices if instead is None else instead)
    hint = f"did you mean {near}?" if near else f"choose from {options or 'nothing'}"
    return UserError(f"unknown {kind} {show(word)}; {hint}")


def _build(
    cls: Any,
    mapping: Any,
    prefix: str,
    sections: Mapping[str, type],
    known: list[str],
    default: Any = None,
) -> Any:
    """`default`: where keys that are left out come from, if it is a `cls`; else from `cls`."""
    if not isinstance(mapping, Mapping):
        section = prefix.rstrip(".") or "the configuration"
        raise UserError(f"{section} must be a section of keys, got {show(mapping)}")
    hints, values = _hints(cls, sections), {}
    here = [key for key in known if key.startswith(prefix) and "." not in key[len(prefix) :]]
    for key, value in mapping.items():
        name = str(key).replace("-", "_")
        if name not in hints:
            raise unknown("key", prefix + name, known, here)
        if name in values:
            raise UserError(f"{prefix}{name} is given twice, with a dash and with an underscore")
        inner = _section_type(hints[name])
        if inner is None or (value is None and inner is not hints[name]):
            values[name] = _leaf(hints[name], value, prefix + name)
        else:
            own = _default(cls, name, default)
            values[name] = _build(inner, value, f"{prefix}{name}.", {}, known, own)
    for field in dataclasses.fields(cls):
        missing = field.default is field.default_factory is dataclasses.MISSING
        if missing and field.name not in values:
            raise UserError(f"{prefix}{field.name} is missing: {describe(hints[field.name])}")
    return dataclasses.replace(default, **values) if isinstance(default, cls) else cls(**values)


def _default(cls: Any, name: str, default: Any) -> Any:
    """What a field is where nothing is said of it, None if it must be given."""
    if isinstance(default, cls):
        return getattr(default, name)
    field = cls.__dataclass_fields__[name]
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _leaf(hint: Any, value: Any, key: str) -> Any:
    if typing.get_origin(hint) is dict and isinstance(value, Mapping):
        scalar = typing.get_args(hint)[1]
        value = {name: _leaf(scalar, item, f"{key}.{name}") for name, item in value.items()}
    try:
        return convert(hint, value)
    except UNFIT:
        allowed, choices = describe(hint), [str(c) for c in typing.get_args(unwrap(hint)[0])]
        literal = typing.get_origin(unwrap(hint)[0]) is Literal
        near = nearest(str(value), choices) if literal else None
        hint_text = f"; did you mean {near}?" if near else ""
        raise UserError(f"{key} must be {allowed}, got {show(value)}{hint_text}") from None


def _hints(cls: Any, sections: Mapping[str, type] | None = None) -> dict[str, Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    hints = {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}
    return hints | {name: cls for name, cls in (sections or {}).items() if name in hints}


def _section_type(hint: Any) -> Any:
    """Returns the dataclass of a section, also of an optional one, or None."""
    options = typing.get_args(hint) if typing.get_origin(hint) in UNIONS else ()
    return next((t for t in [hint, *options] if dataclasses.is_dataclass(t)), None)


def _sections(
    cls: Any, sections: Mapping[str, type], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    for name, hint in _hints(cls, sections).items():
        inner = _section_type(hint)
        if inner is not None:
            yield prefix + name, inner
            yield from _sections(inner, {}, f"{prefix}{name}.")
