"""The queue of claims: every job is done once despite kills, and tuning is fair."""

import json

import numpy as np
import pytest
from benchmarks.claims.__main__ import main
from benchmarks.claims.page import read, section
from benchmarks.claims.plan import FIRST, make_plan, ordered
from benchmarks.claims.queue import run_queue, status
from benchmarks.claims.store import Store, chosen
from benchmarks.claims.study import Outcome, Study, best_trial, check_fair, jobs_of

from helpers.compiling import compiles_soon


class Killed(BaseException):
    """What a signal does in the midst of a job."""


def make_study(run, **changes):
    """Two sides of two trials on two tasks; the trial whose x is larger scores higher."""
    study = Study(
        claim="a_claim",
        name="a_study",
        question="Is it so?",
        tasks=("one", "two"),
        sides={"base": ({"x": 1.0}, {"x": 2.0}), "other": ({"x": 3.0}, {"x": 4.0})},
        metrics={"score": "higher"},
        run=run,
        tuning_seeds=(100, 101),
        test_seeds=(0, 1, 2),
        unit="steps",
        curve="score",
        together=False,
        minutes=lambda task, tuning: 1.0 if task == "one" else 10.0,
    )
    return study._replace(**changes)


def fake_run(calls, kill_at=None):
    """Scores of x + seed / 1000; dies in the call number `kill_at`."""

    def run(task, side, trials, seeds, name):
        calls.append(name)
        if len(calls) == kill_at:
            raise Killed
        scores = np.array([[trial["x"] + seed / 1000 for seed in seeds] for trial in trials])
        x = np.arange(3.0)
        return Outcome({"score": scores}, x, scores[..., None] + x)

    return run


def run_all(study, folder, max_minutes=1e9):
    run_queue([(study, task) for task in study.tasks], Store(folder), max_minutes=max_minutes)


def test_a_killed_queue_repeats_only_the_job_it_was_at(tmp_path):
    jobs = [job.key for job in jobs_of(make_study(None))]
    assert len(jobs) == len(set(jobs)) == 2 * (2 * 2 + 2)
    calls = []
    for kill_at in (3, 7, 8, None):
        before = len(calls)
        study = make_study(fake_run(calls, None if kill_at is None else kill_at))
        if kill_at is None:
            run_all(study, tmp_path)
        else:
            with pytest.raises(Killed):
                run_all(study, tmp_path)
        assert len(calls) > before
    assert len(calls) == len(jobs) + 3  # each kill repeats one job
    assert sorted(Store(tmp_path).rows(study)) == sorted(jobs)
    run_all(study, tmp_path)
    assert len(calls) == len(jobs) + 3


def test_a_line_that_a_kill_cut_off_is_no_result(tmp_path):
    calls = []
    study = make_study(fake_run(calls))
    run_all(study, tmp_path)
    path = Store(tmp_path).path(study)
    whole = path.read_text()
    path.write_text(whole[:-40])
    assert len(Store(tmp_path).rows(study)) == 11
    run_all(study, tmp_path)
    assert len(calls) == 13
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["job"] for row in rows] == [job.key for job in jobs_of(study)]


def test_nothing_is_written_twice(tmp_path):
    study = make_study(fake_run([]))
    run_all(study, tmp_path)
    store, job = Store(tmp_path), next(jobs_of(study))
    outcome = Outcome({"score": np.zeros((1, 2))}, np.zeros(1), np.zeros((1, 2, 1)))
    with pytest.raises(ValueError, match="finished already"):
        store.add(job, [0], outcome, 1.0)
    path = store.path(study)
    path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")
    with pytest.raises(ValueError, match="twice"):
        store.rows(study)


def test_two_queues_do_not_share_a_folder(tmp_path):
    with Store(tmp_path).locked(), pytest.raises(SystemExit, match="another queue"):
        run_all(make_study(fake_run([])), tmp_path)


def test_tests_run_the_best_trial_and_only_after_all_tuning(tmp_path):
    calls = []
    with pytest.raises(Killed):
        run_all(make_study(fake_run(calls, kill_at=4)), tmp_path)
    study = make_study(fake_run([]))
    rows = Store(tmp_path).rows(study)
    assert chosen(study, rows, "one", "base") == {"score": 1}
    assert chosen(study, rows, "one", "other") is None
    assert all(row["tuning"] for row in rows.values())
    run_all(study, tmp_path)
    rows = Store(tmp_path).rows(study)
    row = rows["a_study/one/other/test"]
    assert row["trials"] == [1] and row["hyper_parameters"] == [{"x": 4.0}]
    assert row["seeds"] == [0, 1, 2] and row["scores"]["score"] == [[4.0, 4.001, 4.002]]
    assert {"commit", "versions", "device", "seconds"} <= row.keys()


def test_a_task_may_take_the_tuning_of_another(tmp_path):
    calls = []
    study = make_study(fake_run(calls), tuned_on={"two": "one"})
    run_all(study, tmp_path)
    assert len(calls) == 6 + 2
    assert not any("two" in name and "tuning" in name for name in calls)


def test_a_study_without_tuning_runs_its_single_trials(tmp_path):
    calls = []
    sides = {"base": ({"x": 1.0},), "other": ({"x": 3.0},)}
    study = make_study(fake_run(calls), tuning_seeds=(), sides=sides)
    run_all(study, tmp_path)
    assert calls == [f"a_study/{task}/{side}/test" for task in ("one", "two") for side in sides]
    found = read(study, Store(tmp_path).rows(study))
    assert found["one"]["other"]["scores"]["score"] == [[3.0, 3.001, 3.002]]
    assert "Results on the seeds 0 to 2. Commit" in section(study, found)


def test_tuning_with_other_trials_is_refused(tmp_path):
    study = make_study(fake_run([]))
    run_all(study, tmp_path)
    sides = study.sides | {"other": ({"x": 3.0}, {"x": 5.0})}
    with pytest.raises(ValueError, match="not those of the study"):
        chosen(study._replace(sides=sides), Store(tmp_path).rows(study), "one", "other")
    with pytest.raises(ValueError, match="not those of the study"):
        changed = study._replace(tuning_seeds=(100, 102))
        chosen(changed, Store(tmp_path).rows(study), "one", "base")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sides": {"a": ({"x": 1},), "b": ({"x": 1}, {"x": 2})}}, "different numbers of trials"),
        ({"sides": {"a": ({"x": 1}, {"x": 1}), "b": ({"x": 1}, {"x": 2})}}, "twice"),
        ({"test_seeds": (1, 101)}, "tuned on and reported"),
        ({"tuning_seeds": ()}, "no seeds to choose one by"),
    ],
)
def test_an_unfair_study_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        check_fair(make_study(None, **changes))


def test_every_study_of_the_plan_is_fair():
    plan = make_plan()
    for study in plan:
        check_fair(study)
        assert len(study.test_seeds) >= (5 if study.tuning_seeds else 3)
        assert set(study.tuned_on) | set(study.tuned_on.values()) <= set(study.tasks)
    assert len({study.name for study in plan}) == len(plan)
    known = {(study.name, task) for study in plan for task in study.tasks}
    assert set(FIRST) <= known
    order = [(study.name, task) for study, task in ordered(plan)]
    assert order[: len(FIRST)] == list(FIRST) and set(order) == known


def test_a_trial_that_diverged_is_never_chosen():
    scores = np.array([[1.0, 2.0], [np.nan, 9.0], [1.0, 3.0]])
    assert best_trial(scores, "higher") == 2
    assert best_trial(scores, "lower") == 0


def test_long_jobs_stay_pending(tmp_path):
    calls = []
    study = make_study(fake_run(calls))
    run_all(study, tmp_path, max_minutes=5)
    assert len(calls) == 6 and all("/one/" in name for name in calls)
    (row,) = status([study], Store(tmp_path))
    assert row["state"] == "begun" and row["cells"] == "14 of 28"
    assert row["hours left"] == pytest.approx(1.0)


@pytest.mark.slow
def test_the_short_form_runs_and_writes_its_page(tmp_path, capsys):
    results, docs = tmp_path / "results", tmp_path / "docs"
    words = ["--small", "--results", str(results), "--docs", str(docs)]
    with compiles_soon():
        main(words)
    capsys.readouterr()
    main([*words, "--status"])
    assert "| va_learning | va_tables | finished |" in capsys.readouterr().out
    main([*words, "--page"])
    page = (docs / "claims.md").read_text()
    assert "| uniform-2 | va |" in page and "P(better)" in page
    assert "36 trials a side on the seeds 1000 to 1001" in page
    assert 1_000 < (docs / "claims_va_learning.png").stat().st_size < 200_000
    with pytest.raises(SystemExit, match="no claim 'nonsense'"):
        main([*words, "--only", "nonsense"])
