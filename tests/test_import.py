"""Every module imports without a warning, and each folder can be imported first."""

import pathlib

from helpers.processes import finish, start_python

ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = ("losses", "networks", "envs", "agents", "configs", "launch")
MODULES = sorted(
    "bellmax." + ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
    if path.stem != "__main__"  # runs the command line
)
# Imports every module given; or, with `first`, each of them as the first one of bellmax. Then the
# modules of bellmax that were imported before are forgotten.
PROGRAM = """
import importlib, sys

first, *names = sys.argv[1:]
for name in names:
    importlib.import_module(name)
    if first == "first":
        for loaded in [m for m in sys.modules if m.partition(".")[0] == "bellmax"]:
            del sys.modules[loaded]
print("imported", len(names))
"""


def imports(how, names):
    """Import modules in another process in which warnings are errors."""
    assert names
    out, err = finish(start_python("-W", "error", "-c", PROGRAM, how, *names))
    assert (out, err) == (f"imported {len(names)}\n", ""), err


def test_no_module_warns_when_imported():
    imports("together", MODULES)


def test_each_folder_imports_first():
    """A cycle between folders shows only in the order that nobody tried."""
    imports("first", [f"bellmax.{folder}" for folder in FOLDERS])


def test_a_warning_would_be_found():
    code = "import warnings; warnings.warn('planted', DeprecationWarning)"
    _, err = finish(start_python("-W", "error", "-c", code), code=1)
    assert "planted" in err
