"""Each run of a sweep equals `bellmax train` alone, and a sweep that was stopped is resumed."""

import csv
import importlib.util
import os
import shutil
import signal
import sys

import psutil
import pytest
import yaml

from bellmax.launch.cli import main
from bellmax.launch.distributed.ray_cluster import connected
from helpers.faults import signal_when
from helpers.processes import HEED_CTRL_C, SOURCE, finish, start_bellmax, wait_until
from helpers.runs import contents, rows
from helpers.small import SMALL

SHORT = SMALL.replace("steps: 1200", "steps: 320")
SHORT = SHORT.replace("every: 400", "every: 160").replace("log_every: 100", "log_every: 80")
HOST = """
steps: 4_000_000
warmup_steps: 40
log_every: 40
evaluate_every: 0
evaluation_episodes: 1
evaluation_max_steps: 10
checkpoint_every: 0
agent: {name: dqn, batch_size: 8, network: {hidden: [8]}}
env: {name: gymnasium/CartPole-v1, num_envs: 2}
replay: {capacity: 200}
"""
SEEDS = ["--seed", "0,1"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with small.yaml, host.yaml and a finished sweep of two seeds, `done`."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "small.yaml").write_text(SHORT)
    (folder / "host.yaml").write_text(HOST)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYTHONPATH", str(SOURCE))
        patch.setenv("RAY_ADDRESS", "local")  # not a cluster that happens to run here
        patch.setenv("RAY_worker_niceness", "0")
        assert main(["sweep", "small.yaml", "--out", "done", "--jobs", "2", *SEEDS]) == 0
        yield folder


def names(run):
    """The files in a run's folder; those of a checkpoint have random names."""
    return {path.relative_to(run).parts[:2] for path in run.rglob("*")}


def results(folder):
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def complaint(capsys, arguments):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("bellmax: ")
    return line


MISTAKES = [
    ("--agent.lr 1,2", ["'agent.lr'", "did you mean agent.learning_rate?"]),
    ("--seed 0,1 --agent.learning-rate 1e-3,3", ["agent.learning_rate", "(0, 1]", "'3'"]),
    ("--agent.network.torso mlp,mlpp", ["did you mean mlp?"]),
    ("--seed 0,1 --steps 3 --warmup-steps 0", ["steps must be at least"]),
    ("--seed 0,[1", ["seed", "bracket"]),
    ("--seed 0,,1", ["seed", "a comma between two"]),
    ("--seed 0,1,00", ["the same run seed=0"]),
    (f"--seed {','.join(map(str, range(101)))} --steps {'500,' * 99}500", ["10000", "10100"]),
    ("--seed 0,1 --jobs 0", ["--jobs", "[1, 1024]", "'0'"]),
    ("--seed 0,1 --jobs 1025", ["--jobs", "'1025'"]),
    ("--seed 0,1 --jobs -1", ["--jobs", "'-1'"]),
    ("--seed 0,1 --jobs rya", ["--jobs", "ray://HOST:PORT", "'rya'"]),
    ("--seed 0,1 --jobs ray://here", ["--jobs", "'ray://here'"]),
    ("--seed 0,1 --resume", ["'resume'"]),
    ("--seed 0,1 --out full", ["full is not empty and holds no sweep"]),
    ("--seed 0,1 --out full/file", ["full/file", "not a folder"]),
    ("--seed 0,1 --out done --steps 240 --agent.discount 0.9", ["seed=0", "agent.discount"]),
    ("--seed 0,1 --out", ["--out"]),
]


@pytest.mark.parametrize(("words", "parts"), MISTAKES, ids=[words[:40] for words, _ in MISTAKES])
def test_a_mistake_is_one_sentence_and_nothing_is_started(home, capsys, words, parts):
    (home / "full").mkdir(exist_ok=True)
    (home / "full" / "file").write_text("")
    before = contents(home)
    words = words if "--out" in words else f"{words} --out new"
    line = complaint(capsys, ["sweep", "small.yaml", *words.split(" ")])
    assert not [part for part in parts if part not in line], line
    assert contents(home) == before and not (home / "new").exists()


def test_a_folder_belongs_to_one_source(home, capsys):
    line = complaint(capsys, ["sweep", "dqn/cartpole", "--out", "done", "--seed", "0,1"])
    assert "done holds a sweep of" in line and "small.yaml, not of dqn/cartpole" in line
    assert "--out DIR" in complaint(capsys, ["sweep", "dqn/cartpole", "--seed", "0,1"])


def test_each_run_is_that_of_train_alone_to_the_bit(home, tmp_path):
    alone, swept = tmp_path / "alone", home / "done" / "seed=1"
    assert main(["train", "small.yaml", "--out", str(alone), "--seed", "1"]) == 0
    assert rows(swept) == rows(alone) != []
    assert names(swept) == names(alone)
    assert rows(home / "done" / "seed=0") != rows(swept)


def test_a_sweep_leaves_logs_its_values_and_a_table_best_first(home, capsys):
    finished = home / "done"
    names = {"results.csv", "sweep.yaml", *("seed=0", "seed=1", "seed=0.log", "seed=1.log")}
    assert {path.name for path in finished.iterdir()} == names
    record = yaml.safe_load((finished / "sweep.yaml").read_text())
    assert record == {"source": str(home / "small.yaml"), "values": [{"seed": ["0", "1"]}]}
    last = {
        s: [r for r in rows(finished / f"seed={s}") if r["kind"] == "evaluation"][-1] for s in "01"
    }
    best = sorted("01", key=lambda seed: -last[seed]["episode_return"])
    assert [(row["run"], row["seed"], row["status"]) for row in results(finished)] == [
        (f"seed={seed}", seed, "finished") for seed in best
    ]
    returns = [last[seed]["episode_return"] for seed in best]
    assert [float(row["evaluation_return"]) for row in results(finished)] == returns
    assert "run: done/seed=1" in (finished / "seed=1.log").read_text()
    assert main(["plot", *(f"done/seed={s}/" for s in "01"), "--out", str(home / "curves")]) == 0
    assert "curves.png" in capsys.readouterr().out


def test_a_sweep_started_again_continues_where_it_stopped(home, tmp_path, capsys):
    out = shutil.copytree(home / "done", tmp_path / "half")
    whole = rows(out / "seed=1")
    # As if the second run had been killed after its first checkpoint.
    shutil.rmtree(out / "seed=1" / "checkpoints" / "320")
    shutil.rmtree(out / "seed=1" / "policy")
    kept = [line for line in (out / "results.csv").read_text().splitlines() if "seed=1" not in line]
    (out / "results.csv").write_text("\n".join(kept))
    before = contents(out / "seed=0")
    assert main(["sweep", "small.yaml", "--out", str(out), "--seed", "1,0"]) == 0
    said = capsys.readouterr().out
    assert "1 of 2 runs are finished already" in said and "[1/2] seed=1 starts" in said
    assert "seed=0 starts" not in said
    assert contents(out / "seed=0") == before
    assert f"resuming {out}/seed=1 at step 160" in (out / "seed=1.log").read_text()
    assert rows(out / "seed=1") == whole and (out / "seed=1" / "policy").exists()
    assert results(out) == results(home / "done")
    values = yaml.safe_load((out / "sweep.yaml").read_text())["values"]
    assert values == [{"seed": ["0", "1"]}, {"seed": ["1", "0"]}]


@pytest.mark.slow
def test_a_run_that_fails_is_reported_and_the_others_continue(home, tmp_path, capsys):
    bad = ["--agent.network.torso", "nature"]
    assert main(["train", "small.yaml", "--out", str(tmp_path / "alone"), *bad]) == 2
    reason = capsys.readouterr().err.strip()
    assert "needs images" in reason
    out = tmp_path / "torsos"
    words = ["--agent.network.torso", "nature,mlp", "--steps", "160"]
    assert main(["sweep", "small.yaml", "--out", str(out), *words]) == 1
    said = capsys.readouterr().out
    assert f"[1/2] torso=nature failed with exit code 2: {reason}\n" in said
    assert "[2/2] torso=mlp: evaluation return" in said
    assert (out / "torso=nature.log").read_text().endswith(f"{reason}\n")
    assert [(row["run"], row["status"], row["step"]) for row in results(out)] == [
        ("torso=mlp", "finished", "160"),
        ("torso=nature", "failed", ""),
    ]


def are_under_way(*logs):
    """Whether each run has reported progress since it was last stopped."""
    texts = [log.read_text() if log.exists() else "" for log in logs]
    return all("steps/s" in text.rpartition("stopped;")[2] for text in texts)


def processes_of(out):
    """Processes whose command names the folder."""
    found = psutil.process_iter(["cmdline"])
    return [p for p in found if any(str(out) in word for word in p.info["cmdline"] or [])]


@pytest.mark.slow
def test_signals_stop_a_sweep_with_checkpoints_and_the_same_command_continues_it(
    home, tmp_path, capsys
):
    out = tmp_path / "stopped"
    logs = [out / "seed=0.log", out / "seed=1.log"]
    words = ["sweep", "host.yaml", "--out", str(out), "--jobs", "2", "--seed", "0,1,2"]
    for times, (number, word, code) in enumerate(
        [(signal.SIGTERM, "terminated", 143), (signal.SIGINT, "interrupted", 130)], start=1
    ):
        with signal_when(lambda: are_under_way(*logs), number):
            assert main(words) == code
        said, err = capsys.readouterr()
        assert err == (
            f"bellmax: {word}; 0 of 3 runs are finished; the same `bellmax sweep` once more "
            f"continues the others in {out}\n"
        )
        assert processes_of(out) == []
        assert "[2/3] seed=1 is stopped" in said and "seed=2" not in said
        # A second signal would have ended them without a checkpoint.
        assert all(log.read_text().count("stopped; checkpoint") == times for log in logs)
    assert all(log.read_text().count("resuming") == 1 for log in logs)


needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra ray")


@needs_ray
@pytest.mark.slow
def test_tasks_of_ray_are_the_same_runs(home, tmp_path, capsys):
    """In a cluster that this process has joined."""
    out = tmp_path / "ray"
    with connected("ray", 2):
        assert main(["sweep", "small.yaml", "--out", str(out), *SEEDS, "--jobs", "ray"]) == 0
    assert "[2/2] seed=1: evaluation return" in capsys.readouterr().out
    for seed in "01":
        assert rows(out / f"seed={seed}") == rows(home / "done" / f"seed={seed}")
    assert results(out) == results(home / "done")


@needs_ray
@pytest.mark.slow
def test_a_signal_reaches_the_runs_of_ray(home, tmp_path):
    """In a cluster that the sweep starts for itself."""
    out = tmp_path / "stopped"
    words = ["sweep", "host.yaml", "--out", out, "--jobs", "ray", "--seed", "0"]
    process = start_bellmax(*words, cwd=home, prepare=HEED_CTRL_C)
    wait_until(lambda: are_under_way(out / "run.log"), process)
    process.send_signal(signal.SIGINT)
    _, err = finish(process, 130)
    assert "bellmax: interrupted; 0 of 1 runs" in err
    assert "stopped; checkpoint" in (out / "run.log").read_text()
    assert processes_of(out) == []


def test_missing_ray_is_explained(home, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    line = complaint(capsys, ["sweep", "small.yaml", "--out", "none", "--jobs", "ray", *SEEDS])
    assert line.endswith('[ray]"') and not os.path.exists("none")
