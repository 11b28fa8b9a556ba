"""What can go wrong while a run trains: one sentence, an exit code, and nothing lost."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from bellmax.launch.checkpoints import Checkpoints
from bellmax.launch.cli import main
from bellmax.launch.config import load
from bellmax.launch.experiment import build

SOURCE = str(Path(__file__).parents[2] / "src")
PROGRAM = "import sys; from bellmax.launch.cli import main; sys.exit(main())"
CONFIG = """
steps: 1200
warmup_steps: 80
log_every: 100
evaluate_every: 400
evaluation_episodes: 4
evaluation_max_steps: 50
checkpoint_every: 400
agent: {name: dqn, batch_size: 8, network: {hidden: [8]}}
env: {name: bellmax/CartPole, num_envs: 4, frame_stack: 8}
replay: {capacity: 2000}
"""
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a finished run; compiled programs are shared with the processes."""
    folder = tmp_path_factory.mktemp("failures")
    (folder / "small.yaml").write_text(CONFIG)
    (folder / "bad_env.py").write_text(BAD_ENV)
    (folder / "bad_network.py").write_text(BAD_NETWORK)
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: jax.config.values[name] for name in names}
    for name, value in zip(names, (str(folder / "cache"), 0.0), strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    process = start(folder, "train", "small.yaml", "--out", "done", cwd=folder)
    assert (process.communicate(timeout=300)[1], process.returncode) == ("", 0)
    yield folder
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture
def run(folder, tmp_path, monkeypatch):
    """A copy of the finished run; the folder with the modules is the current one."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return Path(shutil.copytree(folder / "done", tmp_path / "run"))


def start(folder, *arguments, prepare="", **options):
    cache = {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
    cache["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    return subprocess.Popen(
        [sys.executable, "-c", prepare + PROGRAM, *map(str, arguments)],
        env={**os.environ, **cache, "PYTHONPATH": SOURCE},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def complaint(capsys, arguments, code):
    """The one line on stderr of a command that fails with that exit code."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == code, capsys.readouterr()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("bellmax: "), lines
    return lines[0]


def checkpoints(run):
    return Checkpoints(run / "checkpoints", keep=100, read_only=True)


def contents(run):
    return {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


def last_rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def flip(run, step):
    path = max((run / "checkpoints" / str(step)).rglob("*"), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


# A ring of three vector steps: each batch of 64 holds the newest transition. Vector step 100 earns
# the NaN and is learned from after one more; 16 warm up: learning phase 100 + 1 - 16 meets it.
NANS = [("dqn", 1, 85), ("dqn", 3, 3 * 84 + 1), ("qr_dqn_retrace", 1, 85), ("va_learning", 1, 85)]


@pytest.mark.parametrize(("agent", "updates", "step"), NANS)
def test_a_nan_loss_stops_the_run_at_its_gradient_step(run, tmp_path, capsys, agent, updates, step):
    out = tmp_path / "nan"
    options = f"{NAN} --checkpoint-every 160 --log-every 80 --updates-per-rollout {updates}".split()
    options += ["--agent.name", agent]
    line = complaint(capsys, ["train", "small.yaml", "--out", out, *options], 1)
    assert f"the loss of seed 0 is not finite at gradient step {step} (" in line, line
    assert "first bad leaf params/" in line and line.endswith("checkpoint 320 is kept")
    assert checkpoints(out).steps() == [160, 320]
    state = checkpoints(out).restore(320, build(load(out)).abstract_state())
    assert all(jax.numpy.isfinite(x).all() for x in jax.tree.leaves(state.learner.params))
    assert last_rows(out)[-1]["step"] == 400
    assert not (out / "policy").exists()


def test_a_gradient_that_breaks_the_network_stops_the_run_before_it_is_saved(run, tmp_path, capsys):
    options = ["--agent.network.module", "bad_network:Root", "--env.frame-stack", 1]
    line = complaint(capsys, ["train", "small.yaml", "--out", tmp_path / "out", *options], 1)
    assert "network of seed 0 is not finite at gradient step 1 (" in line, line
    assert "first bad leaf params/" in line and "zero" in line and "no checkpoint" in line


def test_a_full_disk_keeps_what_was_there_and_the_run_goes_on_afterwards(folder, run, capsys):
    before = contents(run)
    for limit, reason in [(400, "config.yaml"), (16_000, "checkpoint 1600 could not be saved")]:
        full = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); "
        process = start(folder, "resume", run, "--steps", 2000, prepare=full)
        _, err = process.communicate(timeout=300)
        assert process.returncode == 1 and len(err.splitlines()) == 1, err
        assert reason in err and "file too large" in err.lower(), err
        assert checkpoints(run).steps() == [800, 1200]
        saved = {path: data for path, data in before.items() if "checkpoints" in path.parts}
        assert not [path for path, data in saved.items() if path.read_bytes() != data]
    assert main(["resume", str(run), "--steps", "2000"]) == 0
    assert checkpoints(run).latest() == 2000 and last_rows(run)[-1]["step"] == 2000


def test_a_damaged_checkpoint_is_passed_over(run, capsys):
    flip(run, 1200)
    line = complaint(capsys, ["evaluate", run, "--checkpoint", "1200"], 2)
    assert "checkpoint 1200 in" in line and "is damaged; checkpoint 800 is intact" in line
    assert main(["resume", str(run)]) == 0
    out = capsys.readouterr().out
    assert "checkpoint 1200 is damaged; 800 is used instead" in out
    assert checkpoints(run).steps() == [800, 1200]
    whole = [{**row, "timing": None} for row in last_rows(Path("done"))]
    assert [{**row, "timing": None} for row in last_rows(run)] == whole
    flip(run, 1200)
    flip(run, 800)
    before = contents(run)
    for command in ("resume", "evaluate"):
        assert "there is no intact checkpoint in" in complaint(capsys, [command, run], 2)
    assert contents(run) == before


def test_signals_stop_a_run_with_a_sentence_and_it_can_be_resumed(folder, tmp_path):
    run = tmp_path / "stopped"
    command = ["train", "small.yaml", "--out", run, "--steps", 4_000_000]
    # A shell without job control has what it runs in the background ignore Ctrl-C, heirs too.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    for number, word, code in [(signal.SIGTERM, "terminated", 143), (2, "interrupted", 130)]:
        process = start(folder, *command, cwd=folder, prepare=heed)
        newest = checkpoints(run).latest() or 0
        while (checkpoints(run).latest() or 0) <= newest and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(number)
        out, err = process.communicate(timeout=300)
        rest = f"the last checkpoint is kept: `bellmax resume {run}` continues from it"
        assert out.endswith(f"stopped; checkpoint {checkpoints(run).latest()} is written\n")
        assert (process.returncode, err) == (code, f"bellmax: {word}; {rest}\n")
        assert not [path for path in (run / "checkpoints").iterdir() if not path.name.isdigit()]
        command = ["resume", run]


def test_a_closed_pipe_does_not_stop_training(folder, tmp_path):
    process = start(folder, "train", "small.yaml", "--out", tmp_path / "piped", cwd=folder)
    assert process.stdout.readline().startswith("replay takes")
    process.stdout.close()
    with process.stderr as stream:
        assert (stream.read(), process.wait(timeout=300)) == ("", 0)
    assert checkpoints(tmp_path / "piped").latest() == 1200
