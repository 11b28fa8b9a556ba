"""`bellmax train` from end to end: the files written, and reading them back."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml

from bellmax import UserError
from bellmax.agents import ActInput
from bellmax.launch.cli import main
from bellmax.launch.config.run_config import load
from bellmax.launch.reporting.metrics import read_metrics
from bellmax.launch.studies.evaluate import describe_evaluation, evaluate_run
from bellmax.launch.training.checkpoints import Checkpoints
from bellmax.launch.training.experiment import build
from bellmax.launch.training.loop import next_stop
from bellmax.launch.training.policy import load_policy

CONFIG = """
steps: 1200
warmup_steps: 80
log_every: 200
evaluate_every: 400
evaluation_episodes: 3
evaluation_max_steps: 60
checkpoint_every: 400
agent: {name: munchausen_dqn, batch_size: 8, max_gradient_norm: 10, network: {hidden: [8]}}
env: {name: bellmax/CartPole, num_envs: 4, normalise_observations: true}
replay: {capacity: 400, prioritised: true}
"""
TRAIN = {"kind", "step", "seed", "env_steps", "gradient_steps", "episodes", "episode_return"}
TRAIN |= {
    "episode_length",
    "loss",
    "q_value",
    "gradient_norm",
    "learning_rate",
    "epsilon",
    "timing",
}
EVALUATION = {"kind", "step", "seed", "episode_return", "episode_return_min", "episode_return_max"}
EVALUATION |= {"episode_length", "episodes", "cut_episodes"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of three seeds with every logger that needs no account."""
    folder = tmp_path_factory.mktemp("train")
    (folder / "small.yaml").write_text(CONFIG)
    options = ["--seeds", "3", "--seed", "5", "--tensorboard"]
    assert train(folder / "small.yaml", folder / "run", *options) == 0
    return folder / "run"


def train(source, out, *options):
    return main(["train", str(source), "--out", str(out), *options])


def rows(run):
    return [{key: row[key] for key in row if key != "timing"} for row in read_metrics(run)]


def test_a_run_leaves_all_that_it_should(run):
    names = {path.name for path in run.iterdir()}
    assert names == {
        *("config.yaml", "versions.json", "metrics.jsonl", "tensorboard", "checkpoints"),
        *("policy", "curve.png", "curve.svg"),
    }
    versions = json.loads((run / "versions.json").read_text())
    assert versions["jax"] == jax.__version__ and versions["platform"] == "cpu"
    assert {"bellmax", "python", "numpy", "flax", "devices"} <= versions.keys()
    names = [f"seed-{seed}.msgpack" for seed in (5, 6, 7)]
    for folder in (run / "policy", run / "policy" / "best"):
        policies = sorted(folder.glob("*.msgpack"))
        assert [path.name for path in policies] == names and (folder / "config.yaml").is_file()
        assert len({path.read_bytes() for path in policies}) == 3
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))
    assert (run / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert Checkpoints(run / "checkpoints", keep=2, read_only=True).latest() == 1200


def test_metrics_have_the_columns_that_are_promised(run):
    written = read_metrics(run)
    stops = [80 + 4, *range(200, 1201, 200)]
    for seed in (5, 6, 7):
        trained = [r for r in written if r["kind"] == "train" and r["seed"] == seed]
        assert [row["step"] for row in trained] == stops
        assert all(row.keys() == TRAIN for row in trained)
        assert [row["gradient_steps"] for row in trained] == [(s - 80) // 4 for s in stops]
        assert all(row["env_steps"] <= row["step"] and row["loss"] > 0 for row in trained)
        evaluated = [r for r in written if r["kind"] == "evaluation" and r["seed"] == seed]
        assert [row["step"] for row in evaluated] == [400, 800, 1200]
        assert all(row.keys() == EVALUATION and row["episodes"] == 3 for row in evaluated)
    losses = [row["loss"] for row in written if row["kind"] == "train" and row["step"] == 1200]
    assert len(set(losses)) == 3


@pytest.mark.parametrize(
    ("period", "size", "stops"),
    [
        (50_000, 32, [1562, 3125, 4688]),  # 3125 is the first of 100,000 as well
        (100_000, 32, [3125, 6250]),
        (10, 4, [2, 5, 8, 10]),
        (8, 4, [2, 4, 6]),
        (3, 8, [1, 2, 3]),
    ],
)
def test_stops_are_nearest_to_multiples_of_their_period(period, size, stops):
    taken, found = 0, []
    for _ in stops:
        taken = next_stop(taken, period, size)
        found.append(taken)
        assert next_stop(taken - 1, period, size) == taken  # seen from any rollout before it
    assert found == stops


def test_show_config_of_a_run_is_its_file(run, capsys):
    assert main(["show-config", str(run)]) == 0
    shown = capsys.readouterr().out
    assert shown == (run / "config.yaml").read_text() and yaml.safe_load(shown)["seeds"] == 3


@pytest.mark.slow
def test_the_config_of_a_run_gives_the_same_run_and_a_seed_alone_too(run, tmp_path):
    assert train(run / "config.yaml", tmp_path / "again", "--tensorboard", "false") == 0
    assert rows(tmp_path / "again") == rows(run)
    alone = ["--seed", "6", "--seeds", "1", "--tensorboard", "false"]
    assert train(run / "config.yaml", tmp_path / "alone", *alone) == 0
    one = rows(tmp_path / "alone")
    many, other = ([row for row in rows(run) if row["seed"] == seed] for seed in (6, 7))
    assert [row.keys() for row in one] == [row.keys() for row in many]
    # Equal up to rounding, which learning amplifies, so only the rows of the first 30 updates.
    learned = ("loss", "q_value", "gradient_norm")
    about = {key: pytest.approx(one[0][key], rel=1e-4) for key in learned}
    assert many[0] == one[0] | about
    assert other[0]["loss"] != about["loss"] and other[0]["q_value"] != about["q_value"]


def test_evaluation_is_that_of_training_and_load_policy_acts_by_it(run, capsys, monkeypatch):
    best = Checkpoints(run / "checkpoints", keep=2, read_only=True).best()
    at_best = {r["seed"]: r for r in rows(run) if r["kind"] == "evaluation" and r["step"] == best}
    lines = describe_evaluation(evaluate_run(run, 3, "best"))
    for line, seed in zip(lines, (5, 6, 7), strict=False):
        assert f"seed {seed}: mean return {at_best[seed]['episode_return']:.2f} (" in line
        assert "3 episodes" in line and f"at step {best:,}" in line
    assert lines[-1].startswith("mean over 3 seeds: ")
    assert main(["evaluate", str(run), "--episodes", "3", "--checkpoint", str(best)]) == 0
    assert capsys.readouterr().out.splitlines() == lines
    experiment = build(load(run))
    checkpoints = Checkpoints(run / "checkpoints", keep=2, read_only=True)
    state = checkpoints.restore(1200, experiment.abstract_state())
    seen = jax.random.normal(jax.random.key(0), (50, 4))
    for i, seed in enumerate((5, 6, 7)):
        learner, statistics = jax.tree.map(
            lambda x, i=i: x[i] if x.ndim else x, (state.learner, state.env.statistics)
        )
        scale = np.sqrt(np.asarray(statistics.variance) + 1e-8)
        normal = np.clip((seen - statistics.mean[None]) / scale[None], -10, 10)
        memory, first = experiment.agent.initial_memory(50), jax.numpy.zeros(50, bool)
        params = experiment.agent.actor_params(learner)
        inputs = ActInput(normal, memory, first, jax.random.key(9), jax.numpy.int32(0))
        expected = experiment.agent.act(params, inputs, evaluate=True).action
        policy = load_policy(run, seed)
        assert policy.initial_memory(50) == ()
        action, memory = policy.act(seen, (), first, jax.random.key(0))
        np.testing.assert_array_equal(action, expected)
        assert memory == ()
    seen = seen, (), first, jax.random.key(0)
    actions = [load_policy(run, seed).act(*seen)[0] for seed in (None, 5)]
    np.testing.assert_array_equal(*actions)
    with pytest.raises(UserError, match="no policy .*seed-8"):
        load_policy(run, 8)


def test_a_damaged_policy_is_one_sentence(run, tmp_path):
    (tmp_path / "policy").mkdir()
    (tmp_path / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    (tmp_path / "policy" / "seed-5.msgpack").write_bytes(b"\xff")
    with pytest.raises(UserError, match="seed-5.msgpack is damaged; `bellmax resume .*` writes it"):
        load_policy(tmp_path)


# (arguments, words of the sentence) for folders without a run, or with an incomplete one.
NO_RUN = [
    ("evaluate nothing", "there is no run nothing"),
    ("plot empty", "empty is not a run: it has no config.yaml"),
    ("resume empty", "empty is not a run: it has no config.yaml"),
    ("evaluate bare", "there is no intact checkpoint in"),
    ("evaluate bare --checkpoint best", "no checkpoint of bare has an evaluation"),
    ("evaluate bare --checkpoint 7", "there is no checkpoint 7 in"),
    ("plot bare", "there is no metrics.jsonl in bare"),
    ("train bare/config.yaml --out sealed/run", "no permission to write in"),
    ("train bare/config.yaml --out full", "full is not empty; name a new folder"),
    ("train bare/config.yaml --out new --replay.capacity 2147483000", "replay.memory_fraction"),
    ("train bare/config.yaml --out new --env.name gymnax/X", '[gymnax]"'),
]


@pytest.mark.parametrize(("arguments", "said"), NO_RUN)
def test_what_cannot_work_is_one_sentence(tmp_path, capsys, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "gymnax", None)  # as if not installed
    monkeypatch.setattr("os.access", lambda path, mode: "sealed" not in str(path))
    monkeypatch.setattr(
        "bellmax.launch.training.experiment._free_memory", lambda _: (10**9, "this machine")
    )
    for name in ("empty", "bare", "full", "sealed"):
        Path(name).mkdir()
    Path("full/notes").touch()
    Path("bare/config.yaml").write_text(CONFIG)
    assert main(arguments.split()) == 2
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1 and said in captured.err, captured.err
    assert not Path("new").exists() and not Path("sealed/run").exists()
