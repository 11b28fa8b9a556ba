"""The losses of QR-DQN: rlax's, action selection, mixtures, termination."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import losses
from helpers.contract import Case, check_contract
from helpers.jitted import jitted, quick_jit
from helpers.peers import rlax

METHOD = pytest.mark.parametrize("method", ["pairwise", "sorted"])
N, M, A = 6, 9, 3
TAU = jnp.array([0.25, 0.75])
GENERATOR = np.random.default_rng(0)
OTHER = GENERATOR.normal(size=(N, A))


def normal(*shape):
    return jnp.asarray(GENERATOR.normal(size=shape), jnp.float32)


STEP = {"a_tm1": jnp.int32(1), "r_t": jnp.float32(0.3), "discount_t": jnp.float32(0.9)}
LEARNING = (
    {"dist_q_tm1": normal(N, A), "tau_tm1": losses.quantile_midpoints(N)}
    | STEP
    | {"dist_q_t": normal(M, A)}
)
SARSA = LEARNING | {"probs_a_t": jnp.array([0.5, 0.2, 0.3])}
CASES = [
    Case(
        function,
        arrays,
        ("dist_q_tm1", "tau_tm1"),
        {"huber_kappa": 0.7},
        values=("dist_q_tm1", "dist_q_t"),
        free=("dist_q_t",),
    )
    for function, arrays in (
        (losses.quantile_q_learning, LEARNING),
        (losses.quantile_expected_sarsa, SARSA),
    )
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_contract(case):
    check_contract(case)


@pytest.mark.peer
@METHOD
@pytest.mark.parametrize("kappa", [0.0, 0.7])
def test_equals_rlax(method, kappa):
    def same(ours, theirs):
        with jax.enable_x64(True):
            wide = {name: np.asarray(x) for name, x in arrays.items()}
            wide = {k: x.astype(np.float64) if x.dtype.kind == "f" else x for k, x in wide.items()}
            wide = {name: jnp.asarray(x) for name, x in wide.items()}
            name, first = next(iter(wide.items()))
            got = quick_jit(jax.value_and_grad(lambda x: ours(**wide | {name: x})))(first)
            jax.tree.map(
                lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-8),
                got,
                quick_jit(jax.value_and_grad(lambda x: theirs(*(wide | {name: x}).values())))(
                    first
                ),
            )

    options = {"huber_kappa": kappa, "method": method}
    arrays = LEARNING
    for selector in (None, OTHER):
        same(
            functools.partial(losses.quantile_q_learning, dist_q_t_selector=selector, **options),
            lambda *args, s=selector: rlax.quantile_q_learning(
                *args[:5], args[5] if s is None else jnp.asarray(s), args[5], kappa
            ),
        )
    arrays = SARSA
    same(
        functools.partial(losses.quantile_expected_sarsa, **options),
        functools.partial(rlax.quantile_expected_sarsa, huber_param=kappa),
    )


def test_selection_takes_the_first_of_equal_means_and_the_selector_when_given():
    # Means of the actions: 2, 2, 0. The selector's best is the last.
    dist_q_t = np.array([[1.0, 0.0, 0.0], [3.0, 4.0, 0.0]], np.float32)
    args = jnp.zeros((2, 3)), TAU, 0, 0.0, 1.0, dist_q_t
    loss = functools.partial(jitted.quantile_regression, jnp.zeros(2), TAU)
    np.testing.assert_allclose(jitted.quantile_q_learning(*args), loss(dist_q_t[:, 0]))
    selector = jnp.array([[0.0, 0.0, 1.0]])
    double = jitted.quantile_q_learning(*args, dist_q_t_selector=selector)
    np.testing.assert_array_equal(double, loss(dist_q_t[:, 2]))
    # A greedy policy makes expected SARSA the same; a mixture is not the mean of quantiles.
    greedy = jitted.quantile_expected_sarsa(*args, jnp.array([1.0, 0.0, 0.0]))
    np.testing.assert_allclose(greedy, loss(dist_q_t[:, 0]), rtol=1e-6)
    mixture = jitted.quantile_expected_sarsa(*args, jnp.array([0.5, 0.0, 0.5]))
    assert abs(mixture - loss(0.5 * (dist_q_t[:, 0] + dist_q_t[:, 2]))) > 0.1


def test_termination_leaves_the_reward_alone():
    args = *list(LEARNING.values())[:3], jnp.float32(0.3), jnp.float32(0.0)
    certain = jitted.quantile_q_learning(*args, jnp.zeros((1, A)))
    np.testing.assert_allclose(
        jitted.quantile_q_learning(*args, LEARNING["dist_q_t"]), certain, rtol=1e-6
    )


def test_bad_arguments_get_a_sentence():
    with pytest.raises(ValueError, match="^dist_q_t_selector must .* got rank 1"):
        losses.quantile_q_learning(*LEARNING.values(), dist_q_t_selector=TAU)
    with pytest.raises(ValueError, match="^probs_a_t must have .* entries .*, got 2"):
        losses.quantile_expected_sarsa(*LEARNING.values(), TAU)
