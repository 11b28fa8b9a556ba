"""Tabular study of contraction: distances after one exact application, compared with theory."""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tabular_problems import (
    Method,
    Problem,
    exact_law,
    expected_target,
    make_grid,
    trace_table,
    window_target,
)

from bellmax import losses
from bellmax.envs import random_mdp

GAMMA = 0.9
METHODS = (
    Method("1-step", "one_step", 1),
    Method("Retrace K=2", "retrace", 2),
    Method("Retrace K=4", "retrace", 4),
    Method("Retrace K=4, lambda=0.5", "retrace", 4, 0.5),
)
MIXTURES = (0.0, 0.5, 1.0)
LAMBDAS = (0.0, 0.25, 0.5, 0.75, 0.95)
DISCOUNTS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)


class Paths(NamedTuple):
    """All windows of one length: states, actions [P, K + 1] int and their odds [P]."""

    states: np.ndarray
    actions: np.ndarray
    odds: np.ndarray


class Measure(NamedTuple):
    """Atoms [N] and their weights [N], signed allowed, float64."""

    atoms: np.ndarray
    weights: np.ndarray


class Ratios(NamedTuple):
    """W1 after one application over W1 before, each the worst state and action, and the theory."""

    theory: float
    shifted: float
    random: float


def small_problem(seed: int, mixture: float, states: int = 4, actions: int = 2) -> Problem:
    """A problem whose windows can be enumerated; policies are uniform draws from the simplex."""
    mdp = random_mdp(jax.random.key(seed), states, actions, branching=2)
    generator = np.random.default_rng(seed)
    pi, other = generator.dirichlet(np.ones(actions), size=(2, states))
    return Problem(mdp.p, mdp.r, pi, (1 - mixture) * pi + mixture * other)


def enumerate_paths(problem: Problem, state: int, action: int, k: int) -> Paths:
    """Every window of k transitions that starts with (state, action), and its odds under mu."""
    states, actions, odds = np.array([[state]]), np.array([[action]]), np.ones(1)
    for _ in range(k):
        here = problem.p[states[:, -1], actions[:, -1]]
        each = odds[:, None, None] * here[:, :, None] * problem.mu[None]
        row, s, a = np.nonzero(each)
        states = np.column_stack([states[row], s])
        actions = np.column_stack([actions[row], a])
        odds = each[row, s, a]
    return Paths(states, actions, odds)


@functools.partial(jax.jit, static_argnames="method")
def _targets(problem, dist, states, actions, *, method):
    def one(states, actions):
        s_t, a_t = states[1:], actions[1:]
        r_t = problem.r[states[:-1], actions[:-1]]
        rest = a_t, problem.pi[s_t], problem.mu[s_t, a_t], GAMMA
        return window_target(method, r_t, jnp.swapaxes(dist[s_t], 1, 2), *rest)

    return jax.vmap(one)(states, actions)


def apply(problem: Problem, method: Method, dist: np.ndarray) -> list[Measure]:
    """The operator on equal atoms [S, A, N]: the library's target, averaged over all windows."""
    results = []
    with jax.enable_x64(True):
        for state, action in np.ndindex(problem.r.shape):
            paths = enumerate_paths(problem, state, action, method.k)
            windows = paths.states, paths.actions
            target = _targets(problem, jnp.asarray(dist), *windows, method=method)
            weights = np.asarray(target.weights) * paths.odds[:, None]
            results.append(Measure(np.ravel(target.atoms), np.ravel(weights)))
    return results


def distance(one: Measure, other: Measure) -> float:
    """W1 of two measures of equal mass, signed or not: the area between their CDFs."""
    atoms = np.concatenate([one.atoms, other.atoms])
    weights = np.concatenate([one.weights, -np.asarray(other.weights)])
    order = np.argsort(atoms)
    return float(np.abs(np.cumsum(weights[order])[:-1]) @ np.diff(atoms[order]))


def _equal(dist: np.ndarray) -> list[Measure]:
    flat = dist.reshape(-1, dist.shape[-1])
    return [Measure(row, np.full(len(row), 1 / len(row))) for row in flat]


def worst(ones, others) -> float:
    return max(distance(one, other) for one, other in zip(ones, others, strict=True))


def theory(problem: Problem, method: Method) -> float:
    """beta_1: the largest over (s, a) of sum_n E_mu[c_1 ... c_{n-1} (1 - c_n)] gamma^n, c_K = 0."""
    coefficient = trace_table(method, problem)
    shrunk = np.full(problem.r.shape, GAMMA)
    for _ in range(method.k - 1):
        ahead = 1 - coefficient + coefficient * shrunk
        shrunk = GAMMA * problem.p @ np.sum(problem.mu * ahead, axis=-1)
    return float(shrunk.max())


def ratios(seed: int, mixture: float, method: Method, atoms: int = 4, pairs: int = 2) -> Ratios:
    """Distances of shifted and of random pairs of distributions; atoms are N(0, 3)."""
    problem = small_problem(seed, mixture)
    generator = np.random.default_rng(seed)
    draws = 3 * generator.normal(size=(pairs + 1, *problem.r.shape, atoms))
    images = [apply(problem, method, dist) for dist in draws]
    shifted = worst(images[0], apply(problem, method, draws[0] + 1.0))
    found = [
        worst(images[0], image) / worst(_equal(draws[0]), _equal(dist))
        for image, dist in zip(images[1:], draws[1:], strict=True)
    ]
    return Ratios(theory(problem, method), shifted, max(found))


def approach(seed: int, mixture: float, method: Method, applications: int = 12):
    """[applications + 1] sup W1 to the law of pi's return, from all mass at the lowest return.

    And the bound `beta_1 ** k` times the first. On the grid, exact up to its width.
    """
    problem = small_problem(seed, mixture)
    grid = make_grid(problem, GAMMA)
    truth = exact_law(grid, problem)
    law = np.zeros_like(truth)
    law[:, :, 0] = 1.0
    found = [_sup(grid, law, truth)]
    for _ in range(applications):
        law = expected_target(grid, problem, method, law)
        found.append(_sup(grid, law, truth))
    bound = found[0] * theory(problem, method) ** np.arange(applications + 1)
    return np.array(found), bound


def _sup(grid, law, other) -> float:
    gaps = np.abs(np.cumsum(law - other, axis=-1)).sum(-1)
    return float(gaps.max() * (grid.z[1] - grid.z[0]))


def constant_trace(seed: int, lambda_: float, k: int = 60) -> tuple[float, float]:
    """On-policy c = lambda, a window so long that it has no end: measured rate and closed form."""
    problem = small_problem(seed, 0.0)
    grid = make_grid(problem, GAMMA)
    method = Method("constant", "q_lambda", k, lambda_)
    law = np.zeros((*problem.r.shape, len(grid.z)))
    middle = len(grid.z) // 2
    law[:, :, middle] = 1.0
    shifted = np.roll(law, 10, axis=-1)
    images = [expected_target(grid, problem, method, x) for x in (law, shifted)]
    measured = _sup(grid, *images) / _sup(grid, law, shifted)
    return measured, GAMMA * (1 - lambda_) / (1 - GAMMA * lambda_)


def value_rates(seed: int, gamma: float, iterations: int = 10) -> tuple[float, float]:
    """VA dynamic programming: sup error of v + advantage, largest ratio of consecutive iterations.

    From random tables, and from the fixed point plus a constant.
    """
    problem = small_problem(seed, 0.5)
    r, p, mu = problem.r, problem.p, problem.mu
    with jax.enable_x64(True):
        advance = jax.jit(lambda x: losses.va_value_iteration(x, r, p, mu, gamma=gamma))
        zeros = losses.VATables(jnp.zeros(len(r)), jnp.zeros(r.shape))
        fixed = zeros
        for _ in range(int(np.ceil(32 / (1 - gamma)))):
            fixed = advance(fixed)
        optimum = np.asarray(fixed.v[:, None] + fixed.advantage)
        generator = np.random.default_rng(seed)
        draw = [jnp.asarray(10 * generator.normal(size=x.shape)) for x in zeros]
        found = []
        for tables in (losses.VATables(*draw), fixed._replace(v=fixed.v + 1.0)):
            errors = []
            for _ in range(iterations + 1):
                errors.append(np.abs(tables.v[:, None] + tables.advantage - optimum).max())
                tables = advance(tables)
            found.append(max(b / a for a, b in itertools.pairwise(errors)))
    return found[0], found[1]
