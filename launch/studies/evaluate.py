"""Evaluation of the policies in a run's checkpoint."""

import contextlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bellmax import UserError, must
from bellmax.launch.config.points import point_name
from bellmax.launch.config.run_config import RunConfig, load_to_play
from bellmax.launch.reporting.statistics import (
    FEWEST_SEEDS,
    bootstrap_interval,
    spread,
    spread_name,
)
from bellmax.launch.reporting.statistics import mean as mean_of
from bellmax.launch.runners.base import PolicyInputs
from bellmax.launch.runners.train_state import TrainState
from bellmax.launch.training.checkpoints import Checkpoints
from bellmax.launch.training.experiment import Experiment, build
from bellmax.launch.training.policy import policy_folder, read_policies


class Evaluation(NamedTuple):
    """Results of an evaluation: E episodes for each of S seeds.

    step: step of the checkpoint, in environment steps per seed.
    seeds: [S] int, seeds of the learners. points: [S], the point of each if the run has `vmap`,
        its values by key; else empty.
    episode_return: [S, E] float32, undiscounted.
    episode_length: [S, E] int32, environment steps.
    cut: [S, E] bool, whether the evaluation ended before the episode.
    restarts: number of environments that were recreated after a fault, which resets the return.
    warning: a sentence if newer checkpoints are damaged, or None.
    objective: [S] float, what the agent maximises, of these returns; None if it is their mean.
    """

    step: int
    seeds: np.ndarray
    episode_return: np.ndarray
    episode_length: np.ndarray
    cut: np.ndarray
    restarts: int
    warning: str | None
    points: tuple[Mapping[str, float], ...] = ()
    objective: np.ndarray | None = None


def evaluate_run(
    run: Path,
    episodes: int,
    checkpoint: str | int = "latest",
    seed: int | None = None,
    *,
    trust: bool = False,
) -> Evaluation:
    """Play episodes of the greedy policies of a run, of every point if it has `vmap`.

    Args:
      run: the run's folder.
      episodes: episodes per seed.
      checkpoint: "latest", "best" or a step.
      seed: seed of one learner to evaluate; None evaluates all.
      trust: whether the run's configuration may name code of the user's own.

    Raises:
      UserError: the run has no such checkpoint or seed, or the checkpoint is damaged.
    """
    config = load_to_play(run, trust=trust, every_point=True)
    if seed is not None:
        check_seed(run, config, seed)
    with contextlib.closing(build(config, episodes=episodes)) as experiment:
        step, inputs, warning = restore_policy_inputs(run, experiment, checkpoint)
        if seed is not None:
            places = np.flatnonzero(np.array(experiment.seeds) == seed)
            inputs = jax.tree.map(lambda x: x[places], inputs)
            experiment = experiment.only(places.tolist())
        returns, lengths, cut = map(np.asarray, experiment.evaluate_policies(inputs, step))
        restarts = sum(experiment.evaluator.report().values())
    seeds, points = np.array(experiment.seeds), tuple(experiment.points) if config.vmap else ()
    score = experiment.agent.score
    objective = None if score is None else np.array([score(jnp.asarray(r)) for r in returns])
    return Evaluation(step, seeds, returns, lengths, cut, restarts, warning, points, objective)


def check_seed(run: Path, config: RunConfig, seed: int) -> None:
    """Raise UserError if a run has no learner with this seed."""
    seeds = range(config.seed, config.seed + config.seeds)
    if seed not in seeds:
        has = seeds[0] if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        raise UserError(f"{run} has no seed {seed}; its seeds are {has}")


def describe_evaluation(evaluation: Evaluation) -> list[str]:
    """Return lines with the returns of each seed; their digits depend on the deviation."""
    lines = [evaluation.warning] if evaluation.warning else []
    names = [point_name(point) for point in evaluation.points] or [""] * len(evaluation.seeds)
    each = names, evaluation.seeds, evaluation.episode_return, evaluation.cut
    digits = _digits(evaluation.episode_return)
    for name, seed, returns, cut in zip(*each, strict=True):
        numbers = returns.mean(dtype=np.float64), _deviation(returns)
        mean, deviation, low, high, least, most = (
            f"{x:.{digits}f}" for x in (*numbers, *_interval(returns), returns.min(), returns.max())
        )
        who = f"{name}, seed {seed}" if name else f"seed {seed}"
        lines.append(
            f"{who}: mean return {mean} (min {least}, max {most}, {returns.size} episodes"
            f"{f', {cut.sum()} cut' if cut.any() else ''}) at step {evaluation.step:,}"
        )
        if returns.size > 1:
            lines[-1] += f"; deviation {deviation}"
        if returns.size >= FEWEST_SEEDS:  # the range of fewer is above
            lines[-1] += f", 95 % interval {low} to {high}"
    if evaluation.objective is not None:
        each = zip(evaluation.seeds, evaluation.objective, strict=True)
        lines += [f"seed {seed}: objective {value:.{digits}f}" for seed, value in each]
    if evaluation.restarts:
        lines.append(
            "restarts of environments that broke, which reset the episode's return to 0: "
            f"{evaluation.restarts}"
        )
    for name in dict.fromkeys(names):
        means = evaluation.episode_return[np.array(names) == name].mean(axis=1)
        if (count := len(means)) > 1:
            low, high = (f"{x:.{digits}f}" for x in spread(means))
            around = f"{spread_name(count)} {low} to {high}"
            whose = f"{name}, " if name else ""
            lines.append(f"{whose}mean over {count} seeds: {means.mean():.{digits}f} ({around})")
    return lines


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return an evaluation as JSON values, with an entry for each seed and all episodes."""
    each = zip(*evaluation[1:5], evaluation.points or [{}] * len(evaluation.seeds), strict=True)
    own = {} if evaluation.objective is None else {"objective": evaluation.objective.tolist()}
    return own | {
        "step": evaluation.step,
        "restarts": evaluation.restarts,
        "warning": evaluation.warning,
        "seeds": [
            {
                "seed": int(seed),
                **({"vmap": dict(point)} if point else {}),
                "mean": _number(returns.mean(dtype=np.float64)),
                "deviation": _number(_deviation(returns)),
                "interval": [*map(_number, _interval(returns))],
                "returns": [*map(_number, returns)],
                "lengths": lengths.tolist(),
                "cut": cut.tolist(),
            }
            for seed, returns, lengths, cut, point in each
        ],
    }


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None  # JSON has neither NaN nor infinity


def _deviation(returns: np.ndarray) -> float:
    """Return the standard deviation; NaN for a single episode or if a return is not finite."""
    known = returns.size > 1 and np.isfinite(returns).all()
    return float(returns.std(ddof=1, dtype=np.float64)) if known else math.nan


def _interval(returns: np.ndarray) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean; NaN for fewer than FEWEST_SEEDS episodes."""
    finite = returns[np.isfinite(returns)].astype(np.float64)
    if finite.size != returns.size or finite.size < FEWEST_SEEDS:
        return np.nan, np.nan
    low, high = bootstrap_interval(finite, mean_of)
    return float(low), float(high)


def _digits(returns: np.ndarray) -> int:
    """Return the number of decimals, 2 to 8, that show a hundredth of the deviation."""
    spread = float(np.std(returns[np.isfinite(returns)])) if np.isfinite(returns).any() else 0.0
    return min(max(2, 1 - math.floor(math.log10(spread))), 8) if spread > 0 else 2


def restore(
    run: Path, experiment: Experiment, checkpoint: str | int = "latest"
) -> tuple[int, TrainState, str | None]:
    """Read a whole checkpoint of a run.

    Args:
      run: the run's folder.
      experiment: the experiment that `build` returns for the run's configuration.
      checkpoint: "latest", "best" or a step.

    Returns:
      (step, state, warning): warning is a sentence if newer checkpoints are damaged.

    Raises:
      UserError: the run has no such checkpoint, or it is damaged.
    """
    return experiment.restore(*_find(run, experiment, checkpoint))


def restore_policy_inputs(
    run: Path, experiment: Experiment, checkpoint: str | int = "latest"
) -> tuple[int, PolicyInputs, str | None]:
    """Like `restore`, but read only the `Experiment.policy_inputs`.

    If the folder has no checkpoints, they are read from the files in its folder `policy`.
    """
    has_none = not Checkpoints(run / "checkpoints", keep=1, read_only=True).steps()
    if has_none and checkpoint in ("latest", "best") and policy_folder(run).is_dir():
        return *read_policies(run, experiment, best=checkpoint == "best"), None
    return experiment.restore_policy_inputs(*_find(run, experiment, checkpoint))


def restore_playable(
    run: Path, experiment: Experiment, checkpoint: str | int = "latest"
) -> tuple[int, TrainState, str | None]:
    """Like `restore`, with None in place of the leaves that greedy policies do not use."""
    return experiment.restore_playable(*_find(run, experiment, checkpoint))


def _find(
    run: Path, experiment: Experiment, checkpoint: str | int
) -> tuple[Checkpoints, int | None]:
    """Return the checkpoints of a run, and the chosen step; None for the newest intact one."""
    keep = experiment.config.keep_checkpoints
    checkpoints = Checkpoints(run / "checkpoints", keep=keep, read_only=True)
    if checkpoint == "latest":
        return checkpoints, None
    if checkpoint != "best" and not isinstance(checkpoint, int | np.integer):
        raise UserError(must("checkpoint", "latest, best or a step", repr(checkpoint)))
    step = checkpoints.best() if checkpoint == "best" else int(checkpoint)
    if step is None:
        raise UserError(f"no checkpoint of {run} has an evaluation; try --checkpoint latest")
    return checkpoints, step
