"""An exported policy acts as the run's own, in a Python that has no bellmax."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml

import bellmax
from bellmax import UserError
from bellmax.launch.cli import main
from bellmax.launch.config.run_config import load
from bellmax.launch.studies.export import make_plain
from bellmax.launch.training.experiment import build
from bellmax.launch.training.policy import save_policies
from helpers.marked import some_slow

N = 1_000
# Runs that are not trained: their policies are what their first parameters give.
RUNS = {
    "discrete": "agent: {name: dqn, network: {hidden: [8]}}\nenv: {name: bellmax/CartPole}",
    "quantiles of pixels": """
agent: {name: qr_dqn_retrace, num_quantiles: 3, network: {torso: nature, hidden: [8]}}
env: {name: bellmax/PixelCatch, num_envs: 2, frame_stack: 2}
replay: {capacity: 200}
""",
    "advantages": "agent: {name: va_learning, network: {hidden: [8]}}\nenv: {name: bellmax/Catch}",
    "continuous": """
agent: {name: td3, network: {hidden: [8]}}
env: {name: bellmax/Pendulum, normalise_observations: true}
""",
    "recurrent": """
rollout_length: 5
updates_per_rollout: 8
agent:
  name: byol_explore
  batch_size: 8
  network: {hidden: [8], latent_size: 4, memory_size: 6, head_hidden: []}
env: {name: bellmax/Catch, num_envs: 8}
""",
}


def write_run(folder, text):
    """Write a run's folder with the policies of the first parameters."""
    folder.mkdir()
    (folder / "config.yaml").write_text(f"seeds: 2\nsteps: 5000\n{text}")
    experiment = build(load(folder, trust=True))
    save_policies(experiment, experiment.init(), folder / "policy", 0)
    return folder


class Runs(dict):
    """Folders of runs by name, each written when it is asked for."""

    def __init__(self, folder):
        self.folder = folder

    def __missing__(self, name):
        self[name] = write_run(self.folder / name, RUNS[name])
        return self[name]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("runs"))


def observations(run):
    """N random observations of a run's task."""
    spec, generator = build(load(run)).observation, np.random.default_rng(1)
    if spec.dtype == np.uint8:
        return generator.integers(0, 256, (N, *spec.shape), np.uint8)
    return generator.normal(size=(N, *spec.shape)).astype(np.float32)


def plain_memory(policy, count):
    """Zeros for the memory that an exported policy takes."""
    (_, memory, _), _ = jax.tree.unflatten(policy.in_tree, policy.in_avals)
    return {name: np.zeros((count, *x.shape[1:]), x.dtype) for name, x in memory.items()}


def assert_same_actions(run, policy, seed=0):
    """Compare two steps of N environments; the second begins new episodes in a third of them."""
    own, seen = bellmax.load_policy(run, seed), observations(run)
    memories = own.initial_memory(N), plain_memory(policy, N)
    for is_first in (np.ones(N, bool), np.arange(N) % 3 == 0):
        action, ours = own.act(seen, memories[0], is_first)
        theirs, plain = policy.call(seen, memories[1], is_first)
        memories = ours, plain
        if np.issubdtype(theirs.dtype, np.integer):
            np.testing.assert_array_equal(action, theirs)
            assert len(np.unique(action)) > 1
        else:
            np.testing.assert_allclose(action, theirs, rtol=1e-5, atol=1e-6)
            assert np.std(action) > 1e-4
        seen = seen[::-1]


@pytest.mark.parametrize("name", some_slow(list(RUNS), ("quantiles of pixels", "advantages")))
def test_a_stablehlo_file_acts_as_the_policy_on_a_thousand_observations(name, runs, capsys):
    out = bellmax.load_run(runs[name]).export(seed=1)
    assert out == runs[name] / "policy.stablehlo"
    policy = jax.export.deserialize(bytearray(out.read_bytes()))
    assert_same_actions(runs[name], policy, seed=1)
    assert policy.platforms == ("cpu", "cuda", "rocm", "tpu")
    memory = [*plain_memory(policy, 1)]
    assert memory == (["actor/action", "actor/belief"] if name == "recurrent" else [])
    assert policy.in_avals[0].dtype == build(load(runs[name])).observation.dtype
    for count in (1, 3):  # the batch is symbolic
        shape = count, *policy.in_avals[0].shape[1:]
        seen = np.zeros(shape, policy.in_avals[0].dtype)
        action, _ = policy.call(seen, plain_memory(policy, count), np.ones(count, bool))
        assert action.shape[0] == count


# What docs/export.md shows, in a Python that does not have bellmax.
LOADER = """
import sys

try:
    import bellmax
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("there is bellmax here")

{snippet}
assert "flax" not in sys.modules
print(action.shape, action.dtype)
"""


def test_the_file_runs_where_bellmax_cannot_be_imported(runs, tmp_path):
    out = bellmax.load_run(runs["discrete"]).export(tmp_path / "policy.stablehlo")
    page = Path(__file__).parents[3] / "docs" / "guides" / "export.md"
    snippet = re.search(
        r"```python notest\n(.*?jax\.export\.deserialize.*?)```", page.read_text(), re.S
    )[1]
    (tmp_path / "load.py").write_text(LOADER.format(snippet=snippet))
    # Without PYTHONPATH and the current folder; the path has installed packages alone.
    found = subprocess.run(
        [sys.executable, "-I", "-S", "-c", isolated(tmp_path)],
        capture_output=True, text=True, timeout=120, cwd=out.parent,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == ["(8,)", "int32"]


def isolated(folder):
    """A program that sees installed packages but not bellmax, and runs load.py."""
    packages = [path for path in sys.path if "site-packages" in path]
    return f"""
import sys
sys.path += {packages!r}

class NoBellmax:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "bellmax":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NoBellmax())
exec(open("load.py").read())
"""


def test_the_command_says_what_the_inputs_are_and_how_many_actions_agree(runs, capsys):
    assert main(["export", str(runs["recurrent"]), "--seed", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "observation: float32 [N, 10, 5]",
        "memory/actor/belief: float32 [N, 6]",
        "memory/actor/action: int32 [N]",
        "is_first: bool [N]",
    ]
    assert lines[4] == "actions for random observations: 1,000 of 1,000 equal the policy's"
    assert "policy.stablehlo: policy of seed 0 at step 0" in lines[5]


def test_mistakes_are_sentences_and_write_nothing(runs, tmp_path, capsys, monkeypatch):
    run, before = str(runs["advantages"]), set(runs["advantages"].rglob("*"))
    cases = [
        (f"export {run} --format tflite", "--format must be one of stablehlo, onnx"),
        (f"export {run} --seed 7", "has no seed 7"),
        (f"export {run} --checkpoint 30", "no checkpoint"),
        (f"export {run} --out {tmp_path}", "is a folder; name a file"),
        ("export nowhere", "there is no run nowhere"),
    ]
    for line, part in cases:
        assert main(line.split()) == 2, line
        assert part in capsys.readouterr().err, line
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    assert main(["export", run, "--format", "onnx"]) == 2
    assert capsys.readouterr().err.endswith('[onnx]"\n')
    assert set(runs["advantages"].rglob("*")) == before
    with pytest.raises(UserError, match="format must be one of stablehlo, onnx, got 'pickle'"):
        bellmax.load_run(run).export(format="pickle")


def test_an_existing_file_is_replaced_whole(runs, monkeypatch):
    out = bellmax.load_run(runs["advantages"]).export()
    before = out.read_bytes()
    monkeypatch.setattr("bellmax.launch.distributed.files.os.fsync", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bellmax.load_run(runs["advantages"]).export(seed=1)
    assert out.read_bytes() == before


class Keeps:
    """An agent whose memory counts steps over all episodes, if `resets` is false."""

    def __init__(self, resets):
        self.resets = resets

    def initial_memory(self, count):
        return {"count": np.zeros(count, np.int32), "unused": np.ones((count, 2), np.float32)}

    def act(self, params, inputs, *, evaluate=False):
        count = inputs.memory["count"]
        if self.resets:
            count = count * ~inputs.is_first
        output = type("Output", (), {})()
        output.action, output.memory = count % 2, {**inputs.memory, "count": count + 1}
        return output


def test_a_memory_that_is_not_reset_is_refused_and_one_that_never_changes_is_left_out():
    spec = build(load("dqn/cartpole")).observation
    policy = make_plain(Keeps(True), ((), ()), spec)
    assert list(policy.inputs) == ["observation", "memory/count", "is_first"]
    with pytest.raises(UserError, match="an agent whose memory is reset by is_first"):
        make_plain(Keeps(False), ((), ()), spec)


def test_a_policy_that_draws_takes_a_key():
    class Draws(Keeps):
        def act(self, params, inputs, *, evaluate=False):
            output = super().act(params, inputs)
            output.action = jax.random.bernoulli(inputs.key, shape=inputs.is_first.shape)
            return output

    spec = build(load("dqn/cartpole")).observation
    policy = make_plain(Draws(True), ((), ()), spec)
    assert policy.draws and list(policy.inputs)[-1] == "key"


def test_code_that_a_run_names_needs_trust(runs, tmp_path, capsys):
    config = yaml.safe_load((runs["discrete"] / "config.yaml").read_text())
    (tmp_path / "run").mkdir()
    config["env"]["name"] = "os:system"
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["export", str(tmp_path / "run")]) == 2
    assert "must be trusted before its code is imported" in capsys.readouterr().err


needs_onnx = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("jax2onnx", "onnxruntime"))), reason="the extra onnx"
)


@needs_onnx
@pytest.mark.parametrize(
    "name", some_slow(list(RUNS), ("quantiles of pixels", "advantages", "continuous", "recurrent"))
)
def test_an_onnx_file_acts_as_the_policy_on_a_thousand_observations(name, runs, capsys):
    import onnxruntime

    run = runs[name]
    assert main(["export", str(run), "--format", "onnx"]) == 0
    assert "1,000 of 1,000" in capsys.readouterr().out or name == "continuous"
    session = onnxruntime.InferenceSession(str(run / "policy.onnx"))
    shapes = {one.name: one.shape for one in session.get_inputs()}
    own, seen = bellmax.load_policy(run), observations(run)
    memories = (
        own.initial_memory(N),
        {
            name: np.zeros((N, *shape[1:]), np.int32 if name.endswith("action") else np.float32)
            for name, shape in shapes.items()
            if name.startswith("memory/")
        },
    )
    assert len(memories[1]) == (2 if name == "recurrent" else 0)
    for is_first in (np.ones(N, bool), np.arange(N) % 3 == 0):
        action, ours = own.act(seen, memories[0], is_first)
        given = {"observation": seen, "is_first": is_first, **memories[1]}
        outputs = [one.name for one in session.get_outputs()]
        found = session.run(outputs, {k: x for k, x in given.items() if k in shapes})
        answers = dict(zip(outputs, found, strict=True))
        np.testing.assert_allclose(action, answers.pop("action"), rtol=1e-4, atol=1e-5)
        memories = ours, {n.replace("next/", "memory/"): x for n, x in answers.items()}
