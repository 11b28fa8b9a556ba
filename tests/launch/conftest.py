"""Set-up of the tests of launch/: commands in this process do not change its settings."""

import contextlib
import shutil
import sys

import pytest

from bellmax.launch.cli import main
from helpers.compiling import compiles_soon
from helpers.line_tasks import CONFIG, TASKS
from helpers.small import SMALL


@pytest.fixture(scope="module", autouse=True)
def settings(request):
    """Restore jax's settings after each test, and compile programs quickly.

    Child processes compile quickly too. A module with `OPTIMISED = True` keeps optimisations.
    """
    optimised = getattr(request.module, "OPTIMISED", False)
    compiling = contextlib.nullcontext() if optimised else compiles_soon()
    with pytest.MonkeyPatch.context() as patch, compiling:
        patch.setattr("bellmax.launch.distributed.devices.configure_jax", lambda **_: None)
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", str(not optimised).lower())
        yield


@pytest.fixture(autouse=True)
def import_path(monkeypatch):
    """Restore the import path, to which commands add the current folder."""
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture(scope="session")
def _finished(tmp_path_factory):
    """A folder with small.yaml and its finished run, which no test changes.

    It is compiled with the same options as in the modules that resume it.
    """
    folder = tmp_path_factory.mktemp("finished")
    (folder / "small.yaml").write_text(SMALL)
    with pytest.MonkeyPatch.context() as patch, compiles_soon():
        patch.setattr("bellmax.launch.distributed.devices.configure_jax", lambda **_: None)
        patch.chdir(folder)
        assert main(["train", "small.yaml", "--out", "finished"]) == 0
    return folder


@pytest.fixture
def finished(_finished, tmp_path, monkeypatch):
    """A copy of a finished run of three checkpoints, of which 800 and 1200 are kept.

    The current folder has small.yaml, from which it was trained.
    """
    shutil.copy(_finished / "small.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(_finished / "finished", tmp_path / "run")


@pytest.fixture
def lines(tmp_path, monkeypatch):
    """The current folder, with lines.py (tasks of the user's own) and run.yaml (a host run)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "lines", raising=False)
    (tmp_path / "run.yaml").write_text(CONFIG)
    (tmp_path / "lines.py").write_text(TASKS)
    return tmp_path
