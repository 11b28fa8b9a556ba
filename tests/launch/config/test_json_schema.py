"""`bellmax schema`: the JSON schema accepts the same files as `load`."""

import json

import jsonschema
import pytest

from bellmax.agents import registry
from bellmax.launch.cli import main
from bellmax.launch.config import run_config
from bellmax.launch.config.run_config import read_source


def checker(agent):
    schema = run_config.json_schema(agent)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("name", run_config.list_presets())
def test_the_schema_of_its_agent_accepts_each_preset(name):
    validator = checker(name.split("/")[0])
    mapping = read_source(name).mapping
    assert not list(validator.iter_errors(mapping))
    assert not list(validator.iter_errors(run_config.to_dict(run_config.load(name))))


MISTAKES = [
    {"steps": "fast"},
    {"steps": 0},
    {"steps": True},
    {"stepz": 1},
    {"agent": None},
    {"agent": {}},
    {"agent": {"name": "other"}},
    {"agent": {"learning_rate": 0.1}},
    {"agent": {"discount": 1.5}},
    {"agent": {"lr": 3}},
    {"agent": {"network": {"hidden": [0]}}},
    {"agent": {"network": {"hiden": [1]}}},
    {"agent": {"network": 3}},
    {"agent_name": "dqn"},
    {"env": {"num_envs": 0}},
    {"env": {"options": [1]}},
    {"env": {"randomise": {"a": [1]}}},
    {"replay": {"memory": "disk"}},
    {"host": {"actor_device": -1}},
]


@pytest.mark.parametrize("agent", registry.names())
def test_the_schema_of_every_agent_refuses_planted_mistakes(agent):
    validator = checker(agent)
    assert validator.is_valid({"agent": {"name": agent}})
    for mistake in MISTAKES:
        section = mistake.get("agent", {"name": agent})
        if isinstance(section, dict) and section and set(section) != {"learning_rate"}:
            section = {"name": agent} | section
        assert not validator.is_valid({**mistake, "agent": section}), mistake


def test_the_command_prints_descriptions_ranges_and_the_keys_of_files(capsys):
    assert main(["schema", "dqn/cartpole"]) == 0
    text = capsys.readouterr().out
    assert main(["schema", "dqn"]) == 0
    assert capsys.readouterr().out == text
    schema = json.loads(text)
    agent = schema["$defs"][schema["properties"]["agent"]["$ref"].rpartition("/")[2]]
    assert list(agent["properties"])[0] == "name" and agent["properties"]["name"]["const"] == "dqn"
    rate = agent["properties"]["learning_rate"]
    assert rate["description"].startswith("Learning rate")
    assert (rate["exclusiveMinimum"], rate["maximum"], rate["default"]) == (0, 1, 2.5e-4)
    assert '"agent_name"' not in text and schema["required"] == ["agent"]
    sections = [schema, *schema["$defs"].values()]
    keys = [item for section in sections for item in section["properties"].values()]
    assert len(keys) > 60 and all("description" in key or "$ref" in key for key in keys)
