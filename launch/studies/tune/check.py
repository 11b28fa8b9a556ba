"""The best trials of a search, trained again with new seeds before one is called the best."""

import csv
import io
import math
import shlex
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bellmax.launch.config.run_config import to_yaml
from bellmax.launch.distributed.files import make_folder, write_whole
from bellmax.launch.reporting.metrics import last_evaluation, read_metrics
from bellmax.launch.reporting.statistics import spread, spread_name
from bellmax.launch.studies.sweep.jobs import run_jobs
from bellmax.launch.studies.sweep.plan import Job
from bellmax.launch.studies.sweep.pools import Ended, Pool
from bellmax.launch.studies.tune.search import CHECK, Search, evaluations_of, last_step
from bellmax.launch.studies.tune.trials import Trial, Trials

BEST, TABLE = "best.yaml", "check.csv"


class Checked(NamedTuple):
    """A configuration and its returns with new seeds.

    name: of its folder. trial: None for the configuration that the search began with.
    returns: the last evaluation of each new seed.
    """

    name: str
    trial: Trial | None
    returns: list[float]

    @property
    def mean(self) -> float:
        """Mean over the new seeds; NaN without a return."""
        return sum(self.returns) / len(self.returns) if self.returns else math.nan


def check_best(
    search: Search,
    study: Trials,
    count: int,
    pool: Pool,
    came: Sequence[int],
    say: Callable[[str], object],
) -> int:
    """Train the best trials and the configuration of the start with new seeds; name the best.

    Args:
      search, study: the search, whose trials have ended.
      count: how many of the best trials.
      pool, came: as in `run_jobs`.
      say: takes lines for the user.

    Returns:
      The exit code: 1 if no trial has a return, or a run failed.
    """
    complete = [trial for trial in study.all() if trial.state == "complete"]
    best = sorted(complete, key=lambda trial: -trial.value)[:count]
    if not best:
        say("no trial is complete, so none can be called the best")
        return 1
    make_folder(search.out / CHECK)
    seed = search.config.seed + search.config.seeds
    jobs: list[tuple[Job, Trial | None]] = [(search.job(f"{CHECK}/start", {}, seed=seed), None)]
    for trial in best:
        jobs.append((search.job(f"{CHECK}/{trial.number:04d}", trial.values, seed=seed), trial))
    last = seed + search.config.seeds - 1
    named = f"seed {seed}" if last == seed else f"seeds {seed} to {last}"
    say(f"check with {named}, which no trial had: the start, and the {len(best)} best trials")
    todo = [job for job, _ in jobs if last_step(job.config) not in evaluations_of(search, job)]
    failed = []

    def ends(job: Job, ended: Ended) -> None:
        if ended.code and not came:
            failed.append(job.name)
            say(f"{job.name} failed: {ended.error or f'see {search.out / job.name}.log'}")

    run_jobs(todo, pool, came, lambda job: say(f"{job.name} starts"), ends)
    if came or failed:
        return 1
    checked = [Checked(job.name, trial, _returns(search, job)) for job, trial in jobs]
    for line in _report(search, checked):
        say(line)
    return 0


def _returns(search: Search, job: Job) -> list[float]:
    rows = last_evaluation(read_metrics(search.out / job.name))
    return [row["episode_return"] for row in rows]


def _report(search: Search, checked: Sequence[Checked]) -> list[str]:
    """Write the table and the best configuration, and return lines about both."""
    ranked = sorted(checked, key=lambda one: math.inf if math.isnan(one.mean) else -one.mean)
    seeds = len(checked[0].returns)
    around = f" ({spread_name(seeds)})" if seeds > 1 else ""
    lines = [f"in the search  with new seeds{around}"]
    for one in ranked:
        before = f"{one.trial.value:.1f}" if one.trial else "-"
        low, high = spread(one.returns)
        interval = f" ({low:.1f} to {high:.1f})" if seeds > 1 else ""
        lines.append(f"{before:>13}  {one.mean:.1f}{interval}  {one.name}")
    write_whole(search.out / TABLE, _as_csv(ranked).encode())
    winner = next(one for one in ranked if one.trial)
    assert winner.trial
    config = search.job("best", winner.trial.values).config
    path = search.out / BEST
    write_whole(path, to_yaml(config).encode())
    start = next(one for one in ranked if not one.trial)
    if start.mean >= winner.mean:
        lines.append("no trial is better than the start with new seeds")
    lines.append(
        f"best trial: {winner.trial.number}; `bellmax train {shlex.quote(str(path))}` repeats it"
    )
    return lines


def _as_csv(ranked: Sequence[Checked]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["run", "trial", "return_in_search", "return_with_new_seeds", "returns"])
    for one in ranked:
        number, before = (one.trial.number, repr(one.trial.value)) if one.trial else ("", "")
        returns = " ".join(map(repr, one.returns))
        writer.writerow([one.name, number, before, repr(one.mean), returns])
    return file.getvalue()
