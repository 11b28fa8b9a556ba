"""The contract of every learning rule; each topic's tests run it on their own cases.

CASES = [Case(losses.q_learning, {"q_tm1": ..., "a_tm1": ...}, learns=("q_tm1",))]

@pytest.mark.parametrize("case", CASES, ids=str)
def test_contract(case):
    check_contract(case)

A case is called once without jit and compiled twice: in float32 with the results of vmap, scan
and grad, and in float64 with the points of finite differences as a batch. Each promise compares
its part of these results, and a failing test names every broken promise.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bellmax import losses
from helpers.excluded import excluded
from helpers.jitted import quick_jit

STEP = 1e-4  # of finite differences in float64
NUMBERS = ("r_t", "r", "discount_t", "trace_t", "mask", "transition_t", "feedback", "count_t")
NUMBERS += ("uncertainty",)
# Weights: where they are 0, their own gradient is not that of the formula.
SELECT = ("mask", "q_t_selector", "selector_t")  # only select
EXCLUDING = ("discount_t", "trace_t", "pi_t", "probs_a_t", "weights", "probs", "mask")
BASE, OTHER, ROUNDED, HUGE = range(4)  # rows of `_batch`; zeros and ones follow
ALL = 10**6  # last row that counts


class Case(NamedTuple):
    """One learning rule with arguments at which it is smooth.

    Attributes:
      function: the rule; everything after its arrays is keyword-only.
      arrays: its arrays by name, in order; floats are float32.
      learns: arrays that its gradient goes to.
      hyper: smooth numeric hyper-parameters by name: their gradient is checked.
      static: other keyword arguments.
      values: arrays in units of return, which may be of any size; None means those in `learns`.
      free: arrays with an axis whose size no other array shares.
      keeps: arguments whose dtype does not widen the output, besides those in SELECT.
      optional: arrays that may be None.
      surrogates: arrays in `learns` whose gradient is not the derivative of the value.
      numbers: arrays that may be integers or flags, besides those in NUMBERS.
    """

    function: Callable[..., Any]
    arrays: dict[str, Any]
    learns: tuple[str, ...] = ()
    hyper: dict[str, float] = {}
    static: dict[str, Any] = {}
    values: tuple[str, ...] | None = None
    free: tuple[str, ...] = ()
    keeps: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    surrogates: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "-".join([self.function.__name__, *map(str, self.static.values())])

    def call(self, **changed):
        arrays = [changed.get(name, array) for name, array in self.arrays.items()]
        hyper = {name: changed.get(name, value) for name, value in self.hyper.items()}
        return self.function(*arrays, **hyper, **self.static)

    def floats(self, dtype=np.float32):
        """Its arrays of floats, in NumPy, where changing them compiles nothing."""
        arrays = {name: np.asarray(x) for name, x in self.arrays.items()}
        return {
            n: x.astype(dtype) for n, x in arrays.items() if np.issubdtype(x.dtype, np.floating)
        }

    def extremes(self):
        """Names of the arrays whose values may be of any size."""
        return self.learns if self.values is None else self.values

    def opened(self):
        """The same rule with gradients through its target."""
        if "stop_target_gradients" not in inspect.signature(self.function).parameters:
            return self
        return self._replace(static=self.static | {"stop_target_gradients": False})


class Results(NamedTuple):
    """Results of a case: its output without jit, and the parts of the compiled programs by name.

    A part that could not be traced is replaced by its exception.
    """

    case: Case
    eager: Any
    parts: dict[str, Any]

    def part(self, name):
        found = self.parts[name]
        if isinstance(found, Exception):
            raise AssertionError(f"{name}: {type(found).__name__}: {found}") from found
        return found


def check_contract(case, *, but=()):
    """Fails with one line for each broken promise; those in `but` must be broken."""
    broken = broken_promises(case)
    kept = [f"{case} keeps {name!r}: leave nothing out" for name in but if name not in broken]
    lines = [f"{case} breaks {n!r}: {error}" for n, error in broken.items() if n not in but]
    assert not lines + kept, "\n".join(lines + kept)


def broken_promises(case) -> dict[str, AssertionError]:
    """Return the broken promises by name, with the reason."""
    results = Results(case, case.call(), _single(case) | _double(case))
    broken = {}
    for promise in PROMISES:
        try:
            promise(results)
        except AssertionError as error:
            broken[promise.__name__] = error
    return broken


def _single(case):
    """Parts in float32."""

    def value(floats):
        output = case.call(**floats)
        return _total(output), output

    def mapped(arrays, batch, half):
        (_, outputs), gradients = jax.vmap(jax.value_and_grad(value, has_aux=True))(batch)
        return outputs, gradients

    def scanned(arrays, batch, half):
        return jax.lax.scan(lambda _, x: ((), case.call(**(arrays | x))), (), batch)[1]

    parts = {
        "vmap of value_and_grad": mapped,
        "scan": scanned,
        "bfloat16": lambda arrays, batch, half: case.call(**half),
    }
    return _compiled(parts, case.arrays, _batch(case), case.floats(jnp.bfloat16))


def _batch(case):
    """The case, another, the case rounded to bfloat16, and huge, zero and tied values."""
    floats = case.floats()
    rows = [floats, {name: x * np.float32(0.5) for name, x in floats.items()}]
    rows += [{name: x.astype(np.float32) for name, x in case.floats(jnp.bfloat16).items()}]
    for change in (lambda x: x * np.float32(1e6), np.zeros_like, np.ones_like):
        rows += [floats | {name: change(floats[name]) for name in case.extremes()}]
    return _stack(rows)


def _double(case):
    """Parts in float64: the output, and value and gradient at all points of finite differences."""
    wide = case.floats(np.float64) | {n: np.float64(value) for n, value in case.hyper.items()}
    rows = [wide]
    for name, direction in _directions(case).items():
        rows += [wide | {name: wide[name] + sign * STEP * direction} for sign in (1, -1)]
    lasts = [ALL] * len(rows)
    for _, clean, garbage, last in excluded(case):
        rows += [wide | clean, wide | garbage]
        lasts += [ALL if last is None else last] * 2

    def total(values, last):
        output = case.opened().call(**values)
        return _total(output, last, len(wide.get("trace_t", ()))), output

    parts = {"differences": jax.vmap(jax.value_and_grad(total, has_aux=True))}
    with jax.enable_x64(True):
        return _compiled(parts, _stack(rows), np.array(lasts))


def _directions(case):
    """A random direction for each array and hyper-parameter whose gradient is checked."""
    generator = np.random.default_rng(0)
    floats = case.floats()
    learns = [name for name in case.learns if name not in case.surrogates]
    shapes = {name: floats[name].shape for name in learns} | dict.fromkeys(case.hyper, ())
    return {name: np.asarray(generator.normal(size=shape)) for name, shape in shapes.items()}


def _total(output, last=None, rows=0) -> jax.Array:
    """A scalar to which every entry of the output contributes separately.

    In outputs with this number of rows, rows after the last one count as 0. Atoms of weight 0 may
    have any value.
    """
    if isinstance(output, losses.WeightedAtoms):
        output = output._replace(atoms=output.atoms * output.weights)
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(output)]
    if last is not None:
        on = jnp.arange(rows) <= last
        cut = lambda x: jax.vmap(lambda keep, row: jnp.where(keep, row, 0.0))(on, x)  # noqa: E731
        leaves = [cut(x) if x.ndim and len(x) == rows else x for x in leaves]
    return sum((jnp.sum(jnp.ravel(x) * jnp.cos(jnp.arange(x.size) + 1.0)) for x in leaves), 0.0)


def _compiled(parts, *arguments):
    """The result of each part, from one program for all; an exception for one that raises."""
    raised = {}

    def program(*arguments):
        results = {}
        for name, part in parts.items():
            try:
                results[name] = part(*arguments)
            except Exception as error:
                raised[name] = error
        return results

    return jax.tree.map(np.asarray, quick_jit(program)(*arguments)) | raised


def _stack(rows):
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _row(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


def _close(got, wanted, tolerance=2e-5):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), got, wanted
    )


def _has_floats_of(dtype, output):
    for leaf in jax.tree.leaves(output):
        assert leaf.dtype == dtype or not np.issubdtype(leaf.dtype, np.floating), leaf.dtype


def scans(results):
    _close(_row(results.part("scan"), BASE), results.eager)


def maps(results):
    """Rows of a batch of different examples equal each alone, as `scan` sees it."""
    outputs, _ = results.part("vmap of value_and_grad")
    _close(_row(outputs, BASE), results.eager)
    _close(_row(outputs, OTHER), _row(results.part("scan"), OTHER))


def differentiates(results):
    """Gradients of what is learned and of the hyper-parameters equal finite differences."""
    (values, _), gradients = results.part("differences")
    for i, (name, direction) in enumerate(_directions(results.case).items()):
        slope = (values[2 * i + 1] - values[2 * i + 2]) / (2 * STEP)
        product = np.vdot(gradients[name][BASE], direction)
        np.testing.assert_allclose(product, slope, rtol=1e-5, atol=1e-5, err_msg=name)


def stops_gradients(results):
    """Gradients are finite, and exactly zero for arguments that are not learned."""
    _, gradients = results.part("vmap of value_and_grad")
    learns = results.case.learns
    for name, gradient in _row(gradients, BASE).items():
        assert np.all(np.isfinite(gradient)), f"the gradient of {name} is not finite"
        if learns:
            assert np.any(gradient != 0.0) == (name in learns), f"gradient of {name}: {gradient}"


def widens_bfloat16(results):
    """bfloat16 input gives the results of the same values in float32, in float32."""
    outputs, _ = results.part("vmap of value_and_grad")
    _has_floats_of(np.float32, results.part("bfloat16"))
    _close(results.part("bfloat16"), _row(outputs, ROUNDED))


def refuses_a_wrong_rank(results):
    for name, array in results.case.arrays.items():
        _refuses(results.case, name, np.asarray(array)[None], "got rank")


def refuses_a_wrong_dtype(results):
    for name, array in results.case.arrays.items():
        wrong = np.int32 if name in results.case.floats() else np.float32
        if name not in (*NUMBERS, *results.case.numbers):
            _refuses(results.case, name, np.asarray(array).astype(wrong), "got dtype")


def widens_integers(results):
    """Rewards, discounts and masks may be integers or flags, in any mixture."""
    numbers = sorted(set(results.case.arrays) & {*NUMBERS, *results.case.numbers})
    ones = {name: np.ones(np.shape(results.case.arrays[name])) for name in numbers}
    for kinds in ((np.int32, bool), (np.int8, np.uint8)):
        changed = {name: x.astype(kinds[i % 2]) for i, (name, x) in enumerate(ones.items())}
        if numbers:
            _has_floats_of(np.float32, _shapes(results.case, changed))


def names_what_is_no_array(results):
    for name, array in results.case.arrays.items():
        if name not in results.case.optional:
            _refuses(results.case, name, None, "got None")
        _refuses(results.case, name, [], "got a list")
        if np.ndim(array):
            _refuses(results.case, name, np.asarray(array)[:0], "got 0")


def refuses_other_sizes(results):
    """One more entry along an axis is refused by name, unless no other array shares the axis."""
    case = results.case
    for name, array in case.arrays.items():
        array = np.asarray(array)
        for axis in range(array.ndim):
            longer = np.concatenate([array, array.take([0], axis)], axis)
            try:
                _shapes(case, {name: longer})
            except AssertionError as error:
                assert "entries along its axis" in str(error), f"{name}, axis {axis}: {error}"
            else:
                assert name in case.free, f"{name} longer along axis {axis} is let through"


def follows_one_dtype(results):
    """float32 and Python floats give float32; a float64 argument that does not select widens it."""
    case = results.case
    with jax.enable_x64(True):
        _has_floats_of(np.float32, _shapes(case, case.floats()))
        for name, x in (case.floats() | case.hyper).items():
            wide = np.asarray(x, np.float64)[()]
            output = _shapes(case, {name: wide})
            if name not in (*case.keeps, *SELECT):
                dtypes = {leaf.dtype for leaf in jax.tree.leaves(output)}
                assert np.dtype(np.float64) in dtypes, f"{name} of float64: {output}"


def _shapes(case, changed):
    """Shapes and dtypes of the results with other arrays."""
    try:
        return jax.eval_shape(lambda changed: case.call(**changed), changed)
    except Exception as error:
        raise AssertionError(f"{', '.join(changed)}: {type(error).__name__}: {error}") from error


def ignores_what_is_excluded(results):
    """Entries past an end, under a mask or of probability 0 change neither output nor gradient."""
    (values, _), gradients = results.part("differences")
    at = 1 + 2 * len(_directions(results.case))
    for i, (name, *_) in enumerate(excluded(results.case)):
        clean, garbage = at + 2 * i, at + 2 * i + 1
        tight = {"rtol": 1e-9, "atol": 1e-9, "err_msg": name}
        np.testing.assert_allclose(values[garbage], values[clean], **tight)
        for array, gradient in gradients.items():
            assert np.all(np.isfinite(gradient[garbage])), f"{name}: the gradient of {array} is not"
            if array not in EXCLUDING:
                np.testing.assert_allclose(gradient[garbage], gradient[clean], **tight)


def _refuses(case, name, wrong, words):
    try:
        case.call(**{name: wrong})
    except Exception as error:
        named = isinstance(error, ValueError) and str(error).startswith(f"{name} must ")
        assert named and words in str(error), f"the message is {str(error)!r}"
    else:
        raise AssertionError(f"{name} is let through: {words}")


def survives_extremes(results):
    """Huge, zero and tied values give finite outputs and gradients."""
    outputs, gradients = results.part("vmap of value_and_grad")
    gradients = {name: gradients[name] for name in results.case.extremes()}
    for leaf in jax.tree.leaves((outputs, gradients)):
        assert np.all(np.isfinite(leaf[HUGE:])), leaf[HUGE:]


PROMISES = [
    scans,
    maps,
    differentiates,
    stops_gradients,
    widens_bfloat16,
    refuses_a_wrong_rank,
    refuses_a_wrong_dtype,
    widens_integers,
    names_what_is_no_array,
    refuses_other_sizes,
    follows_one_dtype,
    ignores_what_is_excluded,
    survives_extremes,
]
