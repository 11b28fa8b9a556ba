"""Finite problems for off-policy control, with a fixed behaviour: random MDPs, corridors, DeepSea.

The last state of a problem that terminates is its end, entered with a discount of 0; what is done
there leads to the start.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tabular_problems import Problem, exact_law, make_grid, quantiles

from bellmax.envs import DeepSea, random_mdp, value_iteration


class Control(NamedTuple):
    """A problem whose optimal policy is sought from the steps of `problem.mu`.

    problem: pi is the optimal policy. continues: [S] 1, or 0 for the end.
    law: [S, A, F] quantiles of the optimal policy's return. counted: [S] 1 where mu can be, not at
    the end. start: [S] probability of the first state. gamma: [].
    """

    problem: Problem
    continues: Any
    law: Any
    counted: Any
    start: Any
    gamma: Any


def make(task: str, seed: int) -> Control:
    """`random-STATES`, `corridor-LENGTH` or `deepsea-SIZE`."""
    kind, size = task.split("-")
    return {"random": _random, "corridor": _corridor, "deepsea": _deepsea}[kind](int(size), seed)


@functools.lru_cache(maxsize=2)
def stack(task: str, seeds: tuple[int, ...]) -> Control:
    """Float32 problems with an axis of seeds in front."""
    each = [make(task, seed) for seed in seeds]
    return jax.tree.map(lambda *x: jnp.asarray(np.stack(x), jnp.float32), *each)


def _random(states: int, seed: int) -> Control:
    """A Garnet MDP of 3 actions; half of the behaviour is optimal, half uniform."""
    gamma, actions = 0.9, 3
    mdp = random_mdp(jax.random.key(seed), states, actions, branching=3)
    pi = np.eye(actions)[value_iteration(mdp.p, mdp.r, gamma).argmax(-1)]
    problem = Problem(mdp.p, mdp.r, pi, 0.5 * pi + 0.5 / actions)
    grid = make_grid(problem, gamma, 1001)
    law = quantiles(grid, exact_law(grid, problem), 256)
    ones = np.ones(states)
    return Control(problem, ones, law, ones, ones / states, gamma)


def _corridor(length: int, seed: int) -> Control:
    """The only reward, 1, is at the far end; a tenth of the moves slip; 3/4 of mu's are right.

    Which of the two actions is right differs from cell to cell.
    """
    gamma, slip = 0.97, 0.1
    right = np.random.default_rng(seed).integers(2, size=length)
    p, r = np.zeros((length + 1, 2, length + 1)), np.zeros((length + 1, 2))
    for cell, action in enumerate(right):
        back = max(cell - 1, 0)
        p[cell, action, cell + 1] += 1 - slip
        p[cell, action, back] += slip
        p[cell, 1 - action, back] = 1.0
    p[length, :, 0] = 1.0
    # The reward of a move belongs to state and action: its mean over where the move leads.
    r[length - 1, right[-1]] = 1 - slip
    pi = np.eye(2)[np.append(right, 0)]
    problem = Problem(p, r, pi, 0.5 * pi + 0.25)
    absorbing = problem._replace(p=_absorbing(p))
    # A slip at the far end earns the reward and tries again: returns are sums of several rewards.
    grid = make_grid(absorbing, gamma, 1501, ends=(-0.2, 4.0))
    law = quantiles(grid, exact_law(grid, absorbing), 256)
    continues = np.append(np.ones(length), 0.0)
    start = np.eye(length + 1)[0]
    return Control(problem, continues, law, continues, start, gamma)


def _deepsea(size: int, seed: int) -> Control:
    """bsuite's DeepSea; the behaviour reaches the reward in a fifth of its episodes."""
    gamma = 0.99
    sea = DeepSea(size=size, mapping_seed=seed)
    mapping, cost = sea.action_mapping, sea.unscaled_move_cost / size
    end = size * size
    p, r = np.zeros((end + 1, 2, end + 1)), np.zeros((end + 1, 2))
    for row in range(size):
        for column in range(size):
            cell, right = row * size + column, mapping[row, column]
            for action, shift in ((right, 1), (1 - right, -1)):
                to = (row + 1) * size + np.clip(column + shift, 0, size - 1)
                p[cell, action, min(to, end)] = 1.0
            r[cell, right] = -cost + (row == column == size - 1)
    p[end, :, 0] = 1.0
    pi = np.eye(2)[np.append(mapping.ravel(), 0)]
    explore = 2 * (1 - 0.2 ** (1 / size))
    mu = (1 - explore) * pi + explore / 2
    continues = np.append(np.ones(end), 0.0)
    q = value_iteration(_absorbing(p), r, gamma)
    reached = _reachable(p) * continues
    # Where the best is to drift left, right is a loss: the optimal policy is that of q.
    problem = Problem(p, r, np.eye(2)[q.argmax(-1)], mu)
    law = np.repeat(q[:, :, None], 16, axis=2)  # nothing is random: all quantiles are the value
    return Control(problem, continues, law, reached, np.eye(end + 1)[0], gamma)


def _absorbing(p: np.ndarray) -> np.ndarray:
    """The same transitions but for the end, which nothing leaves."""
    p = p.copy()
    p[-1] = np.eye(len(p))[-1]
    return p


def _reachable(p: np.ndarray) -> np.ndarray:
    """[S] 1 where the start, state 0, leads."""
    reached, links = np.eye(len(p))[0], p.sum(axis=1) > 0
    while True:
        more = np.maximum(reached, (reached @ links) > 0)
        if (more == reached).all():
            return reached
        reached = more
