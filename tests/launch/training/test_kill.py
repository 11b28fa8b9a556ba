"""A run that is killed at any moment and resumed equals one that was not killed."""

import shutil
import signal
import time

import pytest

from bellmax.launch.cli import main
from helpers.processes import finish, start_bellmax
from helpers.resumable import COMMON, CONFIGS, ON_POLICY
from helpers.runs import assert_same_run, rows, saved

ENDS = 5000
SETTINGS = f"""
steps: {ENDS}
evaluate_every: 500
checkpoint_every: 1000
"""
KILLED = [
    "munchausen_dqn",
    "expectrl",
    "byol_explore",
]


def is_training(run):
    """Return whether the run is training between two checkpoints, after the first."""
    steps, unfinished = saved(run)
    written = rows(run)
    if not steps or unfinished or not written:
        return False
    return steps[-1] < written[-1]["step"] < min(steps[-1] + 800, ENDS)


def is_saving(run):
    steps, unfinished = saved(run)
    return bool(steps) and bool(unfinished)


def kill_when(moment, run, *arguments):
    """SIGKILL a command when `moment(run)` is true, and assert that it is still true afterwards."""
    before = run.with_name("before")
    shutil.rmtree(before, ignore_errors=True)
    if run.exists():
        shutil.copytree(run, before)
    for _ in range(10):
        process = start_bellmax(*arguments)
        # The process removes the remains of the previous kill when it resumes; wait for its own.
        while process.poll() is None and not moment(run):
            time.sleep(0.0005)
        process.send_signal(signal.SIGKILL)
        _, err = process.communicate()
        if process.returncode == -signal.SIGKILL and moment(run):
            return
        assert process.returncode in (0, -signal.SIGKILL), err
        shutil.rmtree(run)  # the kill came too late: try again from the same state
        if before.exists():
            shutil.copytree(before, run)
    pytest.fail(f"no kill of {arguments} hit {moment.__name__}")


# The process kills itself in the middle of its second save.
KILLS_ITSELF = """
import os, signal
from bellmax.launch.training import checkpoints
write, calls = checkpoints.write_manifest, []
def write_or_die(*args):
    calls.append(args)
    os.kill(os.getpid(), signal.SIGKILL) if len(calls) == 2 else write(*args)
checkpoints.write_manifest = write_or_die
"""


def test_killed_in_its_second_save_it_resumes_bitwise(tmp_path, finished, capsys):
    run = tmp_path / "killed"
    process = start_bellmax("train", "small.yaml", "--out", run, prepare=KILLS_ITSELF)
    finish(process, -signal.SIGKILL)
    steps, unfinished = saved(run)
    assert steps == [400] and len(unfinished) == 1 and "800" in unfinished[0]
    assert main(["resume", str(run)]) == 0
    assert f"resuming {run} at step 400" in capsys.readouterr().out
    assert_same_run(run, finished)


@pytest.mark.slow
@pytest.mark.parametrize("name", KILLED)
def test_killed_in_training_and_in_a_save_it_resumes_bitwise(tmp_path, capsys, name):
    source, whole, run = tmp_path / "run.yaml", tmp_path / "whole", tmp_path / "killed"
    source.write_text(COMMON + SETTINGS + CONFIGS[name])
    options = [] if name in ON_POLICY else ["--replay.capacity", "2000"]
    assert main(["train", str(source), "--out", str(whole), *options]) == 0
    kill_when(is_training, run, "train", source, "--out", run, *options)
    first = saved(run)[0][-1]
    assert rows(run)[-1]["step"] > first
    kill_when(is_saving, run, "resume", run)
    newest = saved(run)[0][-1]
    assert newest >= first and newest < ENDS
    capsys.readouterr()
    assert main(["resume", str(run)]) == 0
    out = capsys.readouterr().out
    assert f"at step {newest:,}" in out and f"{newest + 100:,}/{ENDS:,}" in out
    assert_same_run(run, whole)
