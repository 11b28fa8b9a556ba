"""Theory of multi-step distributional operators, checked on exact distributions."""

import itertools

import jax
import numpy as np
import pytest

from bellmax import losses
from helpers.jitted import jitted, quick_jit
from helpers.window_loops import as_measure, cdf_gap, eta, mean, push

GAMMA, ATOMS, END = 0.8, 64, 5
# States 0 | 1, 2 | 3, 4 | end: three steps, each to one of two states by a fair coin. With a policy
# in quarters 64 atoms of equal mass hold every distribution exactly.
NEXT = {0: (1, 2), 1: (3, 4), 2: (3, 4), 3: (END, END), 4: (END, END)}
R = np.random.default_rng(0).normal(size=(6, 2))
PI, MU = np.array([0.25, 0.75]), np.array([0.7, 0.3])


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def exact_values():
    """eta^pi as [state, atom, action]."""
    values = np.zeros((6, ATOMS, 2))
    for s in reversed(range(5)):
        for a in range(2):
            mixture = []
            for s_next in NEXT[s]:
                mixture += [values[s_next, :, 0]] + 3 * [values[s_next, :, 1]]
            # 8 * 64 atoms of equal mass, of which at most 64 differ: every 8th of the sorted.
            values[s, :, a] = R[s, a] + GAMMA * (s < 3) * np.sort(np.concatenate(mixture))[::8]
    return values


def paths(a):
    """(odds, states, actions) of all windows from state 0 and action a, acting by MU."""
    for s_1, a_1, s_2, a_2 in itertools.product((1, 2), (0, 1), (3, 4), (0, 1)):
        yield 0.25 * MU[a_1] * MU[a_2], (0, s_1, s_2), (a, a_1, a_2)


def coefficients(name, a_t):
    pi_t, mu_t = np.tile(PI, (3, 1)), MU[a_t]
    return {
        "one-step": lambda: jitted.q_lambda_coefficients(a_t, lambda_=0.0),
        "retrace": lambda: jitted.retrace_coefficients(a_t, pi_t, mu_t),
        "importance": lambda: jitted.importance_sampling_coefficients(a_t, pi_t, mu_t),
        "q-lambda": lambda: jitted.q_lambda_coefficients(a_t, lambda_=0.9),
        "tree": lambda: jitted.tree_backup_coefficients(a_t, pi_t),
    }[name]()


TARGET = quick_jit(losses.distributional_retrace_target)
N_STEP = quick_jit(losses.distributional_n_step_target)


def window(states, actions, values):
    s_t, a_t = np.array([*states[1:], END]), np.array([*actions[1:], 0])
    r_t = R[list(states), list(actions)]
    return r_t, np.array([GAMMA, GAMMA, 0.0]), values[s_t], a_t


def apply(name, values, a=0):
    """The expected target of (state 0, action a) as a measure, from any values."""
    total = []
    for odds, states, actions in paths(a):
        r_t, discount_t, dist_q_t, a_t = window(states, actions, values)
        if name == "n-step":
            dist_v = dist_q_t[np.arange(3), :, a_t]
            got = N_STEP(r_t, discount_t, dist_v, np.ones(3))
        elif name == "path-independent":
            total += [
                (z, odds * w) for z, w in path_independent(r_t, dist_q_t, a_t, actions, values)
            ]
            continue
        else:
            c_t = coefficients(name, a_t)
            rest = (np.tile(PI, (3, 1)), c_t, np.ones(3))
            got = TARGET(r_t, discount_t, dist_q_t, a_t, *rest)
        total += [(z, odds * w) for z, w in as_measure(got)]
    return total


def path_independent(r_t, dist_q_t, a_t, actions, values):
    """One-step errors times full traces, without the shift by the rewards before."""
    measure, here = eta(values[0], actions[0]), eta(values[0], actions[0])
    discount, trace = [GAMMA, GAMMA, 0.0], 1.0
    for k in range(3):
        ahead = eta(dist_q_t[k], 0, PI[0]) + eta(dist_q_t[k], 1, PI[1])
        measure += [(z, trace * w) for z, w in push(ahead, r_t[k], discount[k])]
        measure += [(z, -trace * w) for z, w in here]
        here = eta(dist_q_t[k], a_t[k])
        # The scalar error's discount would multiply the mass: gamma^t c_{1:t}.
        trace *= discount[k] * PI[a_t[k]] / MU[a_t[k]]
    return measure


@pytest.mark.parametrize("name", ["one-step", "retrace", "importance", "q-lambda", "tree"])
def test_the_policys_distribution_stays(name):
    values = exact_values()
    for a in range(2):
        assert cdf_gap(apply(name, values, a), eta(values[0], a)) < 1e-12


def test_uncorrected_steps_move_it():
    values = exact_values()
    assert cdf_gap(apply("n-step", values), eta(values[0], 0)) > 0.05


def test_traces_come_nearer_than_one_step_and_full_ones_arrive():
    values, diracs = eta(exact_values()[0], 0), np.zeros((6, ATOMS, 2))
    gaps = {name: cdf_gap(apply(name, diracs), values) for name in ("importance", "retrace")}
    assert gaps["importance"] < 1e-12
    assert 0.01 < gaps["retrace"] < 0.8 * cdf_gap(apply("one-step", diracs), values)


def test_path_independent_errors_give_the_mean_and_not_the_distribution():
    values, diracs = eta(exact_values()[0], 0), np.zeros((6, ATOMS, 2))
    got = apply("path-independent", diracs)
    np.testing.assert_allclose(mean(got), mean(values), atol=1e-12)
    assert cdf_gap(got, values) > 0.1


def moment(measure, center, k):
    return sum(w * (z - center) ** k for z, w in measure)


def test_moments_of_path_independent_errors_diverge():
    """One state, reward 1: moments about the fixed point, before and after one application."""
    gamma, center = 0.9, 10.0
    start = [(center - 1.0, 0.5), (center + 2.0, 0.25), (center + 0.5, 0.25)]
    for c, expected in ((1.0, [0.0, -0.9, -1.71]), (0.5, None)):
        got = list(start)
        for t in range(500):
            mass = (gamma * c) ** t
            got += [(z, mass * w) for z, w in push(start, 1.0, gamma)]
            got += [(z, -mass * w) for z, w in start]
        factors = [moment(got, center, k) / moment(start, center, k) for k in (1, 2, 3)]
        wanted = expected or [1 + (gamma**k - 1) / (1 - gamma * c) for k in (1, 2, 3)]
        np.testing.assert_allclose(factors, wanted, atol=1e-9)


@pytest.mark.parametrize("c", [0.0, 0.5, 0.9, 1.0])
def test_moments_of_path_dependent_errors_shrink(c):
    """The same state: by `gamma^k (1 - c) / (1 - c gamma^k)`, for 0 <= c <= 1 within [0, 1)."""
    gamma, center, t = 0.9, 10.0, 300
    atoms = center + np.array([-1.0, -1.0, 2.0, 0.5])
    dist_q_t = np.tile(atoms[None, :, None], (t, 1, 1))
    ones = np.ones(t)
    arrays = (ones, gamma * ones, dist_q_t, np.zeros(t, int), ones[:, None], c * ones, ones)
    got = as_measure(TARGET(*arrays))
    start = [(z, 0.25) for z in atoms]
    factors = [moment(got, center, k) / moment(start, center, k) for k in (1, 2, 3)]
    wanted = [gamma**k * (1 - c) / (1 - c * gamma**k) for k in (1, 2, 3)]
    np.testing.assert_allclose(factors, wanted, atol=1e-10)
