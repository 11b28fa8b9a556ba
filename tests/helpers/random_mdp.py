"""Small random problems in float64: exact values, all windows of a behaviour and their odds."""

import itertools
from typing import NamedTuple

import numpy as np


class Mdp(NamedTuple):
    r: np.ndarray  # [S, A]
    p: np.ndarray  # [S, A, S]
    gamma: float


class Windows(NamedTuple):
    """All windows of a length: start (s, a) by path, P paths each. Rows as in the losses."""

    s_tm1: np.ndarray  # [S * A, P, T]
    a_tm1: np.ndarray
    s_t: np.ndarray
    a_t: np.ndarray
    odds: np.ndarray  # [S * A, P], summing to 1 over P


def random_mdp(seed: int, states: int, actions: int, gamma: float) -> Mdp:
    generator = np.random.default_rng(seed)
    p = generator.dirichlet(np.ones(states), size=(states, actions))
    return Mdp(generator.normal(size=(states, actions)), p, gamma)


def random_policy(seed: int, states: int, actions: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(actions), size=states)


def backup(mdp: Mdp, pi: np.ndarray, q: np.ndarray) -> np.ndarray:
    """T^pi q."""
    return mdp.r + mdp.gamma * mdp.p @ np.sum(pi * q, axis=-1)


def q_of(mdp: Mdp, pi: np.ndarray) -> np.ndarray:
    """Q^pi by a linear solve."""
    states, actions = mdp.r.shape
    kernel = (mdp.p[:, :, :, None] * pi[None, None]).reshape(states * actions, -1)
    solved = np.linalg.solve(np.eye(states * actions) - mdp.gamma * kernel, mdp.r.ravel())
    return solved.reshape(states, actions)


def q_star(mdp: Mdp) -> np.ndarray:
    q = np.zeros_like(mdp.r)
    while True:
        greedy = np.eye(q.shape[1])[q.argmax(axis=-1)]
        new = q_of(mdp, greedy)
        if np.array_equal(new.argmax(axis=-1), q.argmax(axis=-1)):
            return new
        q = new


def windows(mdp: Mdp, mu: np.ndarray, length: int) -> Windows:
    """Every window of `length` transitions from every (s, a), actions by mu."""
    states, actions = mdp.r.shape
    pairs = list(itertools.product(range(states), range(actions)))
    rows = []
    for start in pairs:
        for rest in itertools.product(pairs, repeat=length):
            odds = 1.0
            for (s, a), (s_next, a_next) in itertools.pairwise((start, *rest)):
                odds *= mdp.p[s, a, s_next] * mu[s_next, a_next]
            rows.append(((start, *rest), odds))
    steps = np.array([row[0] for row in rows]).reshape(len(pairs), -1, length + 1, 2)
    odds = np.array([row[1] for row in rows]).reshape(len(pairs), -1)
    before, after = steps[:, :, :-1], steps[:, :, 1:]
    return Windows(before[..., 0], before[..., 1], after[..., 0], after[..., 1], odds)
