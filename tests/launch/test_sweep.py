"""Many runs: each is that of `bellmax train` alone, and a sweep that was stopped goes on."""

import csv
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from bellmax import UserError
from bellmax.launch.cli import main
from bellmax.launch.sweep_plan import plan_runs, read_values, split_values

SOURCE = str(Path(__file__).parents[2] / "src")
CONFIG = """
steps: 320
warmup_steps: 80
log_every: 80
evaluate_every: 160
evaluation_episodes: 4
evaluation_max_steps: 50
checkpoint_every: 160
agent: {name: dqn, batch_size: 8, network: {hidden: [8]}}
env: {name: bellmax/CartPole, num_envs: 4}
replay: {capacity: 2000}
"""
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
# A shell without job control has what it runs in the background ignore Ctrl-C, heirs too.
HEED = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
HEED += "from bellmax.launch.cli import main; sys.exit(main())"
SEEDS = ["--seed", "0,1"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with small.yaml, host.yaml and a finished sweep of two seeds, `done`."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "small.yaml").write_text(CONFIG)
    (folder / "host.yaml").write_text(HOST)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path])
        patch.setenv("PYTHONPATH", SOURCE)
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder / "cache"))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        patch.setenv("RAY_ADDRESS", "local")  # not a cluster that happens to run here
        patch.setenv("RAY_worker_niceness", "0")
        assert main(["sweep", "small.yaml", "--out", "done", "--jobs", "2", *SEEDS]) == 0
        yield folder


def rows(run):
    """The rows of a run but for what the clock says."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{**json.loads(line), "timing": None} for line in lines]


def names(run):
    """What is in a run's folder; the files of a checkpoint are named at random."""
    return {path.relative_to(run).parts[:2] for path in run.rglob("*")}


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


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


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1", ["1"]),
        ("1,2, 3", ["1", "2", "3"]),
        ("[64,64],[128]", ["[64,64]", "[128]"]),
        ("[[1,2],(3,4)],{a: 1, b: 2}", ["[[1,2],(3,4)]", "{a: 1, b: 2}"]),
        ('"64,64",128', ["64,64", "128"]),
        ("'a, [b',it's", ["a, [b", "it's"]),
        ("['a]',b],c", ["['a]',b]", "c"]),
        ("", [""]),
        ("'',x", ["", "x"]),
    ],
)
def test_commas_separate_values_but_not_in_brackets_or_quotes(text, values):
    assert split_values("key", text) == values


@pytest.mark.parametrize("text", ["[1,2", "1,2]", "'a,b", "1,,2", "1,", ",1", "(1],2)("])
def test_values_that_cannot_be_told_apart_are_refused(text):
    with pytest.raises(UserError, match="agent.key"):
        split_values("agent.key", text)


def plan(*overrides, source="dqn/cartpole"):
    return plan_runs(source, read_values(source, overrides), Path("out"))


def test_the_product_is_named_by_what_varies_and_what_it_means():
    jobs = plan(
        *("--seed", "1,0_2", "--agent.network.hidden=[64,64],[128]"),
        *("--agent.learning-rate", "1e-3", "--tensorboard"),
    )
    names = ["hidden=64-64,seed=1", "hidden=128,seed=1", "hidden=64-64,seed=2", "hidden=128,seed=2"]
    assert [job.name for job in jobs] == names
    assert jobs[2].values == {"agent.network.hidden": "[64, 64]", "seed": "2"}
    assert [(job.config.seed, job.config.agent.network.hidden) for job in jobs] == [
        (1, (64, 64)),
        (1, (128,)),
        (2, (64, 64)),
        (2, (128,)),
    ]
    assert {(j.config.agent.learning_rate, j.config.tensorboard) for j in jobs} == {(1e-3, True)}
    assert jobs[0].arguments == [
        *("train", "dqn/cartpole", "--out", "out/hidden=64-64,seed=1", "--resume", "--seed=1"),
        *("--agent.network.hidden=[64,64]", "--agent.learning_rate=1e-3", "--tensorboard"),
    ]


def test_names_are_stable_and_safe():
    first = plan("--seed", "0,1", "--agent.learning-rate", "1e-3,1e-5")
    again = plan("--agent.learning_rate=0.00001,0.001", "--seed=1,0")
    assert {job.name for job in first} == {job.name for job in again}
    assert "learning_rate=1e-05,seed=0" in {job.name for job in first}
    assert [job.name for job in plan("--seed", "3")] == ["run"]
    (one, _) = plan("--agent.name", "dqn,munchausen_dqn", "--env.name", "bellmax/CartPole")
    assert one.name == "name=dqn"
    both = plan("--agent.name", "dqn,va_learning", "--env.name", "bellmax/CartPole,my own:b/ü")
    assert both[1].name == "agent.name=dqn,env.name=my-own-b--"
    long = [job.name for job in plan("--wandb", f"{'x' * 200},{'x' * 201},null")]
    assert len(set(long)) == 3 and all(len(name) <= 120 for name in long)
    assert long[2] == "wandb=null"


MISTAKES = [
    ("--agent.lr 1,2", ["'agent.lr'", "did you mean agent.learning_rate?"]),
    ("--seed 0,1 --agent.learning-rate 1e-3,3", ["agent.learning_rate", "(0, 1]", "'3'"]),
    ("--agent.network.torso mlp,mlpp", ["did you mean mlp?"]),
    ("--seed 0,1 --steps 3 --warmup-steps 0", ["steps must be at least"]),
    ("--seed 0,[1", ["seed", "bracket"]),
    ("--seed 0,,1", ["seed", "between two commas"]),
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
    for seed in ("0", "1"):
        alone, swept = tmp_path / seed, home / "done" / f"seed={seed}"
        assert main(["train", "small.yaml", "--out", str(alone), "--seed", seed]) == 0
        assert rows(swept) == rows(alone)
        assert names(swept) == names(alone)
    assert rows(home / "done" / "seed=0") != rows(home / "done" / "seed=1")


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


def test_a_sweep_started_again_goes_on_where_it_stopped(home, tmp_path, capsys):
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


def test_a_run_that_fails_is_told_and_the_others_go_on(home, tmp_path, capsys):
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


def start(home, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", HEED, "sweep", "host.yaml", *map(str, arguments)],
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until_under_way(process, *logs):
    """Until each run has told how far it is, since it was last stopped."""
    for log in logs:
        while not log.exists() or "steps/s" not in log.read_text().rpartition("stopped;")[2]:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)


def processes_of(out):
    """Processes whose command names the folder."""
    found = psutil.process_iter(["cmdline"])
    return [p for p in found if any(str(out) in word for word in p.info["cmdline"] or [])]


def test_signals_stop_a_sweep_with_checkpoints_and_it_can_be_gone_on_with(home, tmp_path):
    out = tmp_path / "stopped"
    logs = [out / "seed=0.log", out / "seed=1.log"]
    for times, (number, word, code) in enumerate(
        [(signal.SIGTERM, "terminated", 143), (signal.SIGINT, "interrupted", 130)], start=1
    ):
        process = start(home, "--out", out, "--jobs", 2, "--seed", "0,1,2")
        wait_until_under_way(process, *logs)
        process.send_signal(number)
        said, err = process.communicate(timeout=300)
        assert err == (
            f"bellmax: {word}; 0 of 3 runs are finished; the same `bellmax sweep` once more goes "
            f"on with the others in {out}\n"
        )
        assert process.returncode == code and processes_of(out) == []
        assert "[2/3] seed=1 is stopped" in said and "seed=2" not in said
        # A second signal would have made them leave without a checkpoint.
        assert all(log.read_text().count("stopped; checkpoint") == times for log in logs)
    assert all(log.read_text().count("resuming") == 1 for log in logs)


needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra ray")


@needs_ray
def test_ray_tasks_are_the_same_runs(home, tmp_path):
    out = tmp_path / "ray"
    command = [sys.executable, "-c", HEED, "sweep", "small.yaml", "--out", str(out), *SEEDS]
    process = subprocess.run([*command, "--jobs", "ray"], cwd=home, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "[2/2] seed=1: evaluation return" in process.stdout
    for seed in "01":
        assert rows(out / f"seed={seed}") == rows(home / "done" / f"seed={seed}")
    assert results(out) == results(home / "done")


@needs_ray
def test_a_signal_reaches_the_runs_of_ray(home, tmp_path):
    out = tmp_path / "stopped"
    process = start(home, "--out", out, "--jobs", "ray", "--seed", "0")
    wait_until_under_way(process, out / "run.log")
    process.send_signal(signal.SIGINT)
    said, err = process.communicate(timeout=300)
    assert process.returncode == 130 and "bellmax: interrupted; 0 of 1 runs" in err, (said, err)
    assert "stopped; checkpoint" in (out / "run.log").read_text()
    assert processes_of(out) == []


def test_missing_ray_is_explained(home, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    line = complaint(capsys, ["sweep", "small.yaml", "--out", "none", "--jobs", "ray", *SEEDS])
    assert line.endswith('pip install "bellmax[ray]"') and not os.path.exists("none")
