"""Host runs that are killed, stopped or out of disk space keep their files and can be resumed."""

import importlib
import signal
import threading

import psutil
import pytest

from bellmax.launch.actors import waiter as waiter
from bellmax.launch.cli import main
from helpers.faults import files_limited_to, signal_when
from helpers.processes import finish, have_ended, killed_at_exit, start_bellmax, wait_until
from helpers.runs import checkpoints, rows, saved_files


@pytest.fixture
def known():
    """Processes of a test; those still alive afterwards are killed."""
    with killed_at_exit() as processes:
        yield processes


def start(known, *words, **options):
    process = start_bellmax(*words, **options)
    known.append(process)
    return process


def kill(process, known):
    """SIGKILL a run; return the processes that it had started."""
    children = process.children(recursive=True)
    known += children
    process.kill()
    process.wait()
    return children


# Environments in their own processes: few, because each takes a second to start.
IN_PROCESSES = ["--env.timeout", "60", "--env.num-envs", "2", "--evaluation-episodes", "1"]


@pytest.mark.slow
def test_a_killed_run_resumes_from_its_last_checkpoint_and_leaves_no_process(lines, known, capsys):
    run = lines / "run"
    long = ["--steps", "1000000", *IN_PROCESSES]
    process = start(known, "train", "run.yaml", *long, "--out", run)
    wait_until(lambda: rows(run, "train"), process)
    # Environments of actors are made before those of evaluations.
    tasks = [child for child in process.children() if "spawn_main" in " ".join(child.cmdline())]
    min(tasks, key=lambda task: task.create_time()).kill()
    wait_until(lambda: rows(run, "train")[-1]["restarts_raised"], process)
    wait_until(lambda: len(checkpoints(run).steps()) > 1, process)
    wait_until(lambda: checkpoints(run).latest() < rows(run, "train")[-1]["step"], process)
    children = kill(process, known)
    assert len(children) >= 2 and have_ended(children)
    process.communicate()
    last = rows(run, "train")[-1]
    assert last["restarts_raised"] == 1 and not last["restarts_timed_out"]

    newest = checkpoints(run).steps()[-1]
    end = newest + 800
    assert last["step"] <= end  # only steps since the checkpoint are lost
    assert main(["resume", str(run), "--trust", "--steps", str(end)]) == 0
    assert f"resuming {run} at step {newest:,}, with new episodes" in capsys.readouterr().out
    train = rows(run, "train")
    # Every line of an undisturbed run, once: 402 is that of the first gradient step.
    assert [row["step"] for row in train] == [400, 402, *range(800, end + 1, 400)]
    assert [row["gradient_steps"] for row in train] == [row["step"] - 400 for row in train]
    assert [row["step"] for row in rows(run, "evaluation")] == [*range(800, end + 1, 800)]
    assert checkpoints(run).latest() == end
    # One step in ten opens an episode.
    counted = [row["env_steps"] / row["step"] for row in train]
    assert all(0.85 < share < 0.95 for share in counted), counted


@pytest.mark.slow
def test_processes_of_tasks_end_with_a_run_that_is_killed_while_one_hangs(lines, known):
    process = start(known, "train", "run.yaml", "--env.name", "lines:Stuck", "--env.timeout", 600)
    wait_until((lines / "stuck").exists, process)
    children = kill(process, known)
    assert len(children) >= 4 and have_ended(children)
    process.communicate()


HUNG = ["train", "run.yaml", "--env.name", "lines:Hung", "--host.lock-step"]
STUCK = "no rollout from actors 1, 2 of 2 for"


@pytest.fixture
def hanging(lines, monkeypatch):
    """A function that says whether both actors hang; they are released at the end."""
    monkeypatch.setattr(waiter, "STUCK_SECONDS", 0)
    monkeypatch.syspath_prepend(lines)
    tasks = importlib.import_module("lines")
    yield lambda: len(tasks.hanging) == 2
    tasks.RELEASED.set()
    for thread in threading.enumerate():
        if thread.name.startswith("actor-"):
            thread.join(60)


@pytest.mark.parametrize("lock_step", ["true", "false"])
def test_a_signal_ends_a_run_whose_environment_hangs_with_a_checkpoint(
    lines, hanging, monkeypatch, capsys, lock_step
):
    monkeypatch.setattr(waiter, "GIVE_UP_SECONDS", 0.5)
    with signal_when(hanging, signal.SIGTERM):
        assert main([*HUNG, lock_step, "--out", "run"]) == 143
    said = capsys.readouterr()
    assert STUCK in said.out and "stopped; checkpoint 0 is written" in said.out
    assert "terminated" in said.err and len(said.err.splitlines()) == 1
    assert checkpoints(lines / "run").steps() == [0]


# Prints a line after the first signal was handled.
IMPATIENT = """
import os
import bellmax.launch.actors.waiter as p
p.STUCK_SECONDS, p.GIVE_UP_SECONDS, ask = 0, 1e6, p.ActorWaiter.stop
p.ActorWaiter.stop = lambda self: (ask(self), os.write(1, b"asked\\n"))
"""


@pytest.mark.parametrize("lock_step", ["true", pytest.param("false", marks=pytest.mark.slow)])
def test_a_second_signal_ends_it_at_once(lines, known, lock_step):
    """The process ends although the threads of its actors hang for ever."""
    process = start(known, *HUNG, lock_step, "--out", "run", prepare=IMPATIENT)
    for word in (STUCK, "asked"):
        line = ""
        while word not in line:
            line = process.stdout.readline()
            assert line, process.communicate()
        process.send_signal(signal.SIGTERM)
    said, err = finish(process, 143)
    assert "terminated" in err and len(err.splitlines()) == 1, (said, err)
    assert "is written" not in said and checkpoints(lines / "run").steps() == []


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_its_processes_and_keeps_what_was_there(lines, capsys):
    run, here = lines / "run", psutil.Process()
    options = [*IN_PROCESSES, "--host.actors", "1"]
    assert main(["train", "run.yaml", *options, "--out", "run"]) == 0
    before, children = saved_files(run), here.children(recursive=True)
    capsys.readouterr()
    with files_limited_to(4_000):
        assert main(["resume", str(run), "--trust", "--steps", "2000"]) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1, err
    assert "checkpoint 1600 could not be saved" in err and "file too large" in err, err
    assert have_ended([p for p in here.children(recursive=True) if p not in children])
    assert saved_files(run) == before
