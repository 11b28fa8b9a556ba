"""For tests of launch/: commands run in this process and leave its settings as they are."""

import shutil
import sys

import jax
import pytest

from bellmax.launch.cli import main
from helpers.line_tasks import CONFIG, TASKS
from helpers.small import SMALL

# Programs are compiled for many tests and run for milliseconds: half of the time goes without
# XLA's optimisations. A module that says `OPTIMISED = True` is compiled as users compile.
UNOPTIMISED = "jax_disable_most_optimizations"


@pytest.fixture(scope="module", autouse=True)
def settings(request):
    """Commands leave jax's settings as they are; children have the same ones."""
    before = jax.config.values[UNOPTIMISED]
    unoptimised = not getattr(request.module, "OPTIMISED", False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bellmax.launch.devices.configure_jax", lambda **_: None)
        patch.setenv(UNOPTIMISED.upper(), str(unoptimised).lower())  # for child processes
        jax.config.update(UNOPTIMISED, unoptimised)
        yield
        jax.config.update(UNOPTIMISED, before)


@pytest.fixture(autouse=True)
def import_path(monkeypatch):
    """A command adds the current folder to the import path: only for one test."""
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture(scope="session")
def _finished(tmp_path_factory):
    """A folder with small.yaml and its finished run, which no test changes."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "small.yaml").write_text(SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bellmax.launch.devices.configure_jax", lambda **_: None)
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
