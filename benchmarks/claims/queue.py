"""The queue: jobs of all studies in order, each run once, whatever killed the queue before."""

import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.claims.store import Row, Store, chosen
from benchmarks.claims.study import Job, Study, jobs_of


def run_queue(order: Sequence[tuple[Study, str]], store: Store, *, max_minutes: float) -> None:
    """Runs the jobs of each study and task in order, but for those that are finished.

    A job that is estimated to take more than max_minutes stays pending. A test runs when the
    tuning of all sides of its task is finished, and never before.
    """
    with store.locked():
        for study, task in order:
            for job in jobs_of(study):
                if job.task == task:
                    _run_one(job, store, max_minutes)


def _run_one(job: Job, store: Store, max_minutes: float) -> None:
    study = job.study
    rows = store.rows(study)
    if job.key in rows or study.minutes(job.task, job.tuning) > max_minutes:
        return
    trials = trials_of(job, rows)
    if trials is None:
        return
    started = time.perf_counter()
    values = [study.sides[job.side][index] for index in trials]
    outcome = study.run(job.task, job.side, values, list(study.seeds[job.tuning]), job.key)
    seconds = time.perf_counter() - started
    store.add(job, trials, outcome, seconds)
    print(f"{time.strftime('%H:%M:%S')} {job.key}: {seconds:.0f} s", flush=True)


def trials_of(job: Job, rows: dict[str, Row]) -> list[int] | None:
    """Indices of the trials that a job runs; None for a test whose tuning is not finished."""
    if job.tuning:
        return list(job.trials)
    task = job.study.tuned_on.get(job.task, job.task)
    each = [chosen(job.study, rows, task, side) for side in job.study.sides]
    if None in each:
        return None
    choice = each[list(job.study.sides).index(job.side)]
    return sorted(set((choice or {}).values()))


def status(studies: Sequence[Study], store: Store) -> list[dict[str, Any]]:
    """A row for each study: cells finished and in all, hours used and, by estimate, left."""
    table = []
    for study in studies:
        rows, jobs = store.rows(study), list(jobs_of(study))
        left = [job for job in jobs if job.key not in rows]
        minutes = sum(study.minutes(job.task, job.tuning) for job in left)
        longest = max((study.minutes(job.task, job.tuning) for job in left), default=0.0)
        cells = sum(job.cells for job in jobs)
        table.append(
            {
                "claim": study.claim,
                "study": study.name,
                "state": "finished"
                if not left
                else "pending"
                if len(left) == len(jobs)
                else "begun",
                "cells": f"{cells - sum(job.cells for job in left):,} of {cells:,}",
                "hours used": sum(row["seconds"] for row in rows.values()) / 3600,
                "hours left": minutes / 60,
                "longest job left, minutes": longest,
            }
        )
    return table


def report_unknown(name: str, known: Sequence[str]) -> None:
    """Ends the program with a sentence if a name is not one of those known."""
    if name not in known:
        sys.exit(f"there is no claim {name!r}; there are {', '.join(known)}")
