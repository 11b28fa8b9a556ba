"""Code that a run's own configuration names is not imported unless the user trusts the run."""

import sys
from pathlib import Path

import pytest

import bellmax
from bellmax import UserError
from bellmax.launch.cli import main
from bellmax.launch.config.run_config import load, to_yaml
from bellmax.launch.config.trust import code_in, modules_in
from bellmax.launch.studies.evaluate import evaluate_run
from bellmax.launch.studies.record import record_run
from bellmax.launch.studies.robust.run import evaluate_robust
from bellmax.launch.training.folders import resume_command
from bellmax.launch.training.train import check_resumable

# Importing it leaves a file; its agent's configuration is needed to validate one.
STRANGER = """
import dataclasses, pathlib
pathlib.Path("imported").touch()

@dataclasses.dataclass(frozen=True)
class Config:
    lr: float = 0.1

def make_agent(config: Config, spec): ...
def make(*arguments, **options): ...
"""
CODE = [  # what a configuration has on top of a small one
    "env: {name: 'stranger:make'}",
    "env: {name: 'gymnasium/stranger:Task-v0'}",
    "env: {name: 'minigrid/stranger:Task-v0'}",
    "agent: {name: 'stranger:make_agent'}",
    "agent: {name: dqn, network: {module: 'stranger:Net'}}",
    "agent: {name: dqn, network: {module: stranger}}",
    "agent: {name: td3, network: {critic: 'stranger:Net'}}",
    "loggers: ['stranger:make']",
    "loggers: 'json:dumps, stranger:make'",
    "env: {name: gymnasium/GymV21Environment-v0, options: {env_id: 'stranger:Task-v0'}}",
]
HARMLESS = "steps: 2000\nagent: {name: dqn}\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder, which Python imports from, with the module of a stranger."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "stranger", raising=False)
    (tmp_path / "stranger.py").write_text(STRANGER)
    return tmp_path


def write_run(extra: str, name: str = "run") -> Path:
    run = Path(name)
    run.mkdir()
    agent = "" if "agent:" in extra else "agent: {name: dqn}\n"
    (run / "config.yaml").write_text(f"steps: 2000\n{agent}{extra}\n")
    return run


USES = {
    "evaluate": lambda run: evaluate_run(run, 1),
    "record": lambda run: record_run(run),
    "robust": lambda run: evaluate_robust(run, "2d"),
    "load_policy": bellmax.load_policy,
    "load_run": bellmax.load_run,
    "load_config": bellmax.load_config,
    "train": lambda run: bellmax.train(run, steps=2001),
    "its file": lambda run: load(run / "config.yaml"),
    "Run": lambda run: bellmax.launch.Run(run).resume(),
}


@pytest.mark.parametrize("extra", CODE)
def test_no_use_of_a_run_imports_what_it_names(extra, folder):
    run = write_run(extra)
    (run / "metrics.jsonl").touch()
    for name, use in USES.items():
        with pytest.raises(UserError, match="must be trusted before its code is imported") as error:
            use(run)
            pytest.fail(name)
        assert "stranger" in str(error.value) and "--trust" in str(error.value), name
    assert not (folder / "imported").exists() and "stranger" not in sys.modules


@pytest.mark.parametrize(
    "line",
    [
        "evaluate run",
        "evaluate run --robust",
        "record run",
        "resume run",
        "resume run --help",
        "train run --out new",
        "train run/config.yaml --out new",
        "train run --env.name stranjer:make --agent.name dqn --out new",
        "sweep run --seed 0,1 --out new",
        "merge run run --out new",
        "show-config run",
    ],
)
def test_no_command_imports_what_a_run_names(line, folder, capsys):
    run = write_run("agent: {name: 'stranger:make_agent'}")
    (run / "versions.json").touch()
    assert main(line.split()) == 2
    error = capsys.readouterr().err
    assert "agent.name of run" in error and "--trust" in error, error
    assert not (folder / "imported").exists() and not (folder / "new").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        {"trust": True},
        {"overrides": ["--agent.name", "stranger:make_agent"]},
        {"overrides": ["--env.name", "stranger:other"]},  # of the same module
        {"loggers": ["stranger:make"]},
    ],
)
def test_what_the_user_trusts_or_names_is_imported(arguments):
    run = write_run("agent: {name: 'stranger:make_agent', lr: 0.5}")
    assert load(run, **arguments).agent.lr == 0.5


def test_a_file_of_the_users_own_is_trusted(folder):
    write_run("agent: {name: 'stranger:make_agent', lr: 0.5}", "mine")
    assert load("mine/config.yaml").agent.lr == 0.5  # beside nothing of a run
    config = load("mine/config.yaml")
    (folder / "run").mkdir()
    (folder / "run" / "config.yaml").write_text(to_yaml(config))
    check_resumable(folder / "run", config)  # named by the file: compared, and not refused


def test_a_run_of_other_code_is_not_imported_to_be_compared(folder):
    run = write_run("agent: {name: 'stranger:make_agent'}")
    (folder / "mine.yaml").write_text(HARMLESS)
    with pytest.raises(UserError, match="agent.name must be .*stranger:make_agent. as in run"):
        check_resumable(run, load("mine.yaml"))
    assert not (folder / "imported").exists()


def test_another_key_that_looks_like_the_name_hides_nothing(folder):
    run = write_run("agent: {name: 'stranger:make_agent'}\nagent.name: dqn")
    with pytest.raises(UserError, match="must be trusted"):
        load(run)
    assert not (folder / "imported").exists()


def test_harmless_runs_need_no_trust(folder):
    assert load(write_run("env: {name: bellmax/Catch, options: {rows: 5}}")).steps == 2000
    assert code_in({"env": {"options": {"xml_file": "C:/a b: c", "when": "12:30"}}}) == {}
    assert modules_in({"env.name": "gymnasium/a.b:T-v0", "loggers": ["c:d"]}) == {"a.b", "c"}


def test_advice_has_the_option_that_it_needs():
    assert resume_command(write_run("loggers: ['mine:make']")) == "bellmax resume run --trust"
    assert resume_command(write_run("", "a b")) == "bellmax resume 'a b'"
