"""Inspection of configuration dataclasses: sections and leaves, hints, defaults and comments."""

import ast
import dataclasses
import functools
import inspect
import textwrap
import typing
from collections.abc import Mapping
from typing import Any

from bellmax.launch.config.sentences import NOTHING, UNIONS


def keys(cls: Any, types: Mapping[str, Any] | None = None, prefix: str = "") -> list[str]:
    """Return the dotted keys of all sections and leaves."""
    result = []
    for name, hint in hints(cls, types).items():
        result.append(f"{prefix}{key_of(cls, name)}")
        if inner := section_type(hint):
            result += keys(inner, prefix=f"{prefix}{name}.")
    return result


def key_of(cls: Any, name: str) -> str:
    """Return the key of a field: its name, `--name` for an option, or "key" of its metadata."""
    metadata = cls.__dataclass_fields__[name].metadata
    return f"--{name.replace('_', '-')}" if "option" in metadata else metadata.get("key", name)


def hints(cls: Any, types: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the type hint of each field of a dataclass; those in `types` replace its own.

    Options of a command are never null: None as a default means that the option was left out.
    """
    found = {**typing.get_type_hints(cls, include_extras=True), **(types or {})}
    for field in dataclasses.fields(cls):
        args = typing.get_args(found[field.name])
        if "option" in field.metadata and type(None) in args:
            found[field.name] = typing.Union[tuple(a for a in args if a is not type(None))]  # noqa: UP007
    return {field.name: found[field.name] for field in dataclasses.fields(cls)}


def section_type(hint: Any) -> Any:
    """Return the dataclass of a section, optional or not; None for a leaf."""
    options = typing.get_args(hint) if typing.get_origin(hint) in UNIONS else ()
    return next((t for t in [hint, *options] if dataclasses.is_dataclass(t)), None)


def default_of(cls: Any, name: str, instance: Any = None) -> Any:
    """Return the default of a field; NOTHING if it has none."""
    if isinstance(instance, cls):
        return getattr(instance, name)
    field = cls.__dataclass_fields__[name]
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return NOTHING if field.default is dataclasses.MISSING else field.default


@functools.cache
def comments(cls: type) -> dict[str, str]:
    """Return the comment above each field of a dataclass, inherited fields included."""
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
