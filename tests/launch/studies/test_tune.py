"""A search continues after a kill, stops poor trials, and checks the best on new seeds."""

import contextlib
import csv
import importlib.util
import signal
import sys
import time

import psutil
import pytest
import yaml

from bellmax import UserError
from bellmax.launch.cli import main
from bellmax.launch.config.run_config import load, read_source
from bellmax.launch.studies.sweep.pools import Ended, Pool
from bellmax.launch.studies.tune import run as tuning
from bellmax.launch.studies.tune.space import Dimension, read_space
from helpers.processes import SOURCE, killed_at_exit, start_bellmax
from helpers.runs import rows

pytest.importorskip("optuna")
SMALL = """
steps: 240
warmup_steps: 80
log_every: 80
evaluate_every: 80
evaluation_episodes: 2
evaluation_max_steps: 20
checkpoint_every: 0
seeds: 2
agent: {name: dqn, batch_size: 8, network: {hidden: [8]}}
env: {name: bellmax/CartPole, num_envs: 4}
replay: {capacity: 400}
"""
SPACE = """
agent.learning_rate: {low: 1e-4, high: 1e-2, log: true}
agent.n_step: {low: 1, high: 3}
agent.double: [true, false]
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL)
    (tmp_path / "space.yaml").write_text(SPACE)
    return tmp_path


@contextlib.contextmanager
def pool_here(jobs, out):
    """Runs in this process, one after the other."""

    def start(job):
        return Ended(main(job.arguments), "")

    yield Pool(lambda: 1, start, lambda ended: ended, lambda *_: None, lambda _: None)


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


WORDS = "tune small.yaml --space space.yaml --out found --no-pruning".split()


@pytest.mark.slow
def test_a_search_names_the_best_after_a_check_and_is_continued(home, monkeypatch, capsys):
    monkeypatch.setattr(tuning, "make_pool", pool_here)
    monkeypatch.setattr("bellmax.launch.studies.sweep.jobs._PAUSE", 0)
    assert main([*WORDS, "--trials", "3", "--check", "2"]) == 0
    said = capsys.readouterr().out
    out, trials = home / "found", table(home / "found" / "trials.csv")
    assert [trial["state"] for trial in trials] == ["complete"] * 3
    for trial in trials:  # the table has what the runs have
        config = load(out / "trials" / f"{int(trial['trial']):04d}")
        assert config.agent.learning_rate == float(trial["agent.learning_rate"])
        assert (config.agent.n_step, config.seeds) == (int(trial["agent.n_step"]), 2)
        assert str(config.agent.double).lower() == trial["agent.double"]
        last = rows(out / "trials" / f"{int(trial['trial']):04d}", "evaluation")[-2:]
        mean = sum(row["episode_return"] for row in last) / 2
        assert [row["step"] for row in last] == [240] * 2 and float(
            trial["evaluation_return"]
        ) == mean
    checked = table(out / "check.csv")
    ranked = sorted(trials, key=lambda trial: -float(trial["evaluation_return"]))[:2]
    assert {row["trial"] for row in checked} == {"", *(trial["trial"] for trial in ranked)}
    for row in checked:
        config = load(out / row["run"])
        assert (config.seed, config.seeds) == (2, 2)  # those of no trial
        last = [r["episode_return"] for r in rows(out / row["run"], "evaluation")[-2:]]
        assert [float(x) for x in row["returns"].split()] == last
    means = [float(row["return_with_new_seeds"]) for row in checked]
    assert means == sorted(means, reverse=True)
    winner = next(row for row in checked if row["trial"])
    assert f"best trial: {winner['trial']}; `bellmax train found/best.yaml`" in said
    for name in ("slices.png", "slices.svg", "tune.yaml", "study.db"):
        assert (out / name).is_file(), name
    # One command repeats the best trial to the bit.
    assert main(["train", "found/best.yaml", "--out", "again"]) == 0
    assert rows(home / "again") == rows(out / "trials" / f"{int(winner['trial']):04d}")
    # More trials continue it: the first three are those of before, and are not run again.
    capsys.readouterr()
    assert main([*WORDS, "--trials", "4", "--check", "1"]) == 0
    said = capsys.readouterr().out
    assert table(out / "trials.csv")[:3] == trials and len(table(out / "trials.csv")) == 4
    assert "[4/4] starts" in said and "[3/4]" not in said
    # Another search does not go there.
    assert main([*WORDS, "--seeds", "3"]) == 2
    assert "options of the search in found must be {}, as before" in capsys.readouterr().err


class Scripted:
    """A pool whose runs are written by the test: a log of evaluations each time it is polled."""

    def __init__(self, monkeypatch, out, returns):
        self.out, self.returns, self.stopped = out, returns, []
        pool = Pool(lambda: 1, self.start, self.poll, self.stop, lambda _: None)
        monkeypatch.setattr(tuning, "make_pool", lambda *_: contextlib.nullcontext(pool))
        monkeypatch.setattr("bellmax.launch.studies.sweep.jobs._PAUSE", 0)

    def start(self, job):
        (self.out / job.name).mkdir(parents=True)
        return [job, 0, self.returns(job)]

    def poll(self, handle):
        job, count, returns = handle
        if job.name in self.stopped or count == len(returns):
            return Ended(143 if job.name in self.stopped else 0, "")
        handle[1] += 1
        lines = [
            f'{{"kind": "evaluation", "step": {80 * (i + 1)}, "seed": {seed}, '
            f'"episode_return": {value}}}\n'
            for i, value in enumerate(returns[: handle[1]])
            for seed in (0, 1)
        ]
        (self.out / job.name / "metrics.jsonl").write_text("".join(lines))
        return None

    def stop(self, handle, number):
        assert number == signal.SIGTERM
        self.stopped.append(handle[0].name)


def test_a_poor_trial_is_stopped_and_the_others_are_not(home, monkeypatch, capsys):
    """Trial n has the return n, but trial 6 of 0..7 is poor from its first evaluation on."""

    def returns(job):
        kind, name = job.name.split("/")
        number = 3 if kind == "check" else int(name)
        return [-9.0] * 3 if number == 6 else [number / 2, number * 0.7, float(number)]

    pool = Scripted(monkeypatch, home / "found", returns)
    words = [word for word in WORDS if word != "--no-pruning"]
    assert main([*words, "--trials", "8"]) == 0
    trials = table(home / "found" / "trials.csv")
    assert [trial["state"] for trial in trials] == [*["complete"] * 6, "pruned", "complete"]
    assert pool.stopped == ["trials/0006"]
    assert [float(trial["evaluation_return"]) for trial in trials] == [0, 1, 2, 3, 4, 5, -9, 7]
    said = capsys.readouterr().out
    assert "[7/8] pruned: return -9.0" in said
    assert (home / "found" / "importance.png").is_file()
    assert "no trial is better than the start" in said  # all are 3 in the check


def test_trials_that_fail_are_named_and_the_others_continue(home, monkeypatch, capsys):
    (home / "space.yaml").write_text("warmup_steps: [80, 200]\nsteps: [240, 160]")

    def returns(job):
        return [1.0, 2.0, 3.0]

    pool = Scripted(monkeypatch, home / "found", returns)

    def poll(handle):
        fails = handle[0].name == "trials/0001"
        return Ended(1, "the loss is not finite") if fails else pool.poll(handle)

    broken = Pool(lambda: 1, pool.start, poll, pool.stop, lambda _: None)
    monkeypatch.setattr(tuning, "make_pool", lambda *_: contextlib.nullcontext(broken))
    assert main([*WORDS, "--trials", "8"]) == 0
    for trial in table(home / "found" / "trials.csv"):
        misfit = (trial["warmup_steps"], trial["steps"]) == ("200", "160")
        expected = "warmup_steps must be below steps" if misfit else ""
        if trial["trial"] == "1" and not misfit:
            expected = "the loss is not finite"
        assert trial["state"] == ("failed" if expected else "complete")
        assert expected in trial["reason"] and bool(expected) == bool(trial["reason"])
    assert "[2/8] failed: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("agent.lr: [1, 2]", "did you mean agent.learning_rate?"),
        ("agent.learning_rate: [0.1, 3]", "agent.learning_rate must be a number in (0, 1]"),
        ("agent.learning_rate: {low: 0, high: 0.1}", "agent.learning_rate must be a number in (0"),
        ("agent.learning_rate: {low: 0.1, high: 0.01}", "low of agent.learning_rate must be below"),
        ("agent.n_step: {low: 1, high: 5, step: 0.5}", "step of agent.n_step must be an integer"),
        ("agent.n_step: {low: 1, high: 5, log: true, step: 2}", "log and step of agent.n_step"),
        ("agent.n_step: {low: 1}", "agent.n_step must be a list of two or more values, or low"),
        ("agent.n_step: 3", "agent.n_step must be a list"),
        ("agent.n_step: [3]", "agent.n_step must be a list"),
        ("agent.double: {low: false, high: true}", "low and high of agent.double must be numbers"),
        ("seed: [0, 1]", "seed must be left to `--seed` and `--seeds`"),
        ("steps: [1000, 2000]", "steps must be searched or given as an option, got both"),
        ("- 3", "must be a mapping of keys to values"),
        ("a: !!python/name:os.system", "line 1"),
    ],
)
def test_mistakes_of_a_space_are_sentences_and_nothing_is_started(home, capsys, text, part):
    (home / "space.yaml").write_text(text)
    assert main([*WORDS, "--steps", "240"]) == 2
    assert part in capsys.readouterr().err
    assert not (home / "found").exists()


def test_a_space_has_the_types_of_its_keys(home):
    text = (
        SPACE + "agent.network.hidden: [[8], [8, 8]]\nagent.batch_size: {low: 8, high: 64, step: 8}"
    )
    (home / "space.yaml").write_text(text)
    space = read_space(home / "space.yaml", read_source("small.yaml"), {})
    assert space == [
        Dimension("agent.learning_rate", 1e-4, 1e-2, log=True),
        Dimension("agent.n_step", 1, 3),
        Dimension("agent.double", choices=("true", "false")),
        Dimension("agent.network.hidden", choices=("[8]", "[8, 8]")),
        Dimension("agent.batch_size", 8, 64, step=8),
    ]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("tune small.yaml", "--space must be a YAML file"),
        ("tune small.yaml --space nothing.yaml", "nothing.yaml cannot be read"),
        ("tune small.yaml --space space.yaml --trials 0", "--trials must be an integer in [1"),
        ("tune small.yaml --space space.yaml --jobs x", "--jobs must be"),
        ("tune small.yaml --space space.yaml --out full", "full is not empty and holds no search"),
        ("tune small.yaml --space space.yaml --agent.lr 3", "did you mean agent.learning_rate?"),
    ],
)
def test_mistakes_of_the_command_are_sentences(home, capsys, words, part):
    (home / "full").mkdir()
    (home / "full" / "file").touch()
    assert main(words.split()) == 2
    assert part in capsys.readouterr().err
    assert not (home / "runs").exists()


def test_a_missing_optuna_names_the_extra(home, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(WORDS) == 2
    assert capsys.readouterr().err.endswith('[tune]"\n')


def test_a_run_of_code_needs_trust(home, capsys):
    (home / "run").mkdir()
    config = yaml.safe_load(SMALL)
    config["env"]["name"] = "os:system"
    (home / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["tune", "run", "--space", "space.yaml", "--out", "found"]) == 2
    assert "must be trusted before its code is imported" in capsys.readouterr().err


SEARCH = ["tune", "small.yaml", "--space", "space.yaml", "--check", "1"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a search whose runs were made here, one after the other.

    The sixth trial is the first that may be stopped for its evaluations.
    """
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(tuning, "make_pool", pool_here)
        patch.setattr("bellmax.launch.studies.sweep.jobs._PAUSE", 0)
        (folder / "small.yaml").write_text(SMALL)
        (folder / "space.yaml").write_text(SPACE)
        assert main([*SEARCH, "--trials", "6", "--out", "found"]) == 0
    return folder / "found"


def killed_after_a_trial(process, out):
    """SIGKILL a search when another trial has ended; return the processes of its runs."""
    path = out / "trials.csv"

    def count():
        return len(table(path)) if path.exists() else 0

    before = count()
    while process.poll() is None and count() == before:
        time.sleep(0.01)
    runs = []
    with contextlib.suppress(psutil.NoSuchProcess):  # the search may end by itself meanwhile
        runs = process.children(recursive=True)
        process.kill()
    process.communicate()
    return runs


@pytest.mark.slow
def test_a_search_that_is_killed_has_the_trials_of_one_that_is_not(home, whole):
    killed, kills, code = home / "killed", 0, None
    with killed_at_exit() as processes:
        while code != 0:
            process = start_bellmax(*SEARCH, "--trials", "6", "--out", "killed", cwd=home)
            processes.append(process)
            processes += killed_after_a_trial(process, killed)
            code = process.returncode
            assert code in (0, -signal.SIGKILL)
            kills += code != 0
    assert kills >= 3
    assert table(killed / "trials.csv") == table(whole / "trials.csv")
    trials = table(whole / "trials.csv")
    assert len(trials) == 6
    for trial in trials:
        name = f"trials/{int(trial['trial']):04d}"
        if trial["state"] == "complete":
            assert rows(killed / name) == rows(whole / name) != []
    assert table(killed / "check.csv") == table(whole / "check.csv")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra ray")
def test_trials_as_tasks_of_ray_are_the_same(home, whole, monkeypatch):
    """In a cluster of its own, which the search starts and stops."""
    monkeypatch.setenv("PYTHONPATH", str(SOURCE))
    monkeypatch.setenv("RAY_ADDRESS", "local")  # not a cluster that happens to run here
    monkeypatch.setenv("RAY_worker_niceness", "0")
    assert main([*SEARCH, "--trials", "2", "--out", "there", "--jobs", "ray"]) == 0
    assert table(home / "there" / "trials.csv") == table(whole / "trials.csv")[:2]


def test_a_list_is_no_space(home):
    with pytest.raises(UserError, match="must be a mapping"):
        (home / "list.yaml").write_text("- 1")
        read_space(home / "list.yaml", read_source("small.yaml"), {})
