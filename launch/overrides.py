"""Command-line overrides: `--agent.learning-rate 1e-3` becomes a nested mapping."""

from collections.abc import Mapping, Sequence
from typing import Any

from bellmax import UserError
from bellmax.launch.values import FLAG, Argument, show


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """Returns overrides as nested keys with values as typed; the last of two alike wins.

    Args:
      arguments: `--a.b value`, `--a.b=value`, or `--a.b` alone, which means true.
    """
    result: dict[str, Any] = {}
    tokens = list(arguments)
    while tokens:
        token = tokens.pop(0)
        key, equals, value = token.removeprefix("--").partition("=")
        if not token.startswith("--") or not all(key.split(".")):
            raise UserError(
                f"unexpected argument {show(token)}; overrides look like --agent.learning-rate 1e-3"
            )
        if not equals:
            value = tokens.pop(0) if tokens and not tokens[0].startswith("--") else FLAG
        _set(result, key.replace("-", "_").split("."), FLAG if value is FLAG else Argument(value))
    return result


def merge(base: Any, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `base` with `overrides` on top, section by section."""
    result = dict(base)
    for key, value in overrides.items():
        key = next((k for k in base if str(k).replace("-", "_") == key), key)
        both = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        result[key] = merge(base[key], value) if both else value
    return result


def flatten(section: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested keys as dotted ones, as options name them."""
    flat: dict[str, Any] = {}
    for key, value in section.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def _set(mapping: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        inner = mapping.get(part)
        mapping[part] = inner if isinstance(inner, dict) else {}
        mapping = mapping[part]
    mapping[path[-1]] = value
