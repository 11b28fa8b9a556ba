"""Tabular study of distributional Retrace: error of the law of returns against interactions."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tabular_problems import (
    Method,
    Problem,
    Windows,
    exact_law,
    fixed_point,
    fresh,
    make_grid,
    make_problem,
    quantiles,
    stack,
    stream,
    wasserstein,
    window_target,
)

from bellmax import losses

METHODS = (
    Method("1-step", "one_step", 1),
    Method("Retrace K=3", "retrace", 3),
    Method("Retrace K=5", "retrace", 5),
    Method("Q(lambda) K=5", "q_lambda", 5),
    Method("uncorrected K=3", "uncorrected", 3),
    Method("uncorrected K=5", "uncorrected", 5),
)
STEP_SIZES = (0.2, 0.4, 0.8, 1.6, 3.2)
EQUAL_STEP_SIZE = 0.4
THRESHOLD = 0.5


def methods_for(mixture: float) -> list[Method]:
    """Without Q(lambda) on-policy, where no ratio is below 1 and it equals Retrace."""
    return [method for method in METHODS if mixture or method.trace != "q_lambda"]


class Setting(NamedTuple):
    """Sizes of the study. updates: of each run. points: how often the error is looked at."""

    states: int = 8
    actions: int = 3
    gamma: float = 0.9
    epsilon: float = 0.2
    quantiles: int = 16
    fine: int = 1024
    updates: int = 10_000
    points: int = 80
    step_sizes: tuple[float, ...] = STEP_SIZES


class Sample(NamedTuple):
    """MDPs of one behaviour: stacked float32 problems, [M, S, A, F] laws, floors by method [M]."""

    problems: Problem
    laws: jax.Array
    floors: dict[str, np.ndarray]
    represented: np.ndarray


class Curve(NamedTuple):
    """updates: [P]. errors: [M, P] W1, the mean over states and actions."""

    updates: np.ndarray
    errors: np.ndarray
    step_size: float


def make_sample(setting: Setting, seeds, mixture: float, methods=()) -> Sample:
    """Problems and their exact laws; with methods also the error of their own fixed points."""
    options = {"gamma": setting.gamma, "epsilon": setting.epsilon, "mixture": mixture}
    problems = [make_problem(s, setting.states, setting.actions, **options) for s in seeds]
    laws, represented, floors = [], [], {method.name: [] for method in methods}
    for problem in problems:
        grid = make_grid(problem, setting.gamma)
        law = exact_law(grid, problem)
        laws.append(quantiles(grid, law, setting.fine))
        best = quantiles(grid, law, setting.quantiles)
        represented.append(wasserstein(best, laws[-1]).mean())
        for method in methods:
            atoms, _ = fixed_point(grid, problem, method, best)
            floors[method.name].append(wasserstein(atoms, laws[-1]).mean())
    floors = {name: np.array(each) for name, each in floors.items()}
    laws = jnp.asarray(np.stack(laws), jnp.float32)
    return Sample(stack(problems), laws, floors, np.array(represented))


def update(
    theta: jax.Array, problem: Problem, window: Windows, method: Method, gamma: Any, step_size: Any
) -> jax.Array:
    """One rule from the library at one window: tables [S, A, N] in and out."""
    k = method.k
    states, actions = window.states[: k + 1], window.actions[: k + 1]
    s_t, a_t = states[1:], actions[1:]
    r_t = problem.r[states[:-1], actions[:-1]]
    dist_q_t = jnp.swapaxes(theta[s_t], 1, 2)
    rest = problem.pi[s_t], problem.mu[s_t, a_t], gamma
    target = window_target(method, r_t, dist_q_t, a_t, *rest)
    tau = losses.quantile_midpoints(theta.shape[2])
    here = states[0], actions[0]
    new = losses.quantile_td(
        theta[here], tau, target.atoms, step_size=step_size, weights=target.weights
    )
    return theta.at[here].set(new)


@functools.partial(jax.jit, static_argnames=("method", "setting"))
def learn(problems, laws, windows, step_size, *, method, setting):
    """[M, points] errors of tables that learn from zero, one update a window."""

    def one(problem, law, windows):
        def errors_after(theta, part):
            def step(theta, window):
                return update(theta, problem, window, method, setting.gamma, step_size), None

            theta = jax.lax.scan(step, theta, part)[0]
            return theta, wasserstein(theta, law).mean()

        shape = setting.points, -1, windows.states.shape[1]
        parts = jax.tree.map(lambda x: x.reshape(shape), windows)
        theta = jnp.zeros((*problem.r.shape, setting.quantiles))
        return jax.lax.scan(errors_after, theta, parts)[1]

    return jax.vmap(one)(problems, laws, windows)


def draw_windows(setting: Setting, problems: Problem, seeds, kind: str) -> Windows:
    """Windows [M, updates, 6] of every MDP: `stream` or `fresh`; methods see the same ones."""
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32) + 10_000)
    return _draw_windows(keys, problems, kind=kind, updates=setting.updates)


@functools.partial(jax.jit, static_argnames=("kind", "updates"))
def _draw_windows(keys, problems, *, kind, updates):
    draw = {"stream": stream, "fresh": fresh}[kind]
    return jax.vmap(lambda key, problem: draw(key, problem, updates, 5))(keys, problems)


def interactions(kind: str, method: Method, updates):
    """Transitions used by the given number of updates: in a stream one each, after the first
    window."""
    return updates + method.k - 1 if kind == "stream" else updates * method.k


def area(setting: Setting, kind: str, method: Method, curve: Curve) -> np.ndarray:
    """[M] geometric mean of the error over the first `setting.updates` interactions.

    That is the area under the curve of the logarithm, as it is drawn: early and late count alike.
    """
    used = interactions(kind, method, curve.updates)
    grid = np.linspace(0, setting.updates, 401)[1:]
    return np.exp([np.interp(grid, used, row).mean() for row in np.log(curve.errors)])


def errors_at(setting: Setting, kind: str, method: Method, curve: Curve, share: float):
    """[M] error when a share of `setting.updates` interactions are used."""
    used = interactions(kind, method, curve.updates)
    return np.array([np.interp(share * setting.updates, used, row) for row in curve.errors])


def reached(setting: Setting, kind: str, method: Method, curve: Curve) -> np.ndarray:
    """[M] interactions until the error first is below THRESHOLD; inf where it never is."""
    used = interactions(kind, method, curve.updates)
    below = (curve.errors < THRESHOLD) & (used <= setting.updates + method.k)
    return np.where(below.any(-1), used[np.argmax(below, -1)], np.inf)


def tune(setting: Setting, sample: Sample, windows: Windows, kind: str, method: Method) -> float:
    """The step size of the grid with the smallest mean area."""
    each = {}
    for alpha in setting.step_sizes:
        learnt = learning_curve(setting, sample, windows, method, alpha)
        each[alpha] = area(setting, kind, method, learnt).mean()
    return min(each, key=each.__getitem__)


def learning_curve(setting: Setting, sample: Sample, windows: Windows, method, alpha) -> Curve:
    """What a method learns at a step size, from tables of zeros."""
    step_size = jnp.float32(alpha)
    where = sample.problems, sample.laws, windows, step_size
    errors = np.asarray(learn(*where, method=method, setting=setting), np.float64)
    start = np.abs(np.asarray(sample.laws)).mean((1, 2, 3))
    updates = np.linspace(0, setting.updates, setting.points + 1)
    return Curve(updates, np.column_stack([start, errors]), alpha)
