"""The table in docs/losses/sequence.md is complete and correct; docstrings stand alone."""

import inspect
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

from bellmax.losses import sequence

ROOT = pathlib.Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "losses" / "sequence.md").read_text()
SIZES = {"T": 5, "V": 11, "K": 4, "N": 6, "M": 3}
REQUIRED = {"k": 2, "n": 2.0, "scale": 1.0, "epsilon": 0.1}
TREES = {"average_weights", "lerp", "merge_task_vectors", "slerp", "task_vector"}


def rows_of(page):
    """Return the rows of the table by function: equation, shapes, source, limit."""
    found = re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.MULTILINE)
    rows = [(name, re.split(r" \| ", cells + " ")) for name, cells in found]
    return [(name, cells) for name, cells in rows if len(cells) == 4]


ROWS = dict(rows_of(PAGE))
FUNCTIONS = sorted(set(ROWS) - TREES)


def test_every_public_name_has_one_row_and_no_other_has():
    assert sorted(name for name, _ in rows_of(PAGE)) == sequence.__all__
    assert len(rows_of(PAGE.replace("| `dpo_loss`", "| `dpo_los`"))) == len(ROWS)


def read(shapes):
    for kind, axes in re.findall(r"(int )?\[([^\]]*)\]", shapes):
        shape = tuple(SIZES[axis.strip()] for axis in axes.split(",") if axis.strip())
        yield jax.ShapeDtypeStruct(shape, jnp.int32 if kind else jnp.float32)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_shapes_are_those_of_the_code(name):
    function = getattr(sequence, name)
    before, _, after = re.findall(r"`([^`]*)`", ROWS[name][1])[0].partition("->")
    given = {
        p.name: REQUIRED[p.name]
        for p in inspect.signature(function).parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.default is p.empty
    }
    (wanted,) = read(after)
    found = jax.eval_shape(lambda *arrays: function(*arrays, **given), *read(before))
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)


@pytest.mark.parametrize("name", sequence.__all__)
def test_papers_and_arguments_are_those_of_the_docstring(name):
    function = getattr(sequence, name)
    text = inspect.getdoc(function)
    pattern = r"(\d{4}\.\d{5})"
    links = re.findall(rf"\[{pattern}\]\(https://arxiv\.org/abs/{pattern}\)", ROWS[name][2])
    assert all(shown == target for shown, target in links)
    assert {shown for shown, _ in links} == set(re.findall(f"arXiv:{pattern}", text))
    described = text.partition("Args:")[2].partition("Returns:")[0]
    named = re.findall(r"^  (\w+): ", described, re.MULTILINE)
    assert named == list(inspect.signature(function).parameters)
    assert "Source: " in text and "Raises:" in text


def test_sections_link_the_files_of_their_rows():
    for section in PAGE.split("\n## ")[2:]:
        modules = {getattr(sequence, n).__module__.rpartition(".")[2] for n, _ in rows_of(section)}
        assert modules <= set(re.findall(r"sequence/(\w+)\.py\)", section)), section[:30]
