"""Kills, full disks and many saves leave earlier checkpoints intact."""

import gc
import logging
import resource
import signal
import subprocess
import sys
import time

import jax
import pytest

from bellmax.launch.training.checkpoints import CheckpointError, Checkpoints
from helpers.checkpointing import ABSTRACT, make_state, saved

KILLED = """
import sys
from pathlib import Path
import jax
import jax.numpy as jnp
from bellmax.launch.training.checkpoints import Checkpoints

checkpoints = Checkpoints(Path(sys.argv[1]), keep=2)
checkpoints.save(1, {"x": jnp.arange(10)}, metric=None, extra={})
noise = jax.random.bits(jax.random.key(0), (20, 2_000_000))
print("ready", flush=True)
for step in range(2, 1000):
    checkpoints.save(step, {"x": noise}, metric=float(step), extra={})
"""


@pytest.mark.parametrize("delay", [0.0, 0.1])
def test_a_kill_in_the_middle_of_a_save_leaves_the_earlier_ones(tmp_path, delay):
    process = subprocess.Popen([sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE)
    with process:
        assert process.stdout and process.stdout.readline() == b"ready\n"
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("*.unfinished*")) and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
    leftovers = list(tmp_path.glob("*.*"))
    reader = Checkpoints(tmp_path, keep=2, read_only=True)
    assert list(tmp_path.glob("*.*")) == leftovers
    assert reader.latest() is not None and (leftovers or delay)  # later, it may be between saves
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert not list(tmp_path.glob("*.*"))
    every = ("state", "meta")
    assert checkpoints.steps()
    assert all(checkpoints._is_intact(step, every) for step in checkpoints.steps())


def test_a_full_disk_keeps_the_earlier_checkpoint(tmp_path):
    checkpoints = saved(tmp_path, [1])
    noise = jax.random.bits(jax.random.key(0), 500_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(
            CheckpointError, match="2 could not be saved .*checkpoint 1 is kept"
        ) as e:
            checkpoints.save(2, {"x": noise}, metric=None, extra={})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert "file too large" in str(e.value) and "\n" not in str(e.value)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    checkpoints.save(2, {"x": noise}, metric=None, extra={})
    assert checkpoints.steps() == [1, 2]


FULL = """
import resource
import signal
import sys
from pathlib import Path
import jax
import jax.numpy as jnp
from bellmax.launch.training import pieces
from bellmax.launch.training.checkpoints import CheckpointError, Checkpoints

pieces.PIECE_BYTES = 1 << 20
checkpoints = Checkpoints(Path(sys.argv[1]), keep=2)
checkpoints.save(1, {"x": jnp.ones(3)}, metric=None, extra={})
noise = jax.random.bits(jax.random.key(0), (6, 50_000))
state = {"replay": jnp.tile(noise[0], 12), "learner": list(noise)}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit in (100_000, 3_000, 100_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        checkpoints.save(2, state, metric=None, extra={})
    except CheckpointError as error:
        print(error)
"""


def test_each_save_to_a_full_disk_reports_one_sentence(tmp_path):
    """orbax's threads and tasks fail one after the other, some after the save has failed."""
    process = subprocess.run(
        [sys.executable, "-c", FULL, tmp_path / "run"], capture_output=True, text=True
    )
    lines = process.stdout.splitlines()
    assert (process.returncode, process.stderr, len(lines)) == (0, "", 3), process
    assert all("(file too large); checkpoint 1 is kept" in line for line in lines)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["1"]


def test_a_folder_that_cannot_be_written_is_an_error_for_the_user(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="there is no earlier one"):
        Checkpoints(tmp_path / "file" / "run", keep=1).save(1, {}, metric=None, extra={})


@pytest.mark.slow
def test_saving_leaves_nothing_in_memory(tmp_path):
    checkpoints = saved(tmp_path, [1, 2, 3], keep=1)
    gc.collect()
    before = sys.getallocatedblocks()
    for step in range(4, 24):
        checkpoints.save(step, make_state(), metric=None, extra={})
    gc.collect()
    # tensorstore caches 640 strings per save of orbax's requests: specifications and metrics.
    assert sys.getallocatedblocks() - before < 20 * 900


def test_orbax_is_imported_when_it_is_used():
    """It takes about half a second."""
    program = "import sys, bellmax.launch.cli, bellmax.launch.training.train; "
    program += "sys.exit([name for name in sys.modules if name.startswith('orbax')] != [])"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_saving_is_silent(tmp_path, capfd, caplog):
    with caplog.at_level(logging.INFO):
        saved(tmp_path, [1]).restore(1, ABSTRACT)
    assert not caplog.records and capfd.readouterr() == ("", "")
