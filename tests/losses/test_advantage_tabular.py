"""VA-learning on tables: worked steps, exact fixed points, and the variant that diverges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import losses
from helpers.contract import Case, check_contract

TABLES = losses.VATables(jnp.array([1.0, 2.0]), jnp.array([[0.0, 0.5], [-1.0, 1.0]]))
SIZES = {"step_size_v": 0.1, "step_size_advantage": 0.1}
GAMMA = 0.9
PI = jnp.array([[0.2, 0.8], [0.5, 0.5]])


def va_update(v, advantage, s_tm1, a_tm1, r_t, discount_t, s_t, *, evaluate=False, **sizes):
    tables, pi = losses.VATables(v, advantage), PI if evaluate else None
    return losses.va_update(tables, s_tm1, a_tm1, r_t, discount_t, s_t, **sizes, pi=pi)


def va_value_iteration(v, advantage, r, p, mu, *, evaluate=False, **hyper):
    tables, pi = losses.VATables(v, advantage), PI if evaluate else None
    return losses.va_value_iteration(tables, r, p, mu, **hyper, pi=pi)


FLOATS = {"r_t": jnp.float32(0.5), "discount_t": jnp.float32(GAMMA)}
UPDATE = TABLES._asdict() | {"s_tm1": jnp.int32(0), "a_tm1": jnp.int32(1), **FLOATS}
MDP = {
    "r": jnp.array([[0.5, -1.0], [0.2, 0.0]]),
    "p": jnp.array([[[0.3, 0.7], [1.0, 0.0]], [[0.5, 0.4], [0.1, 0.9]]]),
    "mu": jnp.array([[0.6, 0.4], [0.1, 0.9]]),
}
LEARNED = ("v", "advantage", "r_t", "discount_t")
CASES = [
    *(
        Case(
            va_update,
            UPDATE | {"s_t": jnp.int32(1)},
            LEARNED,
            SIZES,
            static,
            ("v", "advantage"),
            free=("advantage",),
            keeps=(*FLOATS, *SIZES),
        )
        for static in ({}, {"evaluate": True})
    ),
    *(
        Case(
            va_value_iteration,
            TABLES._asdict() | MDP,
            ("v", "advantage", *MDP),
            {"gamma": GAMMA},
            static,
            ("v", "advantage", "r"),
        )
        for static in ({}, {"evaluate": True})
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_contract(case):
    check_contract(case)


def random_mdp(states=5, actions=3, seed=0):
    generator = np.random.default_rng(seed)
    r = generator.normal(size=(states, actions))
    p = generator.dirichlet(np.ones(states), size=(states, actions))
    mu, pi = generator.dirichlet(np.ones(actions), size=(2, states))
    return r, p, mu, pi


def backup(q, r, p, pi):
    values = q.max(axis=1) if pi is None else np.sum(pi * q, axis=1)
    return r + GAMMA * p @ values


def solve(r, p, pi):
    q = np.zeros_like(r)
    for _ in range(500):
        q = backup(q, r, p, pi)
    return q


def test_worked_step():
    # Target 0.5 + 0.9 * (2 + 1) = 3.2. v: 1 + 0.1 * 2.2. advantage: 0.5 + 0.1 * (3.2 - 1 - 0.5).
    got = losses.va_update(TABLES, 0, 1, 0.5, GAMMA, 1, **SIZES)
    np.testing.assert_allclose(got.v, [1.22, 2.0], rtol=1e-6)
    np.testing.assert_allclose(got.advantage, [[0.0, 0.67], [-1.0, 1.0]], rtol=1e-6)
    q = got.v[:, None] + got.advantage
    np.testing.assert_allclose(q[0], [1.22, 1.89], rtol=1e-6)  # from 1 and 1.5; Q-learning: 1.67
    # Control: with the v after its update the advantage would be 0.648.
    assert abs(float(got.advantage[0, 1]) - 0.648) > 0.02


def test_worked_step_of_two_sizes_policy_and_termination():
    sizes = {"step_size_v": 0.5, "step_size_advantage": 0.1}
    got = losses.va_update(TABLES, 0, 1, 0.5, GAMMA, 1, **sizes)
    np.testing.assert_allclose((got.v[0], got.advantage[0, 1]), (2.1, 0.67), rtol=1e-6)
    # Evaluation, uniform at state 1: 0.5 + 0.9 * (2 + 0) = 2.3.
    got = losses.va_update(TABLES, 0, 1, 0.5, GAMMA, 1, **SIZES, pi=PI)
    np.testing.assert_allclose((got.v[0], got.advantage[0, 1]), (1.13, 0.58), rtol=1e-6)
    got = losses.va_update(TABLES, 0, 1, 0.5, 0.0, 1, **SIZES)
    np.testing.assert_allclose((got.v[0], got.advantage[0, 1]), (0.95, 0.4), rtol=1e-6)


def test_update_keeps_the_dtype_of_its_tables():
    with jax.enable_x64(True):
        single = losses.VATables(*(jnp.asarray(x, jnp.float32) for x in TABLES))
        got = losses.va_update(single, 0, 1, jnp.float64(0.5), jnp.float64(GAMMA), 1, **SIZES)
    assert got.v.dtype == got.advantage.dtype == jnp.float32


@pytest.mark.parametrize("evaluate", [False, True])
def test_dynamic_programming_is_value_iteration(evaluate):
    r, p, mu, pi = random_mdp()
    pi = pi if evaluate else None
    generator = np.random.default_rng(1)
    with jax.enable_x64(True):
        tables = losses.VATables(
            jnp.asarray(generator.normal(size=5)), jnp.asarray(generator.normal(size=(5, 3)))
        )
        q, optimum = np.asarray(tables.v[:, None] + tables.advantage), solve(r, p, pi)
        arrays = [jnp.asarray(x) for x in (r, p, mu)]
        policy = None if pi is None else jnp.asarray(pi)
        for _ in range(30):
            worst = np.abs(q - optimum).max()
            tables = losses.va_value_iteration(tables, *arrays, gamma=GAMMA, pi=policy)
            q = backup(q, r, p, pi)
            got = np.asarray(tables.v)[:, None] + np.asarray(tables.advantage)
            np.testing.assert_allclose(got, q, atol=1e-12)
            np.testing.assert_allclose(np.sum(mu * tables.advantage, axis=1), 0.0, atol=1e-12)
            assert np.abs(got - optimum).max() <= GAMMA * worst + 1e-12


@pytest.mark.parametrize("evaluate", [False, True])
def test_fixed_point_of_expected_small_steps(evaluate):
    """Every transition updates the same old tables; steps are averaged as they occur under mu."""
    r, p, mu, pi = random_mdp()
    s, a, s_next = map(np.ravel, np.indices(p.shape))
    with jax.enable_x64(True):
        weights = jnp.asarray((mu[:, :, None] * p).ravel())
        policy = jnp.asarray(pi) if evaluate else None
        sizes = {"step_size_v": 0.2, "step_size_advantage": 0.2, "pi": policy}
        update = lambda *step: losses.va_update(*step, **sizes)  # noqa: E731
        every = jax.vmap(update, (None, 0, 0, 0, None, 0))
        steps = (jnp.asarray(s), jnp.asarray(a), jnp.asarray(r[s, a]), GAMMA, jnp.asarray(s_next))

        def sweep(tables, _):
            mean = lambda new, old: old + jnp.einsum("i,i...->...", weights, new - old[None])  # noqa: E731
            return jax.tree.map(mean, every(tables, *steps), tables), None

        start = losses.VATables(jnp.zeros(5), jnp.zeros((5, 3)))
        end = jax.jit(lambda start: jax.lax.scan(sweep, start, None, length=20_000)[0])(start)
        v, advantage = map(np.asarray, end)
    q = solve(r, p, pi if evaluate else None)
    np.testing.assert_allclose(v[:, None] + advantage, q, atol=1e-12)
    np.testing.assert_allclose(v, np.sum(mu * q, axis=1), atol=1e-12)
    np.testing.assert_allclose(np.sum(mu * advantage, axis=1), 0.0, atol=1e-12)


def radius(step):
    """Spectral radius of a linear map of tables of two states and one action."""

    def flat(x):
        return jnp.concatenate([jnp.ravel(y) for y in step(losses.VATables(x[:2], x[2:, None]))])

    matrix = jax.jit(jax.jacobian(flat))(jnp.zeros(4))
    return np.abs(np.linalg.eigvals(np.asarray(matrix))).max()


def test_control_the_old_value_diverges_on_a_periodic_chain():
    with jax.enable_x64(True):
        p = jnp.array([[[0.0, 1.0]], [[1.0, 0.0]]])
        r, mu = jnp.zeros((2, 1)), jnp.ones((2, 1))
        step = lambda tables: losses.va_value_iteration(tables, r, p, mu, gamma=GAMMA)  # noqa: E731

        def old_value(tables):
            new = step(tables)
            return losses.VATables(new.v, new.v[:, None] + new.advantage - tables.v[:, None])

        np.testing.assert_allclose(radius(step), GAMMA, atol=1e-10)
        np.testing.assert_allclose(radius(old_value), 2.2076696831, atol=1e-10)


def test_ranges_are_checked():
    for name in SIZES:
        for value, words in ((-0.1, "at least 0"), (1.5, "at most 1")):
            with pytest.raises(ValueError, match=f"^{name} must be {words}, got {value}"):
                losses.va_update(TABLES, 0, 1, 0.5, GAMMA, 1, **SIZES | {name: value})
    with pytest.raises(ValueError, match="^gamma must .* got 1.5"):
        losses.va_value_iteration(TABLES, **MDP, gamma=1.5)
    with pytest.raises(ValueError, match="^pi must have .* entries .*, got 3"):
        losses.va_update(TABLES, 0, 1, 0.5, GAMMA, 1, **SIZES, pi=jnp.ones((3, 2)))
