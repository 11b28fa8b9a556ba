"""A search: its source, space and folder, and the runs that it consists of."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bellmax.launch.config.run_config import RunConfig, read_source, resolve
from bellmax.launch.studies.sweep.jobs import evaluations
from bellmax.launch.studies.sweep.plan import Job, as_given, train_arguments
from bellmax.launch.studies.tune.space import Dimension

TRIALS, CHECK = "trials", "check"  # folders of runs


class Search(NamedTuple):
    """What a search consists of.

    source: a preset, a file or a run's folder. fixed: options of all trials, as typed.
    config: the configuration without a trial's values. prunes: whether trials may be stopped early.
    """

    source: str
    space: list[Dimension]
    fixed: dict[str, Any]
    config: RunConfig
    out: Path
    prunes: bool
    trust: bool

    def job(self, name: str, values: Mapping[str, str], **changes: Any) -> Job:
        """Return the job of a run with some values, in the folder `name`."""
        typed = {**self.fixed, **values, **{key: str(value) for key, value in changes.items()}}
        config = resolve(read_source(self.source), as_given(typed), trust=self.trust)
        arguments = train_arguments(self.source, self.out / name, typed, trust=self.trust)
        return Job(name, dict(values), arguments, config)


def evaluations_of(search: Search, job: Job) -> dict[int, float]:
    """Return the complete evaluations of a run, by step."""
    return evaluations(search.out / job.name, job.config.seeds)


def last_step(config: RunConfig) -> int:
    """Return the environment step at which a run of this configuration ends."""
    return config.steps - config.steps % (config.env.num_envs * config.rollout_length)
