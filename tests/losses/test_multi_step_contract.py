"""The contract of all learning rules, on multi-step rules."""

import jax
import jax.numpy as jnp
import pytest

from bellmax import losses
from helpers.contract import Case, check_contract

T, A, N, M = 4, 3, 5, 4
KEYS = jax.random.split(jax.random.key(0), 12)


def normal(i, *shape):
    return jax.random.normal(KEYS[i], shape)


TRACE = {"trace_t": jnp.array([0.8, 1.0, 0.0, 1.0])}
HARD = {"trace_t": jnp.array([1.0, 1.0, 0.0, 1.0])}
STEPS = {"r_t": normal(0, T), "discount_t": jnp.array([0.9, 0.8, 0.9, 0.9])}
ONE = {"r_t": normal(0), "discount_t": jnp.float32(0.9)}
TAKEN = {"a_t": jnp.array([0, 2, 1, 0])}
PI = {"pi_t": jax.nn.softmax(normal(1, T, A))}
MU = {"mu_t": jnp.array([0.5, 0.7, 0.2, 0.9])}
C = {"c_t": jnp.array([0.5, 0.9, 0.7, 0.3])}
Q_T = {"q_t": normal(2, T, A)}
Q = {"q_tm1": normal(3, T, A), "a_tm1": jnp.array([1, 0, 2, 1])}
V = {"v_t": normal(4, T)}
DIST_T = {"dist_q_t": normal(5, T, M, A)}
DIST_V = {"dist_v_t": normal(5, T, M)}
TAU = jnp.array([0.1, 0.3, 0.5, 0.7, 0.9])
DIST = {"dist_q_tm1": normal(6, N, A), "tau_tm1": TAU, "a_tm1": jnp.int32(1)}
EVERY = {
    "dist_q_tm1": normal(7, T, N, A),
    "tau_tm1": jnp.tile(TAU[None], (T, 1)),
    "a_tm1": Q["a_tm1"],
}
GRID = {"q_atoms_tm1": jnp.linspace(-3.0, 3.0, M)}
LOGITS = {"q_logits_tm1": normal(8, A, M), "a_tm1": jnp.int32(1)}
GRID_T = {"q_atoms_t": jnp.linspace(-2.0, 2.1, N)}
LOGITS_T = {"q_logits_t": normal(9, T, A, N)}
LEARNS_DIST = ("dist_q_tm1", "tau_tm1")
LAMBDA, KAPPA = {"lambda_": 0.8}, {"huber_kappa": 0.7}
VALUES = ("r_t", "dist_q_t")


CASES = [
    Case(
        losses.retrace_coefficients,
        TAKEN | PI | MU,
        (),
        LAMBDA | {"cap": 0.9},
        values=(),
        free=("pi_t",),
    ),
    Case(
        losses.importance_sampling_coefficients,
        TAKEN | PI | MU,
        (),
        LAMBDA,
        values=(),
        free=("pi_t",),
    ),
    Case(losses.tree_backup_coefficients, TAKEN | PI, (), LAMBDA, values=(), free=("pi_t",)),
    Case(losses.watkins_coefficients, TAKEN | Q_T, (), LAMBDA, values=("q_t",), free=("q_t",)),
    Case(losses.off_policy_returns, STEPS | Q_T | TAKEN | PI | C | TRACE, values=("r_t", "q_t")),
    Case(losses.off_policy_td, Q | STEPS | Q_T | TAKEN | PI | C | TRACE, ("q_tm1",)),
    Case(losses.retrace, Q | STEPS | Q_T | TAKEN | PI | MU | TRACE, ("q_tm1",), LAMBDA),
    Case(
        losses.v_trace,
        {"v_tm1": normal(10, T)} | STEPS | V | {"rho_tm1": jnp.array([0.5, 1.2, 0.7, 2.0])} | TRACE,
        ("v_tm1",),
        {"lambda_": 0.8, "clip_rho": 0.9},
    ),
    Case(losses.lambda_returns, STEPS | V | TRACE, (), LAMBDA, values=("r_t", "v_t")),
    Case(losses.n_step_returns, STEPS | V | HARD, static={"n": 2}, values=("r_t", "v_t")),
    Case(losses.peng_q_lambda, Q | STEPS | Q_T | TRACE, ("q_tm1",), LAMBDA),
    Case(losses.watkins_q_lambda, Q | STEPS | Q_T | TAKEN | TRACE, ("q_tm1",), LAMBDA),
    Case(losses.n_step_q_learning, Q | STEPS | Q_T | HARD, ("q_tm1",), static={"n": 2}),
    Case(
        losses.distributional_retrace_target,
        STEPS | DIST_T | TAKEN | PI | C | TRACE,
        static={"anchor": "every"},
        values=VALUES,
        free=("dist_q_t",),
    ),
    Case(
        losses.distributional_lambda_target,
        STEPS | DIST_V | {"lambda_t": C["c_t"]} | TRACE,
        static={"anchor": 1},
        values=("r_t", "dist_v_t"),
        free=("dist_v_t",),
    ),
    Case(
        losses.distributional_n_step_target,
        STEPS | DIST_V | HARD,
        values=("r_t", "dist_v_t"),
        free=("dist_v_t",),
        keeps=("trace_t",),
    ),
    Case(
        losses.greedy_distributional_retrace_target,
        STEPS | DIST_T | TAKEN | TRACE,
        (),
        LAMBDA,
        values=VALUES,
        free=("dist_q_t",),
    ),
    Case(
        losses.distributional_retrace,
        DIST | STEPS | DIST_T | TAKEN | PI | C | TRACE,
        LEARNS_DIST,
        KAPPA,
        values=("dist_q_tm1", *VALUES),
        free=("dist_q_t",),
    ),
    Case(
        losses.distributional_retrace_every,
        EVERY | STEPS | DIST_T | TAKEN | PI | C | TRACE,
        LEARNS_DIST,
        KAPPA,
        values=("dist_q_tm1", *VALUES),
        free=("dist_q_t",),
    ),
    Case(
        losses.greedy_distributional_retrace,
        DIST | STEPS | DIST_T | TAKEN | TRACE,
        LEARNS_DIST,
        KAPPA | LAMBDA,
        values=("dist_q_tm1", *VALUES),
        free=("dist_q_t",),
    ),
    Case(
        losses.greedy_distributional_retrace_every,
        EVERY | STEPS | DIST_T | TAKEN | TRACE,
        LEARNS_DIST,
        KAPPA | LAMBDA,
        values=("dist_q_tm1", *VALUES),
        free=("dist_q_t",),
    ),
    Case(
        losses.n_step_quantile_q_learning,
        DIST | STEPS | DIST_T | HARD,
        LEARNS_DIST,
        KAPPA,
        values=("dist_q_tm1", *VALUES),
        free=("dist_q_t",),
        keeps=("trace_t",),
    ),
    Case(
        losses.categorical_regression,
        {
            "atoms_tm1": GRID["q_atoms_tm1"],
            "logits_tm1": normal(8, M),
            "target": normal(9, N),
            "weights": jnp.array([0.3, -0.2, 0.4, 0.3, 0.2]),
        },
        ("logits_tm1",),
    ),
    Case(
        losses.categorical_cramer_regression,
        {
            "atoms_tm1": GRID["q_atoms_tm1"],
            "logits_tm1": normal(8, M),
            "target": normal(9, N),
            "weights": jnp.array([0.3, -0.2, 0.4, 0.3, 0.2]),
        },
        ("logits_tm1",),
    ),
    Case(
        losses.categorical_expected_sarsa,
        GRID | LOGITS | ONE | GRID_T | {"q_logits_t": normal(9, A, N), "probs_a_t": PI["pi_t"][0]},
        ("q_logits_tm1",),
        values=("q_logits_tm1", "q_logits_t", "r_t"),
    ),
    Case(
        losses.categorical_q_learning,
        GRID | LOGITS | ONE | GRID_T | {"q_logits_t": normal(9, A, N)},
        ("q_logits_tm1",),
        values=("q_logits_tm1", "q_logits_t", "r_t"),
    ),
    Case(
        losses.categorical_retrace_target,
        STEPS | GRID_T | LOGITS_T | TAKEN | PI | C | TRACE,
        values=("r_t", "q_logits_t"),
    ),
    Case(
        losses.categorical_retrace,
        GRID | LOGITS | STEPS | GRID_T | LOGITS_T | TAKEN | PI | C | TRACE,
        ("q_logits_tm1",),
        values=("q_logits_tm1", "q_logits_t", "r_t"),
    ),
    Case(
        losses.n_step_categorical_target,
        STEPS | GRID_T | LOGITS_T | HARD,
        values=("r_t", "q_logits_t"),
        free=("q_logits_t",),
        keeps=("trace_t",),
    ),
    Case(
        losses.n_step_categorical_q_learning,
        GRID | LOGITS | STEPS | GRID_T | LOGITS_T | HARD,
        ("q_logits_tm1",),
        values=("q_logits_tm1", "q_logits_t", "r_t"),
        keeps=("trace_t",),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_contract(case):
    check_contract(case)
