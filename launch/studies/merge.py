"""Averaging the parameters of finished runs into one policy, as in WARM and WARP."""

import contextlib
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from bellmax import UserError, must
from bellmax.launch.config.overrides import flatten
from bellmax.launch.config.run_config import RunConfig, load_to_play, to_dict, to_yaml
from bellmax.launch.config.sentences import show
from bellmax.launch.distributed.files import write_whole
from bellmax.launch.runners.train_state import TrainState
from bellmax.launch.studies.evaluate import restore_playable
from bellmax.launch.training.checkpoints import Checkpoints
from bellmax.launch.training.experiment import build
from bellmax.launch.training.folders import MERGED
from bellmax.launch.training.policy import save_policies
from bellmax.losses.sequence import average_weights, merge_task_vectors


class _Source(NamedTuple):
    """A run and the state of its checkpoint, without leaves that greedy policies do not use."""

    run: Path
    config: RunConfig
    step: int
    state: TrainState
    warning: str | None


def merge_runs(
    runs: Sequence[Path],
    out: Path,
    *,
    start: Path | None = None,
    method: str = "linear",
    eta: float = 1.0,
    checkpoint: str | int = "latest",
    trust: bool = False,
) -> list[str]:
    """Average the policies of runs, learner by learner, and write a folder like that of a run.

    `evaluate`, `record` and `load_policy` read the result; it cannot be resumed. Statistics that
    normalise observations are averaged too.

    Args:
      runs: folders of two or more runs of one agent, task, network and number of seeds.
      out: new or empty folder; its configuration is the first run's.
      start: the run from which the training of the others started, if any.
      method: "linear", or "spherical", which needs `start`.
      eta: interpolates between `start` (0) and the merged parameters (1).
      checkpoint: "latest", "best" or a step, of every run.
      trust: whether the configurations of the runs may name code.

    Returns:
      Lines about the merge, for the user.

    Raises:
      UserError: the policies do not match, or a checkpoint is missing or damaged.
    """
    configs = {run: load_to_play(run, trust=trust) for run in (*runs, *([start] if start else []))}
    for run in configs:
        _check_configs(configs, runs[0], run)
    # A run may be named twice, which doubles its weight.
    read = {run: _read(run, config, checkpoint) for run, config in configs.items()}
    sources = [read[run] for run in (*runs, *([start] if start else []))]
    for source in sources[1:]:
        _check_shapes(sources[0], source)
    states = [source.state for source in sources]
    if start is None:
        merged = average_weights(states)
    else:
        # Over the seeds, because a spherical average is that of single learners.
        merge = functools.partial(merge_task_vectors, eta=eta, method=method)
        merged = jax.jit(jax.vmap(merge))(states[-1], states[:-1])
    first = sources[0]
    _write(first, merged, out)
    record = {"runs": [str(run.resolve()) for run in runs], "steps": [s.step for s in sources]}
    record |= {"method": method, "eta": eta, "start": str(start.resolve()) if start else None}
    write_whole(out / MERGED, (json.dumps(record, indent=2) + "\n").encode())
    named = ", ".join(f"{source.run} at step {source.step:,}" for source in sources[: len(runs)])
    said = [source.warning for source in sources if source.warning]
    return [*said, f"merged {named}", f"policy: {out / 'policy'}", f"run: {out}"]


def _read(run: Path, config: RunConfig, checkpoint: str | int) -> _Source:
    with contextlib.closing(build(config)) as experiment:
        step, state, warning = restore_playable(run, experiment, checkpoint)
    return _Source(run, config, step, state, warning)


def _check_configs(configs: Mapping[Path, RunConfig], first: Path, other: Path) -> None:
    """Raise UserError if two runs differ in agent, task or number of seeds."""
    ours, theirs = (flatten(to_dict(configs[run])) for run in (first, other))
    for key in ("agent.name", "env.name", "seeds"):
        if ours[key] != theirs[key]:
            allowed = f"{show(ours[key])} in all runs, as in {first}"
            hint = "merge runs of one agent, task and number of seeds"
            raise UserError(must(key, allowed, f"{show(theirs[key])} in {other}", hint))


def _check_shapes(first: _Source, other: _Source) -> None:
    """Raise UserError if two policies differ in the names or shapes of their parameters."""
    ours, theirs = (flatten(to_dict(source.config)) for source in (first, other))
    names = *ours, *(key for key in theirs if key not in ours)
    networks = [key for key in names if key.startswith("agent.network")]
    for name, here, there in _shapes(first.state, other.state):
        if here != there:
            differs = [key for key in networks if ours.get(key) != theirs.get(key)]
            key = differs[0] if differs else None
            hint = f"{key} is {show(ours.get(key))} and {show(theirs.get(key))}" if key else ""
            hint, allowed = hint or "merge runs of one network", "one shape in all runs"
            got = f"{here} in {first.run} and {there} in {other.run}"
            raise UserError(must(name, allowed, got, hint, verb="have"))


def _shapes(first: Any, other: Any) -> list[tuple[str, str, str]]:
    """Return the name of every leaf, and its dtype and shape in each tree, or "nothing"."""
    forms, name = [], functools.partial(jax.tree_util.keystr, simple=True, separator="/")
    for tree in (first, other):
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        forms.append({name(path): f"{x.dtype}{list(x.shape)}" for path, x in leaves})
    return [(n, *(form.get(n, "nothing") for form in forms)) for n in {**forms[0], **forms[1]}]


def _write(first: _Source, merged: TrainState, out: Path) -> None:
    """Write a folder like that of a run, whose only checkpoint has the merged policies."""
    out.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(build(first.config)) as experiment:
        checkpoints = Checkpoints(out / "checkpoints", keep=1)
        checkpoints.save(first.step, merged, metric=None, extra={})
        save_policies(experiment, merged, out / "policy", first.step)
    # Written last, because a folder without it is not a run.
    write_whole(out / "config.yaml", to_yaml(first.config).encode())
