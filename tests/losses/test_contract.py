"""The contract of all learning rules, on one-step value learning and Munchausen learning."""

import jax
import jax.numpy as jnp
import pytest

from bellmax import losses
from helpers.contract import Case, check_contract

KEYS = jax.random.split(jax.random.key(0), 8)
Q = {"q_tm1": jax.random.normal(KEYS[0], (4,))}
STEP = {"a_tm1": jnp.int32(2), "r_t": jnp.float32(0.3), "discount_t": jnp.float32(0.9)}
Q_T = jax.random.normal(KEYS[1], (4,))
TARGETS = {"target_q_tm1": jax.random.normal(KEYS[2], (4,)) * 0.1, "target_q_t": Q_T}
MUNCHAUSEN = {"temperature": 0.3, "alpha": 0.8}
ONE = ("q_tm1",)
T = 5
WINDOW = {
    "a_tm1": jnp.array([0, 1, 3, 2, 0]),
    "r_t": jax.random.normal(KEYS[3], (T,)),
    "discount_t": jnp.full(T, 0.9),
    "target_q_tm1": jax.random.normal(KEYS[4], (T, 4)),
    "target_q_t": jax.random.normal(KEYS[5], (T, 4)),
    "trace_t": jnp.array([0.8, 1.0, 0.0, 0.5, 1.0]),
}
P = jax.nn.softmax(jax.random.normal(KEYS[6], (3, 4, 3)))
ALL = (*ONE, "q_t")
CASES = [
    Case(losses.q_learning, Q | STEP | {"q_t": Q_T}, ONE, values=ALL),
    Case(
        losses.double_q_learning,
        Q | STEP | {"q_t_value": Q_T, "q_t_selector": TARGETS["target_q_tm1"]},
        ONE,
        values=("q_tm1", "q_t_value", "q_t_selector"),
        keeps=("q_t_selector",),
    ),
    Case(losses.expected_sarsa, Q | STEP | {"q_t": Q_T, "probs_a_t": jax.nn.softmax(Q_T)}, ONE),
    Case(losses.soft_q_learning, Q | STEP | {"q_t": Q_T}, ONE, {"temperature": 0.3}, values=ALL),
    Case(losses.soft_value, {"q": Q_T}, ("q",), {"temperature": 0.3}, free=("q",)),
    Case(losses.scaled_log_policy, {"q": Q_T}, ("q",), {"temperature": 0.3}, free=("q",)),
    Case(
        losses.munchausen_term,
        {"target_q_tm1": Q_T, "a_tm1": STEP["a_tm1"]},
        ("target_q_tm1",),
        {"temperature": 0.3},
        {"clip": -3.0},
        free=("target_q_tm1",),
    ),
    Case(
        losses.munchausen_value_iteration,
        {"q": WINDOW["target_q_t"][:3], "r": WINDOW["target_q_tm1"][:3], "p": P},
        ("q", "r", "p"),
        MUNCHAUSEN | {"gamma": 0.9},
        values=("q", "r"),
    ),
    Case(losses.munchausen_target, STEP | TARGETS, (), MUNCHAUSEN, values=tuple(TARGETS)),
    Case(
        losses.munchausen_q_learning, Q | STEP | TARGETS, ONE, MUNCHAUSEN, values=(*ONE, *TARGETS)
    ),
    Case(losses.munchausen_loss, Q | STEP | TARGETS, ONE, MUNCHAUSEN, values=(*ONE, *TARGETS)),
    Case(losses.munchausen_lambda_returns, WINDOW, (), MUNCHAUSEN, values=("r_t", "target_q_t")),
    Case(losses.n_step_munchausen_q_learning, Q | WINDOW, ONE, MUNCHAUSEN),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_contract(case):
    check_contract(case)
