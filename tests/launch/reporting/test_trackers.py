"""Each tracker gets metrics, configuration, curve and video, and a resumed run continues there."""

import csv
import importlib.util
import sys
import types

import pytest
from matplotlib.figure import Figure
from tensorboardX.proto.event_pb2 import Event

from bellmax import UserError
from bellmax.launch.cli import main
from bellmax.launch.config.run_config import load
from bellmax.launch.reporting.loggers import open_loggers
from bellmax.launch.reporting.metrics import MetricsLog, log_file
from helpers.processes import wait_until
from helpers.records import records

ROWS = [  # (kind, step, metrics)
    ("train", 10, {"loss": None, "episode_return": 3.0}),
    ("train", 20, {"loss": 0.5, "episode_return": None}),
    ("evaluation", 20, {"episode_return": 7.0}),
]


def config(*options):
    return load("dqn/cartpole", options)


def write_all(folder, *options, resume_step=None, rows=ROWS):
    """Write rows and a curve with the loggers of a configuration, as a run does."""
    figure, reports = Figure(figsize=(2, 1)), []
    figure.savefig(folder / "curve.png", dpi=100)
    loggers = open_loggers(folder, config(*options), resume_step)
    with MetricsLog(folder, loggers=loggers, resume_step=resume_step, report=reports.append) as log:
        for kind, step, metrics in rows:
            log.write([{"kind": kind, "step": step, "seed": 0, **metrics}])
        log.write_file(20, "curve", folder / "curve.png")
    assert reports == []


def table(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_csv_file_has_a_line_for_each_interval_and_evaluation(tmp_path):
    write_all(tmp_path, "--loggers", "csv")
    names = "step", "train/episode_return", "train/loss", "evaluation/episode_return"
    lines = [("10", "3.0", "", ""), ("20", "", "0.5", ""), ("20", "", "", "7.0")]
    assert table(tmp_path) == [dict(zip(names, line, strict=True)) for line in lines]
    # A run that resumes at step 10 writes the later lines again; a kill cut the last one.
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("3")
    before = table(tmp_path)
    write_all(tmp_path, "--loggers", "csv", resume_step=10, rows=ROWS[1:])
    assert table(tmp_path) == before[:3]
    write_all(tmp_path, "--loggers", "csv", rows=ROWS[:1])  # a new run
    assert [line["step"] for line in table(tmp_path)] == ["10"]


class Calls:
    """Records the calls of its methods."""

    def __init__(self, answers=()):
        self.calls, self.answers = [], dict(answers)

    def __getattr__(self, name):
        def call(*args, **options):
            self.calls.append((name, args, options))
            return self.answers.get(name)

        return call

    def of(self, name):
        return [(args, options) for found, args, options in self.calls if found == name]


def test_trackio_gets_a_run_that_is_continued(tmp_path, monkeypatch):
    run, inits = Calls(), []
    fake = types.ModuleType("trackio")
    fake.init = lambda **options: inits.append(options) or run
    fake.Image, fake.Video = (lambda path: ("image", path)), (lambda path: ("video", path))
    monkeypatch.setitem(sys.modules, "trackio", fake)
    write_all(tmp_path, "--loggers", "trackio=poles")
    assert inits[0]["project"] == "poles" and inits[0]["resume"] == "never"
    assert inits[0]["config"]["agent.name"] == "dqn"
    logged = [(args[0], options["step"]) for args, options in run.of("log")]
    assert logged == [
        ({"train/episode_return": 3.0}, 10),
        ({"train/loss": 0.5}, 20),
        ({"evaluation/episode_return": 7.0}, 20),
        ({"curve": ("image", str(tmp_path / "curve.png"))}, 20),
    ]
    assert run.of("finish") == [((), {})]
    (tmp_path / "episodes.mp4").touch()
    names = log_file(
        tmp_path, config("--loggers", "trackio"), "episodes", tmp_path / "episodes.mp4"
    )
    assert names == ["trackio"] and inits[1]["project"] == "bellmax"
    assert inits[1]["resume"] == "allow" and inits[1]["name"] == inits[0]["name"]
    assert run.of("log")[-1][0][0] == {"episodes": ("video", str(tmp_path / "episodes.mp4"))}


def test_mlflow_gets_a_run_that_is_continued(tmp_path, monkeypatch):
    made = types.SimpleNamespace(info=types.SimpleNamespace(run_id="abc"))
    client = Calls({"create_run": made, "create_experiment": "7"})
    fake = types.ModuleType("mlflow")
    fake.MlflowClient = lambda: client
    fake.entities = types.SimpleNamespace(Param=lambda *a: a, Metric=lambda *a: a)
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    write_all(tmp_path, "--loggers", "mlflow=poles")
    assert client.of("create_experiment") == [(("poles",), {})]
    assert client.of("create_run") == [(("7",), {"run_name": tmp_path.name})]
    batches = client.of("log_batch")
    settings = [param for _, options in batches for param in options.get("params", ())]
    assert ("agent.name", "dqn") in settings
    assert all(len(options.get("params", ())) <= 100 for _, options in batches)
    points = [(k, x, step) for _, o in batches for k, x, _, step in o.get("metrics", ())]
    assert points == [
        ("train/episode_return", 3.0, 10),
        ("train/loss", 0.5, 20),
        ("evaluation/episode_return", 7.0, 20),
    ]
    assert client.of("log_artifact") == [(("abc", str(tmp_path / "curve.png")), {})]
    write_all(tmp_path, "--loggers", "mlflow=poles", resume_step=20, rows=[])
    assert len(client.of("create_run")) == 1 and len(client.of("set_terminated")) == 2


def test_tensorboard_shows_the_curve_and_a_gif(tmp_path):
    write_all(tmp_path, "--tensorboard")
    gif = b"GIF89a" + bytes([5, 0, 3, 0]) + b"rest"
    (tmp_path / "episodes.gif").write_bytes(gif)
    (tmp_path / "episodes.mp4").write_bytes(b"mp4")
    for name in ("episodes.gif", "episodes.mp4"):
        assert log_file(tmp_path, config("--tensorboard"), "episodes", tmp_path / name)
    events = [
        Event.FromString(record)
        for file in sorted((tmp_path / "tensorboard").iterdir())
        for record in records(file)
    ]
    pictures = [(v.tag, v.image) for e in events for v in e.summary.value if v.image.width]
    assert [(tag, image.width, image.height) for tag, image in pictures] == [
        ("curve", 200, 100),
        ("episodes", 5, 3),
    ]
    assert pictures[1][1].encoded_image_string == gif
    # The video came at the last step, so it hides no points.
    assert [e.step for e in events if e.session_log.status == 1] == [21, 21]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="the extra wandb")
def test_wandb_works_offline(tmp_path, monkeypatch):
    for name, value in {"MODE": "offline", "SILENT": "true", "DIR": str(tmp_path)}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    write_all(tmp_path, "--wandb", "project")
    (file,) = tmp_path.rglob("*.wandb")
    parts = b"train/loss", b"evaluation/episode_return", b"learning_rate", b"curve"
    # A process of wandb writes the file.
    wait_until(lambda: all(part in file.read_bytes() for part in parts))
    assert [path for path in tmp_path.rglob("media/images/*.png")]


@pytest.mark.parametrize("name", ["trackio", "mlflow"])
def test_a_missing_tracker_names_its_extra_and_touches_nothing(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf'pip install ".*\[{name}\]"|pip install {name}'):
        open_loggers(tmp_path, config("--loggers", name))
    assert not list(tmp_path.iterdir())


def test_an_unknown_logger_has_the_nearest_name(capsys):
    assert main(["train", "dqn/cartpole", "--logger", "trakio"]) == 2
    said = capsys.readouterr().err
    assert "loggers must be of the form module.path:name, or csv, trackio=PROJECT" in said
    assert "did you mean trackio?" in said


class Keeps:
    """A logger of the user's own that takes files."""

    files = []

    def log(self, step, metrics): ...

    def close(self): ...

    def log_file(self, step, name, path):
        self.files.append((step, name, path.name, path.exists()))


def test_a_run_and_its_video_go_to_a_logger_of_the_users_own(finished, monkeypatch, capsys):
    module = types.ModuleType("keeps_files")
    module.make = lambda folder, config: Keeps()
    monkeypatch.setitem(sys.modules, "keeps_files", module)
    assert main(["resume", str(finished), "--logger", "keeps_files:make"]) == 0
    assert Keeps.files == [(1200, "curve", "curve.png", True)]
    pytest.importorskip("imageio_ffmpeg")
    words = ["record", str(finished), "--trust", "--log", "--max-steps", "2", "--fps", "30"]
    assert main(words) == 0
    assert Keeps.files[1:] == [(1200, "episodes", "episodes.gif", True)]
    assert "given to keeps_files:make" in capsys.readouterr().out
