"""Every script of benchmarks/ and examples/ says what it takes, and runs with --small."""

import contextlib
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import arguments
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
import timing

from bellmax.launch.cli import main
from helpers.compiling import compiles_soon

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
FILES = [*ROOT.glob("benchmarks/*.py"), *ROOT.glob("examples/**/*.py")]
SCRIPTS = sorted(p for p in FILES if '__name__ == "__main__"' in p.read_text())
# What a small run must print, of those that take a few seconds.
FAST = {
    "collect_wheels": r"pip wheel .*brax.*\n[\s\S]*pip install --no-index --find-links wheels",
    "quantile": r"\| 11 \| 33 \|.*\d",
    "dqn_single_file": r"greedy return over 100 episodes: \d",
}
# The same of those that take longer.
SLOW = {
    "actor_critic": r"\| expectrl, auto with 4 heads \| [\d,.]+ \|",
    "cartpole": r"[01] of 1 seeds reach 475",
    "checkpoints": r"\| frames \| [\d.]+ \| [\d.]+ \| policy \| [\d.]+ \|",
    "curiosity": r"\| NoisyGrid, noise \| `rnd` \|.*\d",
    "exploration": r"\| `count_bonus` \| \d of 2",
    "frontier": r"\| bond \| the policy \|",
    "grid": r"\| each \| 2 \| 2 \| [\d.]+ \|",
    "host": r"\| bellmax, 1 environment \| [\d,.]+ \|",
    "host_learning": r"\| CartPole-v1 \| munchausen_dqn \| 1,600 \| \d+, \d+ \|",
    "implicit_quantile": r"\| bellmax \| [\d.]+ \| [\d.]+ \|",
    "losses": r"\| q_learning \|.*\d",
    "minatar": r"\| `va` \| [\d.]+ \[",
    "munchausen_single_file": r"greedy return over 100 episodes: \d",
    "on_policy": r"\| `on_policy/deepsea` \| [\d,.]+ \|",
    "operations": r"\| matrix products.*%",
    "overestimation": r"\| run \| -?\d",
    "replay": r"\| cartpole \| prioritised \| 2 \|.*\d",
    "soak": r"\| lost steps \| 0 \|",
    "speed": r"\| bellmax \| 2 \| [\d,.]+ \|",
    "startup": r"\| warm \| [\d.]+ \(",
    "tabular": r"contraction: \d+ s",
    "train": r"dpo seed 2: reward [\d.]+",
    "windows": r"\| run \| [\d.]+ \[",
}
# Small runs take place in this process, because importing jax in another one takes most of the time
# of many. This one runs in a process, as a user starts it, because it ends itself by a signal.
ALONE = ("soak",)
# Those whose runs are trained in processes of their own too; other scripts train with the same
# function, and their runs take place in this process.
TRAINED_ALONE = ("windows",)
# Those that need another project: the module, and what a small run prints with it.
PEERS = {
    "aot": ("libtpu", r"\| munchausen_dqn|\| dqn/cartpole"),
    "learner": ("haiku", r"\| DQN Zoo's \|"),
    "rejax_dqn": ("rejax", "done"),
    "sbx_host": ("sbx", "done"),
    "sbx_learning": ("sbx", r"400 \d"),
    "sbx_td3": ("sbx", "done"),
}


@pytest.fixture(autouse=True)
def as_for_users(monkeypatch, tmp_path, tmp_path_factory):
    """In an empty folder, with imports from the script's own, as Python has it for a script.

    What a script changes is put back; child processes have the import path and compile quickly.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("go\n"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("scratch")))
    monkeypatch.setattr("bellmax.launch.distributed.devices.configure_jax", lambda **_: None)
    known = set(sys.modules)
    with mock.patch.dict(os.environ), jax.numpy_rank_promotion("allow"), compiles_soon():
        os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # compiling takes the time
        yield
    for name in sys.modules.keys() - known:  # examples are no package, and their names are common
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(EXAMPLES)):
            del sys.modules[name]


def load(path, monkeypatch):
    monkeypatch.syspath_prepend(path.parent)
    spec = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def named(table):
    return [path for path in SCRIPTS if path.stem in table]


def by_stem(path):
    return path.stem


def train_here(words, log):
    """`runs.bellmax` in this process."""
    with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        return main(words)


def run_here(path, monkeypatch, capsys, *words):
    """The output of a script in this process; it must leave nothing in the current folder."""
    load(path, monkeypatch).main(["--small", *words])
    assert not list(Path.cwd().iterdir())
    return capsys.readouterr().out


def run_alone(path):
    """The same of a script in a process, as a user starts it."""
    command = [sys.executable, str(path), "--small"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert not list(Path.cwd().iterdir())
    return ended.stdout


def test_each_script_has_a_small_run_that_is_tested():
    known = [*FAST, *SLOW, *PEERS]
    assert sorted(known) == sorted(path.stem for path in SCRIPTS)


@pytest.mark.parametrize("path", SCRIPTS, ids=by_stem)
def test_help_names_the_small_run(path, monkeypatch, capsys):
    module = load(path, monkeypatch)
    with pytest.raises(SystemExit) as stopped:
        module.main(["--help"])
    assert stopped.value.code == 0 and "--small" in capsys.readouterr().out


@pytest.mark.parametrize("path", named(FAST), ids=by_stem)
def test_a_small_run(path, monkeypatch, capsys):
    assert re.search(FAST[path.stem], run_here(path, monkeypatch, capsys))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Rlax categorical_cross_entropy:PendingDeprecationWarning")
@pytest.mark.filterwarnings("ignore:invalid value encountered in divide")  # returns are 0
@pytest.mark.filterwarnings("ignore:The BCa confidence interval cannot be calculated")
@pytest.mark.parametrize("path", named(set(SLOW) - set(ALONE)), ids=by_stem)
def test_a_longer_small_run(path, monkeypatch, capsys):
    if path.stem not in TRAINED_ALONE:
        monkeypatch.setattr(runs, "bellmax", train_here)
    assert re.search(SLOW[path.stem], run_here(path, monkeypatch, capsys))


@pytest.mark.slow
@pytest.mark.parametrize("path", named(ALONE), ids=by_stem)
def test_a_small_run_of_a_process(path):
    assert re.search(SLOW[path.stem], run_alone(path))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words", "found"),
    [
        ("host", ["atari"], r"\| 2, nature, 2 actors \| [\d,.]+ \|"),
        ("host", ["hopper"], r"\| bellmax, 8 environments, lock-step \| [\d,.]+ \|"),
        ("speed", ["--ablate"], r"\| whole session \|"),
        ("speed", ["--agent", "pqn"], r"\| bellmax \| cartpole \| 2 \| [\d,.]+ \|"),
        ("startup", ["--imports"], r"\d s +bellmax"),
        ("startup", ["--losses"], r"\d s \("),
        ("tabular", ["advantage", "distributions"], r"### fresh windows"),
    ],
)
def test_the_other_modes_of_a_script_are_small_too(name, words, found, monkeypatch, capsys):
    path = ROOT / f"benchmarks/{name}.py"
    assert re.search(found, run_here(path, monkeypatch, capsys, *words))


@pytest.mark.slow
def test_checkpoints_of_a_preset_are_measured_too(monkeypatch, capsys, tmp_path_factory):
    """What the script starts a process for, with the state of a preset."""
    script = load(ROOT / "benchmarks/checkpoints.py", monkeypatch)
    folder = tmp_path_factory.mktemp("checkpoints") / "states"
    for what in ("save", "restore", "policy"):
        script.main(["--one", "cartpole", what, "--folder", str(folder)])
        row = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert row["disk"] > 0 and row["seconds"] > 0, what


@pytest.mark.parametrize("path", named(PEERS), ids=by_stem)
def test_without_the_other_project_a_sentence_says_how_to_install_it(path, monkeypatch, capsys):
    module, found = PEERS[path.stem]
    missing = importlib.util.find_spec(module) is None
    script = load(path, monkeypatch)
    monkeypatch.setattr(sys, "argv", [str(path)])
    if not missing:
        script.main(["--small"])
        assert re.search(found, capsys.readouterr().out)
        return
    with pytest.raises(SystemExit) as stopped:
        script.main(["--small"])
    said = f"{stopped.value.code}{capsys.readouterr().err}"
    assert "pip install" in said and module in said and "Traceback" not in said


@pytest.mark.parametrize("returned", [None, 3, True, np.float32(7), jnp.ones(3), [1.0]])
def test_only_a_float_is_the_time_that_a_side_measured_itself(returned):
    seconds = timing.alternate({"a": lambda: returned, "b": lambda: 2.5}, 3)
    assert seconds["b"] == [2.5] * 3 and all(0 <= each < 1 for each in seconds["a"])


def test_what_is_given_overrides_the_small_sizes():
    def parser():
        made = arguments.argparse.ArgumentParser()
        made.add_argument("--rounds", type=int, default=9)
        made.add_argument("--steps", type=int, default=7)
        made.add_argument("--out", type=Path, default=Path("docs"))
        return made

    small = {"rounds": 1, "steps": 2, "out": arguments.SCRATCH}
    plain = arguments.parse(parser(), [], **small)
    assert (plain.rounds, plain.steps, plain.out, plain.small) == (9, 7, Path("docs"), False)
    found = arguments.parse(parser(), ["--steps", "5", "--small"], **small)
    assert (found.rounds, found.steps) == (1, 5) and found.out.is_dir()
