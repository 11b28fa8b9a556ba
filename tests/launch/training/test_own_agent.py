"""A user's agent works on the command line like a built-in one."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import bellmax
from bellmax.launch.cli import main
from helpers.runs import checkpoints, rows
from helpers.small import SMALL

EXAMPLE = Path(__file__).parents[3] / "examples/own_agent"
NAME = "averaged_dqn:make_averaged_dqn"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the example's files and a finished run of it, `run`."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copytree(EXAMPLE, folder, dirs_exist_ok=True)
    (folder / "small.yaml").write_text(
        SMALL.replace("name: dqn,", f"name: {NAME}, num_targets: 2,")
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path, str(folder)])
        assert main(["train", "small.yaml", "--out", "run", "--steps", "800"]) == 0
    return folder


@pytest.fixture(autouse=True)
def here(home, monkeypatch):
    monkeypatch.chdir(home)


def test_it_resumes_evaluates_and_its_policy_plays(capsys):
    assert main(["resume", "run", "--trust", "--steps", "1200"]) == 0
    assert checkpoints(Path("run")).latest() == 1200
    assert np.isfinite(rows(Path("run"), "train")[-1]["loss"])
    assert main(["evaluate", "run", "--trust", "--episodes", "2"]) == 0
    assert "mean return" in capsys.readouterr().out
    policy = bellmax.load_policy("run", trust=True)
    assert policy is not None


def test_help_schema_and_show_config_know_its_keys(capsys):
    assert main(["train", "small.yaml", "--help"]) == 0
    said = capsys.readouterr().out
    assert "--agent.num-targets" in said and "Target networks that are averaged" in said
    assert main(["show-config", "small.yaml", "--agent.num-targets", "3"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["agent"]["num_targets"] == 3
    assert main(["schema", NAME]) == 0
    assert '"num_targets"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--agent.num-targets 0", "agent.num_targets must be an integer"),
        ("--agent.num-target 2", "agent.num_targets"),
        ("--agent.name averaged_dqn:make", "unknown callable 'make'"),
        ("--agent.name absent_module:make", "needs the module 'absent_module'"),
    ],
)
def test_a_mistake_is_one_sentence(capsys, words, message):
    assert main(["train", "small.yaml", *words.split(), "--out", "x"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and message in lines[0] and not Path("x").exists()


def test_the_examples_preset_is_a_configuration(capsys):
    assert main(["show-config", "cartpole.yaml"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["agent"]["num_targets"] == 5
