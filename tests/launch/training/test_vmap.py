"""Runs with `vmap`: every point of a grid is its run alone, in one program."""

import dataclasses
import re
import shutil

import jax
import numpy as np
import pytest

import bellmax
from bellmax import UserError
from bellmax.launch.cli import main
from bellmax.launch.config.run_config import load
from bellmax.launch.reporting.loggers import summarise
from bellmax.launch.reporting.plot import draw_runs
from bellmax.launch.studies.evaluate import as_json, describe_evaluation, evaluate_run
from bellmax.launch.training.experiment import build
from bellmax.launch.training.policy import load_policy
from helpers.runs import contents, rows, saved

CONFIG = """
steps: 480
warmup_steps: 80
log_every: 80
evaluate_every: 160
evaluation_episodes: 3
evaluation_max_steps: 60
checkpoint_every: 240
keep_checkpoints: 5
seeds: 2
seed: 3
agent: {name: munchausen_dqn, batch_size: 8, max_gradient_norm: 10, network: {hidden: [8]}}
env: {name: bellmax/CartPole, num_envs: 4, normalise_observations: true}
replay: {capacity: 400, prioritised: true}
"""
RATE, SOFT = "agent.learning_rate", "agent.temperature"
VARY = ["--vmap.agent.learning-rate", "1e-4,1e-2", "--vmap.agent.temperature", "0.03,0.3"]
POINTS = [{RATE: rate, SOFT: soft} for rate in (1e-4, 1e-2) for soft in (0.03, 0.3)]
NAMES = [f"learning_rate={p[RATE]},temperature={p[SOFT]}" for p in POINTS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vmap")
    (folder / "small.yaml").write_text(CONFIG)
    return folder


@pytest.fixture(scope="module")
def grid(folder):
    """A finished run of four points and two seeds."""
    assert main(["train", str(folder / "small.yaml"), "--out", str(folder / "grid"), *VARY]) == 0
    return folder / "grid"


@pytest.fixture(scope="module")
def alone(folder):
    """The run of the grid's last point alone."""
    values = [f"--{key}={value}" for key, value in POINTS[-1].items()]
    source, out = str(folder / "small.yaml"), folder / "alone"
    assert main(["train", source, "--out", str(out), *values]) == 0
    return out


def of_point(log, point):
    return [{k: v for k, v in row.items() if k != "vmap"} for row in log if row["vmap"] == point]


def test_rows_are_by_point_and_seed(grid):
    log = rows(grid)
    assert {(*row["vmap"].values(), row["seed"]) for row in log} == {
        (*point.values(), seed) for point in POINTS for seed in (3, 4)
    }
    for point in POINTS:
        mine = of_point(log, point)
        assert len(mine) == len(log) // 4
        assert {r["learning_rate"] for r in mine if r["kind"] == "train"} == {point[RATE]}
    losses = [row["loss"] for row in log if row["kind"] == "train" and row["step"] == 480]
    assert len(set(losses)) == 8


def test_a_point_is_its_run_alone(grid, alone):
    mine, theirs = of_point(rows(grid), POINTS[-1]), rows(alone)
    assert [row.keys() for row in mine] == [row.keys() for row in theirs]
    for one, other in zip(mine, theirs, strict=True):
        for name, value in other.items():
            if isinstance(value, float):
                assert one[name] == pytest.approx(value, rel=1e-4, abs=1e-5), (name, other["step"])
            else:
                assert one[name] == value, (name, other["step"])


def test_the_policy_of_a_point_is_that_of_its_run_alone(grid, alone):
    where = grid / "policy" / NAMES[-1]
    assert contents(where).keys() == contents(alone / "policy").keys()
    assert load(where) == load(alone / "policy")
    x, first = np.linspace(-1, 1, 20, dtype=np.float32).reshape(5, 4), np.ones(5, bool)
    found = [
        load_policy(grid, seed=4, point=POINTS[-1]),
        load_policy(grid, seed=4, point=NAMES[-1]),
        load_policy(where, seed=4),
        load_policy(alone, seed=4),
    ]
    values = [policy.values(x, (), first).q_values for policy in found]
    for each in values[:-1]:
        np.testing.assert_allclose(each, values[-1], rtol=1e-3, atol=1e-4)
    other = load_policy(grid, seed=4, point=POINTS[0]).values(x, (), first).q_values
    assert not np.allclose(other, values[-1], rtol=1e-2)


def test_one_program_trains_the_grid(folder):
    experiment = build(load(folder / "small.yaml", VARY))
    state = experiment.init()
    assert jax.tree.leaves(state.learner.params)[0].shape[0] == 8
    for _ in range(3):
        state, _ = experiment.runner.advance(state, np.int32(2), np.int32(1))
    assert experiment.runner.traces == [1]
    assert experiment.groups == [(p, [2 * i, 2 * i + 1]) for i, p in enumerate(POINTS)]


def test_a_resumed_grid_equals_an_uninterrupted_one(grid, tmp_path, capsys):
    run = shutil.copytree(grid, tmp_path / "run")
    shutil.rmtree(run / "checkpoints" / "480")
    assert saved(run)[0] == [240]
    assert main(["resume", str(run)]) == 0
    assert "resuming" in capsys.readouterr().out
    assert rows(run) == rows(grid)
    assert contents(run / "policy") == contents(grid / "policy")
    assert main(["resume", str(run), "--vmap.agent.temperature", "0.03"]) == 2
    assert "vmap.agent.temperature must be " in capsys.readouterr().err


def test_evaluate_plays_every_point_or_the_one_whose_folder_is_named(grid, alone):
    found = evaluate_run(grid, 2, seed=4)
    assert found.points == tuple(POINTS) and found.seeds.tolist() == [4] * 4
    theirs = evaluate_run(alone, 2, seed=4)
    np.testing.assert_allclose(found.episode_return[-1:], theirs.episode_return)
    one = evaluate_run(grid / "policy" / NAMES[-1], 2, "best")
    assert one.points == () and one.seeds.tolist() == [3, 4]
    lines = describe_evaluation(evaluate_run(grid, 2, 240))
    assert len(lines) == 12 and lines[0].startswith(f"{NAMES[0]}, seed 3: mean return ")
    assert lines[-1].startswith(f"{NAMES[3]}, mean over 2 seeds: ")
    assert [entry["vmap"] for entry in as_json(found)["seeds"]] == POINTS


def test_a_grid_without_checkpoints_plays_from_its_policies(grid, tmp_path):
    shutil.copytree(grid / "policy", tmp_path / "policy")
    shutil.copy(grid / "config.yaml", tmp_path)
    found, theirs = (evaluate_run(run, 2) for run in (tmp_path, grid))
    np.testing.assert_array_equal(found.episode_return, theirs.episode_return)


def test_what_needs_one_point_names_the_points(grid, capsys):
    assert main(["evaluate", str(grid), "--robust"]) == 2
    hint = f"its points are in {grid / 'policy'}: {', '.join(NAMES)}"
    sentence = f"RUN must be the folder of one point of vmap, got '{grid}'; {hint}"
    assert " ".join(capsys.readouterr().err.split()) == f"bellmax: {sentence}"
    with pytest.raises(UserError, match="RUN must be the folder of one point"):
        load_policy(grid)
    with pytest.raises(UserError, match=r"point must be one of learning_rate=0.0001,temp.*got"):
        load_policy(grid, point={RATE: 1.0})
    with pytest.raises(UserError, match="point must be left out, as .* has no vmap"):
        load_policy(grid / "policy" / NAMES[0], point=NAMES[0])


def test_curves_are_by_value(grid, alone):
    [axes] = draw_runs([grid]).axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    values = [f"learning_rate {p[RATE]}, temperature {p[SOFT]}" for p in POINTS]
    assert labels == [f"munchausen_dqn ({each}), 2 seeds" for each in values]
    [axes] = draw_runs([grid, alone]).axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[-1] == f"munchausen_dqn ({values[-1]}), 4 seeds" and len(labels) == 4


def test_python_has_a_column_for_each_key(grid):
    columns = bellmax.load_run(grid).metrics("evaluation")
    assert set(columns[RATE]) == {1e-4, 1e-2} and "vmap" not in columns


def test_loggers_have_a_name_for_each_point(grid):
    last = [r for r in rows(grid, "train") if r["step"] == 480]
    metrics = summarise(last)
    mine = [r["loss"] for r in last if r["vmap"] == POINTS[2]]
    assert metrics[f"train/loss/{NAMES[2]}"] == pytest.approx(np.mean(mine))
    assert metrics[f"train/loss_std/{NAMES[2]}"] == pytest.approx(np.std(mine))
    assert "train/loss" not in metrics and not [name for name in metrics if "vmap" in name]


def test_a_point_that_diverges_leaves_the_others_as_they_are(folder, tmp_path, capsys):
    """Without epsilon Adam divides 0 by 0 where a unit of the network has no gradient."""
    source, options = str(folder / "small.yaml"), ["--vmap.agent.adam-epsilon", "1e-60,1e-8"]
    options += ["--seeds=1", "--steps=320"]
    assert main(["train", source, "--out", str(tmp_path / "run"), *options]) == 0
    said = capsys.readouterr().out
    assert said.count("seed 3 at adam_epsilon=1e-60 is not finite at gradient step 1 (") == 1
    assert said.count("; the others continue") == 1
    log = rows(tmp_path / "run")
    bad, good = ([r for r in log if r["vmap"]["agent.adam_epsilon"] == e] for e in (1e-60, 1e-8))
    learned = [r for r in bad if r["step"] > 80]
    assert learned and all(r["episode_return"] is None for r in learned)
    assert all(r["loss"] is not None for r in good if r["kind"] == "train" and r["step"] > 80)
    best = tmp_path / "run" / "policy"
    assert not (best / "adam_epsilon=1e-60" / "best").exists()
    assert (best / "adam_epsilon=1e-08" / "best" / "seed-3.msgpack").exists()
    assert main(["resume", str(tmp_path / "run"), "--steps=400"]) == 0
    assert "not finite" not in capsys.readouterr().out
    last = [r for r in rows(tmp_path / "run", "evaluation") if r["step"] == 400]
    assert [r["episode_return"] is None for r in last] == [True, False]


@pytest.mark.slow
def test_all_points_that_diverge_end_the_run(folder, tmp_path, capsys):
    options = ["--vmap.agent.adam-epsilon", "1e-60,1e-61", "--seeds=1"]
    source = str(folder / "small.yaml")
    assert main(["train", source, "--out", str(tmp_path / "run"), *options]) == 1
    error = capsys.readouterr().err
    assert re.search("seed 3 at adam_epsilon=1e-60 is not finite at gradient step 1", error)


def test_a_number_that_the_agent_branches_on_is_refused(folder, tmp_path, capsys):
    """Variance weighting needs a target rate of 1 and asks for it, which a traced value cannot."""
    options = ["--agent.variance-weighting", "--vmap.agent.target-rate", "1,0.5"]
    source = str(folder / "small.yaml")
    assert main(["train", source, "--out", str(tmp_path / "run"), *options]) == 2
    assert " ".join(capsys.readouterr().err.split()) == (
        "bellmax: vmap must be of numbers that no branch and no shape of this agent depends on, "
        "got 'agent.target_rate'; `bellmax sweep` trains a run for each value"
    )


def test_a_vmap_of_one_value_is_a_point(folder):
    config = load(folder / "small.yaml", ["--vmap.agent.temperature", "0.03"])
    experiment = build(config)
    assert experiment.points == [{SOFT: 0.03}] * 2 and experiment.seeds == [3, 4]
    assert dataclasses.replace(config, vmap={}).agent.temperature == 0.03
