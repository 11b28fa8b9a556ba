"""Nested mappings of keys, and the same with dotted keys, as options name them."""

from collections.abc import Mapping
from typing import Any


def flatten(section: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested keys as dotted ones."""
    flat: dict[str, Any] = {}
    for key, value in section.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def override(base: Mapping[Any, Any], flat: Mapping[str, Any]) -> dict[Any, Any]:
    """Return nested keys with values by dotted key applied, one after the other."""
    result = dict(base)
    for key, value in flat.items():
        name, dot, rest = key.partition(".")
        if dot:
            section = result.get(name)
            value = override(section if isinstance(section, Mapping) else {}, {rest: value})
        result[name] = value
    return result
