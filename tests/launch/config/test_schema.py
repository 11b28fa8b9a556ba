"""Validation: allowed values are kept exactly; others give one sentence with the key."""

import math
from dataclasses import asdict, dataclass, field
from typing import Annotated, Literal

import pytest
import yaml
from annotated_types import Ge, Gt, Interval, MinLen, MultipleOf
from hypothesis import given, settings
from hypothesis import strategies as st

from bellmax import UserError
from bellmax.envs.options import nearest
from bellmax.launch.config.fields import keys
from bellmax.launch.config.schema import build
from bellmax.launch.config.sentences import FLAG, Argument


@dataclass(frozen=True)
class Net:
    hidden: Annotated[tuple[Annotated[int, Ge(1)], ...], MinLen(1)] = (64, 64)
    kind: Literal["mlp", "minatar"] = "mlp"


@dataclass(frozen=True)
class Config:
    rate: Annotated[float, Interval(gt=0, le=1)] = 1e-3
    steps: Annotated[int, Ge(1)] = 10
    width: Annotated[int, MultipleOf(8)] = 16
    clip: Annotated[float, Gt(0)] | None = None
    free: float = 0.0
    flag: bool = False
    name: str = "x"
    label: str | None = None
    shape: tuple[int, int] = (1, 2)
    options: dict[str, int | float | bool | str] = field(default_factory=dict)
    net: Net = field(default_factory=Net)


FITS = [
    ({"rate": "1e-3"}, "rate", 1e-3),
    ({"rate": 1}, "rate", 1.0),
    ({"steps": 1e6}, "steps", 1_000_000),
    ({"steps": "1e6"}, "steps", 1_000_000),
    ({"steps": "1_000_000"}, "steps", 1_000_000),
    ({"clip": None}, "clip", None),
    ({"clip": Argument("none")}, "clip", None),
    ({"clip": Argument("2")}, "clip", 2.0),
    ({"flag": FLAG}, "flag", True),
    ({"flag": Argument("no")}, "flag", False),
    ({"name": Argument("1e3")}, "name", "1e3"),
    ({"label": "none"}, "label", "none"),  # text in a file stays text
    ({"options": {"a": -(2**31)}}, "options", {"a": -(2**31)}),
    ({"options": {"a": "Infinity", "b": "nan"}}, "options", {"a": "Infinity", "b": "nan"}),
    ({"label": Argument("null")}, "label", None),
    ({"shape": [3, 4]}, "shape", (3, 4)),
    ({"net": {"hidden": Argument("64,32")}}, "net", Net((64, 32))),
    ({"net": {"hidden": Argument("[64, 32]")}}, "net", Net((64, 32))),
    ({"net": {"hidden": Argument("7")}}, "net", Net((7,))),
    ({"options": {"a": Argument("10"), "b": "10"}}, "options", {"a": 10, "b": "10"}),
    ({"options": {"a": Argument("1e-3"), "b": Argument("x")}}, "options", {"a": 1e-3, "b": "x"}),
    ({"options": Argument("{a: 1, b: true}")}, "options", {"a": 1, "b": True}),
]


@pytest.mark.parametrize(("mapping", "name", "value"), FITS)
def test_values_that_fit_are_taken_with_the_type_of_the_field(mapping, name, value):
    got = getattr(build(Config, mapping), name)
    assert got == value and type(got) is type(value)
    if isinstance(value, dict):
        assert [type(item) for item in got.values()] == [type(item) for item in value.values()]


REFUSED = [
    ({"rate": 0}, "rate must be a number in (0, 1], got 0"),
    ({"rate": math.nan}, "rate must be a number in (0, 1], got nan"),
    ({"rate": True}, "rate must be a number in (0, 1], got true"),
    ({"rate": None}, "rate must be a number in (0, 1], got null"),
    ({"free": math.inf}, "free must be a number, got inf"),
    ({"free": Argument("inf")}, "free must be a number, got 'inf'"),
    ({"free": 10**400}, "free must be a number, got a very large integer"),
    ({"steps": True}, "steps must be an integer in [1, 2147483647], got true"),
    ({"steps": 1.5}, "steps must be an integer in [1, 2147483647], got 1.5"),
    ({"steps": math.inf}, "steps must be an integer in [1, 2147483647], got inf"),
    ({"steps": FLAG}, "steps must be an integer in [1, 2147483647], got no value"),
    ({"steps": [1]}, "steps must be an integer in [1, 2147483647], got [1]"),
    ({"steps": 2**31}, "steps must be an integer in [1, 2147483647], got 2147483648"),
    ({"steps": 10**400}, "got a very large integer"),
    ({"width": 12}, "[-2147483648, 2147483647] that is a multiple of 8, got 12"),
    ({"width": -(10**400)}, "got a very small integer"),
    ({"shape": [1, 2**31]}, "shape must be a list of 2 where each is an integer in"),
    ({"clip": -1}, "clip must be a number > 0 or null, got -1"),
    ({"flag": 1}, "flag must be true or false, got 1"),
    ({"name": 5}, "name must be text, got 5"),
    ({"label": FLAG}, "label must be text or null, got no value"),
    ({"shape": [1]}, "shape must be a list of 2 where each is an integer"),
    ({"options": {"a": math.nan}}, "options.a must be"),
    ({"options": {"a": [1]}}, "options.a must be"),
    ({"options": {"a": 2**31}}, "options.a must be an integer in [-2147483648, 2147483647] or"),
    ({"options": {1: 2}}, "options must be a section of keys"),
    ({"options": 3}, "options must be a section of keys"),
    ({"net": {"hidden": []}}, "net.hidden must be a list of at least 1"),
    ({"net": {"hidden": [0]}}, "net.hidden must be a list of at least 1"),
    ({"net": {"kind": "minatr"}}, "did you mean minatar?"),
    ({"net": None}, "net must be a section of keys, got null"),
    ({"net": {"hiden": [1]}}, "unknown key 'net.hiden'; did you mean net.hidden?"),
    ({"hidden": [1]}, "unknown key 'hidden'; did you mean net.hidden?"),
    ({1: 2}, "unknown key '1'; choose from"),
    ({"max_clip": 1, "clip": 2}, "did you mean clip?"),
    ([1], "the configuration must be a section of keys, got [1]"),
]


@pytest.mark.parametrize(("mapping", "sentence"), REFUSED)
def test_values_that_do_not_fit_are_named_with_what_is_allowed(mapping, sentence):
    with pytest.raises(UserError) as caught:
        build(Config, mapping, where="file.yaml")
    assert str(caught.value).startswith("file.yaml: ")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_field_without_default_must_be_given():
    @dataclass(frozen=True)
    class Needs:
        size: Annotated[int, Ge(1)]

    with pytest.raises(UserError, match=r"size must be an integer in .*, got nothing"):
        build(Needs, {})


def test_an_unknown_bound_is_a_bug_of_ours_and_not_ignored():
    @dataclass(frozen=True)
    class Odd:
        size: Annotated[int, "positive"] = 1

    with pytest.raises(TypeError, match="not a bound"):
        build(Odd, {"size": 3})


@settings(max_examples=50, deadline=None)
@given(
    rate=st.floats(min_value=0, max_value=1, exclude_min=True),
    free=st.floats(allow_nan=False, allow_infinity=False),
    name=st.text(),
    options=st.dictionaries(
        st.text(),
        st.text() | st.booleans() | st.integers(-(2**31), 2**31 - 1) | st.floats(-1e9, 1e9),
        max_size=3,
    ),
)
def test_a_resolved_configuration_reads_back_exactly(rate, free, name, options):
    config = Config(rate=rate, free=free, name=name, options=options, net=Net((3, 5)))
    again = build(Config, yaml.safe_load(yaml.safe_dump(asdict(config))))
    assert again == config
    assert all(type(again.options[key]) is type(value) for key, value in options.items())


def test_keys_are_listed_with_their_sections():
    assert keys(Config)[-3:] == ["net", "net.hidden", "net.kind"]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("agent.learning_rat", "agent.learning_rate"),
        ("learning_rate", "agent.learning_rate"),
        ("agent.lr", "agent.learning_rate"),
        ("bs", "agent.batch_size"),
        ("env.steps", "steps"),
        ("qqq", None),
    ],
)
def test_the_nearest_key_is_found_by_whole_last_part_or_initials(word, expected):
    assert nearest(word, ["steps", "agent.learning_rate", "agent.batch_size"]) == expected


@dataclass(frozen=True)
class Inner:
    size: int = 1
    depth: int = 2


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=lambda: Inner(size=10))
    other: Inner | None = None


@dataclass(frozen=True)
class Outermost:
    outer: Outer = field(default_factory=lambda: Outer(inner=Inner(size=20)))


def test_keys_left_out_of_a_section_are_those_of_what_it_is_in():
    """A section with a default other than its class's keeps it for keys that are not given."""
    assert build(Outer, {"inner": {"depth": 3}}) == Outer(Inner(10, 3))
    assert build(Outer, {"other": {"depth": 3}}) == Outer(Inner(10, 2), Inner(1, 3))
    assert build(Outermost, {"outer": {"inner": {"depth": 3}}}).outer.inner == Inner(20, 3)
    assert build(Outermost, {}).outer.inner == Inner(20, 2)
