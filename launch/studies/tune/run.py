"""`bellmax tune`: trials of a preset with values from a space, and a check of the best ones.

Each trial is `bellmax train ... --resume` in a process of its own, whose evaluations are read from
its log. A search that is started again continues where it stopped.
"""

import csv
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bellmax import UserError, must
from bellmax.launch.config.options import read_overrides
from bellmax.launch.config.run_config import list_presets, read_source, resolve
from bellmax.launch.config.sentences import FLAG
from bellmax.launch.config.yaml_files import dump_yaml, read_yaml
from bellmax.launch.distributed.files import make_folder, write_whole
from bellmax.launch.distributed.locks import locked
from bellmax.launch.distributed.signals import interruptible, signals_held
from bellmax.launch.reporting.progress import Progress
from bellmax.launch.studies.sweep.jobs import check_jobs, hangup_terminates, run_jobs
from bellmax.launch.studies.sweep.plan import Job, as_given
from bellmax.launch.studies.sweep.pools import Ended, Pool, make_pool
from bellmax.launch.studies.tune.check import check_best
from bellmax.launch.studies.tune.plots import draw_search
from bellmax.launch.studies.tune.search import TRIALS, Search, evaluations_of, last_step
from bellmax.launch.studies.tune.space import read_space
from bellmax.launch.studies.tune.trials import Trial, Trials

RECORD, TABLE = "tune.yaml", "trials.csv"
_PAUSE = 0.5  # seconds between two looks at a run of an earlier start
Say = Callable[[str], object]


def tune(
    source: str,
    space: Path,
    out: Path,
    overrides: Sequence[str],
    *,
    trials: int,
    jobs: str = "1",
    check: int = 3,
    prunes: bool = True,
    trust: bool = False,
) -> int:
    """Search for the values of the highest return, and check the best on new seeds.

    Args:
      source: a preset, a YAML file or a run's folder.
      space: the YAML file of `read_space`.
      out: the folder of the search; a search of the same source and space in it is continued.
      overrides: options of all trials, as typed: ["--seeds", "4"].
      trials: how many, those of earlier starts included.
      jobs: how many at once on this machine, `ray`, or `ray://HOST:PORT`.
      check: how many of the best trials are trained again with new seeds.
      prunes: whether a trial whose evaluation is below the median of the others is stopped.
      trust: whether the configuration of a run's folder may name code.

    Returns:
      The exit code: 1 if no trial has a return, or a run of the check failed.

    Raises:
      UserError: an option, the space or the folder is wrong; nothing was started.
      Interrupted: Ctrl-C or SIGTERM; the active runs were stopped with checkpoints.
    """
    check_jobs(jobs)
    typed, found = read_overrides(overrides), read_source(source)
    fixed = {k: f"[{','.join(x)}]" if isinstance(x, list) else x for k, x in typed.items()}
    given = as_given(fixed)
    config = resolve(found, given, trust=trust)
    if config.vmap:
        hint = "each trial is one point"
        raise UserError(must("vmap", "left out of a search", ", ".join(config.vmap), hint))
    dimensions = read_space(space, found, given, trust=trust)
    search = Search(source, dimensions, fixed, config, out, prunes, trust)
    record = _check_started(search, space)

    def how_to_continue() -> str:
        return f"the same `bellmax tune` once more continues the search in {out}"

    with interruptible(how_to_continue), make_pool(jobs, out) as pool, hangup_terminates():
        make_folder(out / TRIALS)
        with locked(out, "tuning"):
            write_whole(out / RECORD, dump_yaml(record).encode())
            study = Trials(out, search.space, seed=config.seed, prunes=prunes)
            with Progress(trials) as progress, signals_held() as came:
                _run_trials(search, study, trials, pool, came, progress.message)
                if came:
                    return 1
                _draw(search, study, progress.message)
                return check_best(search, study, check, pool, came, progress.message)


def _check_started(search: Search, space: Path) -> dict[str, Any]:
    """Return the contents of tune.yaml; raise UserError if the folder holds another search."""
    preset, out = search.source in list_presets(), search.out
    record = {
        "source": search.source if preset else str(Path(search.source).absolute()),
        "options": {k: True if x is FLAG else str(x) for k, x in search.fixed.items()},
        "space": read_yaml(space),
        "prunes": search.prunes,
    }
    if not out.is_dir() or not any(out.iterdir()):
        return record
    if not (out / RECORD).is_file():
        raise UserError(f"{out} is not empty and holds no search; name a new folder with --out")
    before = read_yaml(out / RECORD)
    for key, value in record.items():
        old = before.get(key) if isinstance(before, Mapping) else None
        if old != value:
            hint = "name a new folder with --out"
            raise UserError(must(f"{key} of the search in {out}", f"{old}, as before", value, hint))
    return record


def _run_trials(
    search: Search, study: Trials, count: int, pool: Pool, came: Sequence[int], say: Say
) -> None:
    """Run trials until there are `count`, those that an earlier start left included."""
    numbers: dict[str, int] = {}
    sizes: dict[str, int] = {}  # of logs when they were read

    def jobs() -> Iterator[Job]:
        for trial in study.running():
            _wait_for(search.out / _folder(trial.number), came, say)
            if not came and (job := job_of(trial)):
                yield job
        while len(study.all()) < count:
            if job := job_of(study.ask()):
                yield job

    def job_of(trial: Trial) -> Job | None:
        try:
            job = search.job(_folder(trial.number), trial.values)
        except UserError as error:  # values that do not fit together
            study.fail(trial.number, str(error))
            tell(trial.number)
            return None
        numbers[job.name] = trial.number
        return job

    def stops(job: Job) -> bool:
        log = search.out / job.name / "metrics.jsonl"
        size = log.stat().st_size if log.exists() else 0
        if size == sizes.get(job.name, 0):
            return False
        sizes[job.name] = size
        return study.report(numbers[job.name], _early(job, evaluations_of(search, job)))

    def starts(job: Job) -> None:
        values = ", ".join(f"{key} {text}" for key, text in job.values.items())
        say(f"[{numbers[job.name] + 1}/{count}] starts: {values}")

    def ends(job: Job, ended: Ended) -> None:
        number, found = numbers[job.name], evaluations_of(search, job)
        last = last_step(job.config)
        if study.report(number, _early(job, found)):
            study.prune(number)
        elif last in found and (ended.code == 0 or came):
            study.finish(number, found[last])
        elif came:
            say(f"[{number + 1}/{count}] is stopped")
            return
        else:
            study.fail(number, ended.error or f"see {search.out / job.name}.log")
        tell(number)

    def tell(number: int) -> None:
        trials = study.all()
        _write_table(search, trials)
        trial = trials[number]
        words = trial.reason or f"return {trial.value:.1f}"
        say(f"[{number + 1}/{count}] {trial.state}: {words}")

    run_jobs(jobs(), pool, came, starts, ends, stops)


def _folder(number: int) -> str:
    return f"{TRIALS}/{number:04d}"


def _early(job: Job, found: Mapping[int, float]) -> dict[int, float]:
    """Return the evaluations before the last one, by which a trial may be stopped."""
    return {step: value for step, value in found.items() if step < last_step(job.config)}


def _wait_for(run: Path, came: Sequence[int], say: Say) -> None:
    """Wait until no process trains a run, as one may that a killed search has started."""
    said = False
    while run.is_dir() and not came:
        try:
            with locked(run, "training"):
                return
        except UserError:
            if not said:
                say(f"{run} is still trained by a process of an earlier start: waiting for its end")
            said = True
            time.sleep(_PAUSE)


def _write_table(search: Search, trials: Sequence[Trial]) -> None:
    """Write trials.csv: a line for each trial, in their order."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    keys = [dimension.key for dimension in search.space]
    writer.writerow(["trial", "state", "evaluation_return", *keys, "reason"])
    for trial in trials:
        values = [trial.values.get(key, "") for key in keys]
        value = "" if trial.value != trial.value else repr(trial.value)
        writer.writerow([trial.number, trial.state, value, *values, trial.reason])
    write_whole(search.out / TABLE, file.getvalue().encode())


def _draw(search: Search, study: Trials, say: Say) -> None:
    trials = study.all()
    if any(trial.state == "complete" for trial in trials):
        for path in draw_search(search.out, search.space, trials, study.importances()):
            say(f"plot: {path}")
    say(f"table: {search.out / TABLE}")
