"""Robust evaluation of a trained policy on a grid of perturbed tasks."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bellmax import UserError
from bellmax.agents import Agent, Params
from bellmax.envs import (
    EnvConfig,
    Environment,
    EnvSpec,
    EnvState,
    Parametric,
    TimeStep,
    make,
    make_vector_env,
)
from bellmax.envs.options import check_parameters
from bellmax.launch.config.boxes import (
    Box,
    UpperEnd,
    make_axes,
    make_cells,
    published_box,
    published_boxes,
)
from bellmax.launch.config.run_config import load_to_play
from bellmax.launch.distributed.devices import check_platform
from bellmax.launch.runners.evaluation import Episodes, make_evaluator
from bellmax.launch.studies.evaluate import restore_policy_inputs
from bellmax.launch.training.experiment import build

MAX_ENVIRONMENTS = 4096  # environments that step together; more cells are evaluated in chunks
TAIL = 0.1  # share of the cells that CVaR averages

Values = dict[str, Any]  # parameter -> [] or [C] values
CellEvaluator = Callable[[Values, Params, Any, jax.Array, jax.Array], Episodes]


@dataclasses.dataclass(frozen=True)
class _Perturbed:
    """An environment with a given spec, because some cannot compute their spec within a trace."""

    env: Environment
    spec: EnvSpec

    def reset(self, key: jax.Array) -> tuple[EnvState, TimeStep]:
        return self.env.reset(key)

    def step(self, state: EnvState, action: jax.Array, key: jax.Array) -> tuple[EnvState, TimeStep]:
        return self.env.step(state, action, key)


class Summary(NamedTuple):
    """Summary of S policies over a grid of C cells; leaves [S], returns in reward units.

    If a return of a policy is not finite, its statistics are nan, and `worst_cell` is the first
    such cell.

    mean: over the cells. worst: the lowest mean return of a cell. worst_cell: its index.
    cvar: mean of the worst tenth of the cells, rounded up to whole cells.
    """

    mean: np.ndarray
    worst: np.ndarray
    worst_cell: np.ndarray
    cvar: np.ndarray


class Robustness(NamedTuple):
    """The returns of S policies on a grid and on the nominal task.

    task, box: the perturbed task and the ranges of its parameters.
    step: step of the checkpoint. seeds: seeds of the S policies.
    axes: [P] points of each parameter. nominal: nominal value of each parameter.
    episodes: leaves [C, S, E], the cells in the order of `make_cells`.
    nominal_episodes: leaves [S, E].
    """

    task: str
    box: Box
    step: int
    seeds: list[int]
    axes: dict[str, np.ndarray]
    nominal: dict[str, float]
    episodes: Episodes
    nominal_episodes: Episodes

    @property
    def returns(self) -> np.ndarray:
        """Mean returns [S, C] float64 over the episodes of each cell."""
        return np.mean(self.episodes.episode_return, axis=-1).T

    @property
    def nominal_returns(self) -> np.ndarray:
        """Mean returns [S] float64 on the nominal task."""
        return np.mean(self.nominal_episodes.episode_return, axis=-1)


def silent(text: str) -> None:
    """Ignore a progress message."""


def evaluate_robust(
    run: Path,
    box: str | Box,
    *,
    points: int = 10,
    upper_end: UpperEnd = "included",
    episodes: int = 10,
    checkpoint: str | int = "latest",
    trust: bool = False,
    report: Callable[[str], Any] = silent,
) -> Robustness:
    """Evaluate the greedy policies of a run in every cell of a grid, and on the nominal task.

    The task is the run's own without `env.randomise`, which the grid replaces. All cells use the
    same keys, so they differ only by their parameters.

    Args:
      run: the run's folder.
      box: the name of a published box of the task, or a box.
      points: grid points of each parameter, at least 2.
      upper_end: as in `make_axes`.
      episodes: episodes per cell and seed.
      checkpoint: "latest", "best" or a step.
      trust: whether the run's configuration may name code of the user's own.
      report: takes a sentence about the progress.

    Raises:
      UserError: the task's parameters cannot be changed, or there is no such box, parameter or
        checkpoint.
    """
    config = load_to_play(run, trust=trust)
    check_platform()
    env, task = make(config.env.name, **config.env.options), config.env.name
    if not isinstance(env, Parametric):
        raise UserError(
            f"{task} has no parameters that can be changed (no with_parameters), so it cannot be "
            f"evaluated robustly; {', '.join(published_boxes())} can"
        )
    box = published_box(task, box) if isinstance(box, str) else box
    check_parameters(task, box.ranges, env.parameters)
    axes = make_axes(box, points, upper_end)
    experiment = build(config, episodes=episodes)
    step, policy, warning = restore_policy_inputs(run, experiment, checkpoint)
    if warning:
        report(warning)
    limit = config.evaluation_max_steps
    agent, seeds = experiment.agent, experiment.seeds
    where = jnp.asarray(seeds, jnp.int32), jnp.int32(step)
    arguments = policy.params, policy.statistics, *where
    # The unchanged task. Setting a parameter to its nominal value may change a task: one number
    # can replace several, such as the friction of every geometry.
    vector_env = make_vector_env(config.env, num_envs=episodes, evaluation=True, env=env)
    plain = make_evaluator(agent, vector_env, limit)(*arguments)
    evaluate = make_cell_evaluator(agent, env, config.env, episodes, limit)
    chunk = max(1, MAX_ENVIRONMENTS // (episodes * len(seeds)))
    found = evaluate_cells(evaluate, make_cells(axes), arguments, chunk, report)
    nominal = {name: env.parameters[name] for name in axes}
    return Robustness(task, box, step, seeds, axes, nominal, found, _on_host(plain))


def make_cell_evaluator(
    agent: Agent, env: Parametric, config: EnvConfig, episodes: int, max_steps: int | None
) -> CellEvaluator:
    """Compile the evaluation of S policies in C perturbed tasks together.

    Args:
      agent: the agent, which acts without exploration.
      env: the nominal task.
      config: the wrappers; its task, `randomise` and reward clip are ignored.
      episodes: E, episodes in each cell.
      max_steps: as in `make_evaluator`.

    Returns:
      evaluate(values [C] by parameter, params, statistics, seeds, step) -> Episodes [C, S, E]; the
      last four arguments are those of `make_evaluator`.
    """

    spec = env.spec

    def evaluate(values: Values, *rest: Any) -> Episodes:
        perturbed = _Perturbed(env.with_parameters(values), spec)
        options = {"num_envs": episodes, "evaluation": True, "env": perturbed}
        vector_env = make_vector_env(config, **options)
        return make_evaluator(agent, vector_env, max_steps)(*rest)

    return jax.jit(jax.vmap(evaluate, in_axes=(0, None, None, None, None)))


def evaluate_cells(
    evaluate: CellEvaluator,
    values: Mapping[str, np.ndarray],
    arguments: tuple[Params, Any, jax.Array, jax.Array],
    chunk: int,
    report: Callable[[str], Any] = silent,
) -> Episodes:
    """Evaluate any number of cells with one compiled program of at most `chunk` cells.

    Args:
      evaluate: from `make_cell_evaluator`.
      values: [C] by parameter. arguments: the other four arguments of `evaluate`.
      chunk: largest number of cells evaluated together, at least 1.
      report: called with a sentence after each of several chunks.

    Returns:
      Episodes of NumPy arrays [C, S, E], returns in float64.
    """
    count = len(next(iter(values.values())))
    chunks = -(-count // chunk)
    size = -(-count // chunks)  # chunks of equal size, padded with the first cell
    indices = np.append(np.arange(count), np.zeros(chunks * size - count, int))
    found = []
    for number, part in enumerate(indices.reshape(chunks, size), start=1):
        some = {name: jnp.asarray(x[part], jnp.float32) for name, x in values.items()}
        found.append(jax.device_get(evaluate(some, *arguments)))
        if chunks > 1:
            report(f"{min(number * size, count):,} of {count:,} cells evaluated")
    return _on_host(jax.tree.map(lambda *xs: np.concatenate(xs)[:count], *found))


def summarise(returns: np.ndarray) -> Summary:
    """Summarise the mean returns of cells, [S, C] float64; infinity becomes nan."""
    finite = np.isfinite(returns)
    known = np.where(finite.all(axis=1, keepdims=True), returns, np.nan)
    tail = math.ceil(TAIL * returns.shape[1] - 1e-9)  # 0.1 * 30 is a little more than 3
    worst_cell = np.where(finite, returns, -np.inf).argmin(axis=1)
    return Summary(
        mean=known.mean(axis=1),
        worst=known.min(axis=1),
        worst_cell=worst_cell,
        cvar=np.sort(known, axis=1)[:, :tail].mean(axis=1),
    )


def _on_host(episodes: Episodes) -> Episodes:
    """Return episodes as NumPy arrays, returns in float64 for exact means."""
    episodes = jax.device_get(episodes)
    return episodes._replace(episode_return=episodes.episode_return.astype(np.float64))
