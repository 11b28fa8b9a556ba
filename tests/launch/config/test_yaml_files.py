"""YAML's oddities: files and options read alike, or a sentence says where; nothing grows."""

import time
import tracemalloc

import pytest

from bellmax import UserError
from bellmax.launch.cli import main
from bellmax.launch.config.sentences import show
from bellmax.launch.config.yaml_files import dump_yaml, parse_yaml, read_scalar

SAME = [  # text, what it means in a file and as an option
    ("010", 10),
    ("-007", -7),
    ("0o17", 15),
    ("0x1f", 31),
    ("0b11", 3),
    ("1_000", 1000),
    ("1:30", "1:30"),  # not 90, as in YAML 1.1
    ("12:30:45", "12:30:45"),
    ("1:30.5", "1:30.5"),
    ("2024-01-02", "2024-01-02"),
    ("2024-13-45", "2024-13-45"),
    ("2001-12-14t21:59:43.10-05:00", "2001-12-14t21:59:43.10-05:00"),
    ("1e-3", 0.001),
    ("1.5E3", 1500.0),
    ("-.5", -0.5),
    ("5.", 5.0),
    ("yes", True),
    ("1.2.3", "1.2.3"),
    ("0x", "0x"),
    ("_1", "_1"),
]


@pytest.mark.parametrize(("text", "value"), SAME)
def test_a_file_and_an_option_mean_the_same(text, value):
    read = parse_yaml(f"a: {text}".encode(), "f")["a"]
    assert (read, read_scalar(text)) == (value, value) and type(read) is type(value)


@pytest.mark.parametrize("text", [text for text, _ in SAME] + ["", "null", "~", "=", "<<", "no"])
def test_text_comes_back_as_text(text):
    assert parse_yaml(dump_yaml({"a": text}).encode(), "f") == {"a": text}


NONE = [
    "!!bool maybe",
    "!!int x",
    "!!float [1]",
    "!!timestamp soon",
    "!!map 3",
    "!!seq {a: 1}",
    "!!omap [a]",
    "!!set [a]",
    "!!python/object/apply:os.system [x]",
    "9" * 5000,
    "-" + "1" * 100_000,
    "=",
    "? [a]\n  : 1",
    "[" * 3000,
    "{" * 200_000,
    "- " * 500 + "x",
    "&a [*a]",
    "&a {b: *a}",
]


@pytest.mark.parametrize("text", NONE, ids=range(len(NONE)))
def test_what_is_none_is_one_sentence_with_file_and_line(text):
    started = time.process_time()
    with pytest.raises(UserError) as caught:
        parse_yaml(f"a: 1\nb: {text}".encode(), "own.yaml")
    assert str(caught.value).startswith("own.yaml, line 2, column ")
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)
    assert read_scalar(text) == text
    assert time.process_time() - started < 2


def bomb(levels, one):
    lines = ["v0: &v0 [x]"] + [one.format(new=i, old=i - 1) for i in range(1, levels)]
    return "\n".join(lines)


BOMBS = [
    bomb(9, "v{new}: &v{new} [" + ", ".join(["*v{old}"] * 9) + "]"),
    bomb(40, "v{new}: &v{new} {{a: *v{old}, b: *v{old}}}"),
    "v0: &v0 {a: 1}\n"
    + bomb(30, "w{new}: &w{new} {{<<: [*w{old}, *w{old}]}}").replace(
        "v0: &v0 [x]", "w0: &w0 {a: 1}"
    ),
]


@pytest.mark.parametrize("text", BOMBS, ids=["lists", "mappings", "merges"])
def test_a_bomb_of_aliases_is_refused_before_it_is_built(text):
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"f, line \d+, .* more than 100,000 values"):
            parse_yaml(text.encode(), "f")
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_plain_aliases_and_merges_work():
    text = "a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]"
    one = {"x": 1}
    assert parse_yaml(text.encode(), "f") == {"a": one, "b": {"x": 1, "y": 2}, "c": [one, one]}


def test_a_file_that_is_too_large_is_refused(tmp_path, capsys):
    path = tmp_path / "large.yaml"
    path.write_text("# x\n" * 300_000)
    assert main(["show-config", str(path)]) == 2
    assert "at most 1,048,576 bytes" in capsys.readouterr().err


def test_values_in_messages_are_short():
    value = [["x" * 50] * 1000] * 1000
    for one in (value, {"a": value}, (value,), "x" * 10**6, 10**80, {1: 2}, b"x" * 10**6):
        assert len(show(one)) <= 90
    assert len(str(UserError("x" * 10**6))) < 2100
    assert str(UserError("a\n" + "b" * 1999)) == "a\n" + "b" * 1999


LONG = "x" * 5000


@pytest.mark.parametrize(
    "line",
    [
        "show-config {}",
        "show-config {}.yaml",
        "train dqn/cartpole --out {}",
        "evaluate {}",
        "record {}",
        "plot {}",
        "resume {}",
        "schema {}",
        "list {}",
        "{}",
        "show-config dqn/cartpole --{} 3",
        "show-config dqn/cartpole --agent.name {}",
        "show-config dqn/cartpole --agent.name {}:make",
        "show-config dqn/cartpole --agent.network.torso {}",
        "show-config dqn/cartpole --steps {}",
    ],
)
def test_a_name_of_5000_characters_is_one_short_sentence(line, capsys):
    assert main(line.format(LONG).split()) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and len(error) < 2200
