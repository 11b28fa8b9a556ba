"""A run resumed from any checkpoint equals an uninterrupted one bit for bit."""

import fcntl
import os
import shutil

import jax
import numpy as np
import pytest

from bellmax.launch.cli import main
from bellmax.launch.config.run_config import load
from bellmax.launch.training.checkpoints import Checkpoints
from bellmax.launch.training.experiment import build
from bellmax.launch.training.train import check_resumable
from helpers.resumable import COMMON, CONFIGS, ON_POLICY
from helpers.runs import assert_same_run, bits, contents, rows, saved

ENDS = 1600
SETTINGS = f"""
steps: {ENDS}
evaluate_every: 800
checkpoint_every: 400
"""
# The ring is full at 1,000 steps: between the checkpoint that is resumed and the end.
CAPACITY = ["--replay.capacity", "1000"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return a function that trains a configuration without interruption and returns its folder."""
    folder, runs = tmp_path_factory.mktemp("resume"), {}

    def train(name):
        if name not in runs:
            source, runs[name] = folder / f"{name}.yaml", folder / name
            source.write_text(COMMON + SETTINGS + CONFIGS[name])
            options = [] if name in ON_POLICY else CAPACITY
            assert main(["train", str(source), "--out", str(runs[name]), *options]) == 0
        return runs[name]

    return train


def stopped_at(step, whole, run):
    """Copy a finished run, in the state after a kill some time after the checkpoint of `step`."""
    shutil.copytree(whole, run)
    for later in [s for s in saved(run)[0] if s > step]:
        shutil.rmtree(run / "checkpoints" / str(later))
    # That of the best evaluation stays: it was written at once.
    newest = [path for path in (run / "policy").iterdir() if path.is_file()]
    for path in (*newest, run / "curve.png", run / "curve.svg"):
        path.unlink()
    return run


# Two seeds, priorities and statistics of observations; the others differ in what their agents keep.
RUNS = ("dqn", "munchausen_dqn")


@pytest.mark.parametrize("name", RUNS)
def test_resumed_from_a_checkpoint_it_ends_bitwise_the_same(whole, tmp_path, capsys, name):
    undisturbed = whole(name)
    run = stopped_at(800, undisturbed, tmp_path / "run")
    assert saved(run)[0] == [400, 800] and rows(run)[-1]["step"] == ENDS
    capsys.readouterr()
    assert main(["resume", str(run)]) == 0
    out = capsys.readouterr().out
    assert "at step 800" in out and f"900/{ENDS:,}" in out
    assert saved(run)[0] == [400, 800, 1200, ENDS]
    state = assert_same_run(run, undisturbed)
    assert jax.tree.leaves(state.replay.storage.behaviour) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in RUNS])
def test_restored_into_a_fresh_experiment_it_ends_bitwise_the_same(tmp_path, name):
    source, checkpoints = tmp_path / "run.yaml", Checkpoints(tmp_path / "checkpoints", keep=2)
    source.write_text(COMMON + SETTINGS + CONFIGS[name])
    config = load(source, [] if name in ON_POLICY else CAPACITY)
    rollouts = ENDS // 2 // (config.env.num_envs * config.rollout_length)
    warmup = config.warmup_steps // (config.env.num_envs * config.rollout_length)
    experiment, fresh = build(config), build(config)
    state = experiment.init()
    advance = experiment.runner.compile(state)
    state, _ = advance(state, np.int32(warmup), np.int32(rollouts - warmup))
    checkpoints.save(800, state, metric=None, extra={})
    whole = advance(state, np.int32(0), np.int32(rollouts))
    step, state, warning = fresh.restore(checkpoints, None)
    assert (step, warning) == (800, None)
    again = fresh.runner.compile(state)(state, np.int32(0), np.int32(rollouts))
    assert int(again[0].vector_steps) == 2 * rollouts * config.rollout_length
    assert again[1].updates.min() > 0 and bool(again[1].finite.all())
    leaves = jax.tree_util.tree_leaves_with_path(whole)
    for (path, one), other in zip(leaves, jax.tree.leaves(again), strict=True):
        assert bits(one) == bits(other), jax.tree_util.keystr(path)
    replay = again[0].replay
    assert (not jax.tree.leaves(replay)) == (name in ON_POLICY)
    if name not in ON_POLICY:
        counts = {"qr_dqn_retrace": 1, "c51": 1, "recurrent": 2, "objective": 1}
        assert len(jax.tree.leaves(replay.storage.behaviour)) == counts.get(name, 0)
        assert len(jax.tree.leaves(replay.storage.action_mask)) == (name == "masked")


def test_a_finished_run_resumed_with_more_steps_equals_one_that_had_them(whole, tmp_path, capsys):
    undisturbed, run = whole("dqn"), tmp_path / "longer"
    run.mkdir()  # the state after a kill before the first checkpoint
    text = (undisturbed / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace(f"steps: {ENDS}", "steps: 800"))
    assert main(["resume", str(run)]) == 0
    assert f"{run} has no checkpoint yet: starting at step 0" in capsys.readouterr().out
    assert saved(run)[0] == [400, 800] and rows(run)[-1]["step"] == 800
    assert main(["resume", str(run), "--steps", str(ENDS)]) == 0
    assert_same_run(run, undisturbed)


CHANGES = [
    ("--agent.learning-rate 1e-3", "agent.learning_rate must be 0.0"),
    ("--env.num-envs 8", "env.num_envs must be "),
    ("--seed 3", "seed must be 0 as in "),
    ("--replay.capacity 3000", "replay.capacity must be "),
    ("--env.name bellmax/Catch", "env.name must be "),
    ("--steps 800", f"steps must be at least {ENDS}"),
]


@pytest.mark.parametrize(("change", "sentence"), CHANGES)
def test_what_cannot_change_is_one_sentence(whole, capsys, change, sentence):
    run = whole("dqn")
    before = contents(run)
    capsys.readouterr()
    assert main(["resume", str(run), *change.split()]) == 2
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1 and sentence in captured.err, captured.err
    assert contents(run) == before


RESUMABLE = [
    *("steps=3000", "log-every=70", "evaluate-every=90", "evaluation-episodes=3"),
    *("evaluation-max-steps=9", "checkpoint-every=0", "keep-checkpoints=3", "tensorboard"),
    "replay.memory-fraction=0.5",
]


@pytest.mark.parametrize("change", RESUMABLE)
def test_what_only_reports_and_saves_can_change(whole, change):
    run = whole("dqn")
    check_resumable(run, load(run, [f"--{change}"]))


def test_a_run_that_is_training_refuses_a_second_process(whole, capsys):
    run = whole("dqn")
    descriptor = os.open(run, os.O_RDONLY)  # the lock of a process that trains there
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    capsys.readouterr()
    try:
        assert main(["resume", str(run)]) == 2
    finally:
        os.close(descriptor)
    assert capsys.readouterr().err == (
        f"bellmax: another process is training in {run}; wait or stop it\n"
    )
