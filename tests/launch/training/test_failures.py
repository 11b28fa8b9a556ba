"""Failures during training: one sentence, an exit code, and no loss of data."""

import signal
from pathlib import Path

import jax
import pytest

from bellmax.launch.cli import main
from bellmax.launch.config.run_config import load
from bellmax.launch.training.checkpoint_files import STATE
from bellmax.launch.training.experiment import build
from bellmax.launch.training.policy import read_policies
from helpers.faults import files_limited_to, signal_when, stdout_closed_by_its_reader
from helpers.processes import finish, start_bellmax, wait_until
from helpers.runs import checkpoints, contents, rows, saved_files

# Rewards are NaN from the 100th step of the only episode on; its last observation is a NaN's too.
BAD_ENV = """
import jax.numpy as jnp
from dm_env import specs
from bellmax.envs import EnvSpec, TimeStep

class make:
    spec = EnvSpec("bad", specs.Array((2,), "float32"), specs.DiscreteArray(2))

    def reset(self, key):
        return jnp.int32(0), self._timestep(jnp.int32(0))

    def step(self, state, action, key):
        return state + 1, self._timestep(state + 1)

    def _timestep(self, count):
        reward = jnp.where(count >= 100, jnp.nan, 1.0).astype(jnp.float32)
        return TimeStep(jnp.ones(2), reward, jnp.bool_(False), jnp.bool_(False))
"""
# The gradient of a root at 0 is infinite while the loss is finite.
BAD_NETWORK = """
import flax.linen as nn
import jax.numpy as jnp

class Root(nn.Module):
    num_actions: int

    @nn.compact
    def __call__(self, x):
        root = jnp.sqrt(self.param("zero", nn.initializers.zeros, (self.num_actions,)))
        return nn.Dense(self.num_actions)(x) + root[None]
"""
NAN = "--env.name bad_env:make --env.frame-stack 1 --replay.capacity 12 "
NAN += "--warmup-steps 64 --agent.batch-size 64"


@pytest.fixture
def run(finished):
    """A finished run; modules of the user's own are in the current folder."""
    Path("bad_env.py").write_text(BAD_ENV)
    Path("bad_network.py").write_text(BAD_NETWORK)
    return finished


def complaint(capsys, arguments, code):
    """Return the only line on stderr of a command that fails with this exit code."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == code, capsys.readouterr()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("bellmax: "), lines
    return lines[0]


def flip(run, step):
    """Flip a bit in a part that evaluations read too."""
    folder = run / "checkpoints" / str(step) / STATE
    path = max(folder.rglob("*"), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


# A ring of three vector steps: each batch of 64 holds the newest transition. Vector step 100 earns
# the NaN and is learned from after one more; 16 warm up: learning phase 100 + 1 - 16 meets it.
NANS = [("dqn", 1, 85), ("dqn", 3, 3 * 84 + 1)]
NANS += [pytest.param(a, 1, 85, marks=pytest.mark.slow) for a in ("qr_dqn_retrace", "va_learning")]


@pytest.mark.parametrize(("agent", "updates", "step"), NANS)
def test_a_nan_loss_stops_the_run_at_its_gradient_step(run, tmp_path, capsys, agent, updates, step):
    out = tmp_path / "nan"
    options = f"{NAN} --checkpoint-every 160 --log-every 80 --updates-per-rollout {updates}".split()
    options += ["--agent.name", agent]
    line = complaint(capsys, ["train", "small.yaml", "--out", out, *options], 1)
    assert f"the loss of seed 0 is not finite at gradient step {step} (" in line, line
    assert "first bad leaf params/" in line and line.endswith("checkpoint 320 is kept")
    assert checkpoints(out).steps() == [160, 320]
    state = checkpoints(out).restore(320, build(load(out, trust=True)).abstract_state())
    assert all(jax.numpy.isfinite(x).all() for x in jax.tree.leaves(state.learner.params))
    assert rows(out)[-1]["step"] == 400
    assert read_policies(out, build(load(out, trust=True)))[0] == 320  # as its checkpoint


@pytest.mark.slow
def test_a_gradient_that_breaks_the_network_stops_the_run_before_it_is_saved(run, tmp_path, capsys):
    options = ["--agent.network.module", "bad_network:Root", "--env.frame-stack", 1]
    line = complaint(capsys, ["train", "small.yaml", "--out", tmp_path / "out", *options], 1)
    assert "network of seed 0 is not finite at gradient step 1 (" in line, line
    assert "first bad leaf params/" in line and "zero" in line and "no checkpoint" in line


def test_a_full_disk_keeps_what_was_there_and_a_resume_continues_afterwards(run, capsys):
    before = saved_files(run)
    for limit, reason in [(400, "config.yaml"), (16_000, "checkpoint 1600 could not be saved")]:
        with files_limited_to(limit):
            line = complaint(capsys, ["resume", run, "--steps", 2000], 1)
        assert reason in line and "file too large" in line.lower(), line
        assert checkpoints(run).steps() == [800, 1200]
        assert saved_files(run) == before
    assert main(["resume", str(run), "--steps", "2000"]) == 0
    assert checkpoints(run).latest() == 2000 and rows(run)[-1]["step"] == 2000


def test_a_damaged_checkpoint_is_passed_over(run, capsys):
    whole = rows(run)
    flip(run, 1200)
    line = complaint(capsys, ["evaluate", run, "--checkpoint", "1200"], 2)
    assert "checkpoint 1200 in" in line and "is damaged; checkpoint 800 is intact" in line
    assert main(["resume", str(run)]) == 0
    out = capsys.readouterr().out
    assert "checkpoint 1200 is damaged; 800 is used instead" in out
    assert checkpoints(run).steps() == [800, 1200]
    assert rows(run) == whole
    flip(run, 1200)
    flip(run, 800)
    before = contents(run)
    for command in ("resume", "evaluate"):
        assert "there is no intact checkpoint in" in complaint(capsys, [command, run], 2)
    assert contents(run) == before


def assert_stopped(run, word, out, err):
    """Assert one sentence, a checkpoint of the last state, and no incomplete files."""
    assert out.endswith(f"stopped; checkpoint {checkpoints(run).latest()} is written\n")
    rest = f"the last checkpoint is kept: `bellmax resume {run}` continues from it"
    assert err == f"bellmax: {word}; {rest}\n"
    assert not [path for path in (run / "checkpoints").iterdir() if not path.name.isdigit()]
    assert rows(run)[-1]["step"] == checkpoints(run).latest()


def test_sigterm_ends_a_process_with_a_sentence_and_ctrl_c_the_one_that_resumes_it(
    tmp_path, finished, capsys
):
    run = tmp_path / "stopped"
    process = start_bellmax("train", "small.yaml", "--out", run, "--steps", 4_000_000)
    wait_until(lambda: checkpoints(run).latest(), process)
    process.send_signal(signal.SIGTERM)
    assert_stopped(run, "terminated", *finish(process, 143))
    newest = checkpoints(run).latest()
    capsys.readouterr()
    with signal_when(lambda: checkpoints(run).latest() > newest, signal.SIGINT):
        assert main(["resume", str(run)]) == 130
    assert_stopped(run, "interrupted", *capsys.readouterr())


def test_a_closed_pipe_does_not_stop_training(finished, tmp_path, capsys):
    with stdout_closed_by_its_reader():
        assert main(["train", "small.yaml", "--out", str(tmp_path / "piped")]) == 0
    assert capsys.readouterr().err == ""
    assert checkpoints(tmp_path / "piped").latest() == 1200
