"""The table in docs/losses/losses.md is complete and correct: shapes, papers, rlax and limits."""

import ast
import inspect
import pathlib
import re
import typing
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import losses
from bellmax.losses._rlax import rlax
from helpers.compiling import compiled

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "losses" / "losses.md").read_text()
HEADER = ["function", "equation", "shapes", "source", "limit"]
# All differ, and W is the default window of a bandit.
SIZES = dict(zip("ABCDKLMNSTW", (3, 4, 2, 6, 13, 7, 8, 9, 10, 11, 5), strict=True))
ANY_SHAPE = (2, 3)  # what [...] stands for
REQUIRED = dict.fromkeys(
    ("lambda_", "temperature", "gamma", "alpha", "step_size", "step_size_v", "step_size_advantage"),
    0.5,
) | {"n": 2, "target_entropy": -1.0, "horizons": SIZES["K"]}
TOKEN = re.compile(r"(int )?\[([^\]]*)\]|(\w+)")


def tables(page):
    """Every table of a page: lists of rows, each a list of cells, the header first."""
    found = re.findall(r"(?:^\|.*\|$\n?)+", page, re.MULTILINE)
    rows = ([line.strip("|").split("|") for line in t.splitlines()] for t in found)
    return [[[cell.strip() for cell in row] for i, row in enumerate(t) if i != 1] for t in rows]


def rows_of(page):
    return [row for table in tables(page) if table[0] == HEADER for row in table[1:]]


def name_of(row):
    return row[0].strip("`")


def problems(page, public):
    """What is missing from a page's tables, there twice, not public, or not five cells long."""
    rows = rows_of(page)
    counts = Counter(map(name_of, rows))
    found = [f"{name} has no row" for name in public if name not in counts]
    found += [f"{name} has {count} rows" for name, count in counts.items() if count > 1]
    found += [f"{name} is not public" for name in counts if name not in public]
    return found + [f"{name_of(row)} has {len(row)} cells" for row in rows if len(row) != 5]


ROWS = {name_of(row): row for row in rows_of(PAGE)}
TUPLES = [name for name in ROWS if inspect.isclass(getattr(losses, name, None))]
# `batched` takes a function.
FUNCTIONS = [name for name in ROWS if name not in (*TUPLES, "batched")]


def test_every_public_name_has_one_row_and_no_other_has():
    assert problems(PAGE, losses.__all__) == []


def test_what_is_planted_would_be_found():
    public = [*losses.__all__, "planted_loss"]
    assert problems(PAGE, public) == ["planted_loss has no row"]
    assert problems(PAGE, losses.__all__[1:]) == [f"{losses.__all__[0]} is not public"]
    line = next(line for line in PAGE.splitlines() if line.startswith("| `soft_value`"))
    twice = PAGE.replace(line, f"{line}\n{line}")
    assert problems(twice, losses.__all__) == ["soft_value has 2 rows"]
    broken = PAGE.replace(line, line.replace("log sum", "log | sum"))
    assert problems(broken, losses.__all__) == ["soft_value has 6 cells"]
    wrong = ["q_learning", "", "`[A], int [], [], [A], [A] -> []`", "", ""]
    with pytest.raises(ValueError, match="^discount_t must .* got rank 1"):
        outputs("q_learning", wrong[2])


def array(is_int, axes):
    shape = []
    for axis in filter(None, axes.split(",")):
        shape += ANY_SHAPE if axis.strip() == "..." else [eval(axis, {}, SIZES)]
    return jax.ShapeDtypeStruct(tuple(shape), jnp.int32 if is_int else jnp.float32)


def named_tuple(cls, leaves):
    """A named tuple, also of named tuples, from an iterator of what it holds."""
    hints = typing.get_type_hints(cls).values()
    return cls(*(named_tuple(h, leaves) if hasattr(h, "_fields") else next(leaves) for h in hints))


def read(shapes):
    """Arguments, or results, as the shapes column writes them."""
    for is_int, axes, word in TOKEN.findall(shapes):
        if word == "key":
            yield jax.eval_shape(lambda: jax.random.key(0))
        elif word == "shape":
            yield ANY_SHAPE
        elif word in SIZES:
            yield SIZES[word]
        elif word:
            leaves = read(code(ROWS[word][2]))
            yield named_tuple(getattr(losses, word), leaves)
        else:
            yield array(is_int, axes)


def code(cell):
    return re.findall(r"`([^`]*)`", cell)[0]


def outputs(name, cell):
    """What a function returns for the arguments in a shapes cell, as shapes."""
    function = getattr(losses, name)
    arguments = list(read(code(cell).partition("->")[0]))
    parameters = inspect.signature(function).parameters.values()
    given = {
        p.name: REQUIRED[p.name]
        for p in parameters
        if p.kind is p.KEYWORD_ONLY and p.default is p.empty
    }
    # Sizes and shapes are no arrays: they stay outside the trace.
    traced = [x for x in arguments if not isinstance(x, int) and x != ANY_SHAPE]
    fixed = [x for x in arguments if isinstance(x, int) or x == ANY_SHAPE]
    return jax.eval_shape(lambda *arrays: function(*fixed, *arrays, **given), *traced)


def shapes_and_kinds(tree):
    return [(leaf.shape, jnp.issubdtype(leaf.dtype, jnp.integer)) for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_shapes_are_those_of_the_code(name):
    cell = ROWS[name][2]
    written = list(read(code(cell).partition("->")[2]))
    assert shapes_and_kinds(outputs(name, cell)) == shapes_and_kinds(written)


@pytest.mark.parametrize("name", TUPLES)
def test_fields_of_tuples_are_named_in_order(name):
    cls, (_, words, shapes, *_) = getattr(losses, name), ROWS[name]
    leaves = list(read(code(shapes)))
    assert jax.tree.leaves(named_tuple(cls, iter(leaves))) == leaves
    positions = [words.index(f"`{field}`") for field in cls._fields]
    assert positions == sorted(positions)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_papers_are_those_of_the_docstring(name):
    pattern = r"(\d{4}\.\d{5}|\d{4}\.\d{4})"
    documented = set(re.findall(f"arXiv:{pattern}", getattr(losses, name).__doc__))
    links = re.findall(rf"\[{pattern}\]\(https://arxiv\.org/abs/{pattern}\)", " ".join(ROWS[name]))
    assert all(text == target for text, target in links)
    assert {text for text, _ in links} == documented


def undescribed(function):
    """Parameters without an own line under Args, and lines that send the reader elsewhere."""
    text = inspect.getdoc(function).partition("Args:")[2].partition("Returns:")[0]
    lines = re.findall(r"^  (\**\w[\w, ]*(?:,\n    [\w, ]+)*): (.*)", text, re.MULTILINE)
    names = {name.strip(" *") for group, _ in lines for name in group.split(",")}
    elsewhere = [group for group, words in lines if re.match(r"(the \w+, )?as (in|there)", words)]
    return [
        name for name in inspect.signature(function).parameters if name not in names
    ] + elsewhere


@pytest.mark.parametrize("name", [*FUNCTIONS, "batched"])
def test_docstrings_stand_alone(name):
    assert undescribed(getattr(losses, name)) == []


def test_a_docstring_that_sends_elsewhere_would_be_found():
    def rule(q, a, r):
        """One.

        Args:
          q: as in `other`.
          a: [] int.

        Returns: x
        """

    assert undescribed(rule) == ["r", "q"]


def test_sections_link_the_files_of_their_rows():
    for section in PAGE.split("\n## ")[2:]:
        linked = set(re.findall(r"\(\.\./\.\./losses/(\w+)\.py\)", section))
        modules = {getattr(losses, name_of(row)).__module__ for row in rows_of(section)}
        assert linked == {module.rpartition(".")[2] for module in modules}, section[:30]


def rlax_calls(function):
    tree = ast.parse(inspect.getsource(inspect.getmodule(function)))
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "rlax"
    }


def test_the_table_of_rlax_is_complete():
    (table,) = (t[1:] for t in tables(PAGE) if t[0] == ["here", "rlax"])
    named = set()
    for ours, theirs in table:
        wrapped = set(re.findall(r"`(\w+)`", theirs))
        for name in re.findall(r"`(\w+)`", ours):
            assert wrapped <= rlax_calls(getattr(losses, name)), name
        named |= wrapped
    modules = {inspect.getmodule(getattr(losses, name)) for name in FUNCTIONS}
    assert named == set().union(*map(rlax_calls, modules))
    assert not [name for name in named if not hasattr(rlax, name)]


def limits(key):
    """(what is computed, what it must equal) of limits that no other test has, and a mixture."""
    keys = iter(jax.random.split(key, 20))
    vector = lambda *shape: jax.random.normal(next(keys), shape)  # noqa: E731
    pairs = []
    close = lambda x, y: pairs.append((x, y))  # noqa: E731
    q_tm1, q_t, other = vector(4), vector(4), vector(4)
    step = q_tm1, 2, 0.3, 0.9
    plain = losses.q_learning(*step, q_t)
    close(losses.double_q_learning(*step, q_t, q_t), plain)
    close(losses.expected_sarsa(*step, q_t, jax.nn.one_hot(jnp.argmax(q_t), 4)), plain)
    # Clip -inf; and every Munchausen return bootstraps where its trace is 0.
    scaled = losses.scaled_log_policy(other, temperature=0.1)[2]
    close(losses.munchausen_term(other, 2, temperature=0.1, clip=-jnp.inf), scaled)
    a, r, d = jnp.array([0, 2, 1]), vector(3), jnp.full(3, 0.9)
    rows = a, r, d, vector(3, 4), vector(3, 4)
    cut = losses.munchausen_lambda_returns(*rows, jnp.zeros(3))
    close(cut, jax.vmap(losses.munchausen_target)(*rows))
    # Coefficients of 0 are expected SARSA; tree backup is Retrace with mu = 1.
    pi_t, ones = jax.nn.softmax(vector(3, 4)), jnp.ones(3)
    tree = losses.tree_backup_coefficients(a, pi_t, lambda_=0.7)
    close(tree, losses.retrace_coefficients(a, pi_t, ones, lambda_=0.7))
    window = rows[3], a, r, d, rows[4]
    got = losses.off_policy_td(*window, a, pi_t, jnp.zeros(3), ones)
    close(got, jax.vmap(losses.expected_sarsa)(*window, pi_t))
    # On-policy V-trace is generalised advantages; with the values they are lambda-returns.
    v_tm1, v_t, trace = vector(3), vector(3), jnp.array([1.0, 0.0, 1.0])
    advantages = losses.generalised_advantages(v_tm1, r, d, v_t, trace, lambda_=0.8)
    close(losses.v_trace(v_tm1, r, d, v_t, ones, trace, lambda_=0.8), advantages)
    values = jnp.append(v_tm1, v_t[-1])  # one row: v_t[i] is v_tm1[i + 1]
    advantages = losses.generalised_advantages(v_tm1, r, d, values[1:], trace, lambda_=0.8)
    close(v_tm1 + advantages, losses.lambda_returns(r, d, values[1:], trace, lambda_=0.8))
    one_step = losses.n_step_returns(r, d, v_t, trace, n=1)
    close(one_step, r + d * v_t)
    sac = losses.soft_actor_critic_target(0.3, 0.9, q_t, 1.5, temperature=0.0)
    close(sac, losses.clipped_double_q_target(0.3, 0.9, q_t))
    slope = jax.grad(losses.clipped_surrogate_loss)(-1.0, -1.0, 0.7)
    close(slope, -0.7)
    settled = jax.grad(losses.temperature_loss)(0.2, 3.0, target_entropy=-3.0)
    close(settled, 0.0)
    # One lambda of 1 leaves one bootstrap; levels of 1/2 leave the probabilities.
    dist_v = vector(3, 5)
    mixture = losses.distributional_lambda_target(r, d, dist_v, ones, trace)
    single = losses.distributional_n_step_target(r, d, dist_v, trace)
    probs = jax.nn.softmax(q_t)
    close(losses.worst_case_kernel(q_tm1, probs, alpha=0.5), probs)
    ends = [losses.expectile(q_tm1, probs, alpha=alpha) for alpha in (1e-6, 0.5, 1.0 - 1e-6)]
    wanted = [jnp.min(q_tm1), jnp.vdot(probs, q_tm1), jnp.max(q_tm1)]
    near = jnp.stack(ends), jnp.stack(wanted)
    squared = jnp.square(0.3 + 0.9 * 2.0 - 0.5)
    close(losses.expectile_td_loss(0.5, 0.3, 0.9, 2.0, alpha=0.5), squared)
    # Lambda 0 of the greedy form is its first step alone.
    dist, tau, dist_t = vector(5, 4), losses.quantile_midpoints(5), vector(3, 5, 4)
    first, later = (dist, tau, 1), (r, d, dist_t, a, ones)
    short = losses.quantile_q_learning(*first, r[0], d[0], dist_t[0])
    close(losses.greedy_distributional_retrace(*first, *later, lambda_=0.0), short)
    errors, mask = jnp.abs(vector(1, 3)), jnp.ones((1, 3))
    close(losses.self_prediction_loss(errors, mask), errors[0])
    close(losses.prediction_uncertainty(errors, mask), errors[0])
    return pairs, near, (mixture, single)


def test_limits_that_no_other_test_has():
    key = jax.random.key(0)
    pairs, near, (mixture, single) = jax.device_get(compiled(limits, key)(key))
    for x, y in pairs:
        np.testing.assert_allclose(x, y, atol=1e-6)
    np.testing.assert_allclose(*near, atol=1e-4)
    np.testing.assert_allclose(mixture.atoms[mixture.weights > 0], single.atoms, atol=1e-6)
