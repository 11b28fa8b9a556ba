"""Averages of parameters, and the public names of the package."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax.losses import sequence
from helpers.jitted import quick_jit

A = {"w": jnp.array([1.0, 0.0]), "b": [jnp.array([2.0, 0.0])], "steps": jnp.int32(7)}
B = {"w": jnp.array([0.0, 1.0]), "b": [jnp.array([1.0, 1.0])], "steps": jnp.int32(9)}
C = {"w": jnp.array([1.0, 1.0]), "b": [jnp.array([0.0, 3.0])], "steps": jnp.int32(1)}
ROOT = np.sqrt(0.5)


def close(got, wanted, tolerance=1e-6):
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)


def test_means_and_interpolations():
    mean = sequence.average_weights([A, B, C])
    close(mean["w"], [2 / 3, 2 / 3])
    close(mean["b"][0], [1.0, 4 / 3])
    assert mean["steps"] == 7 and mean["steps"].dtype == jnp.int32
    close(sequence.lerp(A, B, 0.25)["w"], [0.75, 0.25])
    close(sequence.task_vector(A, B)["b"][0], [1.0, -1.0])


def test_arcs_leaf_by_leaf():
    """A right angle at its middle, and one of 45 degrees at .3."""
    close(sequence.slerp(A, B, 0.5)["w"], [ROOT, ROOT])
    close(sequence.slerp(A, B, 0.3)["b"][0], [1.8079907, 0.3301416])
    for tree, end in ((A, 0.0), (B, 1.0)):
        jax.tree.map(close, sequence.slerp(A, B, end), tree | {"steps": A["steps"]})


def test_leaves_without_an_arc_are_interpolated_along_a_line():
    plain = lambda x, y: sequence.slerp(x, y, 0.25)  # noqa: E731
    rule = quick_jit(plain)
    close(rule(jnp.array([1.0, 1.0]), jnp.array([2.0, 2.0])), [1.25, 1.25])
    close(rule(jnp.array([1.0, 0.0]), jnp.array([-1.0, 0.0])), [0.5, 0.0])
    close(rule(jnp.zeros(2), jnp.array([4.0, 0.0])), [1.0, 0.0])
    slope = quick_jit(jax.jacobian(plain, (0, 1)))(jnp.zeros(2), jnp.zeros(2))
    assert np.all(np.isfinite(slope))
    # Tiny ones have the arc of large ones.
    tiny = rule(jnp.array([1e-25, 0.0]), jnp.array([0.0, 1e-25])) * 1e25
    close(tiny, rule(jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])), 1e-5)


def test_merges_of_task_vectors():
    start = jax.tree.map(lambda x: jnp.ones_like(x), A)
    ends = [jax.tree.map(jnp.add, start, tree) for tree in (A, B, C)]
    two = sequence.merge_task_vectors(start, ends[:2], eta=0.3)
    close(two["w"], 1.0 + 0.3 * np.array([ROOT, ROOT]))
    three = sequence.merge_task_vectors(start, ends)
    first = sequence.slerp(sequence.slerp(A, B, 0.5), C, 1 / 3)
    close(three["w"], 1.0 + first["w"])
    flat = sequence.merge_task_vectors(start, ends, method="linear", eta=0.5)
    close(flat["b"][0], 1.0 + 0.5 * np.array([1.0, 4 / 3]))


def test_under_transformations_and_in_bfloat16():
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x, (A, B))
    got = jax.jit(sequence.slerp)(*half, 0.5)
    assert got["w"].dtype == jnp.bfloat16
    close(np.asarray(got["w"], np.float32), [ROOT, ROOT], 4e-3)
    rule = lambda t: jnp.sum(sequence.slerp(A, B, t)["b"][0] * jnp.array([1.0, 2.0]))  # noqa: E731
    step = 1e-2
    values, slopes = quick_jit(jax.vmap(jax.value_and_grad(rule)))(
        jnp.array([0.3 + step, 0.3, 0.3 - step])
    )
    close(slopes[1], (values[0] - values[2]) / (2 * step), 1e-3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: sequence.average_weights([]), "trees must have 1 or more entries, got 0"),
        (
            lambda: sequence.lerp(A, A | {"w": jnp.zeros(3)}, 0.5),
            r"end\['w'\] must have shape \(2,\), .*, got \(3,\)",
        ),
        (
            lambda: sequence.lerp(A, {"v": 1.0} | A, 0.5),
            "end must have the leaf .*, as start has, got",
        ),
        (lambda: sequence.lerp([1.0], [1.0, 2.0], 0.5), "end must have the structure of start"),
        (lambda: sequence.lerp([1.0, 2.0], [1.0], 0.5), "end must have the structure of start"),
        (lambda: sequence.slerp(A, B, 1.5), "t must be at most 1, got 1.5"),
        (
            lambda: sequence.merge_task_vectors(A, [B], method="cubic"),
            "method must be one of spherical, linear, got 'cubic'",
        ),
    ],
)
def test_mistakes_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_public_names_resolve_in_order():
    assert sequence.__all__ == sorted(set(sequence.__all__))
    assert not [name for name in sequence.__all__ if not hasattr(sequence, name)]
