"""Options of tasks: every value that YAML writes, with one meaning in a file and when typed."""

import math
import sys

import pytest

from bellmax import UserError
from bellmax.envs.registry import make, make_batch
from bellmax.launch.config.run_config import load, to_yaml

VALUES = [
    ("[0.5, 2.0]", [0.5, 2.0]),
    ("[0.7, .inf]", [0.7, math.inf]),
    ("[[1, 2], [x]]", [[1, 2], ["x"]]),
    ("{a: 1, b: [x, null]}", {"a": 1, "b": ["x", None]}),
    ("null", None),
    ("~", None),
    ("none", "none"),
    ("nan", "nan"),
    ("-.inf", -math.inf),
    ("1e-3", 0.001),
    ("'1e-3'", "1e-3"),
    ("010", 10),
    ("yes", True),
    ('"yes"', "yes"),
    ("2024-01-02", "2024-01-02"),
    ("12:30", "12:30"),
    ("a, b", "a, b"),
    ("5000000000", 5_000_000_000),
    ("[]", []),
]


@pytest.mark.parametrize(("text", "value"), VALUES)
def test_a_file_and_an_option_mean_the_same(tmp_path, text, value):
    path = tmp_path / "own.yaml"
    path.write_text(f"agent: {{name: dqn}}\nenv:\n  options:\n    x: {text}\n")
    for config in (load(path), load("dqn/cartpole", [f"--env.options.x={text}"])):
        assert config.env.options == {"x": value}
        assert type(config.env.options["x"]) is type(value)
        again = tmp_path / "again.yaml"
        again.write_text(to_yaml(config))
        assert load(again) == config


def test_words_and_sections_are_read_one_by_one():
    words = "--env.options.x 1 b --env.options.y --env.options.z.a 2 --env.options.z.b true"
    options = {"x": [1, "b"], "y": True, "z": {"a": 2, "b": True}}
    assert load("dqn/cartpole", words.split()).env.options == options


@pytest.mark.parametrize(
    "text", [".nan", "[1, .nan]", "!!binary aGk=", "{1: 2}", "!!set {a}", "9" * 20]
)
def test_what_is_no_value_of_an_option_is_named(tmp_path, text):
    path = tmp_path / "own.yaml"
    path.write_text(f"agent: {{name: dqn}}\nenv:\n  options:\n    x: {text}\n")
    for use in (lambda: load(path), lambda: load("dqn/cartpole", [f"--env.options.x={text}"])):
        with pytest.raises(UserError, match=r"env\.options\.x.* must be (text|an integer)"):
            use()


def test_an_integer_that_jax_does_not_hold_is_refused_for_its_tasks_alone():
    with pytest.raises(UserError, match="env.options.size of bellmax/DeepSea .* of 32 bits"):
        make("bellmax/DeepSea", size=2**40)


TASK = """
import gymnasium, numpy as np
got = {}

class Task(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, **options):
        got.update(options)
"""


def test_a_factory_gets_the_values(tmp_path, monkeypatch):
    (tmp_path / "optioned.py").write_text(TASK)
    monkeypatch.syspath_prepend(tmp_path)
    config = load("dqn/cartpole", ["--env.options.range", "[0.5, 2]", "--env.options.seed=2e0"])
    make_batch("optioned:Task", 1, **config.env.options).close()
    assert sys.modules["optioned"].got == {"range": [0.5, 2], "seed": 2.0}
