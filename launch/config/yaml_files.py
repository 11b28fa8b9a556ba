"""Strict YAML: duplicate keys are refused, `1e-3` is a number, and errors give line and column.

Dashes in keys become underscores: `learning-rate` and `learning_rate` are the same key.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from bellmax import UserError, must

MOST_NODES, MOST_DEPTH = 100_000, 100  # of a document with its aliases expanded
MOST_BYTES = 1 << 20  # of a file
_TAG = "tag:yaml.org,2002:"
# Numbers of YAML 1.2: 010 is ten, while 1:30 and dates are text. In addition, 1e-3 is a number.
_INT = re.compile(r"[-+]?(0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)$")
_FLOAT = re.compile(
    r"([-+]?(\.[0-9][0-9_]*|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
)
_KINDS = {"bool": "true or false", "int": "an integer", "float": "a number"}


class _Loader(yaml.SafeLoader):
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > MOST_DEPTH:  # checked early, because the scanner is slow at large depths
            problem = "it is nested too deeply"
            raise yaml.constructor.ConstructorError(None, None, problem, self.get_mark())
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        if not isinstance(node, yaml.MappingNode):
            raise _mistake("a mapping of keys must come here", node)
        seen = set()
        for key in [key for key, _ in node.value if isinstance(key.value, str)]:
            if key.tag == f"{_TAG}str":
                key.value = key.value.replace("-", "_")
            if key.value in seen:
                raise _mistake(f"the key {key.value[:60]} is given twice", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            kind = node.tag.removeprefix(_TAG)
            allowed = _KINDS.get(kind, f"a {kind}")
            value = _short(node.value) if isinstance(node.value, str) else "another"
            raise _mistake(f"a value must be {allowed}, got {value}", node) from error

    def construct_int(self, node: Any) -> int:
        text = self.construct_scalar(node).replace("_", "")
        based = text.lstrip("+-")[:2].lower() in ("0b", "0o", "0x")
        return int(text, 0 if based else 10)


class _Dumper(yaml.SafeDumper):
    pass


for _class in (_Loader, _Dumper):  # both, so that text that looks like a number is quoted
    replaced = {f"{_TAG}{kind}" for kind in ("int", "float", "timestamp")}
    _class.yaml_implicit_resolvers = {
        first: [(tag, form) for tag, form in known if tag not in replaced]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _class.add_implicit_resolver(f"{_TAG}int", _INT, list("-+0123456789"))
    _class.add_implicit_resolver(f"{_TAG}float", _FLOAT, list("-+.0123456789"))
_Loader.add_constructor(f"{_TAG}int", _Loader.construct_int)


def is_unicode(stream: Any) -> bool:
    """Return whether a stream can encode any text."""
    return "utf" in (getattr(stream, "encoding", None) or "utf").lower()


def dump_yaml(value: Any, *, one_line: bool = False, unicode: bool = True) -> str:
    """Return plain values as YAML, with keys in their order and exact floats.

    Args:
      value: the values.
      one_line: whether the text has only one line.
      unicode: whether characters outside ASCII are kept; otherwise they are escaped.
    """
    style: dict[str, Any] = {"default_flow_style": True, "width": 2**31} if one_line else {}
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=unicode, **style)


def dump_value(value: Any) -> str:
    """Return one plain value as YAML on one line, as the user would type it."""
    return dump_yaml(value, one_line=True).removesuffix("...\n").strip()


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file.

    Raises:
      UserError: the file cannot be read, or is not YAML; with line and column.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    return parse_yaml(data, str(path))


def read_scalar(text: str) -> Any:
    """Parse text of the command line as YAML; return the text itself if it is not YAML."""
    try:
        return _construct(str(text))
    except yaml.YAMLError:
        return str(text)


def parse_yaml(data: bytes, name: str) -> Any:
    """Return the values in YAML text; messages call it `name`."""
    try:
        if len(data) > MOST_BYTES:
            raise UserError(must(name, f"at most {MOST_BYTES:,} bytes of YAML", "a larger file"))
        value = _construct(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 text: byte {error.start} does not decode") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        at = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{name}{at}: {error.problem}") from None
    except yaml.reader.ReaderError as error:
        raise UserError(f"{name}: character {error.position} is not allowed in YAML") from None
    if value is None:
        raise UserError(must(name, "a mapping of keys such as steps: 100000", "an empty file"))
    return value


def _construct(text: str) -> Any:
    """Return the value of YAML text.

    Raises:
      YAMLError: the text is not YAML, too deep or too large.
    """
    loader = _Loader(text)
    node: Any = loader.get_single_node()
    try:
        if node is None:
            return None
        _count(node, {}, 0)
        return loader.construct_document(node)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        # pyyaml raises these if a tag does not fit its value.
        raise _mistake("a tag does not fit its value", node) from error
    finally:
        loader.dispose()


def _count(node: Any, known: dict[int, int], depth: int) -> int:
    """Return the number of nodes of a document with its aliases expanded.

    Raises:
      YAMLError: the document is too large or too deep, as with an alias inside its own node.
    """
    if depth > MOST_DEPTH:
        raise _mistake("it is nested too deeply", node)
    if id(node) not in known:
        children = node.value if isinstance(node.value, list) else []
        flat = [part for child in children for part in (child if type(child) is tuple else [child])]
        known[id(node)] = 1 + sum(_count(child, known, depth + 1) for child in flat)
    if known[id(node)] > MOST_NODES:
        raise _mistake(f"it holds more than {MOST_NODES:,} values after aliases expand", node)
    return known[id(node)]


def _mistake(problem: str, node: Any) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
