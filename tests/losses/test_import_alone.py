"""The losses can be imported with only jax, chex and rlax installed."""

import importlib.metadata
import json
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
ABSENT = "flax", "gymnasium", "PIL", "rich", "yaml", "bellmax.agents.shared.base"
# -S leaves site-packages out, -I the current folder and PYTHONPATH.
PROGRAM = """
import importlib, json, sys, time, warnings
sys.path.insert(0, sys.argv[1])
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import chex, jax, numpy, rlax
before = set(sys.modules)
from bellmax import losses
eager = [name for name in sys.modules if name.startswith("bellmax.losses.sequence")]
for _ in range(2):  # the first may compile them
    for name in [name for name in sys.modules if name.startswith("bellmax.losses.sequence")]:
        del sys.modules[name]
    began = time.process_time()
    import bellmax.losses.sequence
    seconds = time.process_time() - began
added = {".".join(name.split(".")[:2]) for name in set(sys.modules) - before}
lost = [name for name in losses.__all__ if not hasattr(losses, name)]
lost += [name for name in losses.sequence.__all__ if not hasattr(losses.sequence, name)]
q = jax.numpy.array([1.0, 2.0])
loss = lambda q: losses.munchausen_loss(q, 1, 0.5, 0.9, q, q)
shape = jax.jit(jax.grad(loss))(q).shape
imported = []
for name in sys.argv[2:]:
    try:
        importlib.import_module(name)
    except ImportError:
        continue
    imported.append(name)
report = {"added": sorted(added), "lost": lost, "shape": shape, "imported": imported}
print(json.dumps(report | {"eager": eager, "seconds": seconds}))
"""


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
def report(tmp_path_factory):
    """Return the output of PROGRAM with bellmax and only these distributions installed."""
    folder = tmp_path_factory.mktemp("bare")
    for distribution in closure("jax", "chex", "rlax").values():
        for file in distribution.files:
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (folder / top).exists():
                (folder / top).symlink_to(distribution.locate_file(top))
    (folder / "bellmax").symlink_to(ROOT / "src" / "bellmax")
    command = [sys.executable, "-I", "-S", "-c", PROGRAM, str(folder), *ABSENT]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_losses_run_in_a_bare_environment(report):
    assert (report["lost"], report["shape"]) == ([], [2])


@pytest.mark.parametrize("name", ABSENT)
def test_control_the_rest_is_not_there(report, name):
    assert name not in report["imported"]


def test_only_bellmax_is_imported_on_top(report):
    assert report["added"] == ["bellmax", "bellmax.losses"]


def test_losses_of_sequences_are_imported_on_their_own_in_little_time(report):
    assert report["eager"] == [] and report["seconds"] <= 0.05
