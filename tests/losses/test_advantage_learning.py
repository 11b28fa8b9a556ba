"""Advantage Learning: worked numbers, the limits of Munchausen learning, its fixed point."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import losses
from helpers.contract import Case, check_contract
from helpers.peers import rlax

KEYS = jax.random.split(jax.random.key(7), 3)
Q_S, Q_NEXT = jnp.array([1.0, 0.98, 0.5]), jnp.array([0.2, 0.25, 0.1])
ARRAYS = {
    "q_tm1": jax.random.normal(KEYS[0], (4,)),
    "a_tm1": jnp.int32(2),
    "r_t": jnp.float32(0.3),
    "discount_t": jnp.float32(0.9),
    "target_q_tm1": jax.random.normal(KEYS[1], (4,)),
    "target_q_t": jax.random.normal(KEYS[2], (4,)),
}
CASE = Case(
    losses.advantage_learning,
    ARRAYS,
    ("q_tm1",),
    {"alpha": 0.7},
    values=("q_tm1", "target_q_tm1", "target_q_t"),
)


def test_contract():
    check_contract(CASE)


@pytest.mark.parametrize(
    ("a", "discount", "expected"),
    [
        (1, 0.99, 0.7295),  # 0.5 + 0.9 * (0.98 - 1) + 0.99 * 0.25
        (0, 0.99, 0.7475),  # the best action has no advantage to lose
        (2, 0.0, 0.05),  # 0.5 - 0.9 * 0.5: termination masks the bootstrap only
    ],
)
def test_worked_targets(a, discount, expected):
    error = losses.advantage_learning(jnp.full(3, 0.25), a, 0.5, discount, Q_S, Q_NEXT)
    np.testing.assert_allclose(error, expected - 0.25, atol=1e-6)


def test_is_munchausen_without_temperature_and_clip():
    args = Q_S, 1, 0.5, 0.99, Q_S, Q_NEXT
    cold = losses.munchausen_q_learning(*args, temperature=1e-3, clip=-math.inf)
    np.testing.assert_allclose(losses.advantage_learning(*args), cold, atol=1e-5)
    # The clip of the paper matters as soon as an action is 1 worse than the best.
    worse = Q_S.at[1].set(-2.0)
    args = Q_S, 1, 0.5, 0.99, worse, Q_NEXT
    clipped = losses.munchausen_q_learning(*args, temperature=1e-3)
    np.testing.assert_allclose(clipped - losses.advantage_learning(*args), 0.9 * 2.0, atol=1e-4)


def test_alpha_zero_is_q_learning_and_munchausen_then_is_soft_q_learning():
    args = Q_S, 1, 0.5, 0.99
    plain = losses.q_learning(*args, Q_NEXT)
    np.testing.assert_array_equal(losses.advantage_learning(*args, Q_S, Q_NEXT, alpha=0.0), plain)
    soft = losses.munchausen_q_learning(*args, Q_S, Q_NEXT, temperature=0.2, alpha=0.0)
    wanted = losses.soft_q_learning(*args, Q_NEXT, temperature=0.2)
    np.testing.assert_allclose(soft, wanted, atol=1e-7)


@pytest.mark.peer
def test_is_not_persistent_advantage_learning():
    persistent = rlax.persistent_q_learning(Q_S, 1, 0.5, 0.99, Q_NEXT, 0.9)
    ours = losses.advantage_learning(Q_S, 1, 0.5, 0.99, Q_S, Q_NEXT)
    assert abs(persistent - ours) > 0.01
    # Where the state does not change and is not discounted, they agree.
    persistent = rlax.persistent_q_learning(Q_S, 1, 0.5, 1.0, Q_S, 0.9)
    ours = losses.advantage_learning(Q_S, 1, 0.5, 1.0, Q_S, Q_S)
    np.testing.assert_allclose(persistent, ours, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.5, 0.9])
def test_fixed_point_keeps_the_policy_and_widens_the_gaps(alpha):
    """On a table: greedy actions and best values of Q*, action gaps over 1 - alpha."""
    states, actions, gamma = 6, 4, 0.9
    generator = np.random.default_rng(2)
    with jax.enable_x64(True):
        r = jnp.asarray(generator.normal(size=(states, actions)))
        p = jnp.asarray(generator.dirichlet(np.ones(states), size=(states, actions)))
        a = jnp.arange(actions)

        def operator(q, alpha):
            v = jnp.einsum("saz,z->sa", p, jnp.max(q, axis=1), precision="highest")

            def error(q_s, a, r_sa, v_sa):
                # A constant vector: its maximum is the expected value of the next state.
                next_q = jnp.full(actions, v_sa)
                return losses.advantage_learning(q_s, a, r_sa, gamma, q_s, next_q, alpha=alpha)

            rows = jax.vmap(jax.vmap(error, (None, 0, 0, 0)), (0, None, 0, 0))
            return q + rows(q, a, r, v)

        def fixed_point(alpha):
            return jax.lax.fori_loop(0, 3000, lambda _, q: operator(q, alpha), jnp.zeros_like(r))

        best, wide = (np.asarray(jax.jit(fixed_point)(weight)) for weight in (0.0, alpha))
    np.testing.assert_allclose(wide.max(axis=1), best.max(axis=1), atol=1e-9)
    np.testing.assert_array_equal(wide.argmax(axis=1), best.argmax(axis=1))
    gaps = [q.max(axis=1)[:, None] - q for q in (best, wide)]
    np.testing.assert_allclose(gaps[1], gaps[0] / (1.0 - alpha), atol=1e-8)
