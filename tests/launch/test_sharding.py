"""Eight devices learn what one device learns, from the same global batch."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import flax.serialization
import jax
import numpy as np
import pytest

from bellmax.launch.cli import main
from helpers.sharded import CASES

TESTS = Path(__file__).parents[1]
SOURCE = str(TESTS.parent / "src")
PROGRAM = "import sys; from bellmax.launch.cli import main; sys.exit(main())"
CONFIG = """
steps: 1600
warmup_steps: 400
rollout_length: 2
updates_per_rollout: 2
log_every: 400
evaluate_every: 0
evaluation_episodes: 8
evaluation_max_steps: 30
checkpoint_every: 800
agent: {name: dqn, batch_size: 16, network: {hidden: [16]}}
env: {name: bellmax/CartPole, num_envs: 8}
replay: {capacity: 2000}
"""


def python(*words, devices=8, cwd=None):
    flags = f"--xla_force_host_platform_device_count={devices}"
    process = subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "PYTHONPATH": f"{SOURCE}:{TESTS}", "XLA_FLAGS": flags},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.mark.parametrize("case", [*CASES, "host"])
def test_eight_devices_equal_one(case):
    assert python(str(TESTS / "helpers" / "sharded.py"), case).endswith("equal\n")


def rows(run):
    parsed = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in parsed if row["kind"] == "train"]


def test_a_run_of_eight_devices_resumes_on_them(tmp_path):
    (tmp_path / "run.yaml").write_text(CONFIG)
    train = ["-c", PROGRAM, "train", "run.yaml"]
    python(*train, "--out", "one", cwd=tmp_path)
    python(*train, "--devices", "8", "--steps", "800", "--out", "eight", cwd=tmp_path)
    python("-c", PROGRAM, "resume", "eight", "--steps", "1600", cwd=tmp_path)
    ours, theirs = rows(tmp_path / "eight"), rows(tmp_path / "one")
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for one, other in zip(ours, theirs, strict=True):
        if one["loss"] is not None:
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-2)
        assert one["gradient_steps"] == other["gradient_steps"]
    # One device is enough to play its policy, and to go on if it is told so.
    python("-c", PROGRAM, "evaluate", "eight", "--episodes", "2", devices=1, cwd=tmp_path)
    alone = ["resume", "eight", "--steps", "2000", "--devices", "1"]
    assert "2,000/2,000" in python("-c", PROGRAM, *alone, devices=1, cwd=tmp_path)


def begin(cwd, *words):
    """The same command as the two processes of one run, on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *words, "--coordinator", address]
            + ["--processes", "2", "--process", str(i)],
            env={**os.environ, "PYTHONPATH": SOURCE, "JAX_PLATFORMS": "cpu"},
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]


def together(cwd, *words):
    """What the two processes print."""
    begun = begin(cwd, *words)
    said = [process.communicate(timeout=600) for process in begun]
    assert [process.returncode for process in begun] == [0, 0], said
    return [out for out, _ in said]


def parameters(run):
    text = (run / "policy" / "seed-0.msgpack").read_bytes()
    return jax.tree.leaves(flax.serialization.msgpack_restore(text))


def test_two_processes_learn_what_one_with_two_devices_learns(tmp_path):
    (tmp_path / "run.yaml").write_text(CONFIG + "devices: 2\n")
    python("-c", PROGRAM, "train", "run.yaml", "--out", "one", devices=2, cwd=tmp_path)
    together(tmp_path, "train", "run.yaml", "--steps", "800", "--out", "two")
    first, second = together(tmp_path, "resume", "two", "--steps", "1600")
    assert "resuming two at step 800" in first and "1,600/1,600" in first
    assert "1,600" not in second  # one of them speaks, and writes
    one, two = (parameters(tmp_path / name) for name in ("one", "two"))
    assert len(one) == len(two) > 2
    for x, y in zip(one, two, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5)
    losses = [[row["loss"] for row in rows(tmp_path / name)] for name in ("one", "two")]
    assert losses[0][0] is None and losses[1][1:] == pytest.approx(losses[0][1:], rel=1e-3)


@pytest.mark.parametrize("dies", [0, 1])
def test_a_process_that_dies_is_told_by_the_other(tmp_path, dies):
    (tmp_path / "run.yaml").write_text(CONFIG + "devices: 2\n")
    begun = begin(tmp_path, "train", "run.yaml", "--steps", "1000000", "--out", "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    while not (checkpoints / "800").exists() and begun[0].poll() is None:
        time.sleep(0.05)
    begun[dies].kill()
    out, err = begun[1 - dies].communicate(timeout=300)
    begun[dies].communicate()
    last = err.splitlines()[-1]
    if dies == 1:  # the first one holds them together: without it the other can only stop
        assert begun[0].returncode == 1 and last.startswith("bellmax: another process"), (out, err)
        assert "bellmax resume run" in last
    assert begun[1 - dies].returncode != 0 and (checkpoints / "800").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--devices 3", "devices must divide env.num_envs = 8, got 3"),
        ("--devices 8", "devices must be at most 1, the cpu devices that there are, got 8"),
        ("--process 1", "--processes and --process need --coordinator"),
        ("--coordinator 127.0.0.1:9", "needs --processes N and --process I"),
        ("--coordinator 127.0.0.1:9 --processes 2 --process 2", "--process must be in [0, 1]"),
        ("--coordinator auto --processes 0", "--processes must be at least 1, got 0"),
    ],
)
def test_mistakes_get_one_sentence(tmp_path, monkeypatch, capsys, words, sentence):
    monkeypatch.setattr("bellmax.launch.devices.configure_jax", lambda **_: None)
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(CONFIG)
    assert main(["train", "run.yaml", "--out", "run", *words.split()]) == 2
    assert sentence in capsys.readouterr().err
