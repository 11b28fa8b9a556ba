"""Loggers get one number per name for all seeds, and never stop a run."""

import re
import sys
import types

import pytest
from tensorboardX.proto.event_pb2 import Event

from bellmax import UserError
from bellmax.launch.config.run_config import load
from bellmax.launch.reporting.loggers import open_loggers, summarise
from bellmax.launch.reporting.metrics import MetricsLog, read_metrics
from helpers.records import records


def row(step, seed=0, **more):
    return {"kind": "train", "step": step, "seed": seed, **more}


def config(*options):
    return load("dqn/cartpole", options)


class Kept:
    """Records its calls; raises at the steps in `fails`."""

    def __init__(self, *fails):
        self.fails, self.seen, self.closed = fails, [], 0

    def log(self, step, metrics):
        if step in self.fails:
            raise ConnectionError("no network")
        self.seen.append((step, metrics))

    def close(self):
        self.closed += 1


def test_the_names_are_the_same_for_one_seed_and_for_many():
    timing = {"steps_per_second": 9.0}
    one = summarise([row(1, 7, loss=0.5, episodes=2, timing=timing)])
    assert one == {"train/loss": 0.5, "train/episodes": 2.0, "timing/steps_per_second": 9.0}
    rows = [
        row(1, seed, loss=loss, episodes=n, timing=timing)
        for seed, loss, n in [(0, 0.5, 2), (1, 1.5, 3)]
    ]
    assert summarise(rows) == {
        "train/loss": 1.0,
        "train/loss_std": 0.5,
        "train/episodes": 2.5,
        "timing/steps_per_second": 9.0,
    }


def test_seeds_without_a_value_do_not_count():
    rows = [row(1, seed, loss=None, episode_return=r) for seed, r in enumerate([1.0, None, 3.0])]
    assert summarise(rows) == {"train/episode_return": 2.0, "train/episode_return_std": 1.0}
    assert summarise([row(1, loss=None, timing={"rate": None})]) == {}


def test_a_logger_that_raises_is_reported_once_closed_and_left_out(tmp_path):
    reports, bad, good, mute = [], Kept(2), Kept(), Kept(1)
    loggers = [("bad", bad), ("good", good), ("mute", mute)]
    mute.close = lambda: 1 / 0
    with MetricsLog(tmp_path, loggers=loggers, report=reports.append) as log:
        for step in (1, 2, 3):
            log.write([row(step, loss=0.5)])
    assert [report.partition(" ")[0] for report in reports] == ["mute", "bad"]
    for report in reports:
        place = r"\(ConnectionError: no network \(\S*test_loggers.py, line \d+\)\)"
        assert re.fullmatch(rf"\w+ failed {place}; training continues without it", report)
    assert bad.seen == [(1, {"train/loss": 0.5})] and bad.closed == 1
    assert [step for step, _ in good.seen] == [1, 2, 3] and good.closed == 1
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 2, 3]


def test_on_metrics_comes_after_the_loggers_and_may_end_the_run(tmp_path):
    kept = Kept()

    def stop(step, metrics):
        assert kept.seen == [(step, metrics)]
        raise StopIteration

    log = MetricsLog(tmp_path, loggers=[("kept", kept)], on_metrics=stop)
    with pytest.raises(StopIteration), log:
        log.write([row(1, loss=0.5)])
    assert kept.closed == 1 and read_metrics(tmp_path) == [row(1, loss=0.5)]


@pytest.fixture
def own(monkeypatch):
    """The module `own_logger`, whose `make` records its calls."""
    module = types.ModuleType("own_logger")
    module.calls = []
    module.make = lambda folder, config: module.calls.append((folder, config)) or Kept()
    module.fails = lambda folder, config: {}["key"]
    module.wrong = lambda folder, config: []
    monkeypatch.setitem(sys.modules, "own_logger", module)
    return module


def test_a_factory_gets_the_folder_and_the_configuration(tmp_path, own):
    loggers = open_loggers(tmp_path, config("--loggers", "own_logger:make", "--steps", "50000"))
    assert [name for name, _ in loggers] == ["own_logger:make"]
    folder, shown = own.calls[0]
    assert folder == tmp_path and shown["steps"] == 50000 and shown["agent"]["name"] == "dqn"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_logger", "loggers must be of the form module.path:name"),
        ("own_logger:mak", "unknown callable 'mak' of module 'own_logger'"),
        ("absent_module:make", "needs the module 'absent_module'"),
        ("own_logger:wrong", "loggers: own_logger:wrong must be an object with log(step, metrics)"),
        ("own_logger:fails", "loggers: own_logger:fails cannot be opened: KeyError: 'key'"),
    ],
)
def test_a_factory_that_fails_is_one_sentence(tmp_path, own, name, message):
    with pytest.raises(UserError, match=re.escape(message)):
        open_loggers(tmp_path, config("--loggers", name))


def test_missing_wandb_says_what_to_install_before_touching_the_run(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r'pip install ".*\[wandb\]"'):
        open_loggers(tmp_path, config("--wandb", "project"))
    assert not list(tmp_path.iterdir())


def test_wandb_gets_the_configuration_and_continues_its_run_on_resume(tmp_path, monkeypatch):
    runs, rows = [], []

    def init(**options):
        runs.append(options)
        nothing = lambda *_, **__: None  # noqa: E731
        return types.SimpleNamespace(
            id="abc", define_metric=nothing, log=rows.append, finish=nothing
        )

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    for resume_step in (None, 5):
        loggers = open_loggers(tmp_path, config("--wandb", "project"), resume_step)
        with MetricsLog(tmp_path, loggers=loggers) as log:
            log.write([row(6, loss=0.5)])
    assert runs[0]["config"]["agent"]["name"] == "dqn" and "id" not in runs[0]
    assert runs[1]["id"] == "abc" and runs[1]["resume"] == "allow"
    assert rows == [{"train/loss": 0.5, "step": 6}] * 2


def test_tensorboard_has_every_metric_and_the_hyper_parameters(tmp_path):
    loggers = open_loggers(tmp_path, config("--tensorboard"))
    with MetricsLog(tmp_path, loggers=loggers) as log:
        rows = [row(7, seed, loss=loss, episode_return=None) for seed, loss in [(0, 0.5), (1, 1.5)]]
        log.write([{**r, "timing": {"seconds": 2.0}} for r in rows])
    (file,) = (tmp_path / "tensorboard").iterdir()
    events = [Event.FromString(record) for record in records(file)]
    points = {v.tag: (e.step, v.simple_value) for e in events for v in e.summary.value}
    assert points["train/loss"] == (7, 1.0) and points["train/loss_std"] == (7, 0.5)
    assert points["timing/seconds"] == (7, 2.0) and "train/episode_return" not in points
    assert b"agent.learning_rate" in file.read_bytes()
