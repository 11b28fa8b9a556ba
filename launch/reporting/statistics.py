"""Statistics over seeds: the interquartile mean and bootstrap intervals."""

from collections.abc import Callable
from typing import Any

import numpy as np

from bellmax import must

FEWEST_SEEDS = 5  # a percentile bootstrap of fewer values is little more than their range
Statistic = Callable[..., Any]  # (x, axis=) -> x reduced over the axis


def mean(x: Any, axis: int | None = None) -> Any:
    """Return the mean of `x` over all elements or one axis."""
    return np.mean(np.asarray(x, np.float64), axis=axis)


def interquartile_mean(x: Any, axis: int | None = None) -> Any:
    """Return the mean of the middle half of `x`, over all elements or one axis.

    A quarter of the values, rounded down, is left out at either end. This is robust to outliers and
    uses more of the data than the median.

    Source: Agarwal et al. 2021, arXiv:2108.13264.
    """
    from scipy import stats

    x = np.asarray(x, np.float64)
    return stats.trim_mean(x.reshape(-1), 0.25) if axis is None else stats.trim_mean(x, 0.25, axis)


def spread(values: Any, statistic: Statistic = mean) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of values [runs]; the range of fewer than FEWEST_SEEDS.

    (nan, nan) for fewer than two values, or if one is not finite.
    """
    values = np.asarray(values, np.float64)
    if len(values) < 2 or not np.isfinite(values).all():
        return float("nan"), float("nan")
    if len(values) < FEWEST_SEEDS:
        return float(values.min()), float(values.max())
    return bootstrap_interval(values, statistic)


def spread_name(*counts: int) -> str:
    """Return the name of `spread` for numbers of seeds: "95 % interval", "range of 3 seeds"."""
    few = sorted({count for count in counts if 1 < count < FEWEST_SEEDS})
    names = ["95 % interval"] if len(few) < len(set(counts) - {1}) else []
    return ", ".join([*names, *(f"range of {count} seeds" for count in few)])


def bootstrap_interval(
    values: Any,
    statistic: Statistic = mean,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a statistic over runs.

    Args:
      values: [runs] or [runs, tasks]. With tasks the bootstrap is stratified: runs are
        resampled within each task, and the statistic is of all values together.
      statistic: function (x, axis=), such as `mean` or `interquartile_mean`.
      confidence: in (0, 1).
      resamples: number of resamples; with 2000 the second digit of the width is stable.
      seed: seed of the resampling, so that an interval can be reproduced.

    Returns:
      (low, high); (nan, nan) for fewer than two runs.
    """
    from scipy import stats

    values = np.asarray(values, np.float64)
    if values.ndim not in (1, 2):
        raise ValueError(must("values", "of shape [runs] or [runs, tasks]", values.shape))
    if len(values) < 2:
        return float("nan"), float("nan")
    tasks = tuple(values.reshape(len(values), -1).T)

    def of_all(*samples: np.ndarray, axis: int) -> Any:
        return statistic(np.concatenate(samples, axis=axis), axis=axis)

    interval = stats.bootstrap(
        tasks,
        of_all,
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)
