"""Random finite problems for the tabular studies, samples of them, and their exact laws.

Arrays of a `Problem` have a leading axis of MDPs wherever they are mapped over. Seeds below 100
are reported; those that chose step sizes are 100 and above.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from bellmax import losses
from bellmax.envs import random_mdp, value_iteration


class Problem(NamedTuple):
    """p: [S, A, S] transitions. r: [S, A] rewards. pi, mu: [S, A] target and behaviour policy.

    NumPy float64 for the solution, JAX float32 for trajectories.
    """

    p: Any
    r: Any
    pi: Any
    mu: Any


class Method(NamedTuple):
    """A distributional rule: trace is one_step, retrace, q_lambda or uncorrected; k its window."""

    name: str
    trace: str
    k: int
    lambda_: float = 1.0


class Windows(NamedTuple):
    """states, actions: [T, K + 1] int, what T windows of K transitions went through."""

    states: jax.Array
    actions: jax.Array


def make_problem(seed, states, actions, *, gamma, epsilon, mixture) -> Problem:
    """A Garnet MDP; pi is epsilon-greedy on its optimal values, mu is part pi, part uniform."""
    mdp = random_mdp(jax.random.key(seed), states, actions, branching=3)
    greedy = np.eye(actions)[value_iteration(mdp.p, mdp.r, gamma).argmax(-1)]
    pi = (1 - epsilon) * greedy + epsilon / actions
    return Problem(mdp.p, mdp.r, pi, (1 - mixture) * pi + mixture / actions)


def stack(problems) -> Problem:
    """float32 problems with an axis of MDPs in front."""
    return Problem(*(jnp.asarray(np.stack(x), jnp.float32) for x in zip(*problems, strict=True)))


def _draw(key, odds):
    """Draw an index by inverting cumulative sums; rounding never leads past the last."""
    cumulative = jnp.cumsum(odds)[:-1]
    return jnp.sum(jax.random.uniform(key) >= cumulative).astype(jnp.int32)


def walk(key, problem, state, action, length):
    """States and actions [length] that follow (state, action), that pair first."""

    def step(pair, key):
        p_key, a_key = jax.random.split(key)
        state = _draw(p_key, problem.p[pair])
        return (state, _draw(a_key, problem.mu[state])), pair

    return jax.lax.scan(step, (state, action), jax.random.split(key, length))[1]


def stream(key, problem: Problem, updates: int, k: int) -> Windows:
    """Every window of one endless trajectory: one more transition, one more window."""
    walk_key, s_key, a_key = jax.random.split(key, 3)
    state = jax.random.randint(s_key, (), 0, problem.r.shape[0])
    action = _draw(a_key, problem.mu[state])
    walked = walk(walk_key, problem, state, action, updates + k)
    rows = jnp.arange(updates)[:, None] + jnp.arange(k + 1)[None, :]
    return Windows(*(x[rows] for x in walked))


def fresh(key, problem: Problem, updates: int, k: int) -> Windows:
    """Independent windows, each from a state and action drawn uniformly."""

    def one(key):
        walk_key, s_key, a_key = jax.random.split(key, 3)
        states, actions = problem.r.shape
        state = jax.random.randint(s_key, (), 0, states)
        return walk(walk_key, problem, state, jax.random.randint(a_key, (), 0, actions), k + 1)

    return Windows(*jax.vmap(one)(jax.random.split(key, updates)))


def coefficients(trace: str, lambda_, a_t, pi_t, mu_t):
    """Trace coefficients [T] of the taken actions; pi_t is [T, A], mu_t [T]."""
    if trace == "retrace":
        return losses.retrace_coefficients(a_t, pi_t, mu_t, lambda_=lambda_)
    return losses.q_lambda_coefficients(a_t, lambda_=lambda_)


def window_target(method: Method, r_t, dist_q_t, a_t, pi_t, mu_t, gamma) -> losses.WeightedAtoms:
    """The library's target of a window's first step; rows as there, dist_q_t [K, N, A].

    Uncorrected is Retrace for a policy that always takes the taken actions: coefficients are 1 and
    other actions have no weight, except at the last step, which bootstraps from pi.
    """
    c_t = coefficients(method.trace, method.lambda_, a_t, pi_t, mu_t)
    if method.trace == "uncorrected":
        followed = jax.nn.one_hot(a_t, pi_t.shape[-1], dtype=pi_t.dtype)
        pi_t = jnp.concatenate([followed[:-1], pi_t[-1:]])
    ones = jnp.ones_like(r_t)
    return losses.distributional_retrace_target(
        r_t, gamma * ones, dist_q_t, a_t, pi_t, c_t, ones, anchor=0
    )


class Grid(NamedTuple):
    """Laws as odds on a fine grid of returns.

    z: [G] the grid. push: sparse [S A G, S A G], the law of `r(s, a) + gamma Z`, each atom shared
    by its two neighbours on the grid, which keeps the mean.
    """

    z: np.ndarray
    push: sparse.csr_matrix


def make_grid(problem: Problem, gamma: float, size: int = 2001, ends=None) -> Grid:
    """A grid that holds every return of the problem; `ends` (lowest, highest) if they are known."""
    if ends is None:
        ends = np.array([problem.r.min(), problem.r.max()]) / (1 - gamma)
    z = np.linspace(ends[0], ends[1], size)
    target = np.asarray(problem.r).reshape(-1, 1) + gamma * z[None, :]
    index, fraction = _between(z, target)
    offset = size * np.arange(len(target))[:, None]
    columns = np.arange(target.size)
    rows = np.concatenate([(index + offset).ravel(), (index + 1 + offset).ravel()])
    odds = np.concatenate([1 - fraction.ravel(), fraction.ravel()])
    shape = target.size, target.size
    return Grid(z, sparse.csr_matrix((odds, (rows, np.tile(columns, 2))), shape))


def _between(z, x):
    position = (x - z[0]) / (z[1] - z[0])
    index = np.clip(position.astype(int), 0, len(z) - 2)
    return index, np.clip(position - index, 0, 1)


def on_grid(grid: Grid, atoms: np.ndarray) -> np.ndarray:
    """[S, A, G] odds of equal atoms [S, A, N]."""
    index, fraction = _between(grid.z, atoms)
    law = np.zeros((*atoms.shape[:2], len(grid.z)))
    s, a = np.indices(atoms.shape)[:2]
    np.add.at(law, (s, a, index), (1 - fraction) / atoms.shape[2])
    np.add.at(law, (s, a, index + 1), fraction / atoms.shape[2])
    return law


def trace_table(method: Method, problem: Problem) -> np.ndarray:
    """[S, A] coefficient of each action in each state, from the library."""
    actions = np.arange(problem.pi.shape[1])
    rows = zip(problem.pi, problem.mu, strict=True)
    with jax.enable_x64(True):
        each = [
            coefficients(method.trace, method.lambda_, actions, np.tile(pi, (len(mu), 1)), mu)
            for pi, mu in rows
        ]
        return np.stack([np.asarray(x, np.float64) for x in each])


def expected_target(grid: Grid, problem: Problem, method: Method, law: np.ndarray) -> np.ndarray:
    """[S, A, G] the target of every (s, a), in expectation over all windows; law is [S, A, G].

    What follows a state and an action does not depend on what was before, so the mean over paths is
    taken backwards, `method.k` times. Source: as Munos et al. 2016, for measures.
    """
    followed = problem.mu * trace_table(method, problem)
    base = problem.mu if method.trace == "uncorrected" else problem.pi

    def mean(weights, law):
        return np.matmul(weights[:, None, :], law)[:, 0]

    ahead, bootstrap, target = mean(problem.pi, law), mean(base, law), law
    for _ in range(method.k):
        pushed = grid.push @ np.tensordot(problem.p, ahead, 1).ravel()
        target = pushed.reshape(law.shape)
        ahead = bootstrap + mean(followed, target - law)
    return target


def exact_law(grid: Grid, problem: Problem, tolerance: float = 1e-4) -> np.ndarray:
    """[S, A, G] the law of pi's return, up to the width of the grid."""
    one_step = Method("1-step", "one_step", 1)
    law = np.zeros((*problem.r.shape, len(grid.z)))
    law[:, :, len(grid.z) // 2] = 1.0
    while True:
        new = expected_target(grid, problem, one_step, law)
        if np.abs(np.cumsum(new - law, -1)).sum(-1).max() * (grid.z[1] - grid.z[0]) < tolerance:
            return new
        law = new


def quantiles(grid: Grid, law: np.ndarray, n: int) -> np.ndarray:
    """[S, A, n] the first point of the grid with at least tau below, tau the n midpoints."""
    cdf = np.maximum.accumulate(np.cumsum(law, -1), -1)
    flat = cdf.reshape(-1, len(grid.z))
    tau = (np.arange(n) + 0.5) / n
    index = np.stack([np.searchsorted(row, tau) for row in flat])
    return grid.z[np.minimum(index, len(grid.z) - 1)].reshape(*law.shape[:2], n)


def wasserstein(atoms, fine):
    """[...] W1 between N atoms [..., N] and a law given by a multiple of N quantiles [..., F N]."""
    xp = jnp if isinstance(atoms, jax.Array) else np
    atoms = xp.sort(atoms, -1)[..., None]
    return xp.abs(atoms - fine.reshape(*atoms.shape[:-1], -1)).mean((-1, -2))


def fixed_point(
    grid: Grid, problem: Problem, method: Method, start: np.ndarray, iterations: int = 40
) -> tuple[np.ndarray, float]:
    """Return the fixed point [S, A, N] of the expected target, and the size of the last change."""
    atoms, moved = start, np.inf
    for _ in range(iterations):
        target = expected_target(grid, problem, method, on_grid(grid, atoms))
        new = quantiles(grid, target, atoms.shape[2])
        moved, atoms = np.abs(new - atoms).max(), new
        if moved == 0:
            break
    return atoms, moved
