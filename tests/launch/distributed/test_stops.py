"""A signal to a host run: it is saved, and a resumed run does what was due."""

import json
import re
import signal
from pathlib import Path

import pytest

from bellmax.envs.host import HostVector
from bellmax.launch.cli import main
from bellmax.launch.runners.host_evaluation import HostEvaluator
from bellmax.launch.runners.host_runner import HostRunner
from helpers.runs import checkpoints, rows


def metrics(run: Path):
    """Metrics of the checkpoints by step; None without a metric."""
    paths = {step: run / "checkpoints" / str(step) for step in checkpoints(run).steps()}
    files = {step: path / "metrics" / "metrics" for step, path in paths.items()}
    return {
        step: json.loads(file.read_text())["metric"] if file.exists() else None
        for step, file in files.items()
    }


def evaluations(run):
    return [row["step"] for row in rows(run, "evaluation")]


@pytest.mark.slow
@pytest.mark.parametrize("at", [800, 1200])
def test_resume_repeats_an_evaluation_that_a_signal_ended(lines, monkeypatch, capsys, at):
    play, step, steps = HostEvaluator.__call__, HostVector.step, []

    def interrupted(self, *arguments):
        if int(arguments[3]) == at:  # of parameters, statistics, seeds, step and points
            signal.raise_signal(signal.SIGTERM)
            monkeypatch.setattr(HostVector, "step", lambda *x: steps.append(1) or step(*x))
        return play(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(HostEvaluator, "__call__", interrupted)
        lock_step = ["--host.lock-step", "--host.actors", "1"]
        assert main(["train", "run.yaml", "--out", "run", *lock_step]) == 143
    assert f"stopped; checkpoint {at} is written" in capsys.readouterr().out and not steps
    run = lines / "run"
    assert evaluations(run) == ([] if at == 800 else [800])
    assert checkpoints(run).latest() == at and metrics(run)[at] is None
    assert main(["resume", "run", "--trust"]) == 0
    assert evaluations(run) == [800, 1200]
    assert metrics(run) == {r["step"]: r["episode_return"] for r in rows(run, "evaluation")}


@pytest.mark.parametrize("at", [800, 1200])
def test_a_signal_before_an_evaluation_that_is_due_does_not_cost_it(lines, monkeypatch, at):
    advance = HostRunner.advance

    def interrupted(self, *arguments):
        state, interval = advance(self, *arguments)
        if int(state.vector_steps) * 4 == at:
            signal.raise_signal(signal.SIGTERM)
        return state, interval

    with monkeypatch.context() as patch:
        patch.setattr(HostRunner, "advance", interrupted)
        assert main(["train", "run.yaml", "--out", "run"]) == 143
    run = lines / "run"
    assert checkpoints(run).latest() == at and at not in evaluations(run)
    assert main(["resume", "run", "--trust"]) == 0
    assert evaluations(run) == [800, 1200] and None not in metrics(run).values()
    assert main(["evaluate", "run", "--trust", "--episodes", "2", "--checkpoint", "best"]) == 0
    # Nothing is due, so a resume changes nothing.
    before = (run / "metrics.jsonl").read_text()
    assert main(["resume", "run", "--trust"]) == 0 and (run / "metrics.jsonl").read_text() == before


def test_an_evaluation_that_was_logged_is_not_played_again(lines, monkeypatch):
    """A kill may happen between writing the log's row and the checkpoint's metric."""
    score = "bellmax.launch.training.checkpoints.Checkpoints.score"
    with monkeypatch.context() as patch:
        patch.setattr(score, lambda *_: None)
        assert main(["train", "run.yaml", "--out", "run"]) == 0
    run = lines / "run"
    assert set(metrics(run).values()) == {None}
    with monkeypatch.context() as patch:
        patch.setattr(HostEvaluator, "__call__", lambda *_: pytest.fail("it was played again"))
        assert main(["resume", "run", "--trust"]) == 0
    assert evaluations(run) == [800, 1200]
    assert metrics(run)[1200] == rows(run, "evaluation")[-1]["episode_return"]


def test_faults_of_evaluations_are_reported_and_those_of_training_survive_a_resume(lines, capsys):
    words = ["train", "run.yaml", "--env.name", "lines:Shaky", "--out", "run"]
    assert main(words) == 0
    out, run = capsys.readouterr().out, lines / "run"
    (row, _) = rows(run, "evaluation")
    assert row["restarts"] == 2 * 30 // 5  # of two environments that play 30 steps
    assert "2 of 2 episodes cut, restarts 12\n" in out
    reason = r"an environment broke and was recreated: \w+: .* \(lines.py, line \d+\);"
    assert len(re.findall(reason, out)) == 1
    before = rows(run, "train")[-1]
    assert main(["resume", "run", "--trust", "--steps", "1600"]) == 0
    after = rows(run, "train")[-1]
    rate = before["restarts_raised"] / before["step"]
    assert after["restarts_raised"] > before["restarts_raised"] + 0.8 * rate * 400
    assert main(["evaluate", "run", "--trust", "--episodes", "2"]) == 0
    assert "restarts of environments that broke" in capsys.readouterr().out
