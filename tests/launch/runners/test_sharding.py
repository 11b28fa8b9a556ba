"""Eight devices learn what one device learns, from the same global batch."""

import functools
import socket
from pathlib import Path

import flax.serialization
import jax
import numpy as np
import pytest

from bellmax.launch.cli import main
from helpers.processes import HANG_SECONDS, finish, start_bellmax, start_python, wait_until
from helpers.runs import checkpoints, rows
from helpers.sharded import CASES

# Results are compared within a tolerance, and the older code generator compiles in less time.
OLDER = "--xla_cpu_use_fusion_emitters=false"
EIGHT = {"XLA_FLAGS": f"{OLDER} --xla_force_host_platform_device_count=8"}
TWO = {"XLA_FLAGS": f"{OLDER} --xla_force_host_platform_device_count=2"}
ONE = {"JAX_PLATFORMS": "cpu"}
# Each case is compiled for one device and for eight, which takes long.
FAST = ("priorities",)
SLOW = [*(case for case in CASES if case not in FAST), "host"]
CONFIG = """
steps: 1600
warmup_steps: 400
rollout_length: 10
updates_per_rollout: 4
log_every: 400
evaluate_every: 0
evaluation_episodes: 8
evaluation_max_steps: 30
checkpoint_every: 800
agent: {name: dqn, batch_size: 16, network: {hidden: [16]}}
env: {name: bellmax/CartPole, num_envs: 8}
replay: {capacity: 2000}
"""


@functools.cache
def compared(cases):
    """Output of one process with eight devices for all these cases, by case."""
    out, _ = finish(start_python("-m", "helpers.sharded", *cases, env=EIGHT))
    starts = [out.index(f"{case}: ") for case in cases] + [len(out)]
    return {case: out[starts[i] : starts[i + 1]] for i, case in enumerate(cases)}


@pytest.mark.parametrize("case", FAST)
def test_eight_devices_equal_one(case):
    assert compared(FAST)[case] == f"{case}: equal\n"


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW)
def test_eight_devices_equal_one_with_other_agents(case):
    assert compared(tuple(SLOW))[case] == f"{case}: equal\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(CONFIG)
    return tmp_path


# Another command before that of the process.
BEGUN = "from bellmax.launch.cli import main; assert main(%r) == 0; "


@pytest.mark.slow
def test_a_run_of_eight_devices_resumes_on_them(folder, capsys):
    assert main(["train", "run.yaml", "--out", "one"]) == 0
    words = ["train", "run.yaml", "--devices", "8", "--steps", "800", "--out", "eight"]
    finish(start_bellmax("resume", "eight", "--steps", "1600", env=EIGHT, prepare=BEGUN % words))
    ours, theirs = (rows(folder / name, "train") for name in ("eight", "one"))
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for one, other in zip(ours, theirs, strict=True):
        if one["loss"] is not None:
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-2)
        assert one["gradient_steps"] == other["gradient_steps"]
    # One device can play its policy, and resume it with `--devices 1`.
    assert main(["evaluate", "eight", "--episodes", "2"]) == 0
    capsys.readouterr()
    assert main(["resume", "eight", "--steps", "2000", "--devices", "1"]) == 0
    assert "2,000/2,000" in capsys.readouterr().out
    finish(start_bellmax("resume", "eight", "--steps", "2400", "--devices", "8", env=EIGHT))
    assert rows(folder / "eight", "train")[-1]["step"] == 2400


# The second process looks at a new folder later than the first, which must wait before it writes.
LATE = """
import time
import bellmax.launch.training.train as train
check_new = train.check_new
train.check_new = lambda out: (time.sleep(2), check_new(out))
"""


def start_two(*words):
    """Start the two processes of one run on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    words += ("--coordinator", address, "--processes", "2")
    prepare = ["", LATE]
    return [start_bellmax(*words, "--process", i, env=ONE, prepare=prepare[i]) for i in range(2)]


def run_two(*words):
    """Return the output of the two processes."""
    return [finish(process)[0] for process in start_two(*words)]


def parameters(run):
    text = (run / "policy" / "seed-0.msgpack").read_bytes()
    return jax.tree.leaves(flax.serialization.msgpack_restore(text))


@pytest.mark.slow
def test_two_processes_learn_what_one_with_two_devices_learns(folder):
    Path("run.yaml").write_text(CONFIG + "devices: 2\n")
    finish(start_bellmax("train", "run.yaml", "--out", "one", env=TWO))
    run_two("train", "run.yaml", "--steps", "800", "--out", "two")
    first, second = run_two("resume", "two", "--steps", "1600")
    assert "resuming two at step 800" in first and "1,600/1,600" in first
    assert "1,600" not in second  # one of them prints and writes
    one, two = (parameters(folder / name) for name in ("one", "two"))
    assert len(one) == len(two) > 2
    for x, y in zip(one, two, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5)
    losses = [[row["loss"] for row in rows(folder / name, "train")] for name in ("one", "two")]
    assert losses[0][0] is None and losses[1][1:] == pytest.approx(losses[0][1:], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("dies", [0, 1])
def test_a_process_that_dies_is_told_by_the_other(folder, dies):
    Path("run.yaml").write_text(CONFIG + "devices: 2\n")
    # Gradient steps take the time, because the processes average them; so there are few.
    words = "--steps 1000000 --rollout-length 50 --updates-per-rollout 2 --log-every 400".split()
    words += ["--checkpoint-every", "6400", "--out", "run"]
    run, begun = folder / "run", start_two("train", "run.yaml", *words)

    def trains():
        """Some time after a save, because in a save the processes wait minutes for each other."""
        saved, written = checkpoints(run).latest(), rows(run, "train")
        return saved and saved < written[-1]["step"] < saved + 3200

    wait_until(trains, *begun)
    begun[dies].kill()
    out, err = begun[1 - dies].communicate(timeout=HANG_SECONDS)
    begun[dies].communicate()
    last = err.splitlines()[-1]
    if dies == 1:  # the first process coordinates: without it the other can only stop
        assert begun[0].returncode == 1 and last.startswith("bellmax: another process"), (out, err)
        assert "bellmax resume run" in last
    assert begun[1 - dies].returncode != 0 and checkpoints(run).steps()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--devices 3", "devices must be a divisor of env.num_envs = 8, got 3"),
        ("--devices 8", "devices must be at most 1, the number of cpu devices, got 8"),
        ("--process 1", "--coordinator must be ADDRESS:PORT or auto with --process"),
        (
            "--coordinator 127.0.0.1:9",
            "--processes must be given with --coordinator ADDRESS:PORT, got nothing",
        ),
        ("--coordinator 127.0.0.1:9 --processes 2 --process 2", "--process must be in [0, 1]"),
        ("--coordinator auto --processes 0", "--processes must be at least 1, got 0"),
    ],
)
def test_mistakes_get_one_sentence(folder, capsys, words, sentence):
    assert main(["train", "run.yaml", "--out", "run", *words.split()]) == 2
    assert sentence in capsys.readouterr().err
