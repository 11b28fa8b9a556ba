"""Nested mappings of keys, and the same with dotted keys, as options name them."""

from collections.abc import Mapping
from typing import Any


def merge(base: Any, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `overrides` on top, section by section."""
    result = dict(base)
    for key, value in overrides.items():
        key = next((k for k in base if str(k).replace("-", "_") == key), key)
        both = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        result[key] = merge(base[key], value) if both else value
    return result


def flatten(section: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested keys as dotted ones."""
    flat: dict[str, Any] = {}
    for key, value in section.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted keys as nested ones; of a section and a value of one name the last wins."""
    result: dict[str, Any] = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        section = result
        for part in path:
            inner = section.get(part)
            section[part] = inner if isinstance(inner, dict) else {}
            section = section[part]
        section[last] = value
    return result
