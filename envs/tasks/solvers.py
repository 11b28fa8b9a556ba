"""Exact values of finite MDPs, in float64 NumPy."""

import numpy as np

from bellmax import must


def value_iteration(
    p: np.ndarray,
    r: np.ndarray,
    gamma: float,
    tol: float = 1e-10,
    *,
    terminal: np.ndarray | None = None,
) -> np.ndarray:
    """Compute the optimal Q of a finite MDP.

    Args:
      p: [S, A, S] transition probabilities.
      r: [S, A] rewards.
      gamma: discount in [0, 1).
      tol: largest error of the answer, in reward units.
      terminal: [S] bool, states that end the episode when entered; their value is 0.

    Returns:
      [S, A] float64.
    """
    if not 0 <= gamma < 1:
        raise ValueError(must("gamma", "in [0, 1)", gamma))
    p = _continuing(p, terminal)
    q = np.zeros(np.shape(r))
    while True:
        new = r + gamma * p @ q.max(-1)
        # Banach: the remaining error is at most gamma / (1 - gamma) times the last change.
        if gamma * np.abs(new - q).max() <= tol * (1 - gamma):
            return new
        q = new


def policy_evaluation(
    p: np.ndarray,
    r: np.ndarray,
    policy: np.ndarray,
    gamma: float,
    *,
    terminal: np.ndarray | None = None,
) -> np.ndarray:
    """Q of a policy [S, A] of action probabilities, by a linear solve; [S, A] float64."""
    p = _continuing(p, terminal)
    p_policy = np.einsum("sa,sat->st", policy, p)
    v = np.linalg.solve(np.eye(len(r)) - gamma * p_policy, np.sum(policy * r, -1))
    return r + gamma * p @ v


def _continuing(p: np.ndarray, terminal: np.ndarray | None) -> np.ndarray:
    """Transition probabilities with those into terminal states set to 0."""
    p = np.asarray(p, np.float64)
    return p if terminal is None else p * ~np.asarray(terminal, bool)
