"""Evaluating the policies of a run's checkpoint."""

import contextlib
from pathlib import Path

from bellmax import UserError
from bellmax.launch.config.run_config import load_to_play
from bellmax.launch.runners.base import PolicyInputs
from bellmax.launch.runners.evaluation import evaluation_rows
from bellmax.launch.runners.train_state import TrainState
from bellmax.launch.training.checkpoints import Checkpoints
from bellmax.launch.training.experiment import Experiment, build


def evaluate_run(run: Path, episodes: int, checkpoint: str | int = "latest") -> int:
    """Prints the greedy returns of each seed of a run; returns the exit code.

    Args:
      run: the run's folder.
      episodes: episodes a seed.
      checkpoint: "latest", "best" or a step.

    Raises:
      UserError: the run has no such checkpoint, or it is damaged.
    """
    with contextlib.closing(build(load_to_play(run), episodes=episodes)) as experiment:
        step, inputs, warning = restore_policy_inputs(run, experiment, checkpoint)
        if warning:
            print(warning)
        rows = evaluation_rows(experiment.evaluate_policies(inputs, step), experiment.seeds, step)
        broke = sum(experiment.evaluator.report().values())
    for row in rows:
        cut = f", {row['cut_episodes']} cut" if row["cut_episodes"] else ""
        print(
            f"seed {row['seed']}: mean return {row['episode_return']:.2f} "
            f"(min {row['episode_return_min']:.2f}, max {row['episode_return_max']:.2f}, "
            f"{row['episodes']} episodes{cut}) at step {step:,}"
        )
    if broke:
        print(f"restarts of environments that broke, whose returns begin again at 0: {broke}")
    if len(rows) > 1:
        means = [row["episode_return"] for row in rows]
        print(f"mean over {len(rows)} seeds: {sum(means) / len(means):.2f}")
    return 0


def restore(
    run: Path, experiment: Experiment, checkpoint: str | int = "latest"
) -> tuple[int, TrainState, str | None]:
    """Reads a checkpoint of a run, all of it.

    Args:
      run: the run's folder.
      experiment: what `build` made of the run's own configuration.
      checkpoint: "latest", "best" or a step.

    Returns:
      (step, state, warning): the warning is a sentence if newer ones had to be passed over.

    Raises:
      UserError: the run has no such checkpoint, or it is damaged.
    """
    return experiment.restore(*_find(run, experiment, checkpoint))


def restore_policy_inputs(
    run: Path, experiment: Experiment, checkpoint: str | int = "latest"
) -> tuple[int, PolicyInputs, str | None]:
    """As `restore`, but reads only what greedy policies need, see `Experiment.policy_inputs`."""
    return experiment.restore_policy_inputs(*_find(run, experiment, checkpoint))


def _find(
    run: Path, experiment: Experiment, checkpoint: str | int
) -> tuple[Checkpoints, int | None]:
    """The checkpoints of a run, and the step of one of them; None for the newest intact one."""
    keep = experiment.config.keep_checkpoints
    checkpoints = Checkpoints(run / "checkpoints", keep=keep, read_only=True)
    if checkpoint == "latest":
        return checkpoints, None
    step = checkpoints.best() if checkpoint == "best" else int(checkpoint)
    if step is None:
        raise UserError(f"no checkpoint of {run} has an evaluation; try --checkpoint latest")
    return checkpoints, step
