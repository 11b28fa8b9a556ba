"""`bellmax sweep`: runs of one preset with different values, and a table of results.

Each run is `bellmax train ... --resume` in its own process, so that a sweep that is started again
continues where it stopped.
"""

import contextlib
import csv
import io
import math
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bellmax import UserError, must
from bellmax.launch.config.sentences import show
from bellmax.launch.config.yaml_files import dump_yaml
from bellmax.launch.distributed.locks import locked
from bellmax.launch.distributed.signals import interruptible, signals_held
from bellmax.launch.reporting.progress import Progress
from bellmax.launch.studies.sweep.plan import (
    RECORD,
    Job,
    check_started,
    plan_runs,
    read_record,
    read_values,
)
from bellmax.launch.studies.sweep.pools import Ended, Pool, make_pool

MOST_JOBS = 1024  # on one machine
_PAUSE = 0.1  # seconds between two polls of the active runs
_COLUMNS = ("run", "status", "evaluation_return", "step")


def sweep(
    source: str, out: Path, overrides: Sequence[str], jobs: str, *, trust: bool = False
) -> int:
    """Train every combination of values, each in a folder of its own; return the exit code.

    Args:
      source: a preset, a YAML file or a run's folder.
      out: the folder of the sweep; a sweep of the same source in it is continued.
      overrides: options as typed; commas separate values: ["--seed", "0,1", "--steps=300"].
      jobs: how many at once on this machine, `ray`, or `ray://HOST:PORT`.
      trust: whether the configuration of a run's folder may name code.

    Raises:
      UserError: an option or value is wrong; nothing was started.
      Interrupted: Ctrl-C or SIGTERM; the active runs were stopped with checkpoints.
    """
    check_jobs(jobs)
    values = read_values(overrides)
    plan = plan_runs(source, values, out, trust=trust)
    record = read_record(source, values, out)
    check_started(plan, out)
    rows = _read_results(out)

    def how_to_continue() -> str:
        finished = sum(rows.get(job.name, {}).get("status") == "finished" for job in plan)
        return (
            f"{finished} of {len(plan)} runs are finished; the same `bellmax sweep` once more "
            f"continues the others in {out}"
        )

    with interruptible(how_to_continue), make_pool(jobs, out) as pool, hangup_terminates():
        out.mkdir(parents=True, exist_ok=True)
        with locked(out, "sweeping"):
            _write(out / RECORD, dump_yaml(record))
            return _run_all(plan, out, rows, pool)


def check_jobs(jobs: str) -> None:
    """Raise UserError unless `jobs` is a number of processes or the address of a cluster."""
    number = int(jobs) if jobs.isdecimal() else 0
    if not 1 <= number <= MOST_JOBS and not re.fullmatch(r"ray(://[^/\s]+:\d+)?", jobs):
        raise UserError(
            must("--jobs", f"an integer in [1, {MOST_JOBS}], ray or ray://HOST:PORT", show(jobs))
        )


def run_jobs(
    jobs: Iterable[Job],
    pool: Pool,
    came: Sequence[int],
    starts: Callable[[Job], object],
    ends: Callable[[Job, Ended], object],
    stops: Callable[[Job], bool] = lambda job: False,
) -> None:
    """Run all jobs. After a signal no new job starts; active jobs receive the signal.

    Args:
      jobs: the jobs, in their order; each is asked for when it can start.
      pool: runs their processes.
      came: the signals received, a list that grows.
      starts, ends: called for each job.
      stops: asked of active jobs again and again; True stops the job as SIGTERM does.
    """
    waiting, running = iter(jobs), {}
    told: set[str] = set()
    try:
        while True:
            while not came and len(running) < pool.width():
                if (job := next(waiting, None)) is None:
                    break
                running[job.name] = job, pool.start(job)
                starts(job)
            if not running:
                break
            for job, handle in running.values():
                if job.name not in told and (came or stops(job)):
                    told.add(job.name)
                    pool.stop(handle, came[0] if came else signal.SIGTERM)
            time.sleep(_PAUSE)
            for job, handle in list(running.values()):
                if ended := pool.poll(handle):
                    del running[job.name]
                    ends(job, ended)
    finally:  # none is active unless an exception, such as a second signal, ended the loop
        for _, handle in running.values():
            pool.kill(handle)


def _run_all(plan: list[Job], out: Path, rows: dict[str, dict[str, Any]], pool: Pool) -> int:
    """Run the jobs that are not finished; add their results to `rows`."""
    todo = [job for job in plan if not _is_finished(job, out, rows.get(job.name, {}))]
    numbers = {job.name: f"[{i}/{len(plan)}] {job.name}" for i, job in enumerate(plan, start=1)}
    with Progress(len(plan)) as progress, signals_held() as came:

        def starts(job: Job) -> None:
            progress.message(f"{numbers[job.name]} starts")

        def ends(job: Job, ended: Ended) -> None:
            row, words = _outcome(job, out, ended, stopped=bool(came))
            rows.pop(job.name, None)
            rows.update({job.name: row} if row else {})
            _write(out / "results.csv", _as_csv(rows))
            progress.message(f"{numbers[job.name]}{words}")

        if len(todo) < len(plan):
            progress.message(f"{len(plan) - len(todo)} of {len(plan)} runs are finished already")
        run_jobs(todo, pool, came, starts, ends)
        _write(out / "results.csv", _as_csv(rows))
        if not came:
            progress.message(_as_table(rows, out))
    return int(any(rows[job.name]["status"] == "failed" for job in plan))


def _outcome(
    job: Job, out: Path, ended: Ended, *, stopped: bool
) -> tuple[dict[str, Any] | None, str]:
    """Return the row of results of a run that ended, None if it can continue, and a message."""
    row = {"run": job.name, "evaluation_return": "", "step": "", **job.values}
    evaluation = _last_evaluation(out / job.name)
    if ended.code == 0 and evaluation is not None:
        step, value = evaluation
        row |= {"status": "finished", "evaluation_return": repr(value), "step": str(step)}
        return row, f": evaluation return {value:.1f} at step {step:,}"
    if stopped:
        return None, " is stopped"
    reason = ended.error or f"see {out / job.name}.log"
    return row | {"status": "failed"}, f" failed with exit code {ended.code}: {reason}"


def evaluations(folder: Path, seeds: int = 1) -> dict[int, float]:
    """Return the mean return over seeds by step of a run's evaluations; NaN if one has none.

    An evaluation of which the log has fewer than `seeds` rows is left out: it is being written.
    """
    from bellmax.launch.reporting.metrics import read_metrics

    try:
        found = [row for row in read_metrics(folder) if row.get("kind") == "evaluation"]
    except UserError:
        return {}
    returns: dict[int, dict[int, float | None]] = {}
    for row in found:
        returns.setdefault(row["step"], {})[row["seed"]] = row["episode_return"]
    return {
        step: sum(math.nan if x is None else x for x in each.values()) / len(each)
        for step, each in sorted(returns.items())
        if len(each) >= seeds
    }


def _last_evaluation(folder: Path) -> tuple[int, float] | None:
    """Return the step, and the mean return over seeds, of a run's last evaluation, or None."""
    return max(evaluations(folder).items(), default=None)


def _is_finished(job: Job, out: Path, row: Mapping[str, Any]) -> bool:
    """Return whether an earlier start of the sweep finished this run, and its folder exists."""
    from bellmax.launch.config.run_config import load

    # Trusted: `check_started` has shown that it names the same code as the sweep.
    rollout = job.config.env.num_envs * job.config.rollout_length
    last = job.config.steps - job.config.steps % rollout
    if (row.get("status"), row.get("step")) != ("finished", str(last)):
        return False
    evaluation = _last_evaluation(out / job.name)
    return (
        evaluation is not None
        and evaluation[0] == last
        and load(out / job.name, trust=True) == job.config
    )


def _read_results(out: Path) -> dict[str, dict[str, Any]]:
    path = out / "results.csv"
    if not path.is_file():
        return {}
    with path.open(newline="", errors="replace") as file:
        rows = [row for row in csv.DictReader(file) if row.get("run") and row.get("status")]
    return {row["run"]: row for row in rows if (out / row["run"]).is_dir()}


def _best_first(rows: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    def place(row: Mapping[str, Any]) -> float:
        try:
            value = float(row["evaluation_return"])
        except ValueError:  # it failed
            return math.inf
        return sys.float_info.max if math.isnan(value) else -value

    return sorted(rows.values(), key=place)


def _as_csv(rows: Mapping[str, Mapping[str, Any]]) -> str:
    keys = dict.fromkeys([*_COLUMNS, *(key for row in rows.values() for key in row)])
    file = io.StringIO()
    writer = csv.DictWriter(file, list(keys), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(_best_first(rows))
    return file.getvalue()


def _as_table(rows: Mapping[str, Mapping[str, Any]], out: Path) -> str:
    lines = ["evaluation return  run"]
    for row in _best_first(rows):
        value = row["evaluation_return"]
        lines.append(f"{f'{float(value):.1f}' if value else row['status']:>17}  {row['run']}")
    return "\n".join([*lines, f"table: {out / 'results.csv'}"])


def _write(path: Path, text: str) -> None:
    from bellmax.launch.distributed.files import write_whole

    write_whole(path, text.encode())


@contextlib.contextmanager
def hangup_terminates() -> Iterator[None]:
    """Turn SIGHUP (the terminal closed) into SIGTERM, because the runs have no terminal."""
    before = signal.getsignal(signal.SIGHUP)
    if before != signal.SIG_DFL or threading.current_thread() is not threading.main_thread():
        yield  # `nohup bellmax sweep`
        return
    signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
