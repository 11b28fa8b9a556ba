"""bsuite's tasks as host environments. Imported when a task is made."""

import functools
import inspect
from typing import Any

from bellmax import UserError
from bellmax.envs.dm_env_adapter import DmEnvTask, from_dm_env
from bellmax.envs.host_base import making, without_warnings
from bellmax.envs.registry import check_options, import_extra, suggest


def make(task: str, *, render: bool = False, **options: Any) -> DmEnvTask:
    """A task of bsuite, which is made anew for every seed.

    bsuite's own seeds, of the settings that a task's number stands for, give way to that of
    `reset`; its seeds of mappings stay, because they belong to the task. All its episodes end by
    termination, those that a time limit cuts too.

    Args:
      task: bsuite's id, `<experiment>/<number>`, such as `catch/0`.
      render: does nothing: none of them draws.
      **options: take the place of settings that the number stands for, such as `mapping_seed`.

    Raises:
      UserError: bsuite is not installed, it has no such task or option, or it cannot make the
        task, such as mnist without its images.
    """
    del render
    with without_warnings():
        bsuite: Any = import_extra("bsuite.bsuite", "bsuite")
        sweep: Any = import_extra("bsuite.sweep", "bsuite")
    if task not in sweep.SWEEP:
        raise UserError(f"bsuite has no task {task!r}{suggest(task, sweep.SWEEP)}.")
    experiment = task.partition("/")[0]
    loader = bsuite.EXPERIMENT_NAME_TO_ENVIRONMENT[experiment]
    if experiment == "deep_sea_stochastic":  # its loader takes no seed, what it loads does
        loader = functools.partial(
            bsuite.EXPERIMENT_NAME_TO_ENVIRONMENT["deep_sea"], deterministic=False
        )
    taken = [name for name in inspect.signature(loader).parameters if name != "seed"]
    check_options(f"bsuite/{task}", options, taken)
    settings = {**sweep.SETTINGS[task], **options}
    settings.pop("seed", None)
    with making(f"bsuite/{task}", options):
        return from_dm_env(functools.partial(loader, **settings), f"bsuite/{task}")
