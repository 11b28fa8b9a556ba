"""Metrics survive kills, broken sinks and resumes, and are read back exactly."""

import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import UserError
from bellmax.launch.reporting import metrics
from bellmax.launch.reporting.metrics import MetricsLog, read_metrics


def row(step, seed=0, **more):
    return {"kind": "train", "step": step, "seed": seed, **more}


def test_floats_come_back_exactly_and_what_is_not_finite_is_null(tmp_path):
    value = np.float32(0.1)
    with MetricsLog(tmp_path) as log:
        log.write([row(1, loss=value, q=jnp.float32(1 / 3), bad=float("nan"), worse=np.inf)])
        log.write([row(jnp.int32(2), timing={"seconds": np.float64(0.25), "rate": np.inf})])
    first, second = read_metrics(tmp_path)
    assert np.float32(first["loss"]) == value and np.float32(first["q"]) == np.float32(1 / 3)
    assert first["bad"] is None and first["worse"] is None
    assert second == row(2, timing={"seconds": 0.25, "rate": None})


def test_a_row_is_in_the_file_as_soon_as_it_is_written(tmp_path):
    log = MetricsLog(tmp_path)
    log.write([row(1)])
    assert read_metrics(tmp_path) == [row(1)]
    log.close()


@pytest.mark.parametrize(
    "torn", ['{"kind": "tra', '{"kind": "train", "step": 30, "loss": 0.', "\0"]
)
def test_a_torn_last_line_is_left_out(tmp_path, torn):
    with MetricsLog(tmp_path) as log:
        log.write([row(10)])
    with (tmp_path / metrics.FILE).open("a") as file:
        file.write(torn)
    assert read_metrics(tmp_path) == [row(10)]
    with MetricsLog(tmp_path, resume_step=10) as log:
        log.write([row(20)])
    assert read_metrics(tmp_path) == [row(10), row(20)]


def test_resume_drops_later_rows(tmp_path):
    with MetricsLog(tmp_path) as log:
        for step in (10, 20, 30):
            log.write([row(step, seed, loss=0.1 * step) for seed in (0, 1)])
    before = (tmp_path / metrics.FILE).read_text().splitlines()
    with MetricsLog(tmp_path, resume_step=20):
        pass
    assert (tmp_path / metrics.FILE).read_text().splitlines() == before[:4]
    assert list(tmp_path.iterdir()) == [tmp_path / metrics.FILE]


def test_a_fresh_log_starts_afresh(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.write([row(1)])
    MetricsLog(tmp_path).close()
    assert read_metrics(tmp_path) == []


@pytest.mark.parametrize(
    "bad", ["nonsense", "[]", '{"kind": 3, "step": 2, "seed": 0}', '{"step": 2}', "[" * 5000]
)
def test_a_damaged_line_is_passed_over_with_a_warning(tmp_path, bad):
    lines = [json.dumps(row(1)), bad, json.dumps(row(3))]
    (tmp_path / metrics.FILE).write_text("\n".join(lines))
    with pytest.warns(UserWarning, match="line 2 is damaged and ignored"):
        assert read_metrics(tmp_path) == [row(1), row(3)]
    told = []
    with MetricsLog(tmp_path, resume_step=3, report=told.append) as log:
        log.write([row(4)])
    assert len(told) == 1 and read_metrics(tmp_path) == [row(1), row(3), row(4)]


def test_a_logger_that_ends_the_program_is_left_out(tmp_path):
    class Ends:
        def log(self, step, metrics):
            sys.exit(0)

        close = log

    told = []
    with MetricsLog(tmp_path, loggers=[("ends", Ends())], report=told.append) as log:
        log.write([row(1)])
        log.write([row(2)])
    (words,) = told
    assert words.startswith("ends failed (SystemExit: 0 (tests/launch/reporting/test_metrics.py")
    assert len(read_metrics(tmp_path)) == 2


def test_no_metrics_is_an_error_for_the_user(tmp_path):
    with pytest.raises(UserError, match="there is no metrics.jsonl"):
        read_metrics(tmp_path / "nowhere")


def test_a_folder_that_cannot_be_made_is_an_error_for_the_user(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        MetricsLog(tmp_path / "file" / "run")


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
def test_a_full_disk_does_not_stop_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(metrics.Path, "replace", lambda self, path: path.symlink_to("/dev/full"))
    with MetricsLog(tmp_path) as log:
        log.write([row(1)])
        log.write([row(2)])
    assert capsys.readouterr().err.count("training continues without it") == 1


def test_rows_are_plain_json(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.write([row(1, loss=jnp.bfloat16(0.5), flag=np.bool_(True), many=(1, np.int32(2)))])
    text = (tmp_path / metrics.FILE).read_text()
    parsed = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert parsed == row(1, loss=0.5, flag=True, many=[1, 2])
