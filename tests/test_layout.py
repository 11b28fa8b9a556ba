"""The tree keeps to its design: which folder may import which, and what a file may look like."""

import ast
import graphlib
import importlib.metadata
import pathlib
import re
import sys
import textwrap
import tomllib

import pytest
import yaml

import bellmax
from helpers.pages import blocks

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "bellmax"
MAY_IMPORT = {
    "losses": {"losses"},
    "networks": {"networks"},
    "envs": {"envs"},
    "agents": {"losses", "networks", "envs", "agents"},
    "configs": {"configs"},
    "launch": {"losses", "networks", "envs", "agents", "configs", "launch"},
}
# Inside a folder: its modules and subfolders in the order of imports. Each imports only what stands
# before it, inside functions too; `__init__` comes last.
ORDER = {
    "envs": (
        *("base", "config", "errors", "joint", "options", "packed", "statistics", "validation"),
        *("tasks", "wrappers", "vector", "host", "adapters", "registry", "build", "checks"),
    ),
    "agents": (
        *(
            "configs",
            "shared",
            "on_policy",
            "byol_explore",
            "c51",
            "count_bonus",
            "dqn",
            "expectrl",
            "icm",
            "iqn",
        ),
        *("munchausen_dqn", "pqn", "qr_dqn_retrace", "rnd", "td3", "va_learning", "registry"),
    ),
    "launch": (
        *("config", "distributed", "replay", "runners", "actors", "reporting"),
        *("training", "studies", "api", "cli"),
    ),
}
# Losses go into any code base that has these.
LOSSES_MAY_IMPORT = {"jax", "numpy", "chex", "rlax", "bellmax", *sys.stdlib_module_names}
# Slow to import, or extras: inside the function that needs them.
LAZY = {
    *("ale_py", "craftax", "dm_control", "envpool", "minigrid", "xminigrid"),
    *("jumanji", "mujoco_playground", "navix", "pgx"),
    *("gymnax", "brax", "mujoco", "flashbax", "gymnasium", "bsuite", "wandb", "tensorboardX"),
    *("matplotlib", "pandas", "scipy", "ray", "rich", "distrax", "tyro"),
    *("huggingface_hub", "jax2onnx", "onnxruntime", "optuna", "trackio", "mlflow"),
}
OUTSIDE = {"tests", "benchmarks", "examples"}
FILES = sorted(path for folder in MAY_IMPORT for path in (ROOT / folder).rglob("*.py"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def imports(tree: ast.AST) -> set[str]:
    """The full dotted names that a tree imports, at whatever depth."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            names |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            # Of an f-string the part before its first value.
            args = [a.values[0] if isinstance(a, ast.JoinedStr) else a for a in node.args]
            names |= {a.value.rstrip(".") for a in args if isinstance(a, ast.Constant)}
    return names


def on_import(tree: ast.Module) -> ast.Module:
    """The statements that run when the module is imported: no bodies of functions."""

    class Strip(ast.NodeTransformer):
        def visit_FunctionDef(self, node):
            return None

        visit_AsyncFunctionDef = visit_FunctionDef
        visit_Lambda = visit_FunctionDef

        def visit_If(self, node):
            if "TYPE_CHECKING" in ast.unparse(node.test):
                return [self.visit(statement) for statement in node.orelse]
            return self.generic_visit(node)

    return Strip().visit(tree)


def violations(folder: str, source: str) -> list[str]:
    """What a file of a folder does that it may not, in words."""
    found = []
    for name in sorted(imports(ast.parse(source))):
        first, _, rest = name.partition(".")
        part = rest.split(".")[0]
        if first == "":
            found.append(f"relative import of {name}")
        elif first == "bellmax" and part in MAY_IMPORT and part not in MAY_IMPORT[folder]:
            found.append(f"{folder} imports {part}")
        elif first in MAY_IMPORT or first in OUTSIDE:
            found.append(f"bare import of {first}")
        if folder == "losses" and first not in LOSSES_MAY_IMPORT:
            found.append(f"losses imports {first}")
    found += [
        f"{name} at the top of a module"
        for name in sorted(imports(on_import(ast.parse(source))))
        if name.split(".")[0] in LAZY
    ]
    for node in ast.walk(ast.parse(source)):
        name = getattr(node, "id", getattr(node, "arg", getattr(node, "attr", None)))
        if name == "done":
            found.append(f"line {node.lineno}: a name `done`; say terminated, truncated or is_last")
    return found


def upward(path: pathlib.PurePath, source: str) -> list[str]:
    """Imports of a file that go against the order in its folder, in words."""
    folder, here = path.parts[0], path.parts[1].removesuffix(".py")
    found = []
    for name in sorted(imports(ast.parse(source))):
        package, _, inner = name.partition(f"bellmax.{folder}")
        if folder not in ORDER or here == "__init__" or package or name == inner:
            continue
        order, there = ORDER[folder], inner.split(".")[1] if inner else "__init__"
        if there not in order[: order.index(here) + 1]:
            found.append(f"{folder}.{here} imports {folder}.{there}")
    return found


def private(folder: str, source: str) -> list[str]:
    """Imports from other folders that those do not offer, in words; folder "": from outside of all.

    A folder offers the names in `__all__` of its `__init__` and of those of its subfolders, and to
    other folders the modules in `INTERNAL_MODULES`.
    """
    found = []
    for name in sorted(imports(ast.parse(source))):
        package, *rest = name.split(".")
        if package != "bellmax" or len(rest) < 2 or rest[0] == folder or rest[0] not in MAY_IMPORT:
            continue
        module = importlib.import_module(f"bellmax.{rest[0]}")
        internal = getattr(module, "INTERNAL_MODULES", ()) if folder else ()
        if rest[1] not in internal and not offered(rest):
            found.append(f"{folder} imports {name}, which bellmax.{rest[0]} does not offer")
    return found


def offered(path: list[str]) -> bool:
    """Whether a name below `bellmax` is in `__all__` of a folder above it, or is such a folder."""
    names: tuple[str, ...] = ()
    for i, part in enumerate(path):
        if part in names and not ROOT.joinpath(*path[: i + 1]).is_dir():
            return True
        if not ROOT.joinpath(*path[: i + 1], "__init__.py").exists():
            return False
        module = importlib.import_module(".".join(["bellmax", *path[: i + 1]]))
        names = getattr(module, "__all__", ())
    return bool(names)


def circle(sources: dict[str, str]) -> list[str]:
    """Modules that import each other in a circle; sources: source by the module's dotted name."""
    graph = {}
    for module, source in sources.items():
        names = imports(ast.parse(source))
        # A name in a module counts as the module.
        found = {n if n in sources else n.rpartition(".")[0] for n in names}
        graph[module] = found & set(sources) - {module}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_keeps_to_the_design(path):
    source = path.read_text()
    inside = path.relative_to(ROOT)
    folder = inside.parts[0]
    assert violations(folder, source) + upward(inside, source) + private(folder, source) == []
    assert len(source.splitlines()) <= 400
    assert not source or ast.get_docstring(ast.parse(source)), "a module says what it is for"


@pytest.mark.parametrize(
    ("folder", "source", "expected"),
    [
        ("losses", "from bellmax.networks import QHead", "losses imports networks"),
        ("losses", "from bellmax import envs", "losses imports envs"),
        ("losses", "def f():\n    import optax", "losses imports optax"),
        ("losses", "import optax.losses", "losses imports optax"),
        ("networks", "import bellmax.losses.value as v", "networks imports losses"),
        ("envs", "importlib.import_module('bellmax.agents.dqn')", "envs imports agents"),
        ("agents", "if True:\n    from bellmax.launch import cli", "agents imports launch"),
        ("agents", "import losses", "bare import of losses"),
        ("launch", "from tests.envs import scripted", "bare import of tests"),
        ("launch", "from . import runner", "relative import of ..runner"),
        ("launch", "import scipy.stats", "scipy.stats at the top of a module"),
        ("launch", "class A:\n    import rich", "rich at the top of a module"),
        ("launch", "try:\n    import wandb\nfinally: pass", "wandb at the top of a module"),
        ("envs", "done = True", "line 1: a name `done`"),
        ("envs", "f(done=1)", "line 1: a name `done`"),
    ],
)
def test_the_walker_finds_what_is_planted(folder, source, expected):
    assert [line for line in violations(folder, source) if line.startswith(expected)]


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        ("envs", "from bellmax import UserError"),
        ("envs", "def f():\n    import gymnax"),
        ("launch", "f = lambda: importlib.import_module('rich')"),
        ("launch", "if TYPE_CHECKING:\n    import rich\nfrom bellmax.losses import q_learning"),
    ],
)
def test_the_walker_lets_the_rest_pass(folder, source):
    assert violations(folder, source) == []


def test_no_modules_import_each_other():
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES}
    assert not circle(
        {f"bellmax.{names[p].removesuffix('.__init__')}": p.read_text() for p in FILES}
    )


@pytest.mark.parametrize(
    ("module", "source", "there"),
    [
        ("tasks/a.py", "from bellmax.envs.registry import make", "registry"),
        ("tasks/a.py", "def f():\n    from bellmax.envs import vector", "vector"),
        ("vector.py", "import bellmax.envs.host.loop", "host"),
        ("host/a.py", "importlib.import_module(f'bellmax.envs.adapters.{name}')", "adapters"),
        ("registry.py", "if TYPE_CHECKING:\n    import bellmax.envs.checks", "checks"),
        ("checks/a.py", "from bellmax.envs import EnvSpec", "EnvSpec"),
        ("checks/a.py", "import bellmax.envs", "__init__"),
    ],
)
def test_imports_against_the_order_are_found(module, source, there):
    path = pathlib.PurePath("envs", module)
    here = path.parts[1].removesuffix(".py")
    assert upward(path, source) == [f"envs.{here} imports envs.{there}"]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("vector.py", "from bellmax.envs.base import EnvSpec"),
        ("tasks/a.py", "from bellmax.envs.tasks import drawing"),
        ("checks/a.py", "importlib.import_module(f'bellmax.envs.adapters.{name}')"),
        ("__init__.py", "from bellmax.envs.checks import check_env"),
    ],
)
def test_imports_in_order_pass(module, source):
    assert upward(pathlib.PurePath("envs", module), source) == []


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("from bellmax.envs.vector import vectorise", "envs.vector.vectorise"),
        ("from bellmax.envs import vector", "envs.vector"),
        ("import bellmax.envs.host.loop", "envs.host.loop"),
        ("def f():\n    from bellmax.agents.dqn import make_dqn", "agents.dqn.make_dqn"),
        ("from bellmax.envs.wrappers import pictures", "envs.wrappers.pictures"),
    ],
)
def test_imports_of_what_a_folder_does_not_offer_are_found(source, name):
    [line] = private("launch", source)
    folder = name.partition(".")[0]
    assert line == f"launch imports bellmax.{name}, which bellmax.{folder} does not offer"


@pytest.mark.parametrize(
    "source",
    [
        "from bellmax.envs import make, options",
        "from bellmax.envs.errors import in_words",
        "from bellmax.envs.wrappers import find_drawing",
        "from bellmax.losses.sequence import average_weights",
        "from bellmax import UserError, envs",
        "from bellmax.launch.replay import ring",
    ],
)
def test_imports_of_what_a_folder_offers_pass(source):
    assert private("launch", source) == []


def test_pages_and_examples_import_public_names():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    sources = [text for page in pages for _, text in blocks(page, "python")]
    sources += [path.read_text() for path in (ROOT / "examples").rglob("*.py")]
    assert len(sources) > 20
    assert [line for source in sources for line in private("", textwrap.dedent(source))] == []
    assert private("", "from bellmax.envs import options")


def test_internal_modules_are_used_by_other_folders():
    for folder in ("envs", "agents"):
        others = [p for p in FILES if p.relative_to(ROOT).parts[0] != folder]
        used = {name for path in others for name in imports(ast.parse(path.read_text()))}
        for module in importlib.import_module(f"bellmax.{folder}").INTERNAL_MODULES:
            inner = f"bellmax.{folder}.{module}"
            assert [name for name in used if name == inner or name.startswith(f"{inner}.")]


def test_a_circle_is_found():
    lazy = "def f():\n    from bellmax.envs.a import f"
    circles = {"bellmax.envs.a": "from bellmax.envs import b", "bellmax.envs.b": lazy}
    assert set(circle(circles)) == set(circles)
    assert circle({**circles, "bellmax.envs.b": "import math"}) == []


def test_the_source_links_and_the_wheel_name_the_same_folders():
    entries = {path.name: path for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    links = {name for name, path in entries.items() if path.is_symlink()}
    assert set(entries) - links == {"__init__.py", "py.typed"}
    assert links == set(MAY_IMPORT)
    assert all(entries[name].resolve() == ROOT / name for name in links)
    wheel = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert set(wheel["sources"]) == links | {"src/bellmax"}
    files = {f"src/bellmax/{name}" for name in set(entries) - links}
    assert set(wheel["only-include"]) == links | files
    banned = PYPROJECT["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]
    assert set(banned) == links


@pytest.mark.parametrize("folder", ["losses", "networks", "envs", "agents"])
def test_every_public_name_resolves(folder):
    module = importlib.import_module(f"bellmax.{folder}")
    assert module.__all__ == sorted(set(module.__all__), key=module.__all__.index)
    assert not [name for name in module.__all__ if not hasattr(module, name)]


def test_there_is_one_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    version = PYPROJECT["tool"]["hatch"]["version"]["fallback-version"].removesuffix(".dev0")
    assert version == citation["version"]
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest and newest[1] == version


def test_the_version_is_that_of_the_installed_package(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"{name} 1.2")
    assert bellmax.__version__ == "bellmax 1.2"

    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", absent)
    assert bellmax.__version__ == "0+unknown"


def test_core_declares_what_it_imports():
    """Every package that the modules import is a dependency, and every dependency is imported."""
    distributions = {"yaml": "pyyaml", "dm_env": "dm-env"}
    distributions |= {"annotated_types": "annotated-types", "orbax": "orbax-checkpoint"}
    distributions |= {"pydantic_core": "pydantic"}  # which pins one version of it
    names = {name.split(".")[0] for path in FILES for name in imports(ast.parse(path.read_text()))}
    names -= {"bellmax", *sys.stdlib_module_names}
    declared = PYPROJECT["project"]["dependencies"]
    optional = PYPROJECT["project"]["optional-dependencies"]
    suites = "brax craftax gymnasium gymnax hub navix onnx trackio tune xminigrid".split()
    extras = [*(line for name in suites for line in optional[name]), "wandb", "pandas", "mlflow"]
    core, extra = ({re.split(r"[>=<\[ ]", d)[0].lower() for d in ds} for ds in (declared, extras))
    used = {distributions.get(name, name).lower() for name in names}
    assert used - (extra - core) == core
    assert not [line for line in declared if line.startswith("jax") and "<" in line]


# Of accelerators, of which a machine has one, of developers, and of trackers with older packages.
OWN_EXTRAS = {"all", "cuda12", "cuda13", "tpu", "dev", "docs", "peer", "mlflow", "trackio"}


def test_the_extra_all_has_every_extra_that_installs_together():
    optional = PYPROJECT["project"]["optional-dependencies"]
    [everything] = optional["all"]
    named = re.fullmatch(r"bellmax\[(.*)\]", everything)
    assert named and named[1].split(",") == sorted(set(optional) - OWN_EXTRAS)
