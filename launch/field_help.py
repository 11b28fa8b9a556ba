"""Help for every configuration key: its range, its value, and the comment above its field."""

import ast
import inspect
import textwrap
from typing import Any

from bellmax.launch import config as run_config
from bellmax.launch import schema
from bellmax.launch.values import describe


def render(config: run_config.RunConfig) -> str:
    """Returns one paragraph per key of a configuration, with the values that it has."""
    plain = run_config.to_dict(config)
    lines = []
    for field in schema.fields(run_config.RunConfig, {"agent": type(config.agent)}):
        value: Any = plain
        for part in field.key.split("."):
            value = value[part] if isinstance(value, dict) and part in value else None
        shown = run_config.dump_value(value)
        option = field.key.replace("_", "-")
        lines.append(f"  --{option} {shown}")
        text = comments(field.owner).get(field.name, "")
        body = f"{text} ({describe(field.hint)})" if text else describe(field.hint)
        lines += textwrap.wrap(body, 92, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def comments(cls: type) -> dict[str, str]:
    """Returns the comment above each field of a dataclass, also of those that it inherits."""
    result: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        try:
            lines = textwrap.dedent(inspect.getsource(base)).splitlines()
        except (OSError, TypeError):  # made at run time, or shipped without source
            continue
        for node in ast.parse("\n".join(lines)).body[0].body:  # pyright: ignore
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                result[node.target.id] = _comment_above(lines, node.lineno - 1)
    return result


def _comment_above(lines: list[str], index: int) -> str:
    start = index
    while start > 0 and lines[start - 1].lstrip().startswith("#"):
        start -= 1
    return " ".join(line.strip().lstrip("# ") for line in lines[start:index])
