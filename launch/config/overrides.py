"""Conversion between nested mappings and dotted keys, which options use."""

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
    """Return a nested mapping in which the values by dotted key, in their order, replace others."""
    result = dict(base)
    for key, value in flat.items():
        name, dot, rest = key.partition(".")
        if dot:
            section = result.get(name)
            value = override(section if isinstance(section, Mapping) else {}, {rest: value})
        result[name] = value
    return result
