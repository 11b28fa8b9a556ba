"""bsuite's tasks as host environments. Imported on first use."""

import functools
import inspect
from typing import Any

from bellmax.envs.adapters.dm_env import DmEnvTask, from_dm_env
from bellmax.envs.errors import making, without_warnings
from bellmax.envs.options import check_options, import_extra, unknown


def make(task: str, *, render: bool = False, **options: Any) -> DmEnvTask:
    """Makes a bsuite task, which is rebuilt for every seed.

    The seed given to `reset` overrides the seed in bsuite's settings for that task number; mapping
    seeds are kept, because they define the task. bsuite reports every end of an episode as a
    termination, including time limits.

    Args:
      task: bsuite's id, `<experiment>/<number>`, such as `catch/0`.
      render: ignored: bsuite's tasks cannot draw.
      **options: override the settings that the number stands for, such as `mapping_seed`.

    Raises:
      UserError: bsuite is not installed, it has no such task or option, or it cannot make the
        task, such as mnist without its images.
    """
    del render
    with without_warnings():
        bsuite: Any = import_extra("bsuite.bsuite", "bsuite")
        sweep: Any = import_extra("bsuite.sweep", "bsuite")
    if task not in sweep.SWEEP:
        raise unknown("task", task, sweep.SWEEP, of="bsuite")
    experiment = task.partition("/")[0]
    loader = bsuite.EXPERIMENT_NAME_TO_ENVIRONMENT[experiment]
    if experiment == "deep_sea_stochastic":  # its loader takes no seed, but DeepSea does
        loader = functools.partial(
            bsuite.EXPERIMENT_NAME_TO_ENVIRONMENT["deep_sea"], deterministic=False
        )
    taken = [name for name in inspect.signature(loader).parameters if name != "seed"]
    check_options(f"bsuite/{task}", options, taken)
    settings = {**sweep.SETTINGS[task], **options}
    settings.pop("seed", None)
    with making(f"bsuite/{task}", options):
        return from_dm_env(functools.partial(loader, **settings), f"bsuite/{task}")
