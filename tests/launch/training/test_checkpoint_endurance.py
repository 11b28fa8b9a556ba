"""Many saves: killed saves, and the memory that each save leaves allocated."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.processes import SOURCE

pytestmark = pytest.mark.slow
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(SOURCE), "JAX_PLATFORMS": "cpu"}
KILLS, NUM_SAVES = 8, 100
# Resumes, checks the restored state bit for bit, and saves until it is killed. The replay is in
# pieces. Prints the step before each save.
KILLED = """
import sys
from pathlib import Path
import jax
import jax.numpy as jnp
from bellmax.launch.training import pieces
from bellmax.launch.training.checkpoints import Checkpoints

pieces.PIECE_BYTES = 1 << 20

def make(step):
    key = jax.random.fold_in(jax.random.key(0), step)
    frames = jax.random.bits(key, (1, 6000, 1000), "uint8")
    return {"learner": {"step": jnp.int32(step), "key": key}, "replay": frames}

checkpoints = Checkpoints(Path(sys.argv[1]), keep=1)
step = 0
if checkpoints.steps():
    step, state, warning = checkpoints.restore_latest_valid(jax.eval_shape(lambda: make(0)))
    same = jax.tree.map(lambda x, y: bool((x == y).all()), state, make(step))
    assert warning is None and all(jax.tree.leaves(same)), (step, warning, same)
    print(f"resumed {step}", flush=True)
for step in range(step + 1, 10_000):
    state = make(step)
    print(f"saving {step}", flush=True)
    checkpoints.save(step, state, metric=None, extra={})
    print(f"saved {step}", flush=True)
"""
SAVES = """
import gc
import sys
from pathlib import Path
import psutil
from bellmax.launch.training.checkpoints import Checkpoints
from bellmax.launch.config.run_config import load
from bellmax.launch.training.experiment import build

gc.set_threshold(10_000, 10, 10)  # as in the command
state = build(load("munchausen_dqn/cartpole", [])).init()
checkpoints = Checkpoints(Path(sys.argv[1]), keep=1)
checkpoints.save(0, state, metric=None, extra={})
before = psutil.Process().memory_info().rss
for step in range(1, int(sys.argv[2])):
    checkpoints.save(step, state, metric=None, extra={})
print((psutil.Process().memory_info().rss - before) / 1e6)
"""


def start(program: str, folder: Path, *words: str) -> subprocess.Popen:
    words = sys.executable, "-c", program, str(folder), *words
    return subprocess.Popen(
        words, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.timeout(1800)
def test_kills_during_saves_each_leave_an_intact_checkpoint(tmp_path):
    """The kill is at a random moment of the process's second or third save."""
    generator = random.Random(0)
    during, written = 0, 0
    for kill in range(KILLS):
        with start(KILLED, tmp_path) as process:
            assert process.stdout and process.stderr
            line = process.stdout.readline()
            if kill:
                # At least as new as the last step that was reported as saved.
                assert line.startswith("resumed "), (kill, line, process.stderr.read())
                assert int(line.split()[1]) >= written
                line = process.stdout.readline()
            assert line.startswith("saving "), (kill, line, process.stderr.read())
            began = time.monotonic()
            written = int(process.stdout.readline().removeprefix("saved "))
            seconds = time.monotonic() - began
            time.sleep(generator.uniform(0, 2) * seconds)
            process.send_signal(signal.SIGKILL)
            for line in process.stdout.read().splitlines():
                if line.startswith("saved "):
                    written = int(line.split()[1])
        during += bool(list(tmp_path.glob("*.unfinished*")) + list(tmp_path.glob("*.deleted")))
    print(f"{during} of {KILLS} kills came during a save or a removal")
    assert during >= KILLS // 2


@pytest.mark.timeout(900)
def test_many_saves_leave_little_in_memory(tmp_path):
    """tensorstore caches strings of orbax's requests, and malloc's heaps keep freed memory."""
    process = start(SAVES, tmp_path, str(NUM_SAVES))
    out, err = process.communicate()
    assert process.returncode == 0, err
    print(f"{float(out):.1f} MB more after {NUM_SAVES} saves")
    assert float(out) < 60
