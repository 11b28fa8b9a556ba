"""Starting and resuming a run: its folder, its parts, and what is left when it ends."""

import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bellmax import UserError
from bellmax.launch.checkpoints import Checkpoints
from bellmax.launch.config import RunConfig, load, to_dict, to_yaml
from bellmax.launch.experiment import Experiment, build, check_memory
from bellmax.launch.metrics import MetricsLog
from bellmax.launch.plot import plot_runs
from bellmax.launch.policy import save_policies
from bellmax.launch.progress import Progress
from bellmax.launch.runner import TrainState
from bellmax.launch.session import Session

# What a resumed run may change: nothing that the state or the steps taken so far depend on.
RESUMABLE = ("steps", "keep_checkpoints", "tensorboard", "wandb")


def train(config: RunConfig, out: Path) -> int:
    """Trains from scratch into the folder `out`; returns the exit code."""
    experiment = build(config)
    message = check_memory(experiment)
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.yaml").write_text(to_yaml(config))
    (out / "versions.json").write_text(json.dumps(_versions(), indent=2) + "\n")
    return _run(experiment, out, None, [message])


def resume(run: Path, overrides: list[str]) -> int:
    """Goes on from the newest intact checkpoint of a run; returns the exit code.

    Raises:
      UserError: an override would change what was trained so far, or there is no checkpoint.
    """
    before, config = load(run), load(run, overrides)
    new, old = to_dict(config), to_dict(before)
    changed = [key for key in new if new[key] != old[key] and key not in RESUMABLE]
    if changed:
        raise UserError(
            f"{changed[0]} cannot change when a run is resumed; what can is "
            f"{', '.join(RESUMABLE)}; start another run with `bellmax train {run}/config.yaml`"
        )
    experiment = build(config)
    message = check_memory(experiment)
    checkpoints = Checkpoints(run / "checkpoints", keep=config.keep_checkpoints)
    step, state, warning = checkpoints.restore_latest_valid(experiment.abstract_state())
    (run / "config.yaml").write_text(to_yaml(config))
    messages = [message, f"resuming {run} at step {step:,}", *([warning] if warning else [])]
    return _run(experiment, run, (step, state), messages)


def _run(
    experiment: Experiment, out: Path, start: tuple[int, TrainState] | None, messages: list[str]
) -> int:
    config = experiment.config
    log = MetricsLog(
        out,
        tensorboard=config.tensorboard,
        wandb=config.wandb,
        config=to_dict(config),
        resume_step=start[0] if start else None,
    )
    checkpoints = Checkpoints(out / "checkpoints", keep=config.keep_checkpoints)
    with log, Progress(config.steps, seeds=config.seeds) as progress:
        for message in messages:
            progress.message(message)
        session = Session(experiment, checkpoints, log, progress)
        state = session.advance_to_end(start[1] if start else experiment.init())
        folder = save_policies(experiment, state, out)
        returns = session.evaluate(state)
        each = ", ".join(f"{value:.1f}" for value in np.atleast_1d(returns))
        progress.message(f"evaluation return {returns.mean():.1f} ({each} by seed)")
        curves = plot_runs([out])
        progress.message(f"curve: {curves[0]}\npolicy: {folder}\nrun: {out}")
    return 0


def _versions() -> dict[str, Any]:
    names = ("bellmax", "jax", "jaxlib", "flax", "optax", "rlax", "chex", "orbax-checkpoint", "numpy")
    device = jax.local_devices()[0]
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in names},
        "platform": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "machine": platform.machine(),
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        return None
