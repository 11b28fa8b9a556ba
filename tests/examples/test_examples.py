"""The single-file examples learn, and differ only in the loss."""

import ast
import difflib
import importlib.util
from pathlib import Path

import jax
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = "dqn_single_file", "munchausen_single_file"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_learns_within_seconds(name, capsys):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with jax.numpy_rank_promotion("allow"):  # the program is the user's own
        (value,) = module.main(["--steps", "30000", "--seed", "100"])
    # Random play earns 22 and a constant action 9.
    assert value > 60.0
    assert "greedy return over 100 episodes" in capsys.readouterr().out


def test_files_differ_in_a_few_lines():
    first, second = ((EXAMPLES / f"{name}.py").read_text().splitlines() for name in NAMES)
    changed = difflib.unified_diff(first, second, lineterm="", n=0)
    added = [line for line in changed if line.startswith("+") and not line.startswith("+++")]
    assert 0 < len(added) <= 10
    assert abs(len(second) - len(first)) <= 3


@pytest.mark.parametrize(
    ("name", "allowed"),
    [(NAMES[0], {"bellmax.envs"}), (NAMES[1], {"bellmax.envs", "bellmax.losses"})],
)
def test_imports_only_the_loss_besides_the_environment(name, allowed):
    tree = ast.parse((EXAMPLES / f"{name}.py").read_text())
    froms = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    plain = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert {module for module in froms | plain if module.startswith("bellmax")} == allowed


def test_readme_shows_the_difference():
    first, second = ((EXAMPLES / f"{name}.py").read_text().splitlines() for name in NAMES)
    diff = list(difflib.unified_diff(first, second, *(f"{n}.py" for n in NAMES), lineterm="", n=0))
    readme = (EXAMPLES / "README.md").read_text()
    missing = [line for line in diff if line[:1] in "+-" and line not in readme.splitlines()]
    assert not missing
