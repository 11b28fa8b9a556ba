"""Each planted fault in a rule fails its part of the contract; the correct rule fails none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.contract import PROMISES, Case, broken_promises, check_contract

ARRAYS = {"q": np.array([0.5, -0.3, 1.2], np.float32), "r_t": np.float32(0.7), "a": np.int32(1)}
FLOATS = {"q": True, "r_t": True, "a": False}


def checked(*arrays):
    """The arrays, floats in float32 or wider; refuses others than those of ARRAYS."""
    wide = []
    for x, (name, example) in zip(arrays, ARRAYS.items(), strict=True):
        if x is None or isinstance(x, list):
            raise ValueError(f"{name} must fit, got {'None' if x is None else 'a list'}")
        if jnp.ndim(x) != example.ndim:
            raise ValueError(f"{name} must fit, got rank {jnp.ndim(x)}")
        if not jnp.size(x):
            raise ValueError(f"{name} must fit, got 0")
        if jnp.issubdtype(jnp.result_type(x), jnp.floating) != FLOATS[name] and name != "r_t":
            raise ValueError(f"{name} must fit, got dtype {jnp.result_type(x)}")
        dtype = jnp.promote_types(jnp.result_type(x), jnp.float32)
        wide.append(jnp.asarray(x, dtype) if FLOATS[name] else x)
    return wide


def rule(q, target, a, *, scale, stop_target_gradients=True):
    q, target, a = checked(q, target, a)
    target = jax.lax.stop_gradient(target) if stop_target_gradients else target
    return scale * jnp.sin(target - q[a] + 0.1 * jnp.sum(q))


def decides_by_value(q, target, a, **options):
    return rule(q, target, a, **options) if q[0] > 0 else rule(q, target, a, **options)


def knows_that_it_is_compiled(q, target, a, **options):
    return rule(q, target, a, **options) + isinstance(a, jax.core.Tracer)


CALLS = []


def counts_its_calls(q, target, a, **options):
    # Without jit, under vmap, and third in a scan.
    CALLS.append(None)
    return rule(q, target, a, **options) + (len(CALLS) == 3)


@jax.custom_batching.custom_vmap
def centred(x):
    return 1.0 * x


@centred.def_vmap
def _(axis_size, in_batched, x):
    return x - jnp.mean(x), True


def reads_the_batch(q, target, a, *, scale, stop_target_gradients=True):
    return rule(q, centred(jax.lax.stop_gradient(target)), a, scale=scale)


@jax.custom_jvp
def steep(x):
    return 1.0 * x


steep.defjvp(lambda primals, tangents: (steep(*primals), 2.0 * tangents[0]))


def has_a_wrong_slope(q, target, a, **options):
    checked(q, target, a)
    return rule(steep(q), target, a, **options)


def has_a_wrong_slope_in_its_scale(q, target, a, *, scale, **options):
    return rule(q, target, a, scale=steep(jnp.asarray(scale)), **options)


def learns_through_its_target(q, target, a, *, scale, stop_target_gradients=True):
    return rule(q, target, a, scale=scale, stop_target_gradients=False)


def learns_nothing(q, target, a, **options):
    return rule(jax.lax.stop_gradient(q), target, a, **options)


def has_a_nan_as_slope(q, target, a, **options):
    return rule(q, target, a, **options) + 0.0 * jnp.sqrt(q[0] - 0.5)


def keeps_bfloat16(q, target, a, **options):
    return rule(q, target, a, **options).astype(jnp.result_type(q))


def rounds_to_bfloat16(q, target, a, **options):
    checked(q, target, a)
    return rule(1.01 * q, target, a, **options)


def narrows_float64(q, target, a, **options):
    q, target, a = checked(q, target, a)
    return rule(q.astype(jnp.float32), target.astype(jnp.float32), a, **options)


def takes_any_rank(q, target, a, **options):
    return rule(q, jnp.sum(target), a, **options)


def does_not_name_the_argument(q, target, a, **options):
    try:
        return rule(q, target, a, **options)
    except ValueError as error:
        raise ValueError(str(error).split(" ", 1)[1]) from None


def takes_any_dtype(q, target, a, **options):
    return rule(q, target, jnp.int32(a), **options)


def refuses_integers(q, target, a, **options):
    if target is not None and jnp.issubdtype(jnp.result_type(target), jnp.integer):
        raise ValueError("r_t must fit, got dtype int")
    return rule(q, target, a, **options)


def takes_lists(q, target, a, **options):
    return rule(jnp.array(q) if isinstance(q, list) else q, target, a, **options)


def gives_the_dtype_of_one(q, target, a, **options):
    return rule(q, target, a, **options).astype(checked(q, target, a)[0].dtype)


def overflows(q, target, a, **options):
    return rule(q, target, a, **options) + 1e-9 * jnp.exp(q[0])


def has_no_slope_at_zero(q, target, a, **options):
    return rule(q, target, a, **options) + 0.0 * jnp.sqrt(q[0])


FAULTS = [
    ("scans", decides_by_value, "TracerBoolConversionError"),
    ("scans", knows_that_it_is_compiled, "Not equal to tolerance"),
    ("scans", counts_its_calls, "Not equal to tolerance"),
    ("maps", reads_the_batch, "Not equal to tolerance"),
    ("differentiates", has_a_wrong_slope, "q"),
    ("differentiates", has_a_wrong_slope_in_its_scale, "scale"),
    ("stops_gradients", learns_through_its_target, "gradient of r_t"),
    ("stops_gradients", learns_nothing, "gradient of q"),
    ("stops_gradients", has_a_nan_as_slope, "gradient of q is not finite"),
    ("widens_bfloat16", keeps_bfloat16, "bfloat16"),
    ("widens_bfloat16", rounds_to_bfloat16, "Not equal to tolerance"),
    ("follows_one_dtype", narrows_float64, "q of float64"),
    ("refuses_a_wrong_rank", takes_any_rank, "r_t is let through: got rank"),
    ("refuses_a_wrong_rank", does_not_name_the_argument, "the message is 'must fit, got rank 2'"),
    ("refuses_a_wrong_dtype", takes_any_dtype, "a is let through: got dtype"),
    (
        "refuses_a_wrong_dtype",
        does_not_name_the_argument,
        "the message is 'must fit, got dtype int32'",
    ),
    ("widens_integers", refuses_integers, "r_t: ValueError"),
    ("names_what_is_no_array", takes_lists, "q must fit, got 0"),
    ("refuses_other_sizes", rule, "q longer along axis 0 is let through"),
    ("follows_one_dtype", gives_the_dtype_of_one, "r_t of float64"),
    ("survives_extremes", overflows, "inf"),
    ("survives_extremes", has_no_slope_at_zero, "nan"),
]


def case_of(function, free=("q",)):
    return Case(function, ARRAYS, ("q",), {"scale": 0.7}, values=("q", "r_t"), free=free)


@pytest.mark.parametrize(("promise", "fault", "words"), FAULTS)
def test_a_fault_breaks_its_promise(promise, fault, words):
    CALLS.clear()
    broken = broken_promises(case_of(fault, () if promise == "refuses_other_sizes" else ("q",)))
    assert promise in broken and words in str(broken[promise])


def leaks(target, weights):
    return jnp.sum(weights * target)


def test_a_leak_breaks_its_promise():
    arrays = {"target": np.ones(3, np.float32), "weights": np.full(3, 0.5, np.float32)}
    broken = broken_promises(Case(leaks, arrays))
    assert "weights nan" in str(broken["ignores_what_is_excluded"])


def test_the_right_rule_keeps_all_and_each_promise_has_a_fault():
    check_contract(case_of(rule))
    tested = {promise for promise, *_ in FAULTS} | {"ignores_what_is_excluded"}
    assert tested == {promise.__name__ for promise in PROMISES}


def test_a_failure_names_the_rule_and_each_broken_promise():
    with pytest.raises(AssertionError) as caught:
        check_contract(case_of(does_not_name_the_argument))
    lines = str(caught.value)
    assert "does_not_name_the_argument breaks 'refuses_a_wrong_rank'" in lines
    assert "does_not_name_the_argument breaks 'refuses_a_wrong_dtype'" in lines
    unnamed = "refuses_a_wrong_rank", "refuses_a_wrong_dtype", "names_what_is_no_array"
    check_contract(case_of(does_not_name_the_argument), but=unnamed)
    with pytest.raises(AssertionError, match="rule keeps 'scans': leave nothing out"):
        check_contract(case_of(rule), but=("scans",))
