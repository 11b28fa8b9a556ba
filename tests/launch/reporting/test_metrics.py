"""Metrics survive kills, broken sinks and resumes, and come back exactly."""

import json
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import UserError
from bellmax.launch.reporting import metrics
from bellmax.launch.reporting.metrics import MetricsLog, read_metrics


def open_log(folder, **changes):
    options = dict(tensorboard=False, wandb=None, config={}, resume_step=None)
    return MetricsLog(folder, **{**options, **changes})


def row(step, seed=0, **more):
    return {"kind": "train", "step": step, "seed": seed, **more}


def test_floats_come_back_exactly_and_what_is_not_finite_is_null(tmp_path):
    value = np.float32(0.1)
    with open_log(tmp_path) as log:
        log.write(row(1, loss=value, q=jnp.float32(1 / 3), bad=float("nan"), worse=np.inf))
        log.write(row(jnp.int32(2), timing={"seconds": np.float64(0.25), "rate": np.inf}))
    first, second = read_metrics(tmp_path)
    assert np.float32(first["loss"]) == value and np.float32(first["q"]) == np.float32(1 / 3)
    assert first["bad"] is None and first["worse"] is None
    assert second == row(2, timing={"seconds": 0.25, "rate": None})


def test_a_row_is_in_the_file_as_soon_as_it_is_written(tmp_path):
    log = open_log(tmp_path)
    log.write(row(1))
    assert read_metrics(tmp_path) == [row(1)]
    log.close()


@pytest.mark.parametrize(
    "torn", ['{"kind": "tra', '{"kind": "train", "step": 30, "loss": 0.', "\0"]
)
def test_a_torn_last_line_is_left_out(tmp_path, torn):
    with open_log(tmp_path) as log:
        log.write(row(10))
    with (tmp_path / metrics.FILE).open("a") as file:
        file.write(torn)
    assert read_metrics(tmp_path) == [row(10)]
    with open_log(tmp_path, resume_step=10) as log:
        log.write(row(20))
    assert read_metrics(tmp_path) == [row(10), row(20)]


def test_resume_drops_later_rows(tmp_path):
    with open_log(tmp_path) as log:
        for step in (10, 20, 30):
            for seed in (0, 1):
                log.write(row(step, seed, loss=0.1 * step))
    before = (tmp_path / metrics.FILE).read_text().splitlines()
    with open_log(tmp_path, resume_step=20):
        pass
    assert (tmp_path / metrics.FILE).read_text().splitlines() == before[:4]
    assert list(tmp_path.iterdir()) == [tmp_path / metrics.FILE]


def test_a_fresh_log_starts_afresh(tmp_path):
    with open_log(tmp_path) as log:
        log.write(row(1))
    open_log(tmp_path).close()
    assert read_metrics(tmp_path) == []


def test_damage_in_the_middle_is_named(tmp_path):
    (tmp_path / metrics.FILE).write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
    with pytest.raises(UserError, match="line 2 of"):
        read_metrics(tmp_path)


def test_no_metrics_is_an_error_for_the_user(tmp_path):
    with pytest.raises(UserError, match="there is no metrics.jsonl"):
        read_metrics(tmp_path / "nowhere")


def test_a_folder_that_cannot_be_made_is_an_error_for_the_user(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        open_log(tmp_path / "file" / "run")


def test_missing_wandb_says_what_to_install_before_touching_the_run(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r'pip install "bellmax\[wandb\]"'):
        open_log(tmp_path, wandb="project")
    assert not list(tmp_path.iterdir())


class FakeRun:
    id = "abc"

    def __init__(self, options):
        self.options, self.rows, self.broken = options, [], False

    def define_metric(self, *_, **__):
        pass

    def log(self, scalars):
        if self.broken:
            raise ConnectionError("no network")
        self.rows.append(scalars)

    def finish(self):
        pass


@pytest.fixture
def wandb_runs(monkeypatch):
    runs = []

    def init(**options):
        runs.append(FakeRun(options))
        return runs[-1]

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    return runs


def test_a_sink_that_breaks_is_reported_once_and_left_out(tmp_path, wandb_runs):
    reports = []
    log = open_log(tmp_path, wandb="project", report=reports.append)
    log.write(row(1, loss=0.5))
    wandb_runs[0].broken = True
    log.write(row(2))
    log.write(row(3))
    log.close()
    assert reports == ["Weights & Biases failed (no network); training goes on without it"]
    assert wandb_runs[0].rows == [{"train/loss/seed_0": 0.5, "step": 1}]
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 2, 3]


def test_wandb_continues_the_same_run_on_resume(tmp_path, wandb_runs):
    open_log(tmp_path, wandb="project", config={"a": 1}).close()
    open_log(tmp_path, wandb="project", resume_step=5).close()
    first, second = (run.options for run in wandb_runs)
    assert first["config"] == {"a": 1} and "id" not in first
    assert second["id"] == "abc" and second["resume"] == "allow"


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
def test_a_full_disk_does_not_stop_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(metrics.Path, "replace", lambda self, path: path.symlink_to("/dev/full"))
    with open_log(tmp_path) as log:
        log.write(row(1))
        log.write(row(2))
    assert capsys.readouterr().err.count("training goes on without it") == 1


def test_tensorboard_has_every_scalar_by_seed(tmp_path):
    with open_log(tmp_path, tensorboard=True) as log:
        log.write(row(7, 1, loss=0.5, episode_return=None, timing={"seconds": 2.0}))
    data = b"".join(p.read_bytes() for p in (tmp_path / "tensorboard").iterdir())
    assert b"train/loss/seed_1" in data and b"train/timing/seconds/seed_1" in data
    assert b"episode_return" not in data


def test_rows_are_plain_json(tmp_path):
    with open_log(tmp_path) as log:
        log.write(row(1, loss=jnp.bfloat16(0.5), flag=np.bool_(True), many=(1, np.int32(2))))
    text = (tmp_path / metrics.FILE).read_text()
    parsed = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert parsed == row(1, loss=0.5, flag=True, many=[1, 2])
