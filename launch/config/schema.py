"""Frozen dataclasses validated by pydantic: every wrong key and value is one sentence.

YAML files, overrides and the options of commands all come through `build`.
"""

import dataclasses
import functools
import typing
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import pydantic

from bellmax.launch.config.fields import comments, default_of, hints, keys, section_type
from bellmax.launch.config.readers import strict
from bellmax.launch.config.sentences import (
    NOTHING,
    ConfigError,
    choices_of,
    describe,
    did_you_mean,
    must,
    unknown,
)

T = TypeVar("T")


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
        given = {} if default is NOTHING else {"default": default}
        details = pydantic.Field(description=comments(cls).get(name), **given)
        members.append((name, kind, details))
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
