"""How sides are compared: interquartile means, probability of improvement, performance profiles.

Scores of a side are [runs, tasks]; seeds are drawn again within each task (stratified bootstrap).
Source: Agarwal et al. 2021, arXiv:2108.13264.
"""

from collections.abc import Callable

import numpy as np

from bellmax.launch.reporting.statistics import bootstrap_interval, interquartile_mean

RESAMPLES = 2000


def of_baseline(scores: np.ndarray, baseline: np.ndarray, paired: bool) -> np.ndarray:
    """Scores as a ratio to the baseline: to its score on the same seed, or to its mean of a task.

    Args:
      scores, baseline: [runs, tasks], above 0.
      paired: whether seed i of both is the same problem.
    """
    return scores / (baseline if paired else baseline.mean(axis=0))


def iqm(scores: np.ndarray) -> tuple[float, float, float]:
    """Interquartile mean over runs and tasks, and its 95 % interval."""
    return float(interquartile_mean(scores)), *bootstrap_interval(scores, interquartile_mean)


def improvement(x: np.ndarray, y: np.ndarray, better: str) -> tuple[float, float, float]:
    """Probability that a run of x is better than one of y on the same task, and its interval.

    Args:
      x, y: [runs, tasks], of as many tasks.
      better: "lower" or "higher".
    """
    sign = 1.0 if better == "higher" else -1.0
    x, y = sign * np.asarray(x, np.float64), sign * np.asarray(y, np.float64)

    def probability(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """[...] of x [..., runs, tasks]; a tie counts half."""
        ahead = x[..., :, None, :] - y[..., None, :, :]
        return ((ahead > 0) + 0.5 * (ahead == 0)).mean(axis=(-1, -2, -3))

    return float(probability(x, y)), *_interval(probability, x, y)


def difference(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Interquartile mean of x [runs] less that of y [runs], and its interval."""

    def less(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return interquartile_mean(x[..., 0], axis=-1) - interquartile_mean(y[..., 0], axis=-1)

    x, y = x[:, None], y[:, None]
    return float(less(x, y)), *_interval(less, x, y)


def profile(scores: np.ndarray, at: np.ndarray, better: str) -> np.ndarray:
    """[P] share of runs, over tasks, with a score at least as good as each of at [P]."""
    flat = np.asarray(scores, np.float64).reshape(-1, 1)
    return (flat >= at if better == "higher" else flat <= at).mean(axis=0)


def curve_with_band(curves: np.ndarray) -> np.ndarray:
    """[3, P] interquartile mean over seeds of curves [seeds, P], and its 95 % interval."""
    rows = np.random.default_rng(0).integers(len(curves), size=(500, len(curves)))
    drawn = interquartile_mean(curves[rows], axis=1)
    middle = interquartile_mean(curves, axis=0)
    return np.stack([middle, *np.percentile(drawn, (2.5, 97.5), axis=0)])


def _interval(statistic: Callable, *samples: np.ndarray) -> tuple[float, float]:
    """95 % interval of a statistic of samples [runs, tasks] that are drawn again task by task."""
    rng = np.random.default_rng(0)
    drawn = []
    for sample in samples:
        runs, tasks = sample.shape
        rows = rng.integers(runs, size=(RESAMPLES, runs, tasks))
        drawn.append(sample[rows, np.arange(tasks)])
    low, high = np.percentile(statistic(*drawn), (2.5, 97.5))
    return float(low), float(high)
