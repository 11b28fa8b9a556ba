"""Checkpoints of states that are sharded over devices, in one process and in two."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from bellmax.launch.training.checkpoints import Checkpoints
from helpers.device_checkpoints import make

TESTS = Path(__file__).parents[2]


def start(*words, devices):
    """Start helpers.device_checkpoints in a new process."""
    return subprocess.Popen(
        [sys.executable, "-m", "helpers.device_checkpoints", *map(str, words)],
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": f"{TESTS.parent / 'src'}:{TESTS}",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*processes):
    said = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return [out.splitlines()[-1] for out, _ in said]  # Gloo prints other lines before


def two(folder, what):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return finish(*(start(folder, what, address, i, devices=2) for i in range(2)))


def assert_whole(folder):
    state = Checkpoints(folder, keep=1, read_only=True).restore(1, jax.eval_shape(make))
    np.testing.assert_array_equal(state["replay"], make()["replay"])
    assert not state["replay"].committed


@pytest.mark.slow
def test_devices_save_their_parts_and_others_read_theirs(tmp_path):
    assert finish(start(tmp_path, "save", devices=4)) == ["save with 4 devices"]
    for devices in (4, 2):
        assert finish(start(tmp_path, "restore", devices=devices))
    assert_whole(tmp_path)


@pytest.mark.slow
def test_processes_save_their_parts_and_others_read_theirs(tmp_path):
    assert two(tmp_path, "save") == ["save with 4 devices"] * 2
    assert two(tmp_path, "restore") == ["restore with 4 devices"] * 2
    assert finish(start(tmp_path, "restore", devices=8)) == ["restore with 8 devices"]
    assert_whole(tmp_path)
