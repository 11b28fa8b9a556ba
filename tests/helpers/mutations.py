"""Mistakes planted in configurations."""

import datetime
import importlib.resources
import math
import types
import typing
from typing import Annotated, Any, Literal, Union

import annotated_types as at

from bellmax.agents import registry
from bellmax.launch.config import run_config
from bellmax.launch.config.fields import hints, section_type

LETTERS = "\n\t :-[]{},&*!|>'\"%@`#?0e.~é\x00"
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
        text = [] if args[0] is str else ["x"]  # `x` is read as `[x]`, as `64,64` is as `[64, 64]`
        return [*text, 1, True, None, {"a": 1}, b"1", *items, *ends]
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
