"""The losses import where nothing but jax, chex and rlax is installed."""

import importlib.metadata
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def closure(*names):
    """The distributions of these names and all that they need, by metadata."""
    found, queue = {}, list(names)
    while queue:
        name = re.sub(r"[-_.]+", "-", queue.pop()).lower()
        if name in found:
            continue
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform or Python
        for need in found[name].requires or ():
            if "extra ==" not in need:
                queue.append(re.match(r"[\w.-]+", need)[0])
    return found


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A folder that has of site-packages only what jax, chex and rlax need, and a fresh bellmax."""
    folder = tmp_path_factory.mktemp("bare")
    for distribution in closure("jax", "chex", "rlax").values():
        for file in distribution.files:
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (folder / top).exists():
                (folder / top).symlink_to(distribution.locate_file(top))
    (folder / "bellmax").symlink_to(ROOT / "src" / "bellmax")
    return folder


def python(bare, code):
    # -S leaves site-packages out, -I the current folder and PYTHONPATH.
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(bare)!r})\n"]
    command[-1] += code
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_losses_run_in_a_bare_environment(bare):
    code = """
import jax, jax.numpy as jnp
from bellmax import losses
assert not [name for name in losses.__all__ if not hasattr(losses, name)]
q = jnp.array([1.0, 2.0])
print(jax.grad(lambda q: losses.munchausen_loss(q, 1, 0.5, 0.9, q, q))(q).shape)
"""
    result = python(bare, code)
    assert (result.returncode, result.stdout) == (0, "(2,)\n"), result.stderr


@pytest.mark.parametrize("name", ["flax", "gymnasium", "PIL", "rich", "yaml", "bellmax.agents"])
def test_control_the_rest_is_not_there(bare, name):
    assert python(bare, f"import {name}").returncode == 1


def test_only_bellmax_is_imported_on_top(bare):
    code = """
import warnings
warnings.simplefilter("ignore")
import chex, jax, numpy, rlax
before = set(sys.modules)
import bellmax.losses
print(*sorted({".".join(name.split(".")[:2]) for name in set(sys.modules) - before}))
"""
    result = python(bare, code)
    assert (result.returncode, result.stdout) == (0, "bellmax bellmax.losses\n"), result.stderr
