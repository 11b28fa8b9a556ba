"""Tabular study of VA-learning: error of action values and of action gaps against interactions."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tabular_problems import Problem, stack, stream

from bellmax import losses
from bellmax.envs import random_mdp, value_iteration

METHODS = ("Q-learning", "VA-learning", "uniform dueling", "behaviour dueling")
BEHAVIOURS = ("uniform", "skewed")
STEP_SIZES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
EQUAL_STEP_SIZE = 0.1


class Setting(NamedTuple):
    """Sizes. visits: interactions for each state and action. points: looks at the error."""

    actions: int
    states: int = 20
    gamma: float = 0.9
    visits: int = 200
    points: int = 40
    step_sizes: tuple[float, ...] = STEP_SIZES

    @property
    def interactions(self) -> int:
        return self.visits * self.states * self.actions


class Sample(NamedTuple):
    """M MDPs. optimum: [M, S, A] Q*. states, actions: [M, T + 1], one trajectory each."""

    problems: Problem
    optimum: jax.Array
    states: jax.Array
    actions: jax.Array


class Errors(NamedTuple):
    """[M, P] root mean squares over states and actions; gap: of Q less its mean over actions."""

    q: Any
    gap: Any


def behaviour(kind: str, seed: int, states: int, actions: int) -> np.ndarray:
    """[S, A]: uniform, or skewed: half uniform, half one random action of each state."""
    mu = np.full((states, actions), 1 / actions)
    if kind == "uniform":
        return mu
    favourite = np.random.default_rng(seed).integers(actions, size=states)
    return 0.5 * mu + 0.5 * np.eye(actions)[favourite]


def make_sample(setting: Setting, seeds, kind: str) -> Sample:
    """MDPs, their optimal values, and one endless trajectory of the behaviour in each."""
    problems, optimum = [], []
    for seed in seeds:
        mdp = random_mdp(jax.random.key(seed), setting.states, setting.actions, branching=3)
        mu = behaviour(kind, seed, setting.states, setting.actions)
        problems.append(Problem(mdp.p, mdp.r, mu, mu))
        optimum.append(value_iteration(mdp.p, mdp.r, setting.gamma))
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32) + 20_000)
    windows = _walks(keys, stack(problems), interactions=setting.interactions)
    walked = [jnp.concatenate([x[:, :1, 0], x[:, :, 1]], axis=1) for x in windows]
    return Sample(stack(problems), jnp.asarray(np.stack(optimum), jnp.float32), *walked)


@functools.partial(jax.jit, static_argnames="interactions")
def _walks(keys, problems, *, interactions):
    return jax.vmap(lambda key, problem: stream(key, problem, interactions, 1))(keys, problems)


def q_values(method: str, tables: losses.VATables, mu: jax.Array) -> jax.Array:
    """[S, A] action values; `tables.advantage` is Q itself for Q-learning, f for dueling."""
    if method.endswith("dueling"):
        return tables.v[:, None] + jax.vmap(losses.behaviour_centred)(tables.advantage, mu)
    return tables.v[:, None] + tables.advantage


def centre(method: str, mu: jax.Array) -> jax.Array:
    """[S, A] the policy under which a dueling method centres its advantages."""
    return jnp.full_like(mu, 1 / mu.shape[1]) if method == "uniform dueling" else mu


def update(method: str, tables, mu, s_tm1, a_tm1, r_t, discount_t, s_t, step_size, size_v=None):
    """One rule from the library at one transition; size_v is the step size of V, if it differs."""
    size_v = step_size if size_v is None else size_v
    if method == "VA-learning":
        sizes = {"step_size_v": size_v, "step_size_advantage": step_size}
        return losses.va_update(tables, s_tm1, a_tm1, r_t, discount_t, s_t, **sizes)
    if method == "Q-learning":
        q = tables.advantage
        error = losses.q_learning(q[s_tm1], a_tm1, r_t, discount_t, q[s_t])
        return tables._replace(advantage=q.at[s_tm1, a_tm1].add(step_size * error))

    def half_square(v_tm1, f_tm1):
        here = v_tm1, losses.behaviour_centred(f_tm1, mu[s_tm1]), a_tm1
        after = tables.v[s_t], losses.behaviour_centred(tables.advantage[s_t], mu[s_t])
        return 0.5 * losses.behaviour_dueling_q_learning(*here, r_t, discount_t, *after) ** 2

    slopes = jax.grad(half_square, (0, 1))(tables.v[s_tm1], tables.advantage[s_tm1])
    v, f = tables.v.at[s_tm1], tables.advantage.at[s_tm1]
    return losses.VATables(v.add(-size_v * slopes[0]), f.add(-step_size * slopes[1]))


def start(method: str, problem: Problem, optimum, at_optimum: bool) -> losses.VATables:
    """Tables of zeros, or the method's fixed point."""
    zeros = losses.VATables(jnp.zeros(len(optimum)), jnp.zeros_like(optimum))
    if not at_optimum:
        return zeros
    if method == "Q-learning":
        return zeros._replace(advantage=optimum)
    v = jnp.sum(centre(method, problem.mu) * optimum, axis=-1)
    return losses.VATables(v, optimum - v[:, None])


def root_mean_square(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.mean(x**2))


@functools.partial(jax.jit, static_argnames=("method", "setting", "at_optimum"))
def learn(sample: Sample, step_size, *, method, setting, at_optimum=False):
    """`Errors` [M, P] of one update a transition; [M, A', P] for step sizes [A']."""

    def one(sample, step_size):
        problem, optimum = sample.problems, sample.optimum
        mu = centre(method, problem.mu)

        def step(tables, transition):
            s_tm1, a_tm1, s_t = transition
            r_t = problem.r[s_tm1, a_tm1]
            discount = jnp.float32(setting.gamma)
            return update(method, tables, mu, s_tm1, a_tm1, r_t, discount, s_t, step_size), None

        def errors_after(tables, part):
            tables = jax.lax.scan(step, tables, part)[0]
            error = q_values(method, tables, mu) - optimum
            gap = error - jnp.mean(error, axis=-1, keepdims=True)
            return tables, Errors(root_mean_square(error), root_mean_square(gap))

        walked = sample.states[:-1], sample.actions[:-1], sample.states[1:]
        parts = jax.tree.map(lambda x: x.reshape(setting.points, -1), walked)
        tables = start(method, problem, optimum, at_optimum)
        return jax.lax.scan(errors_after, tables, parts)[1]

    sizes = jax.vmap(one, (None, 0)) if jnp.ndim(step_size) else one
    return jax.vmap(sizes, (0, None))(sample, step_size)


def run(setting: Setting, sample: Sample, method: str, step_sizes, *, at_optimum=False) -> Errors:
    """`Errors` [A', M, P] at each step size."""
    sizes = jnp.asarray(step_sizes, jnp.float32)
    errors = learn(sample, sizes, method=method, setting=setting, at_optimum=at_optimum)
    return Errors(*(np.swapaxes(np.asarray(x, np.float64), 0, 1) for x in errors))


def area(errors: np.ndarray) -> np.ndarray:
    """Geometric mean over the last axis, the interactions."""
    return np.exp(np.log(errors).mean(-1))


def noise_floor(errors: Errors) -> Errors:
    """Root mean square over the second half of runs that started at the fixed point."""
    half = [x[..., x.shape[-1] // 2 :] for x in errors]
    return Errors(*(np.sqrt((x**2).mean(-1)) for x in half))
