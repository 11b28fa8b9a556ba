"""Frozen dataclasses validated by pydantic: every wrong key and value is one sentence.

YAML files, overrides and the options of commands all come through `build`.
"""

import ast
import dataclasses
import functools
import inspect
import textwrap
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple, TypeVar

import pydantic

from bellmax.launch.readers import strict
from bellmax.launch.sentences import (
    NOTHING,
    UNIONS,
    ConfigError,
    choices_of,
    describe,
    did_you_mean,
    must,
    unknown,
)

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
    """Build a frozen dataclass from a nested mapping; keys left out keep their default.

    Args:
      cls: a dataclass; fields may be int, float, bool, str, Literal, `X | None`, tuples,
        dict[str, scalar], other dataclasses, and Annotated with bounds from annotated_types.
      mapping: nested mapping of keys (dashes count as underscores) to values.
      where: what the values came from, for messages; "" leaves it out.
      sections: dataclasses for top-level fields of `cls` that are annotated `Any`.

    Raises:
      ConfigError: a line for each unknown key, missing key, wrong type, or value out of range.
    """
    sections = sections or {}
    problems: list[str] = []
    result = None
    mapping = _with_underscores(cls, sections, mapping, "", problems)
    try:
        result = _adapter(cls, tuple(sections.items())).validate_python(mapping)
    except pydantic.ValidationError as error:
        lines = [_sentence(cls, sections, e, mapping) for e in error.errors(include_url=False)]
        problems = [*dict.fromkeys([*lines, *problems])]
    if problems:
        raise ConfigError("\n".join(f"{where}: {line}" if where else line for line in problems))
    return typing.cast("T", result)


def json_schema(cls: type, sections: Mapping[str, type] | None = None) -> dict[str, Any]:
    """Return the JSON schema of what `build` accepts, with the comments above the fields."""
    return _adapter(cls, tuple((sections or {}).items())).json_schema()


def to_dict(config: Any) -> Any:
    """Return a dataclass as plain dicts, lists and scalars; `build` of it gives an equal one."""
    if dataclasses.is_dataclass(config):
        return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(key): to_dict(value) for key, value in config.items()}
    return [to_dict(value) for value in config] if isinstance(config, list | tuple) else config


def fields(cls: Any, sections: Mapping[str, type] | None = None) -> Iterator[Field]:
    """Yield every leaf of a dataclass with its dotted key, depth first, in declared order."""
    for prefix, section in [("", cls), *_sections(cls, sections or {})]:
        for name, hint in hints(section, sections if section is cls else None).items():
            if section_type(hint) is None:
                metadata = section.__dataclass_fields__[name].metadata
                key = metadata.get("key", f"{prefix}.{name}".lstrip("."))
                yield Field(key, hint, section, name)


def keys(cls: Any, sections: Mapping[str, type] | None = None) -> list[str]:
    """Return the dotted names of all sections and leaves."""
    names = [name for name, _ in _sections(cls, sections or {})]
    return names + [field.key for field in fields(cls, sections)]


def hints(cls: Any, sections: Mapping[str, type] | None = None) -> dict[str, Any]:
    """Return the type hint of each field of a dataclass, `sections` in the place of theirs.

    A field with "option" in its metadata is left out or given, but never null.
    """
    found = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        args = typing.get_args(found[field.name])
        if "option" in field.metadata and type(None) in args:
            found[field.name] = typing.Union[tuple(a for a in args if a is not type(None))]  # noqa: UP007
    found = {field.name: found[field.name] for field in dataclasses.fields(cls) if field.init}
    return found | {name: cls for name, cls in (sections or {}).items() if name in found}


def section_type(hint: Any) -> Any:
    """Return the dataclass of a section, also of an optional one, or None."""
    options = typing.get_args(hint) if typing.get_origin(hint) in UNIONS else ()
    return next((t for t in [hint, *options] if dataclasses.is_dataclass(t)), None)


def _sections(
    cls: Any, sections: Mapping[str, type], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    for name, hint in hints(cls, sections).items():
        inner = section_type(hint)
        if inner is not None:
            yield prefix + name, inner
            yield from _sections(inner, {}, f"{prefix}{name}.")


def default_of(cls: Any, name: str, instance: Any = None) -> Any:
    """Return what a field is where nothing is said of it, NOTHING if it must be given."""
    if isinstance(instance, cls):
        return getattr(instance, name)
    field = cls.__dataclass_fields__[name]
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return NOTHING if field.default is dataclasses.MISSING else field.default


@functools.cache
def comments(cls: type) -> dict[str, str]:
    """Return the comment above each field of a dataclass, also of those that it inherits."""
    result: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        try:
            lines = textwrap.dedent(inspect.getsource(base)).splitlines()
        except (OSError, TypeError):  # made at run time, or shipped without source
            continue
        for node in ast.parse("\n".join(lines)).body[0].body:  # pyright: ignore
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                start = end = node.lineno - 1
                while lines[start - 1].lstrip().startswith("#"):
                    start -= 1
                result[node.target.id] = " ".join(x.strip().lstrip("# ") for x in lines[start:end])
    return result


@functools.cache
def _adapter(cls: type, sections: tuple[tuple[str, type], ...]) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(_strict_section(cls, dict(sections), None))


def _strict_section(cls: Any, sections: Mapping[str, type], instance: Any) -> Any:
    """Return what pydantic validates a section with: a twin of its dataclass with strict hints.

    Keys left out of a section are those of `instance`, the default of the field that holds it.
    """
    members: list[Any] = []
    for name, hint in hints(cls, sections).items():
        default, inner = default_of(cls, name, instance), section_type(hint)
        kind = strict(hint) if inner is None else _strict_section(inner, {}, default)
        kind = kind if inner is None or inner is hint else kind | None
        if text := comments(cls).get(name):
            kind = Annotated[kind, pydantic.Field(description=text)]
        if default is NOTHING:
            members.append((name, kind))
        elif default is None or isinstance(default, int | float | str | tuple):
            members.append((name, kind, default))
        else:
            factory = functools.partial(lambda value: value, default)
            members.append((name, kind, dataclasses.field(default_factory=factory)))
    namespace = {"__pydantic_config__": pydantic.ConfigDict(extra="forbid"), "__doc__": cls.__doc__}
    twin = dataclasses.make_dataclass(cls.__name__, members, namespace=namespace, kw_only=True)
    return Annotated[twin, pydantic.AfterValidator(lambda value: cls(**vars(value)))]


def _with_underscores(
    cls: Any, sections: Mapping[str, type], mapping: Any, prefix: str, problems: list[str]
) -> Any:
    """Return a mapping with the names of fields as keys; sections only, not free-form keys."""
    if not isinstance(mapping, Mapping):
        return mapping
    here, result = hints(cls, sections), {}
    for key, value in mapping.items():
        name = str(key).replace("-", "_")
        if name in result:
            problems.append(f"{prefix}{name} is given twice, with a dash and with an underscore")
        inner = section_type(here.get(name))
        inside = f"{prefix}{name}."
        result[name] = _with_underscores(inner, {}, value, inside, problems) if inner else value
    return result


def _sentence(cls: Any, sections: Mapping[str, type], error: Any, mapping: Any) -> str:
    """Return what one error of pydantic says: it knows where; the words are those of the hint."""
    section, hint, value, key = cls, cls, mapping, ""
    for part in error["loc"]:
        if section is None and (typing.get_origin(hint) is not dict or "[key]" in error["loc"]):
            break  # inside a leaf: which member of a union, which item of a list
        inside = value.get(part, NOTHING) if isinstance(value, Mapping) else NOTHING
        name = f"{key}.{part}" if key else str(part)
        if section is None:
            hint = typing.get_args(hint)[1]
        else:
            here = hints(section, sections if section is cls else None)
            if part not in here:
                known = keys(cls, sections)
                siblings = [k for k in known if k.rpartition(".")[0] == key]
                return str(unknown("key", name, known, siblings))
            name = section.__dataclass_fields__[part].metadata.get("option", name)
            hint, section = here[part], section_type(here[part])
        key, value = name, inside
    near = did_you_mean(str(value), choices_of(hint))
    return must(key or "the configuration", describe(hint), value, hint=near)
