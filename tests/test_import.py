"""Every module imports without a warning, and what answers at once imports little."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = ("losses", "networks", "envs", "agents", "configs", "launch")
MODULES = sorted(
    "bellmax." + ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
)


def python(code, *options):
    command = [sys.executable, *options, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_no_module_warns_when_imported():
    result = python(f"import {', '.join(MODULES)}", "-W", "error")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", ""), result.stderr


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_folder_imports_first_and_alone(folder):
    """A cycle between folders shows only in the order that nobody tried."""
    result = python(f"import bellmax.{folder}", "-W", "error")
    assert (result.returncode, result.stderr) == (0, ""), result.stderr


def test_a_warning_would_be_found():
    result = python("import warnings; warnings.warn('planted', DeprecationWarning)", "-W", "error")
    assert result.returncode == 1 and "planted" in result.stderr
