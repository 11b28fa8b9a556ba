"""Strict YAML: duplicate keys are refused, `1e-3` is a number, and errors give line and column.

Dashes in keys become underscores: `learning-rate` and `learning_rate` are the same key.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from bellmax import UserError, must

_FLOAT = re.compile(r"[-+]?([0-9][0-9_]*)(\.[0-9_]*)?[eE][-+]?[0-9]+$")


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key in [key for key, _ in node.value if isinstance(key.value, str)]:
            if key.tag == "tag:yaml.org,2002:str":
                key.value = key.value.replace("-", "_")
            if key.value in seen:
                problem = f"the key {key.value} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    pass


for _class in (_Loader, _Dumper):  # both, so that the text "1e-3" keeps its quotes
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))


def dump_yaml(value: Any, *, one_line: bool = False) -> str:
    """Return plain values as YAML; keys keep their order, floats are exact."""
    style: dict[str, Any] = {"default_flow_style": True, "width": 2**31} if one_line else {}
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, **style)


def dump_value(value: Any) -> str:
    """Return one plain value as YAML on one line, as an option would be typed."""
    return dump_yaml(value, one_line=True).removesuffix("...\n").strip()


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file; UserError gives its first mistake with line and column."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    return parse_yaml(data, str(path))


def read_scalar(text: str) -> Any:
    """Parse text of the command line as YAML; return the text itself if it is not YAML."""
    try:
        return yaml.load(str(text), Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return str(text)


def parse_yaml(data: bytes, name: str) -> Any:
    """Return the values in YAML text; messages call it `name`."""
    try:
        value = yaml.load(data.decode("utf-8"), Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 text: byte {error.start} does not decode") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        at = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{name}{at}: {error.problem}") from None
    except yaml.reader.ReaderError as error:
        raise UserError(f"{name}: character {error.position} is not allowed in YAML") from None
    except RecursionError:
        raise UserError(f"{name}: it is nested too deeply") from None
    except ValueError as error:  # a date such as 2024-13-45
        raise UserError(f"{name}: {error}") from None
    if value is None:
        raise UserError(must(name, "a mapping of keys such as steps: 100000", "an empty file"))
    return value
