"""Tasks in their own processes, which take seconds to start, so each test checks several things."""

import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from bellmax import UserError
from bellmax.envs import LoopBatch, ProcessEnvironment
from bellmax.envs.host.loop import task_seed
from helpers.scripted_host import DIE, HANG, MEET, RAISE, USER, HostCounter


@pytest.fixture(autouse=True)
def no_child_is_left():
    before = set(multiprocessing.active_children())
    yield
    assert set(multiprocessing.active_children()) <= before


def act(*actions):
    return np.array(actions, np.int32)


def test_processes_step_as_the_loop_does_and_survive_death(tmp_path):
    make_one = functools.partial(HostCounter, ends_at=3, folder=str(tmp_path))
    batch = LoopBatch(make_one, 2, time_limit=2, timeout=300.0)
    inline = LoopBatch(make_one, 2, time_limit=2)
    assert batch.spec.name == "test/HostCounter on cpu"  # the parent's variable is ignored
    for mine, theirs in [(batch.reset(4), inline.reset(4))]:
        np.testing.assert_array_equal(mine.observation, theirs.observation)
    for actions in np.random.default_rng(0).integers(0, 3, (12, 2)).astype(np.int32):
        (mine, mine_first), (theirs, theirs_first) = batch.step(actions), inline.step(actions)
        np.testing.assert_array_equal(mine_first, theirs_first)
        for a, b in zip(mine, theirs, strict=True):
            assert np.asarray(a).dtype == np.asarray(b).dtype
            np.testing.assert_array_equal(a, b)
    assert batch.render().shape == (2, 2, 3)

    batch.reset(4)
    batch.step(
        act(MEET, MEET)
    )  # each waits for the other, so both must be asked before an answer is awaited
    children = {child.pid for child in multiprocessing.active_children()}
    newest = max(multiprocessing.active_children(), key=lambda c: int(c.name.split("-")[-1]))
    os.kill(newest.pid, signal.SIGKILL)  # of the second task
    ts, is_first = batch.step(act(0, 0))
    np.testing.assert_array_equal(is_first, [False, True])
    number = np.random.default_rng(task_seed(4, 1, 1)).integers(1_000_000)
    np.testing.assert_array_equal(ts.observation[1], [0, 0, number])
    assert batch.last_fault == "its process died with exit code -9"
    assert batch.faults == {"raised": 1, "timed out": 0, "not finite": 0}
    assert len(children & {child.pid for child in multiprocessing.active_children()}) == 1
    batch.close()


def test_a_task_that_hangs_is_killed():
    batch = LoopBatch(HostCounter, 1, timeout=1.0)
    batch.reset(0)
    ts, is_first = batch.step(act(HANG))
    assert is_first[0] and batch.faults == {"raised": 0, "timed out": 1, "not finite": 0}
    assert batch.last_fault == "TimeoutError: no answer within 1 s"
    np.testing.assert_array_equal(ts.reward, [0])
    batch.close()
    batch.close()


def test_what_a_child_raises_arrives():
    task = ProcessEnvironment(HostCounter, 300.0)
    task.reset(1)
    with pytest.raises(
        ChildProcessError, match=r"^RuntimeError: out of fuel \(.*_host.py, line \d+\)$"
    ):
        task.step(np.int32(RAISE))
    with pytest.raises(UserError, match=r"^Fill it up.$"):
        task.step(np.int32(USER))
    task.ask("step", np.int32(1))  # its answer is not fetched
    np.testing.assert_array_equal(task.step(np.int32(1)).observation[:2], [2, 2])
    with pytest.raises(ChildProcessError, match="died with exit code -9"):
        task.step(np.int32(DIE))
    with pytest.raises(ChildProcessError, match="its process is closed"):
        task.reset(1)
    task.close()


def test_mistakes_when_it_is_made():
    with pytest.raises(UserError, match="must be picklable"):
        LoopBatch(lambda: HostCounter(), 1, timeout=1.0)


LEFT_OPEN = """
import signal
import sys
from helpers.scripted_host import HANG, HostCounter
from bellmax.envs import ProcessEnvironment

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: None)
    task = ProcessEnvironment(HostCounter, 600.0)
    task.reset(1)
    print(task.pid, flush=True)
    sys.stdin.readline()
    task.step(1)
    print("stepped", flush=True)
    task.ask("step", HANG)
"""


def test_tasks_ignore_signals_to_the_process_group_and_end_with_the_script(tmp_path):
    (tmp_path / "script.py").write_text(LEFT_OPEN)
    folders = [Path(__file__).parents[3] / "src", Path(__file__).parents[2]]
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdin and process.stdout
    child = psutil.Process(int(process.stdout.readline()))
    os.killpg(process.pid, signal.SIGTERM)
    child.send_signal(signal.SIGTERM)  # as a scheduler that signals each process of a job
    time.sleep(0.1)
    process.stdin.write("continue\n")
    process.stdin.flush()
    assert process.stdout.readline() == "stepped\n"
    # The child exits without closing its task, which hangs and ignores SIGTERM.
    assert process.wait(timeout=300) == 0
    assert psutil.wait_procs([child], timeout=300)[1] == []
    process.stdin.close()
    process.stdout.close()
