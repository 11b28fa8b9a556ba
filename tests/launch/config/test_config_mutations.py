"""Presets with planted mistakes: each is reported in one sentence, and none crashes.

`--slow` plants 1,000; the fast set has fewer.
"""

import datetime
import importlib.resources
import math
import random
import types
import typing
from typing import Annotated, Any, Literal, Union

import annotated_types as at
import pytest

from bellmax import UserError
from bellmax.agents import registry
from bellmax.launch.config import run_config
from bellmax.launch.config.fields import hints, section_type
from bellmax.launch.config.yaml_files import dump_yaml, parse_yaml

LETTERS = "\n\t :-[]{},&*!|>'\"%@`#?0e.~é\x00"
COUNTS = [150, pytest.param(1000, marks=pytest.mark.slow)]
DATE = datetime.date(2024, 1, 2)
NEVER = [[], {}, b"1", DATE, [[1]]]  # fits no scalar
SCALARS = {
    int: [True, 1.5, math.nan, math.inf, "x", "1.5", "", *NEVER],
    float: [True, math.nan, -math.inf, "x", "nan", "", 10**400, *NEVER],
    bool: [0, 1, 1.0, "x", "1", "t", "", *NEVER],
    str: [0, 1.5, True, math.nan, *(value for value in NEVER if value != DATE)],  # a date is text
}


def leaves(cls, prefix=(), agent=None):
    """Yields the path and the type hint of each value in a file."""
    for name, hint in hints(cls, {"agent": agent} if agent else None).items():
        if inner := section_type(hint):
            yield from leaves(inner, (*prefix, name))
        elif name != "agent_name":
            yield (*prefix, name), hint


def wrong_values(hint):
    """Values that a type hint does not allow."""
    bounds = []
    if typing.get_origin(hint) is Annotated:
        hint, *bounds = typing.get_args(hint)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        members = [arg for arg in args if arg is not type(None)]
        wrong = [value for value in wrong_values(members[0]) if value is not None]
        if len(members) > 1:  # a number or a word
            wrong = [value for value in wrong if not isinstance(value, str)] + ["x", ""]
        return wrong if len(members) < len(args) else [*wrong, None]
    if origin is Literal:
        return [f"{args[0]}x", "", 1, True, None, *NEVER]
    if origin is tuple:
        ends = [[]] if any(isinstance(b, at.MinLen) for b in bounds) else []
        items = [[value] for value in wrong_values(args[0]) if value is not None]
        return ["x", 1, True, None, {"a": 1}, b"1", *items, *ends]
    if origin is dict:
        free = [math.nan, b"1", {1: 1}, [math.nan]]  # of the options of tasks
        wrong = free if args[1] is Any else [None, [], math.nan, DATE]
        return [1, "x", [], True, {1: 1}, *({"a": value} for value in wrong)]
    return [*SCALARS[hint], None, *out_of_range(hint, bounds)]


def out_of_range(base, bounds):
    if base is int:
        yield from (2**31, 10**400, -(10**400))
    for bound in bounds:
        for part in bound if isinstance(bound, at.GroupedMetadata) else [bound]:
            if isinstance(part, at.Ge):
                yield part.ge - 1
            elif isinstance(part, at.Gt):
                yield base(part.gt)
            elif isinstance(part, at.Le):
                yield part.le + 1
            elif isinstance(part, at.Lt):
                yield base(part.lt)


def put(mapping, path, value):
    for name in path[:-1]:
        mapping[name] = mapping.get(name) if isinstance(mapping.get(name), dict) else {}
        mapping = mapping[name]
    mapping[path[-1]] = value


def wrong_value(rng, mapping):
    agent = registry.config_class(mapping["agent"]["name"])
    path, hint = rng.choice(list(leaves(run_config.RunConfig, agent=agent)))
    put(mapping, path, rng.choice(wrong_values(hint)))
    return ".".join(path)


def unknown_key(rng, mapping):
    agent = registry.config_class(mapping["agent"]["name"])
    path, _ = rng.choice(list(leaves(run_config.RunConfig, agent=agent)))
    at_letter = rng.randrange(len(path[-1]))
    name = path[-1][:at_letter] + rng.choice("qxz9 é:#") + path[-1][at_letter:]
    put(mapping, (*path[:-1], name), 1)
    return name.replace("-", "_")


def wrong_section(rng, mapping):
    name = rng.choice(["agent", "env", "replay", "host"])
    mapping[name] = rng.choice([1, "x", [], [1], True, None, 1.5, b"1"])
    return name


def wrong_agent(rng, mapping):
    mapping["agent"]["name"] = rng.choice(["", "dqnn", 3, None, True, ["dqn"], {}, "DQN", math.nan])
    return "agent.name"


MISTAKES = (wrong_value, wrong_value, wrong_value, unknown_key, wrong_section, wrong_agent)


def preset_text(name):
    folder, file = name.split("/")
    return (importlib.resources.files("bellmax.configs") / folder / f"{file}.yaml").read_text()


@pytest.mark.parametrize("count", COUNTS)
def test_each_planted_mistake_is_refused_and_named(tmp_path, count):
    rng, path, presets = random.Random(7), tmp_path / "mutated.yaml", run_config.list_presets()
    for number in range(count):
        name = presets[number % len(presets)]
        mapping = parse_yaml(preset_text(name).encode(), name)
        planted = rng.choice(MISTAKES)(rng, mapping)
        path.write_text(dump_yaml(mapping))
        with pytest.raises(UserError) as caught:
            pytest.fail(f"{number}, {name}, {planted}: accepted {run_config.load(path)}")
        lines = str(caught.value).splitlines()
        assert all(line.startswith(f"{path}: ") for line in lines), (number, name, lines)
        assert [line for line in lines if planted in line], (number, name, planted, lines)


@pytest.mark.parametrize("count", COUNTS)
def test_two_mistakes_are_both_named(tmp_path, count):
    rng, path, presets = random.Random(8), tmp_path / "mutated.yaml", run_config.list_presets()
    for number in range(count // 5):
        mapping = parse_yaml(preset_text(presets[number % len(presets)]).encode(), "preset")
        planted = {wrong_value(rng, mapping), unknown_key(rng, mapping)}
        path.write_text(dump_yaml(mapping))
        with pytest.raises(UserError) as caught:
            run_config.load(path)
        missed = [key for key in planted if key not in str(caught.value)]
        assert not missed, (number, missed, str(caught.value))


@pytest.mark.parametrize("count", COUNTS)
def test_a_damaged_file_is_refused_or_read_but_never_crashes(tmp_path, count):
    rng, path, presets = random.Random(9), tmp_path / "damaged.yaml", run_config.list_presets()
    refused = 0
    for number in range(count):
        text = list(preset_text(presets[number % len(presets)]))
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(text))
            text[place : place + rng.randint(0, 3)] = rng.choice(
                "\n\t :-[]{},&*!|>'\"%@`#?0e.~é\x00"
            )
        path.write_text("".join(text))
        try:
            run_config.load(path)
        except UserError as error:
            refused += 1
            assert "Traceback" not in str(error)
    assert refused > count // 4


@pytest.mark.parametrize("name", run_config.list_presets())
def test_values_in_other_words_are_accepted(name, tmp_path):
    """Numbers as text, integers as floats, and keys with dashes are accepted."""
    config = run_config.load(name)

    def in_other_words(value):
        if isinstance(value, dict):
            return {key.replace("_", "-"): in_other_words(item) for key, item in value.items()}
        if isinstance(value, bool) or value is None:
            return value
        return (
            float(value)
            if isinstance(value, int)
            else str(value)
            if isinstance(value, float)
            else value
        )

    plain = run_config.to_dict(config)
    free = plain["env"].pop("options"), plain["env"].pop("randomise")
    mapping = in_other_words(plain)
    mapping["env"] |= {"options": free[0], "randomise": free[1]}
    path = tmp_path / "same.yaml"
    path.write_text(dump_yaml(mapping))
    assert run_config.load(path) == config
