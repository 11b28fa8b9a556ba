"""`vmap`: which keys a run can vary in one program, and the sentences for the others."""

import dataclasses
from typing import Annotated

import numpy as np
import pytest
from annotated_types import Gt

import bellmax
from bellmax import UserError
from bellmax.agents import TRACEABLE
from bellmax.agents import registry as agents
from bellmax.launch.cli import main
from bellmax.launch.config.points import at_point, learners_of, points_of, traceable_keys
from bellmax.launch.config.run_config import load, to_yaml

RATE, GAMMA = "agent.learning_rate", "agent.discount"


def config_of(*options, source="dqn/cartpole"):
    return load(source, options)


def test_the_product_has_the_seeds_of_a_point_together():
    config = config_of(
        "--vmap.agent.learning-rate", "1e-4,1e-3", "--vmap.agent.discount=0.9,0.99", "--seeds=2"
    )
    points = [{RATE: rate, GAMMA: gamma} for rate in (1e-4, 1e-3) for gamma in (0.9, 0.99)]
    assert points_of(config) == points
    assert learners_of(config) == [(point, seed) for point in points for seed in (0, 1)]


def test_a_point_is_the_configuration_of_its_run_alone():
    config = config_of("--vmap.agent.learning-rate", "1e-4,1e-3")
    assert at_point(config, points_of(config)[1]) == config_of("--agent.learning-rate", "1e-3")
    plain = config_of()
    assert points_of(plain) == [{}] and at_point(plain, {}) == plain


@pytest.mark.parametrize(
    "text",
    [
        "vmap: {agent.learning-rate: [1e-4, 1e-3]}",
        "vmap: {agent: {learning_rate: [1e-4, 1e-3]}}",
        "vmap:\n  agent.learning_rate: 1e-4,1e-3",
    ],
)
def test_files_options_and_python_say_the_same(tmp_path, text):
    wanted = config_of("--vmap.agent.learning-rate", "1e-4,1e-3")
    (tmp_path / "a.yaml").write_text(to_yaml(config_of()).replace("vmap: {}", text))
    assert load(tmp_path / "a.yaml") == wanted
    (tmp_path / "b.yaml").write_text(to_yaml(wanted))
    assert load(tmp_path / "b.yaml") == wanted
    for values in ({RATE: [1e-4, 1e-3]}, {"agent": {"learning_rate": np.array([1e-4, 1e-3])}}):
        assert bellmax.load_config("dqn/cartpole", vmap=values) == wanted
    over = load(tmp_path / "b.yaml", ["--vmap.agent.learning-rate", "0.5"])
    assert over.vmap == {RATE: (0.5,)}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["agent.lr=1"], "unknown key 'vmap.agent.lr'; did you mean vmap.agent.learning_rate?"),
        (
            ["agent.discont=1"],
            "unknown key 'vmap.agent.discont'; did you mean vmap.agent.discount?",
        ),
        (["agent.learning-rate=0.1,3"], "agent.learning_rate must be a number in (0, 1], got 3.0"),
        (
            ["agent.learning-rate=0.1,0.1"],
            "vmap.agent.learning_rate must be one or more values that differ, got '0.1,0.1'",
        ),
        (
            ["agent.learning-rate=0.1,fast"],
            "vmap.agent.learning_rate must be a list where each is a number, such as 64,64, "
            "got '0.1,fast'",
        ),
        (
            ["agent.discount=0.5,0.9", "agent.learning-rate=0.1,0.2"],
            "vmap must be at most 65536 learners, points times seeds, got 80000",
        ),
    ],
)
def test_a_mistake_is_one_sentence(options, sentence):
    with pytest.raises(UserError) as error:
        config_of("--seeds=20000", *[f"--vmap.{option}" for option in options])
    assert str(error.value) == sentence


@pytest.mark.parametrize("mistake", ["{a: 1}", "{agent: {batch_size: 8}}", "{agent.discount: 3}"])
def test_a_mistake_of_a_file_names_the_file(tmp_path, mistake):
    path = tmp_path / "run.yaml"
    path.write_text(f"agent: {{name: dqn}}\nenv: {{name: bellmax/Catch}}\nvmap: {mistake}\n")
    with pytest.raises(UserError, match=f"^{path}: [a-z]"):
        load(path)


def test_keys_that_cannot_be_traced_are_named_with_those_that_can():
    with pytest.raises(UserError) as error:
        config_of("--vmap.agent.batch-size=8,16", "--vmap.steps=10", "--vmap.agent.discount=0.9")
    text = str(error.value)
    assert text.startswith("vmap must be of numbers that one program can vary (agent.learning_rate")
    assert "got agent.batch_size, steps, which are static; `bellmax sweep` trains a run" in text
    assert "agent.discount" in text and "agent.n_step" not in text


def test_every_agent_can_vary_its_learning_rate_and_no_shape():
    for name in agents.names():
        keys = traceable_keys(agents.config_class(name))
        assert {RATE, GAMMA} <= set(keys), name
        assert not {"agent.batch_size", "agent.n_step", "agent.network.hidden"} & set(keys), name


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: Annotated[float, TRACEABLE] = 0.1
    size: int = 3


@dataclasses.dataclass(frozen=True)
class Own:
    scale: Annotated[float, Gt(0), TRACEABLE] | None = None
    listed: tuple[Annotated[float, TRACEABLE], ...] = ()
    inner: Inner = dataclasses.field(default_factory=Inner)


def test_a_configuration_of_ones_own_marks_its_numbers():
    assert traceable_keys(Own) == ["agent.scale", "agent.inner.rate"]


def test_a_host_environment_and_a_sweep_refuse_it(capsys, tmp_path):
    vary = "--vmap.agent.learning-rate=1e-4,1e-3"
    out = ["--out", str(tmp_path / "run")]
    name = ["--env.name", "gymnasium/CartPole-v1"]
    assert main(["train", "dqn/cartpole", *out, *name, vary]) == 2
    assert main(["sweep", "dqn/cartpole", *out, "--vmap.agent.learning-rate=1e-4"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors == [
        "bellmax: vmap must be left out, as gymnasium/CartPole-v1 is not stepped on the device, "
        "got agent.learning_rate; `bellmax sweep` trains a run for each value",
        "bellmax: vmap must be left out of a sweep, got 'agent.learning_rate'; one run of `bellmax "
        "train` has all its points",
    ]
