"""House rules: what a test file may import, where paths are set, and the words of the tree."""

import ast
import importlib.util
import pathlib
import re

import pytest

from bellmax import UserError

TESTS = pathlib.Path(__file__).parent
FILES = sorted(TESTS.rglob("*.py"))
# rlax, imported without the warning that it sets off: what losses are compared with.
SHARED = {"bellmax.losses._rlax"}
EDITS = ("insert", "append", "extend", "remove", "pop", "clear")
ROOT = TESTS.parent
CODE = ("losses", "networks", "agents", "envs", "launch")
REST = ("configs", "tests", "docs", "benchmarks", "examples", "cloud")
SOURCES = sorted(path for folder in CODE for path in (ROOT / folder).rglob("*.py"))
TEXTS = [
    *(path for path in FILES if path.name != "test_house.py"),
    *(path for folder in (*CODE, *REST) for path in (ROOT / folder).rglob("*")),
    *(*ROOT.glob("*.md"), ROOT / "pyproject.toml", ROOT / "src" / "bellmax" / "__init__.py"),
]
# Phrases that a reader has to decode; plain words are continues, recreated, in host memory, ...
FORBIDDEN = (
    *("what there is to say", "made anew", "anew", "goes on", "go on", "gone on with", "going on"),
    *("so many", "led nowhere", "leads nowhere", "means nothing", "mean nothing", "hands over"),
    *("handed over", "beside the", "an interval of nothing", "done without", "does not show"),
)
# Between two words: a space, an underscore of a name, or a line break in a comment.
GAP = r"(?:_|\s+(?:[#>] ?)?)"
PHRASES = re.compile(
    "(?<![a-z])(" + "|".join(phrase.replace(" ", GAP) for phrase in FORBIDDEN) + ")(?![a-z])",
    re.IGNORECASE,
)


def imported(tree):
    """(name in the file, full dotted name) of every import, at whatever depth."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.asname or alias.name, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            for alias in node.names:
                yield alias.asname or alias.name, f"{base}.{alias.name}"


def under_test(path, module):
    """Whether a test file carries a module's name: test_envpool.py that of envpool_adapter."""
    mine, theirs = path.stem.removeprefix("test_"), module.rpartition(".")[2]
    return mine.startswith(theirs) or theirs.startswith(mine)


def owner_of_private(name):
    """The bellmax module whose private name a dotted name is; None for what is public."""
    parts = name.split(".")
    if parts[0] != "bellmax" or name.rpartition(".")[0] in SHARED:
        return None
    for place, part in enumerate(parts):
        if part.startswith("_") and not part.startswith("__"):
            return ".".join(parts[:place])
    return None


def edits_path(node):
    """Whether a statement or call changes sys.path itself; pytest's monkeypatch puts it back."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr in EDITS and ast.unparse(node.func.value) == "sys.path"
    if isinstance(node, ast.Assign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return any(ast.unparse(target).startswith("sys.path") for target in targets)
    return False


def violations(path, source):
    """What a file of the tests does that it may not, in words."""
    tree, found = ast.parse(source), []
    modules = {}
    for here, name in imported(tree):
        first = name.split(".")[0]
        if first in ("", "tests", "conftest") or first.startswith("test_"):
            found.append(f"imports {name}: what tests share is in tests/helpers")
        owner = owner_of_private(name)
        if owner and not under_test(path, owner):
            found.append(f"imports {name}, a private name of {owner}")
        if name.startswith("bellmax."):
            modules[here] = name
    for node in ast.walk(tree):
        if edits_path(node):
            found.append(f"line {node.lineno}: edits sys.path")
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = modules.get(node.value.id)
            private = node.attr.startswith("_") and not node.attr.startswith("__")
            # Of classes and objects too; `_replace` and the like belong to named tuples.
            if module and private and is_module(module) and not under_test(path, module):
                found.append(f"line {node.lineno}: {module}.{node.attr} is private")
    return found


def is_module(name):
    try:
        return importlib.util.find_spec(name) is not None
    except (ModuleNotFoundError, UserError):
        return False


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TESTS)))
def test_a_file_keeps_to_the_rules(path):
    source = path.read_text()
    assert violations(path, source) == []
    assert len(source.splitlines()) <= 400
    assert ast.get_docstring(ast.parse(source)), "a module says what it is for"


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("test_a", "import test_b", "imports test_b"),
        ("test_a", "from test_b import f", "imports test_b.f"),
        ("test_a", "def f():\n    from tests.envs.test_b import g", "imports tests.envs.test_b.g"),
        ("test_a", "from . import test_b", "imports ..test_b"),
        ("test_a", "from conftest import f", "imports conftest.f"),
        ("conftest", "import sys\nsys.path.insert(0, 'x')", "line 2: edits sys.path"),
        ("conftest", "import sys\nsys.path += ['x']", "line 2: edits sys.path"),
        ("test_a", "import sys\nsys.path[:] = ['x']", "line 2: edits sys.path"),
        ("test_a", "from bellmax.envs.b import _c", "imports bellmax.envs.b._c, a private name of"),
        (
            "test_a",
            "import bellmax.envs._c",
            "imports bellmax.envs._c, a private name of bellmax.e",
        ),
        (
            "test_a",
            "from bellmax.envs import registry\nregistry._x()",
            "line 2: bellmax.envs.registry._x is private",
        ),
    ],
)
def test_what_is_planted_is_found(name, source, expected):
    (found,) = violations(pathlib.Path(f"{name}.py"), source)
    assert found.startswith(expected)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("test_a", "from helpers.scripted import Counter, test_double"),
        ("test_envpool", "from bellmax.envs.adapters.envpool import _find_conversion"),
        ("test_registry", "from bellmax.envs import registry\nregistry._x()"),
        ("test_a", "from bellmax.launch.reporting.metrics import Row\nRow._replace(x=1)"),
        ("test_a", "import sys\nmonkeypatch.setattr(sys, 'path', [*sys.path])"),
    ],
)
def test_the_rest_passes(name, source):
    assert violations(pathlib.Path(f"{name}.py"), source) == []


def phrases(text):
    """The forbidden phrases of a text, with their lines."""
    found = PHRASES.finditer(text)
    return [f"line {text.count(chr(10), 0, m.start()) + 1}: {m[0]!r}" for m in found]


def test_no_text_has_a_forbidden_phrase():
    texts = {p for p in TEXTS if p.suffix in (".py", ".md", ".yaml", ".toml")} - {
        TESTS / "test_house.py"
    }
    found = {str(p.relative_to(ROOT)): phrases(p.read_text()) for p in texts if p.is_file()}
    assert len(found) > 400 and {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "text", ["x\nIt goes on.", "# after so\n# many", "def test_goes_on_again(): ...", "Made\nanew"]
)
def test_a_forbidden_phrase_is_found(text):
    assert phrases(text)


@pytest.mark.parametrize("text", ["it forgoes on", "go only", "so  much", "ongoing one"])
def test_other_phrases_pass(text):
    assert not phrases(text)


def constant_end(node):
    """The text that a string expression ends in, "" if it ends in a value."""
    while True:
        if isinstance(node, ast.Constant):
            return node.value if isinstance(node.value, str) else ""
        if isinstance(node, ast.JoinedStr):
            node = node.values[-1] if node.values else ast.Constant("")
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            node = node.right
        else:
            return ""


def full_stops(source):
    """Lines that raise a message, or build one with `must`, that ends in a full stop."""
    found = []
    for node in ast.walk(ast.parse(source)):
        raised = isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
        call = node.exc if raised else node
        if raised or isinstance(call, ast.Call) and ast.unparse(call.func).endswith("must"):
            values = [*call.args, *(keyword.value for keyword in call.keywords)]
            if any(constant_end(value).endswith(".") for value in values):
                found.append(node.lineno)
    return found


def long_functions(source):
    """Functions of more than 60 lines, their docstring aside: {name: lines}."""
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node, clean=False):
                lines -= node.body[0].end_lineno - node.body[0].lineno + 1
            if lines > 60:
                found[node.name] = lines
    return found


def test_no_function_is_long():
    found = {str(path.relative_to(ROOT)): long_functions(path.read_text()) for path in SOURCES}
    assert {path: functions for path, functions in found.items() if functions} == {}


@pytest.mark.parametrize(
    ("lines", "docstring", "found"),
    [(59, 0, {}), (60, 0, {"f": 61}), (59, 20, {}), (60, 20, {"f": 61})],
)
def test_long_functions_are_found(lines, docstring, found):
    words = ['    """Docstring.', *["    x"] * (docstring - 2), '    """'] if docstring else []
    assert long_functions("\n".join(["def f():", *words, *["    x = 1"] * lines])) == found


def test_no_message_ends_in_a_full_stop():

    found = {str(path.relative_to(ROOT)): full_stops(path.read_text()) for path in SOURCES}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("raise UserError('x is wrong.')", [1]),
        ("raise UserError(f'{x} is wrong.')", [1]),
        ("raise UserError(a + f'{x}' 'is wrong.')", [1]),
        ("\nmust('x', 'y', 1, hint='try it.')", [2]),
        ("raise UserError(f'it is {x}')", []),
        ("raise UserError('choose from a, b')", []),
    ],
)
def test_full_stops_are_found(source, lines):
    assert full_stops(source) == lines
