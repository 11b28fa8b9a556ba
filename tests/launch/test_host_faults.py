"""Host runs that are killed, stopped or out of disk: what stays, and what goes on."""

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from bellmax.envs import LoopBatch
from bellmax.envs.host import HostVector
from bellmax.launch.actors import Actor
from bellmax.launch.checkpoints import Checkpoints
from bellmax.launch.cli import main

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from soak_checks import Tally  # noqa: E402
from soak_task import FaultyCartPole, read_ledger  # noqa: E402

SOURCE = str(Path(__file__).parents[2] / "src")
PROGRAM = "import sys; from bellmax.launch.cli import main; sys.exit(main())"
CONFIG = """
steps: 1200
warmup_steps: 400
updates_per_rollout: 2
log_every: 400
evaluate_every: 800
evaluation_episodes: 2
evaluation_max_steps: 30
checkpoint_every: 800
agent: {name: dqn, batch_size: 16, network: {hidden: [16]}}
env: {name: "lines:Line", num_envs: 4}
host: {actors: 2}
replay: {capacity: 2000}
"""
# Tasks of one's own. Of the second the first instance to step hangs for good, of the third
# each; those of the last break at their fifth step.
TASKS = """
import pathlib
import time
import gymnasium
import numpy as np

class Line(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.time += 1
        return np.full(2, self.time / 9, np.float32), 1.0, self.time == 9, False, {}

class Stuck(Line):
    def step(self, action):
        try:
            pathlib.Path("stuck").touch(exist_ok=False)
        except FileExistsError:
            return super().step(action)
        time.sleep(1e6)

class Hung(Line):
    def step(self, action):
        time.sleep(1e6)

class Shaky(Line):
    left = 5

    def step(self, action):
        self.left -= 1
        if not self.left:
            raise RuntimeError("out of steps")
        return super().step(action)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("bellmax.launch.devices.configure_jax", lambda **_: None)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(CONFIG)
    (tmp_path / "lines.py").write_text(TASKS)
    return tmp_path


@pytest.fixture
def known():
    """Processes of a test: what is left of them afterwards is killed."""
    processes = []
    yield processes
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def start(known, *arguments, prepare=""):
    process = psutil.Popen(
        [sys.executable, "-c", prepare + PROGRAM, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": SOURCE},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    known.append(process)
    return process


def children_of(process, known):
    children = process.children(recursive=True)
    known += children
    return children


def wait(condition, process):
    """Waits until the condition holds, which it must before the process ends."""
    until = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)


def are_gone(processes):
    """Whether all of them end by themselves; one that nobody has reaped yet has ended."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        alive = []
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                alive += [process] * (process.status() != psutil.STATUS_ZOMBIE)
        if not alive:
            return True
        time.sleep(0.05)
    return False


def rows(run, kind="train"):
    """Rows of the log; a line cut short by a kill is left out."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    parsed = [json.loads(line) for line in lines if line.endswith("\n")]
    return [row for row in parsed if row["kind"] == kind]


def checkpoints(run):
    return Checkpoints(run / "checkpoints", keep=100, read_only=True)


def test_killed_it_goes_on_from_its_last_checkpoint_and_leaves_no_process(folder, known):
    run = folder / "run"
    long = ["--steps", "1000000", "--env.timeout", "60"]
    process = start(known, "train", "run.yaml", *long, "--out", run)
    wait(lambda: rows(run), process)
    # Environments of actors are there before those of evaluations.
    tasks = [child for child in process.children() if "spawn_main" in " ".join(child.cmdline())]
    min(tasks, key=lambda task: task.create_time()).kill()
    wait(lambda: rows(run)[-1]["restarts_raised"], process)
    wait(lambda: len(checkpoints(run).steps()) > 1, process)
    wait(lambda: checkpoints(run).latest() < rows(run)[-1]["step"], process)
    children = children_of(process, known)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(children) >= 4 and are_gone(children)
    process.communicate()
    assert rows(run)[-1]["restarts_raised"] == 1 and not rows(run)[-1]["restarts_timed_out"]

    newest = checkpoints(run).steps()[-1]
    end = newest + 800
    assert rows(run)[-1]["step"] <= end  # what is lost is what came since
    resumed = start(known, "resume", run, "--steps", end)
    out, err = resumed.communicate(timeout=240)
    assert (resumed.returncode, err) == (0, ""), (out, err)
    assert f"resuming {run} at step {newest:,}, with new episodes" in out
    train = rows(run)
    # Every line that a run has which nothing disturbed, once: 404 is the first gradient step's.
    assert [row["step"] for row in train] == [400, 404, *range(800, end + 1, 400)]
    assert [row["gradient_steps"] for row in train] == [(row["step"] - 400) // 2 for row in train]
    assert [row["step"] for row in rows(run, "evaluation")] == [*range(800, end + 1, 800)]
    assert checkpoints(run).latest() == end
    # One step in ten opens an episode.
    counted = [row["env_steps"] / row["step"] for row in train]
    assert all(0.85 < share < 0.95 for share in counted), counted


def test_processes_of_tasks_end_with_a_run_that_is_killed_while_one_hangs(folder, known):
    process = start(known, "train", "run.yaml", "--env.name", "lines:Stuck", "--env.timeout", 600)
    wait((folder / "stuck").exists, process)
    children = children_of(process, known)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(children) >= 4 and are_gone(children)
    process.communicate()


@pytest.mark.parametrize("lock_step", ["true", "false"])
def test_signals_end_a_run_whose_environment_hangs(folder, known, lock_step):
    """The first after a while, with a checkpoint; a second one at once."""
    impatient = "import bellmax.launch.patience as p; p.GIVE_UP_SECONDS, p.STUCK_SECONDS = {}, 0; "
    words = ["train", "run.yaml", "--env.name", "lines:Hung", "--host.lock-step", lock_step]
    for out, seconds, signals in [("one", 1, 1), ("two", 1e6, 2)]:
        process = start(known, *words, "--out", out, prepare=impatient.format(seconds))
        line = ""
        while "no rollout from actors 1, 2 of 2 for" not in line:
            line = process.stdout.readline()
            assert line, process.communicate()
        for _ in range(signals):
            process.send_signal(signal.SIGTERM)
            time.sleep(1.5 - signals / 2)
        said, err = process.communicate(timeout=60)
        assert process.returncode == 143 and "terminated" in err, (said, err)
        assert len(err.splitlines()) == 1
        saved = checkpoints(folder / out).steps()
        assert ("stopped; checkpoint 0 is written" in said, saved) == (
            signals == 1,
            [0][signals - 1 :],
        )


def test_a_full_disk_ends_the_run_and_its_processes_and_keeps_what_was_there(folder, known, capsys):
    run = folder / "run"
    assert main(["train", "run.yaml", "--env.timeout", "60", "--out", "run"]) == 0
    saved = [path for path in (run / "checkpoints").rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in saved}
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, 6_000)); "
    process = start(known, "resume", run, "--steps", 2000, prepare=full)
    wait(lambda: len(process.children()) > 4, process)  # that of multiprocessing's own is one
    children = children_of(process, known)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 1 and len(err.splitlines()) == 1, err
    assert "checkpoint 1600 could not be saved" in err and "file too large" in err, err
    assert are_gone(children)
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"800", "1200"}
    assert not [path for path, data in before.items() if path.read_bytes() != data]
    assert main(["resume", "run", "--steps", "2000"]) == 0
    assert checkpoints(run).latest() == 2000 and rows(run)[-1]["step"] == 2000


def soaked(rollouts):
    return functools.reduce(Tally.take, rollouts, Tally())


def test_the_soak_sees_what_is_lost_doubled_or_mislabelled(tmp_path):
    ledger = tmp_path / "ledger"
    env = HostVector(LoopBatch(functools.partial(FaultyCartPole, str(ledger), 40), 4))

    def act(observation, memory, is_first, now):
        return observation, np.arange(now, now + 4, dtype=np.int32) % 2, (), ()

    actor = Actor(env, lambda acting: act, length=4, observes=False, normalised=False, seed=0)
    taken = [actor.collect(None, (), now) for now in range(0, 400, 4)]
    rollouts = [collected.records for collected, _ in taken]
    whole = soaked(rollouts)
    assert not any(whole.verdict) and whole.steps == 400
    assert whole.transitions == sum(sums.env_steps for _, sums in taken)
    raised = read_ledger(ledger, "raised")
    assert len(raised) > 20 and len(whole.numbers) == 4 + len(raised)
    assert all(whole.numbers[i] == number - 1 for i, number in raised.items())

    at = next(i for i, steps in enumerate(rollouts) if i > 9 and steps.is_last.any())
    before, one, after = rollouts[:at], rollouts[at], rollouts[at + 1 :]
    wrong = {
        "lost": [[*before, *after], [*before, one, *after[1:]], rollouts[1:]],
        "doubled": [[*before, one, *rollouts[at:]], [*rollouts, *rollouts]],
        "mislabelled": [
            [*before, changed, *after]
            for changed in (
                one._replace(is_first=~one.is_first),
                one._replace(is_last=np.zeros_like(one.is_last)),
                one._replace(is_last=np.ones_like(one.is_last)),
                one._replace(action=1 - one.action),
                one._replace(reward=one.reward + 1),
                one._replace(discount=1 - one.discount),
            )
        ],
    }
    for kind, streams in wrong.items():
        for stream in streams:
            assert getattr(soaked(stream).verdict, kind) > 0, kind
