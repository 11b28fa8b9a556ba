"""benchmarks/accelerator: limits, the page, and a run of which no section can stop the others."""

import json
import os
import time
from unittest import mock

import pytest
from benchmarks.accelerator import plan, programs
from benchmarks.accelerator.__main__ import main, run
from benchmarks.accelerator.page import NOT_STARTED, add, new_report, page, write
from benchmarks.accelerator.programs import Program
from benchmarks.accelerator.work import Work
from collect_wheels import collect, install

from bellmax import UserError
from bellmax.launch.config.run_config import list_presets, load


def make_section(name, limit=30.0, least=1.0):
    return plan.Section(
        name, f"Title of {name}", "Its text.", limit, limit, least, f"helpers.sections:{name}"
    )


def test_the_limits_leave_time_for_learning_even_if_every_section_hangs():
    *others, last = plan.SECTIONS
    assert last.name == "learning"
    worst = sum(section.limit + plan.GRACE for section in others)
    assert plan.SECONDS - worst > 2 * last.least + plan.GRACE
    assert plan.SMALL_SECONDS < 180


def test_a_section_gets_its_limit_or_what_is_left_or_is_not_started():
    section = make_section("a", limit=30.0, least=10.0)
    assert plan.allowed(section, 100.0, small=False) == 30.0
    assert plan.allowed(section, 30.0, small=False) == 30.0 - plan.GRACE
    assert plan.allowed(section, plan.GRACE + 10.0, small=False) == 10.0
    assert plan.allowed(section, plan.GRACE + 9.9, small=False) is None


def test_every_section_is_a_function_and_every_program_a_preset():
    presets = list_presets()
    sizes, small = plan.grid(small=False), plan.grid(small=True)
    assert len(sizes) == len(set(sizes)) == len(plan.PRESETS) * len(plan.SIZES)
    names = {*plan.COMPILED, *plan.SMALL_COMPILED, *(size.preset for size in [*sizes, *small])}
    assert names <= set(presets)
    assert {*plan.SMALL_PRESETS} - {*plan.SMALL_COMPILED} == {"dqn/cartpole"}  # the one to compile
    assert {seeds for _, seeds, _ in sizes} == {1, 16, 64, 256, 1024}
    # No preset is at its second size before all are at their first.
    assert {size.preset for size in sizes[: len(plan.PRESETS)]} == set(plan.PRESETS)


@pytest.mark.parametrize("preset", ["dqn/cartpole", "byol_explore/deepsea"])
def test_options_of_a_size_make_a_configuration_that_fits(preset):
    own = load(preset).env.num_envs
    on_policy = preset.startswith("byol_explore/")
    for seeds, envs in plan.SIZES:
        words = plan.overrides(plan.Size(preset, seeds, envs), on_policy=on_policy, own_envs=own)
        config = load(preset, words)
        assert (config.seeds, config.env.num_envs) == (seeds, envs or own)
        if on_policy:
            assert config.agent.batch_size == config.env.num_envs
        else:
            assert config.warmup_steps >= 4 * config.env.num_envs


def rate(seeds, steps, environments=4, preset="a/b"):
    row = {"preset": preset, "seeds": seeds, "environments": environments}
    return row | {"gradient steps/s": steps}


def test_as_many_seeds_learn_as_cost_at_most_twice_the_time():
    rows = [rate(1, 100.0), rate(64, 4000.0), rate(256, 12_000.0)]  # 10, 16 and 21 ms
    others = [rate(1024, 1e9, environments=128), rate(1024, 1e9, preset="c/d")]
    others.append({"preset": "a/b", "seeds": 1024, "environments": 4, "failed": "memory"})
    fit = {"slowdown": 2.0, "default": 16}
    assert plan.seeds_that_fit(rows + others, "a/b", **fit) == 64
    assert plan.seeds_that_fit(rows, "a/b", slowdown=3.0, default=16) == 256
    assert plan.seeds_that_fit(rows[:1], "a/b", **fit) == 16
    assert plan.seeds_that_fit([], "a/b", **fit) == 16


def test_the_page_shows_what_was_found_and_what_was_not_begun(tmp_path):
    sections = make_section("finds"), make_section("later")
    report = new_report(sections, seconds=480.0, small=False)
    entry = report["sections"]["finds"]
    add(entry, "row", {"n": 4_194_304, "rate": 12_345.6, "returns": [1.0]})
    add(entry, "note", "rejax was passed over")
    entry |= {"status": "done", "seconds": 3.2, "limit": 30.0}
    write(report, sections, tmp_path)
    assert json.loads((tmp_path / "accelerator.json").read_text()) == report
    text = (tmp_path / "accelerator.md").read_text()
    assert text == page(report, sections)
    assert "| n | rate |" in text and "| 4,194,304 | 12,346 |" in text
    assert "* rejax was passed over" in text
    assert "Section `finds`: done, 3 s of 30." in text
    assert f"Section `later`: {NOT_STARTED}." in text
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "accelerator.json",
        "accelerator.md",
    ]


def test_a_section_that_fails_hangs_or_crashes_is_recorded_and_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "GRACE", 0.5)
    names = ["find", "fail", "hang", "crash", "leave", "find_too", "late"]
    sections = [make_section(name) for name in names]
    sections[0] = sections[0]._replace(name="finds")
    sections[2] = sections[2]._replace(limit=2.0)
    sections[5] = sections[5]._replace(function="helpers.sections:find")
    sections[6] = sections[6]._replace(least=1e6)
    started = time.monotonic()
    report = run(tuple(sections), tmp_path, seconds=300.0, small=False)
    assert time.monotonic() - started < 60  # far below the 600 s for which one sleeps
    found = report["sections"]
    statuses = [found[section.name]["status"] for section in sections]
    assert statuses == [
        "done",
        "failed (ValueError: no such thing)",
        "stopped at its limit",
        "failed (its process ended with 7)",
        "failed (SystemExit: rejax_dqn.py stopped)",
        "done",
        "passed over, as no time was left",
    ]
    rows = [[row["x"] for row in found[section.name]["rows"]] for section in sections]
    # What a section found before it ended counts; a new process knows the earlier rows too.
    assert rows == [[1.5, 0], [2.5], [3.5], [4.5], [5.5], [1.5, 2], []]
    assert found["finds"]["facts"] == {"device": "a card"}
    assert json.loads((tmp_path / "accelerator.json").read_text()) == report


def test_wheels_of_both_environments_are_collected_and_installed_without_network(tmp_path):
    first, second = collect(tmp_path, "cuda12", rejax=True)
    assert first[-2].endswith("[brax,gymnax]") and first[-1] == "jax[cuda12]"
    assert "--constraint" in first and "--constraint" not in second
    assert second[-4:] == ["rejax", "gymnax<1", "six", "jax[cuda12]"]
    assert str(tmp_path) in first and str(tmp_path / "rejax") in second
    (only,) = collect(tmp_path, "cpu", rejax=False)
    assert only[-1] == "jax"
    lines = install("tpu", rejax=True)
    assert all("--no-index" in line for line in lines if "pip" in line)
    assert lines[0].endswith("wheels 'bellmax[brax,gymnax]' 'jax[tpu]'")


def test_presets_whose_extra_is_missing_and_programs_that_fail_are_named(monkeypatch):
    def of_size(size, *, with_init):
        if "brax" in size.preset:
            raise UserError("install the extra")
        if size.seeds == 64:
            raise MemoryError("too large\nby far")
        return Program(None, None, None, None, 0.0, 0.0)

    monkeypatch.setattr(programs, "of_size", of_size)
    monkeypatch.setattr(programs, "rate", lambda program, seconds: {"environments": 4})
    work = Work(False, time.monotonic() + 60.0, None, None, {}, {})
    found = list(programs.measure_rates(work))
    assert [x for x in found if isinstance(x, str)] == [
        "`expectrl/brax_hopper` was passed over: install the extra"
    ]
    rows = [x for x in found if isinstance(x, dict)]
    assert len(rows) == 3 * len(plan.SIZES)
    assert {row["seeds"] for row in rows if "failed" in row} == {64}
    assert {row.get("failed") for row in rows} == {None, "MemoryError: too large"}
    late = work._replace(until=time.monotonic() - 1.0)
    (note,) = programs.measure_rates(late)
    assert note.startswith("did not fit") and "`dqn/cartpole` 1xown" in note


@pytest.mark.slow
@mock.patch.dict(os.environ)  # the script sets flags of XLA for the process that measures
def test_a_small_run_goes_through_every_section_in_three_minutes(tmp_path):
    started = time.monotonic()
    main(["--small", "--out", str(tmp_path)])
    assert time.monotonic() - started < 180
    found = json.loads((tmp_path / "accelerator.json").read_text())["sections"]
    failed = {name: e["status"] for name, e in found.items() if e["status"].startswith("failed")}
    assert failed == {}
    # On a busy machine a section may end at its limit, with fewer rows.
    assert [e["status"] for e in found.values()].count("done") >= 4
    rows = [row for e in found.values() for row in e["rows"]]
    assert [row for row in rows if "failed" in row or row.get("finite") is False] == []
    assert found["device"]["facts"]["platform"] == "cpu"
    assert all(found[name]["rows"] for name in ("device", "compile", "rates"))
    assert "# bellmax on cpu" in (tmp_path / "accelerator.md").read_text()
