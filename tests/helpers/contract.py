"""What every learning rule promises, as checks that each topic runs on cases of its own.

CASES = [Case(losses.q_learning, {"q_tm1": ..., "a_tm1": ...}, learns=("q_tm1",))]

@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_contract(check, case):
    check(case)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads


class Case(NamedTuple):
    """One learning rule with arguments at which it is smooth.

    Attributes:
      function: the rule; everything after its arrays is keyword-only.
      arrays: its arrays by name, in order; floats are float32.
      learns: arrays that its gradient goes to.
      hyper: smooth numeric hyper-parameters by name: their gradient is checked.
      static: other keyword arguments.
      values: arrays in units of return, which may be of any size; None means those in `learns`.
    """

    function: Callable[..., Any]
    arrays: dict[str, Any]
    learns: tuple[str, ...] = ()
    hyper: dict[str, float] = {}
    static: dict[str, Any] = {}
    values: tuple[str, ...] | None = None

    def __str__(self) -> str:
        return "-".join([self.function.__name__, *map(str, self.static.values())])

    def call(self, **changed):
        arrays = [changed.get(name, array) for name, array in self.arrays.items()]
        hyper = {name: changed.get(name, value) for name, value in self.hyper.items()}
        return self.function(*arrays, **hyper, **self.static)

    def floats(self):
        return {
            name: jnp.asarray(x)
            for name, x in self.arrays.items()
            if jnp.issubdtype(jnp.result_type(x), jnp.floating)
        }

    def constants(self):
        return {name: x for name, x in self.floats().items() if name not in self.learns}


def total(output) -> jax.Array:
    """A scalar that every entry of the output has an own part in."""
    leaves = [jnp.ravel(leaf) for leaf in jax.tree.leaves(output)]
    return sum((jnp.vdot(leaf, jnp.cos(jnp.arange(leaf.size) + 1.0)) for leaf in leaves), 0.0)


def close(got, wanted, tolerance=2e-5):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), got, wanted
    )


def jits(case):
    close(jax.jit(lambda arrays: case.call(**arrays))(case.arrays), case.call())


def maps(case):
    """A batch of two different examples equals the two alone."""
    other = {name: x * 0.5 for name, x in case.floats().items()}
    both = {name: jnp.stack([x, other[name]]) for name, x in case.floats().items()}
    mapped = jax.vmap(lambda arrays: case.call(**arrays))(both)
    close(mapped, jax.tree.map(lambda *rows: jnp.stack(rows), case.call(), case.call(**other)))


def scans(case):
    def step(count, _):
        return count + 1, case.call(**{name: x + 0.0 * count for name, x in case.floats().items()})

    _, rows = jax.lax.scan(step, 0.0, None, length=2)
    close(jax.tree.map(lambda x: x[1], rows), case.call())


def differentiates(case):
    """Gradients of what is learned and of the hyper-parameters equal finite differences."""
    with jax.enable_x64(True):
        wide = {name: jnp.asarray(x, jnp.float64) for name, x in case.floats().items()}
        chosen = {name: wide[name] for name in case.learns}
        chosen |= {name: jnp.float64(value) for name, value in case.hyper.items()}
        if chosen:
            free = dict(case.static)
            if "stop_target_gradients" in _keywords(case):
                free["stop_target_gradients"] = False
            open_case = case._replace(static=free)
            for name, x in chosen.items():
                function = lambda x, name=name: total(open_case.call(**wide | {name: x}))  # noqa: E731
                check_grads(function, (x,), order=1, modes=["rev"], atol=1e-5, rtol=1e-5)


def _keywords(case):
    return case.function.__kwdefaults__ or {}


def stops_gradients(case):
    """Exact zeros for all that is not learned, where anything is; gradients are finite."""
    gradients = jax.grad(lambda arrays: total(case.call(**arrays)))(case.floats())
    for name, gradient in gradients.items():
        assert bool(jnp.all(jnp.isfinite(gradient))), name
        if case.learns:
            assert bool(jnp.any(gradient != 0.0)) == (name in case.learns), name


def widens_bfloat16(case):
    half = {name: x.astype(jnp.bfloat16) for name, x in case.floats().items()}
    same = {name: x.astype(jnp.float32) for name, x in half.items()}
    got, wanted = case.call(**half), case.call(**same)
    for leaf in jax.tree.leaves(got):
        assert leaf.dtype == jnp.float32 or not jnp.issubdtype(leaf.dtype, jnp.floating)
    close(got, wanted)


def keeps_float64(case):
    with jax.enable_x64(True):
        wide = {name: jnp.asarray(x, jnp.float64) for name, x in case.floats().items()}
        got = case.call(**wide)
        for leaf in jax.tree.leaves(got):
            assert leaf.dtype == jnp.float64 or not jnp.issubdtype(leaf.dtype, jnp.floating)
    close(got, case.call())


def refuses_a_wrong_rank(case):
    for name, array in case.arrays.items():
        with pytest.raises(ValueError, match=rf"^{name} has rank"):
            case.call(**{name: jnp.asarray(array)[None]})


def refuses_a_wrong_dtype(case):
    for name, array in case.arrays.items():
        wrong = jnp.asarray(array).astype(jnp.int32 if name in case.floats() else jnp.float32)
        with pytest.raises(ValueError, match=rf"^{name} has dtype"):
            case.call(**{name: wrong})


def survives_extremes(case):
    """Huge, zero and tied values give finite outputs and gradients."""
    names = case.learns if case.values is None else case.values
    arrays = {name: case.floats()[name] for name in names}
    for change in (lambda x: x * 1e6, jnp.zeros_like, jnp.ones_like):
        changed = {name: change(x) for name, x in arrays.items()}
        output = case.call(**changed)
        gradient = jax.grad(lambda arrays: total(case.call(**arrays)))(changed)
        for leaf in jax.tree.leaves((output, gradient)):
            assert bool(jnp.all(jnp.isfinite(leaf)))


CHECKS = [
    jits,
    maps,
    scans,
    differentiates,
    stops_gradients,
    widens_bfloat16,
    keeps_float64,
    refuses_a_wrong_rank,
    refuses_a_wrong_dtype,
    survives_extremes,
]
