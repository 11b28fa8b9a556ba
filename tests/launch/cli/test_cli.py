"""The command line: every mistake is one sentence on stderr with what to type instead."""

import errno
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from bellmax import UserError
from bellmax.launch.cli import commands, main

PRESET = "steps: 5000\nagent: {name: dqn, learning_rate: 1e-3}\nenv: {name: bellmax/CartPole}\n"
QUANTILES = """
steps: 5000
agent: {name: qr_dqn_retrace, n_step: 3, num_quantiles: 4}
env: {name: bellmax/CartPole}
"""
VA = "steps: 5000\nagent: {name: va_learning}\nenv: {name: bellmax/CartPole}\n"
# Users' modules; the agents read `quantiles` [B, 4, 2], or `value` [B] and others.
OWN = """
import flax.linen as nn
import numpy as np
from bellmax.envs import CartPole
from bellmax.networks import QuantileOutput, VAOutput
from dm_env import specs

class Plain(nn.Module):
    num_actions: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.num_actions)(x)

class NoQuantiles(Plain):
    num_quantiles: int = 1

class Transposed(NoQuantiles):
    @nn.compact
    def __call__(self, x):
        flat = nn.Dense(self.num_actions * self.num_quantiles)(x)
        quantiles = flat.reshape(-1, self.num_actions, self.num_quantiles)
        return QuantileOutput(quantiles.mean(2), quantiles)

class ColumnValue(Plain):
    @nn.compact
    def __call__(self, x):
        q = nn.Dense(self.num_actions)(x)
        return VAOutput(q, q[:, :1], q, q)

class Continuous(CartPole):
    @property
    def spec(self):
        return super().spec._replace(action=specs.BoundedArray((1,), np.float32, -1, 1))
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A folder with a valid file, a run and a plain file; jax's settings do not change."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.yaml").write_text(PRESET)
    (tmp_path / "qr.yaml").write_text(QUANTILES)
    (tmp_path / "va.yaml").write_text(VA)
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "plain").write_text("a file")
    (tmp_path / "run1").mkdir()
    (tmp_path / "run1" / "config.yaml").write_text(PRESET)
    (tmp_path / "empty").mkdir()


def write(name, text):
    with open(name, "w") as file:
        file.write(text)


# (arguments, what the sentence must contain); `train` is told to write below ./out.
MISTAKES = [
    ("trian good.yaml", ["command", "'trian'", "did you mean train?"]),
    ("show-confg good.yaml", ["did you mean show-config?"]),
    ("frobnicate", ["command", "choose from train, resume"]),
    ("--agent.lr 3", ["command"]),
    ("train", ["PRESET|FILE", "first"]),
    ("train --agent.lr 3", ["PRESET|FILE", "first"]),
    ("train good.yaml --learning-rate 3", ["learning_rate", "did you mean agent.learning_rate?"]),
    ("train good.yaml --agent.lr 3", ["agent.lr", "did you mean agent.learning_rate?"]),
    ("train good.yaml --agent.learning-rat 3", ["did you mean agent.learning_rate?"]),
    ("train good.yaml --agent.learning-rate 3", ["agent.learning_rate", "(0, 1]", "'3'"]),
    ("train good.yaml --agent.learning-rate nan", ["agent.learning_rate", "(0, 1]", "'nan'"]),
    ("train good.yaml --agent.learning-rate inf", ["agent.learning_rate", "'inf'"]),
    ("train good.yaml --agent.learning-rate fast", ["a number", "'fast'"]),
    ("train good.yaml --agent.learning-rate", ["agent.learning_rate", "no value"]),
    ("train good.yaml --agent.network.hidden 64,x", ["agent.network.hidden", "64,64", "'64,x'"]),
    ("train good.yaml --agent.network.torso mlpp", ["one of mlp", "did you mean mlp?"]),
    ("train good.yaml --agent.network 3", ["agent.network", "section"]),
    ("train good.yaml --agent.name dqm", ["agent.name", "did you mean dqn?"]),
    ("train good.yaml --agnet.discount 0.9", ["'agnet'", "did you mean agent?"]),
    ("train good.yaml --steps -5", ["steps", "[1, 2147483647]", "'-5'"]),
    ("train good.yaml --steps 1e99", ["steps", "[1, 2147483647]"]),
    ("train good.yaml --steps 1.5", ["steps", "an integer", "'1.5'"]),
    ("train good.yaml --steps 3 --warmup-steps 0", ["env.num_envs * rollout_length", "got 3"]),
    ("train good.yaml --warmup-steps 9999", ["warmup_steps", "steps = 5000"]),
    ("train good.yaml --seed true", ["seed", "an integer", "'true'"]),
    ("train good.yaml --tensorboard 3", ["tensorboard", "true or false", "'3'"]),
    ("train good.yaml --wandb", ["wandb", "no value"]),
    ("train good.yaml --logger", ["--logger must be followed by a value"]),
    (
        "train good.yaml --logger own",
        ["loggers must be of the form module.path:name, or csv,", "got 'own'"],
    ),
    ("train good.yaml --env.num-envs 0", ["env.num_envs", "[1, 65536]"]),
    ("train good.yaml --replay.capcity 9", ["did you mean replay.capacity?"]),
    ("train good.yaml --replay.memory-fraction 1.5", ["replay.memory_fraction", "(0, 1]"]),
    ("train good.yaml --env.options.x .nan", ["env.options.x", "'.nan'"]),
    ("train good.yaml steps=3", ["unexpected argument 'steps=3'"]),
    ("train good.yaml -x 3", ["unexpected argument '-x', '3'"]),
    ("train goood.yaml", ["no file goood.yaml"]),
    ("train dqn/cartpol", ["preset", "'dqn/cartpol'"]),
    ("train empty", ["empty", "without config.yaml"]),
    ("train plain", ["must be a mapping of keys, got 'a file'"]),
    ("train good.yaml --out run1", ["run1", "bellmax resume run1"]),
    ("train good.yaml --out run1 --resume --seed 3", ["seed must be 0 as in run1, got 3; "]),
    ("train va.yaml --out run1 --resume", ["agent.name must be 'dqn' as in run1", "got 'va_le"]),
    ("train good.yaml --out plain", ["plain", "not a folder"]),
    ("train good.yaml --out plain/below", ["plain/below", "not a folder"]),
    ("train good.yaml --out " + "x" * 300, ["cannot be a run folder"]),
    ("train good.yaml --out", ["--out must be followed by a value, got nothing"]),
    ("resume", ["RUN", "first"]),
    ("resume run2", ["no run run2", "did you mean run1?"]),
    ("resume empty", ["empty is not a run"]),
    ("evaluate run1 --episodes 0", ["--episodes", "[1, 65536]", "got '0'"]),
    ("evaluate run1 --episodes many", ["--episodes", "'many'"]),
    (
        "evaluate run1 --checkpoint bst",
        ["--checkpoint", "latest, best or an integer", "'bst'", "mean best?"],
    ),
    ("evaluate run2", ["no run run2", "did you mean run1?"]),
    ("evaluate run1 --episode 3", ["option", "'--episode'", "did you mean --episodes?"]),
    ("record run1 --checkpoint -1", ["--checkpoint", "an integer in [0, 2147483647]", "'-1'"]),
    ("train --steps 5 good.yaml", ["PRESET|FILE must be given first"]),
    ("train good.yaml --seeds 2 3", ["seeds must be an integer", "['2', '3']"]),
    ("train good.yaml --wandb a b", ["wandb must be text or null", "['a', 'b']"]),
    ("train good.yaml --env.num-envs null", ["env.num_envs", "'null'"]),
    ("schema dqn/cartpol", ["agent or preset", "did you mean dqn/cartpole?"]),
    ("plot run2", ["no run run2", "did you mean run1?"]),
    ("plot", ["RUN must be given first", "bellmax plot RUN"]),
    ("list preset", ["'preset'", "did you mean presets?"]),
    ("list", ["agents|envs|presets must be given first"]),
    ("show-config good.yaml --stepz 3", ["'stepz'", "did you mean steps?"]),
    ("check-env", ["NAME must be given first"]),
    ("doctor now", ["unexpected argument 'now'"]),
    ("train qr.yaml --agent.trace retrce", ["agent.trace", "did you mean retrace?"]),
    (
        "train qr.yaml --agent.trace one_step",
        ["agent.n_step must be 1 for agent.trace one_step, got 3"],
    ),
    (
        "train qr.yaml --agent.trace uncorrected --agent.target-epsilon 0.1",
        ["agent.target_epsilon must be 0", "uncorrected"],
    ),
    (
        "train qr.yaml --agent.trace one_step --agent.n-step 1 --agent.target-epsilon 0.1",
        ["agent.target_epsilon must be 0", "one_step"],
    ),
    ("train qr.yaml --agent.munchausen", ["for agent.munchausen, got"]),
    ("train qr.yaml --agent.target-epsilon 2", ["agent.target_epsilon", "[0, 1]", "'2'"]),
    ("train qr.yaml --agent.trace-decay -0.1", ["agent.trace_decay", "[0, 1]", "'-0.1'"]),
    ("train qr.yaml --agent.num-quantiles 0", ["agent.num_quantiles", "[1, 10000]", "'0'"]),
    ("train qr.yaml --agent.num-quantiles 20.5", ["agent.num_quantiles", "an integer"]),
    ("train qr.yaml --agent.huber-delta -1", ["agent.huber_delta", ">= 0", "'-1'"]),
    ("train qr.yaml --agent.n-step 0", ["agent.n_step", "[1, 1000]", "'0'"]),
    ("train qr.yaml --agent.selector onlin", ["agent.selector", "did you mean online?"]),
    ("train qr.yaml --agent.anchor evry", ["agent.anchor", "did you mean every?"]),
    ("train qr.yaml --agent.quantiles 8", ["did you mean agent.num_quantiles?"]),
    ("train qr.yaml --agent.double", ["'agent.double'"]),
    ("train qr.yaml --agent.network.dueling", ["agent.network.dueling", "a head of its own"]),
    ("train qr.yaml --agent.network.module own:Plain", ["own:Plain", "num_quantiles=4"]),
    ("train qr.yaml --agent.network.module own:NoQuantiles", ["has no 'quantiles'"]),
    (
        "train qr.yaml --agent.network.module own:Transposed",
        ["quantiles of own:Transposed must have shape (2, 4, 2)", "got (2, 2, 4)"],
    ),
    ("train qr.yaml --agent.network.torso nature", ["needs images", "(4,)"]),
    ("train qr.yaml --env.name own:Continuous", ["with discrete actions, got bellmax/CartPole"]),
    (
        "train qr.yaml --env.num-envs 10 --replay.capacity 30",
        ["replay.capacity must be at least 40", "sequences of 4 steps"],
    ),
    ("train qr.yaml --warmup-steps 8", ["warmup_steps must be at least 128"]),
    ("train va.yaml --agent.loss behavior_dueling", ["did you mean behaviour_dueling?"]),
    ("train va.yaml --agent.behaviour unifrom", ["agent.behaviour", "did you mean uniform?"]),
    ("train va.yaml --agent.trace one_step", ["agent.trace", "uncorrected", "retrace"]),
    ("train va.yaml --agent.trace-decay 1.01", ["agent.trace_decay", "[0, 1]"]),
    ("train va.yaml --agent.doubel", ["did you mean agent.double?"]),
    ("train va.yaml --agent.target-epsilon 0.1", ["'agent.target_epsilon'"]),
    ("train va.yaml --agent.network.dueling", ["agent.network.dueling", "a head of its own"]),
    ("train va.yaml --agent.network.module own:Plain", ["own:Plain", "has no 'value'"]),
    (
        "train va.yaml --agent.network.module own:ColumnValue",
        ["value of own:ColumnValue must have shape (2,)", "got (2, 1)"],
    ),
    ("train va.yaml --env.name own:Continuous", ["with discrete actions, got bellmax/CartPole"]),
]


def complaints(capsys, arguments, code=2):
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    lines = captured.err.splitlines()
    assert lines and all(line.startswith("bellmax: ") for line in lines)
    assert not [line for line in lines if line.endswith(".")]
    return lines


def sentence(capsys, arguments, code=2):
    (line,) = complaints(capsys, arguments, code)
    return line


@pytest.mark.parametrize(("arguments", "parts"), MISTAKES)
def test_a_mistake_is_one_sentence(capsys, arguments, parts):
    arguments = arguments.split(" ")
    if arguments[0] == "train" and "--out" not in arguments and len(arguments) > 1:
        arguments += ["--out", "out"]
    line = sentence(capsys, arguments)
    assert not [part for part in parts if part not in line], line
    assert not os.path.exists("out")


FILES = [
    ("steps: fast\nagent: {name: dqn}", ["bad.yaml: steps must be an integer", "'fast'"]),
    ("agent: {name: dqn, learning_rate: .nan}", ["agent.learning_rate", "(0, 1]", "nan"]),
    ("agent: {name: dqn, lr: 3}", ["'agent.lr'", "did you mean agent.learning_rate?"]),
    ("{}", ["agent.name must be one of", "got nothing"]),
    ("agent: {name: dqn}\nreplya: {}", ["'replya'", "did you mean replay?"]),
    ("agent: {name: dqn}\nseed: true", ["seed must be an integer", "got true"]),
    ("agent: {name: dqn}\nsteps: 1\nsteps: 2", ["line 3, column 1", "steps is given twice"]),
    ("agent: {name: dqn\nsteps: 1", ["line 2"]),
    ("", ["bad.yaml must be a mapping of keys", "got an empty file"]),
]


@pytest.mark.parametrize(("text", "parts"), FILES)
def test_a_mistake_in_a_file_is_the_same_sentence_with_its_name(capsys, text, parts):
    write("bad.yaml", text)
    line = sentence(capsys, ["show-config", "bad.yaml"])
    assert not [part for part in [*parts, "bad.yaml"] if part not in line], line


def test_all_mistakes_of_a_file_are_reported_at_once(capsys):
    write("bad.yaml", "steps: fast\nseedz: 1\nagent: {name: dqnn, lr: 3}\nenv: {num_envs: 0}\n")
    lines = complaints(capsys, ["show-config", "bad.yaml"])
    assert len(lines) == 4 and all(line.startswith("bellmax: bad.yaml: ") for line in lines)
    assert [line.split(" ")[2] for line in lines] == [
        "agent.name",
        "steps",
        "env.num_envs",
        "unknown",
    ]
    write("bad.yaml", "steps: 9\nwarmup_steps: 100\ndevices: 3\nagent: {name: dqn}")
    fields = [line.split(" ")[2] for line in complaints(capsys, ["show-config", "bad.yaml"])]
    assert fields == ["warmup_steps", "devices"]


def test_all_mistakes_of_a_command_are_reported_at_once(capsys):
    arguments = "show-config good.yaml --agent.lr 3 --seeds 0 --agent.network.torso mlpp --wandb"
    lines = complaints(capsys, arguments.split())
    assert {"seeds", "wandb", "agent.network.torso", "unknown"} == {x.split(" ")[1] for x in lines}


def test_a_missing_extra_names_the_pip_command(capsys, monkeypatch):
    def check_env(name):
        raise UserError('gymnax/X needs an extra: pip install "bellmax[gymnax]"')

    monkeypatch.setattr("bellmax.envs.check_env", check_env, raising=False)
    assert 'pip install "bellmax[gymnax]"' in sentence(capsys, ["check-env", "gymnax/X"])


def test_what_is_wrong_with_an_environment_is_the_answer_with_exit_code_1(capsys):
    assert main(["check-env", "bellmax/CartPol"]) == 1
    captured = capsys.readouterr()
    assert "bellmax/CartPole" in captured.out and captured.err == ""


def test_an_environment_of_the_users_own_is_found_in_the_current_folder(tmp_path, capsys):
    write("an_own_task.py", "from bellmax.envs import CartPole\n")
    assert str(tmp_path) not in sys.path
    assert main(["check-env", "an_own_task:CartPole"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_failing_machine_is_one_sentence_and_exit_code_1(capsys, monkeypatch, code):
    def fail(arguments):
        raise OSError(code, os.strerror(code), "runs/x/log.jsonl")

    broken = commands.COMMANDS["list"]._replace(run=fail)
    monkeypatch.setitem(commands.COMMANDS, "list", broken)
    assert os.strerror(code) in sentence(capsys, ["list", "agents"], code=1)


def test_a_bug_of_ours_keeps_its_traceback(monkeypatch):
    def fail(arguments):
        raise ZeroDivisionError

    monkeypatch.setitem(commands.COMMANDS, "list", commands.COMMANDS["list"]._replace(run=fail))
    with pytest.raises(ZeroDivisionError):
        main(["list", "agents"])


def test_an_interrupted_run_says_how_to_continue(capsys, monkeypatch):
    def stop(run, config, actors, output=None):
        raise KeyboardInterrupt

    fake = SimpleNamespace(resume=stop)
    monkeypatch.setitem(sys.modules, "bellmax.launch.training.train", fake)
    line = sentence(capsys, ["resume", "run1"], code=130)
    assert "last checkpoint is kept" in line and "bellmax resume run1" in line


def test_train_gets_the_configuration_and_a_dated_folder(monkeypatch):
    calls = []
    fake = SimpleNamespace(train=lambda *given, **_: calls.append(given) or 0)
    monkeypatch.setitem(sys.modules, "bellmax.launch.training.train", fake)
    options = ["--agent.discount", "0.9", "--loggers", "a:b", "--logger", "c:d", "--logger=a:b"]
    assert main(["train", "good.yaml", *options]) == 0
    config, out, actors = calls[0]
    assert config.agent.discount == 0.9 and actors is None
    assert config.loggers == ("a:b", "c:d")
    assert out.parent.name == "runs" and out.name.startswith("good-2") and not out.exists()


def test_train_resumes_an_existing_run_when_asked_to(monkeypatch):
    calls = []
    fake = SimpleNamespace(resume=lambda *given: calls.append(given) or 0)
    monkeypatch.setitem(sys.modules, "bellmax.launch.training.train", fake)
    write("longer.yaml", PRESET.replace("5000", "6000"))
    assert main(["train", "longer.yaml", "--out", "run1", "--resume", "--tensorboard"]) == 0
    run, config, actors = calls[0]
    assert (run, config.steps, config.tensorboard, actors) == (Path("run1"), 6000, True, None)


def test_half_a_configuration_is_no_run(monkeypatch, capsys):
    fake = SimpleNamespace(train=lambda *_, **__: 0)
    monkeypatch.setitem(sys.modules, "bellmax.launch.training.train", fake)
    write("empty/config.yaml.tmp", PRESET[:9])
    assert main(["train", "good.yaml", "--out", "empty", "--resume"]) == 0
    write("empty/other", "")
    assert "empty is not empty" in sentence(capsys, ["train", "good.yaml", "--out", "empty"])


def test_show_config_prints_a_file_that_is_accepted_again(capsys):
    assert main(["show-config", "good.yaml", "--agent.learning-rate", "1e-5"]) == 0
    first = capsys.readouterr().out
    assert yaml.safe_load(first)["agent"]["learning_rate"] == 1e-5
    write("again.yaml", first)
    assert main(["show-config", "again.yaml"]) == 0
    assert capsys.readouterr().out == first


def test_help_of_a_preset_lists_every_key_with_comment_range_and_value(capsys):
    assert main(["train", "good.yaml", "--steps", "7000", "--help"]) == 0
    text = " ".join(re.sub(r"[^\x00-\x7f]", " ", capsys.readouterr().out).split())
    for part in (
        "--steps an integer in [1, 2147483647] Environment steps of training per seed",
        "(default: 7000)",
        "--agent.learning-rate a number in (0, 1] Learning rate; decays",
        "(default: 0.001)",
        "--agent.network.hidden a list where each is an integer in [1, 2147483647]",
        "(default: 120,84)",
        "(default: dqn)",
        "(default: bellmax/CartPole)",
        "--agent.network.torso one of mlp",
        "Hyper-parameters of DQN (Mnih et al. 2015",
        "--out DIR",
    ):
        assert part in text, part
    assert main(["resume", "run1", "--help"]) == 0
    assert "--agent.learning-rate" in capsys.readouterr().out


@pytest.mark.parametrize("command", commands.COMMANDS)
def test_every_command_has_help(capsys, command):
    assert main([command, "--help"]) == 0
    assert f"usage: bellmax {command}" in capsys.readouterr().out
