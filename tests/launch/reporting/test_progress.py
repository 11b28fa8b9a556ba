"""The progress line shows the right numbers and never stops a run."""

import io
import re
import sys
import types

import numpy as np
import pytest
from rich.console import Console

from bellmax.launch.reporting.progress import Progress
from helpers.processes import start_python

NUMBERS = dict(steps_per_second=1000.0, updates_per_second=250.0, episode_return=None, loss=None)


def show(console, total=100_000, seeds=1, **numbers):
    with Progress(total, seeds=seeds, console=console) as progress:
        progress.compiled(3.21)
        progress.update(25_000, **{**NUMBERS, **numbers})


def test_a_plain_line_for_each_interval():
    out = io.StringIO()
    show(Console(file=out), episode_return=np.array([10.0, 30.0, np.nan]), loss=[0.5, 0.25])
    line = out.getvalue()
    assert line.startswith(
        "25,000/100,000  25 %  return 20.0 [10.0..30.0]  loss 0.375  1,000 steps/s"
    )
    assert "250 gradient steps/s  ETA 0:01:15  compiled in 3.2 s  " in line
    assert line.rstrip().endswith("MiB") and line.count("\n") == 1 and "\x1b" not in line


def test_rates_are_of_all_seeds_and_the_rest_of_one():
    out = io.StringIO()
    show(Console(file=out), seeds=4)
    assert "ETA 0:05:00" in out.getvalue()


@pytest.mark.parametrize("nothing", [None, float("nan"), [None, None], np.full(2, np.nan)])
def test_no_episode_yet_shows_a_dash(nothing):
    out = io.StringIO()
    show(Console(file=out), episode_return=nothing, loss=nothing)
    assert "return -  loss -" in out.getvalue()


def test_one_seed_has_no_range():
    out = io.StringIO()
    show(Console(file=out), episode_return=[7.0], loss=0.5, steps_per_second=0.0)
    assert "return 7.0  loss 0.5" in out.getvalue() and "ETA ?" in out.getvalue()


def test_a_terminal_has_one_line_redrawn():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=60)
    with Progress(100, console=console) as progress:
        for step in (1, 2, 3):
            progress.update(step, **NUMBERS)
        progress.message("A [word] of its own.")
    assert out.getvalue().count("\n") <= 3 and "3/100" in out.getvalue()
    assert "A [word] of its own." in out.getvalue()


def test_a_notebook_shows_a_line_for_each_interval(monkeypatch):
    shown = []
    display = types.ModuleType("IPython.display")
    display.display = shown.append
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)  # as if not installed
    show(Console(force_jupyter=True), episode_return=[7.0])
    assert len(shown) == 1 and "return 7.0" in shown[0].text


def test_a_closed_output_does_not_stop_the_run():
    out = io.StringIO()
    progress = Progress(100, console=Console(file=out))
    with progress:
        out.close()
        progress.update(1, **NUMBERS)
        progress.message("nobody hears this")
        progress.update(2, **NUMBERS)


PIPED = """
import sys
from bellmax.launch.reporting.progress import Progress

with Progress(100) as progress:
    for step in range(20000):
        progress.message("x" * 100)
print("trained to the end", file=sys.stderr)
"""


def test_a_reader_that_leaves_does_not_stop_the_run():
    process = start_python("-c", PIPED)
    assert process.stdout and process.stdout.readline()
    process.stdout.close()
    process.stdout = None
    _, errors = process.communicate(timeout=300)
    assert (errors, process.returncode) == ("trained to the end\n", 0)


def drawn(width, *updates):
    """What a terminal of a width shows, line by line, without its control codes."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width, color_system=None)
    with Progress(100_000, console=console) as progress:
        progress.compiling()
        for step in updates:
            progress.update(step, **{**NUMBERS, "episode_return": 12.0, "loss": 0.5})
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    return [line.rstrip() for line in re.split(r"[\r\n]+", plain) if line.strip()]


@pytest.mark.parametrize("width", [30, 60, 80, 120, 300])
def test_a_terminal_has_a_bar_and_the_columns_that_fit(width):
    lines = drawn(width, 25_000, 75_000)
    assert all(len(line) <= width and "..." not in line and "…" not in line for line in lines)
    assert lines[0].endswith("compiling")
    bars = [line.split(" ")[0] for line in lines]
    assert bars[0] != bars[1] != bars[2]
    assert ("75 %" in lines[-1]) == (width >= 60) and ("MiB" in lines[-1]) == (width == 300)
    whole = {"ETA 0:00:25", "return 12.0", "1,000 steps/s", "250 gradient steps/s"}
    assert width < 120 or all(part in lines[-1] for part in whole)
