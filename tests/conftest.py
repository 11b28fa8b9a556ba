"""Set-up of all tests: a compilation cache, no rank promotion, and the option `--slow`."""

import gc
import os
import shutil
import sys
import tempfile

import pytest

CACHE = "JAX_COMPILATION_CACHE_DIR"
_own_cache = None
# Before jax is imported. Workers of pytest-xdist and child processes inherit the variables, so that
# a program is compiled once for all of them. A folder that the caller named is used and kept.
if CACHE not in os.environ:
    _own_cache = os.environ[CACHE] = tempfile.mkdtemp(prefix="bellmax-tests-")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# XLA's older code generator compiles programs of tests a third faster and rounds differently. Tests
# that must compile as users do say so (helpers.jitted.user_jit).
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["XLA_FLAGS"] = (
        f"--xla_cpu_use_fusion_emitters=false {os.environ.get('XLA_FLAGS', '')}"
    )

import jax  # noqa: E402

# Silent broadcasting is how losses go wrong.
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_addoption(parser):
    parser.addoption(
        "--slow", action="store_true", help="run the tests marked slow, peer or site too"
    )


def pytest_collection_modifyitems(config, items):
    if config.getoption("--slow"):
        return
    chosen = {True: [], False: []}
    for item in items:
        chosen[not {"slow", "peer", "site"} & {mark.name for mark in item.iter_markers()}].append(
            item
        )
    items[:] = chosen[True]
    config.hook.pytest_deselected(items=chosen[False])


def pytest_collection_finish():
    """Look for garbage less often, because jax's traces live long and have many objects."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


@pytest.fixture(autouse=True)
def modules_of_the_test(tmp_path_factory):
    """Forget the modules that a test imported from its own folder: others may use their names."""
    before = set(sys.modules)
    yield
    root = str(tmp_path_factory.getbasetemp())
    for name in sys.modules.keys() - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(root):
            del sys.modules[name]


@pytest.hookimpl(trylast=True)
def pytest_unconfigure():
    if _own_cache:
        shutil.rmtree(_own_cache, ignore_errors=True)
