"""A run killed at any moment and resumed equals one that was not, in real processes."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax.launch.checkpoints import Checkpoints
from bellmax.launch.cli import main
from bellmax.launch.config import load
from bellmax.launch.experiment import build

SOURCE = str(Path(__file__).parents[2] / "src")
PROGRAM = "import sys; from bellmax.launch.cli import main; sys.exit(main())"
ENDS = 5000
# Everything that a checkpoint may forget is on: statistics, priorities, n-step, two seeds.
CONFIGS = {
    "dqn": """
agent: {name: dqn, batch_size: 64, network: {hidden: [64]}}
env: {name: bellmax/CartPole, num_envs: 4, frame_stack: 8}
replay: {capacity: 20000}
""",
    "munchausen_dqn": """
seeds: 2
agent: {name: munchausen_dqn, batch_size: 32, n_step: 2, network: {hidden: [32]}}
env: {name: bellmax/CartPole, num_envs: 4, frame_stack: 8, normalise_observations: true}
replay: {capacity: 2000, prioritised: true}
""",
    # Windows of four steps, with the log-probabilities of what the actor did in replay.
    "qr_dqn_retrace": """
seeds: 2
agent:
  {name: qr_dqn_retrace, num_quantiles: 8, n_step: 3, target_epsilon: 0.1, batch_size: 16,
   max_gradient_norm: 10, network: {hidden: [16]}}
env: {name: bellmax/CartPole, num_envs: 4, frame_stack: 8, normalise_observations: true}
replay: {capacity: 2000, prioritised: true}
""",
    "va_learning": """
agent: {name: va_learning, batch_size: 16, n_step: 2, network: {hidden: [32]}}
env: {name: bellmax/CartPole, num_envs: 4, frame_stack: 8}
replay: {capacity: 2000, prioritised: true}
""",
    # Two networks, an actor that is updated every other step, and a bandit fed by episodes.
    "expectrl": """
seeds: 2
agent:
  {name: expectrl, alpha: auto, batch_size: 32, random_steps: 500, network: {hidden: [16]}}
env: {name: bellmax/Pendulum, num_envs: 4, time_limit: 30, normalise_observations: true}
replay: {capacity: 2000, prioritised: true}
""",
    # No replay: memory, a target encoder and the scale of rewards are what must come back.
    "byol_explore": """
seeds: 2
rollout_length: 5
agent:
  {name: byol_explore, batch_size: 2, horizon: 3, predictor_hidden: [8],
   network: {hidden: [16], latent_size: 8, memory_size: 8, head_hidden: []}}
env: {name: bellmax/CartPole, num_envs: 4, normalise_observations: true}
""",
    "rnd": """
rollout_length: 5
agent:
  {name: rnd, batch_size: 4, policy_loss: ppo, rnd_hidden: [8], rnd_features: 8,
   network: {hidden: [16], latent_size: 8, memory_size: 8, head_hidden: []}}
env: {name: bellmax/CartPole, num_envs: 4}
""",
    "td3": """
agent: {name: td3, batch_size: 32, policy_delay: 3, random_steps: 500, network: {hidden: [32]}}
env: {name: bellmax/Pendulum, num_envs: 4, time_limit: 30, frame_stack: 8}
replay: {capacity: 2000}
""",
}
COMMON = f"""
steps: {ENDS}
warmup_steps: 400
updates_per_rollout: 4
log_every: 100
evaluate_every: 500
evaluation_episodes: 2
evaluation_max_steps: 50
checkpoint_every: 1000
keep_checkpoints: 100
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    for name, text in CONFIGS.items():
        (folder / f"{name}.yaml").write_text(COMMON + text)
    return folder


def start(folder, *arguments):
    cache = {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
    cache["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, **cache, "PYTHONPATH": SOURCE},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(folder, *arguments):
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, ""), (out, err)
    return out


@pytest.fixture(scope="module")
def uninterrupted(folder):
    """Of each configuration, the run that nothing disturbed."""
    runs = {}

    def run(name):
        if name not in runs:
            finish(folder, "train", f"{name}.yaml", "--out", f"{name}-whole")
            runs[name] = folder / f"{name}-whole"
        return runs[name]

    return run


def rows(run):
    """Metrics without what depends on the clock; a line cut short by a kill is left out."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    parsed = [json.loads(line) for line in lines if line.endswith("\n")]
    return [{key: row[key] for key in row if key != "timing"} for row in parsed]


def saved(run):
    """(steps of complete checkpoints, leftovers of one that was being written)."""
    checkpoints = run / "checkpoints"
    names = [path.name for path in checkpoints.iterdir()] if checkpoints.is_dir() else []
    complete = sorted(int(name) for name in names if name.isdigit())
    return complete, [name for name in names if ".saving" in name]


def is_training(run):
    """In an interval between two checkpoints, after the first."""
    steps, leftovers = saved(run)
    written = rows(run)
    if not steps or leftovers or not written:
        return False
    return steps[-1] < written[-1]["step"] < min(steps[-1] + 800, ENDS)


def is_saving(run):
    steps, leftovers = saved(run)
    return bool(steps) and bool(leftovers)


def killed(folder, run, moment, *arguments):
    """SIGKILLs a command when `moment(run)` is true, and asserts that it still is afterwards."""
    before = folder / "before"
    shutil.rmtree(before, ignore_errors=True)
    if run.exists():
        shutil.copytree(run, before)
    for _ in range(10):
        process = start(folder, *arguments)
        # A leftover of the kill before is swept when the process resumes: wait for one of its own.
        while process.poll() is None and not moment(run):
            time.sleep(0.0005)
        process.send_signal(signal.SIGKILL)
        _, err = process.communicate()
        if process.returncode == -signal.SIGKILL and moment(run):
            return
        assert process.returncode in (0, -signal.SIGKILL), err
        shutil.rmtree(run)  # the kill came too late: once more from where it was
        if before.exists():
            shutil.copytree(before, run)
    pytest.fail(f"no kill of {arguments} hit {moment.__name__}")


def bits(leaf):
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    array = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
    return str(leaf.dtype), array.shape, array.tobytes()


def assert_same(run, whole):
    assert rows(run) == rows(whole)
    steps, leftovers = saved(run)
    assert (steps, leftovers) == (saved(whole)[0], []) and steps[-1] == ENDS
    abstract = build(load(whole)).abstract_state()
    name = load(whole).agent_name
    assert (abstract.replay == ()) == (name in ("byol_explore", "rnd"))
    if abstract.replay:
        log_probs = jax.tree.leaves(abstract.replay.storage.behaviour)
        assert len(log_probs) == (name == "qr_dqn_retrace")
    for step in steps:
        states = [
            jax.tree_util.tree_leaves_with_path(
                Checkpoints(r / "checkpoints", keep=100, read_only=True).restore(step, abstract)
            )
            for r in (run, whole)
        ]
        for (path, one), (_, other) in zip(*states, strict=True):
            assert bits(one) == bits(other), (step, jax.tree_util.keystr(path))
    policies = sorted((whole / "policy").iterdir())
    assert len(policies) == load(whole).seeds
    for policy in policies:
        assert (run / "policy" / policy.name).read_bytes() == policy.read_bytes()
    assert (run / "config.yaml").read_bytes() == (whole / "config.yaml").read_bytes()


@pytest.mark.parametrize("name", CONFIGS)
def test_killed_in_training_and_in_a_save_it_resumes_bitwise(folder, uninterrupted, name):
    whole, run = uninterrupted(name), folder / f"{name}-killed"
    killed(folder, run, is_training, "train", f"{name}.yaml", "--out", run)
    first = saved(run)[0][-1]
    assert rows(run)[-1]["step"] > first
    killed(folder, run, is_saving, "resume", run)
    newest = saved(run)[0][-1]
    assert newest >= first and newest < ENDS
    out = finish(folder, "resume", run)
    assert f"at step {newest:,}" in out and f"{newest + 100:,}/{ENDS:,}" in out
    assert_same(run, whole)


def test_a_finished_run_resumed_with_more_steps_equals_one_that_had_them(folder, uninterrupted):
    whole, run = uninterrupted("dqn"), folder / "dqn-longer"
    run.mkdir()  # as a kill before the first checkpoint leaves it
    text = (whole / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace(f"steps: {ENDS}", "steps: 2000"))
    assert f"{run} has no checkpoint yet: starting at step 0" in finish(folder, "resume", run)
    assert saved(run)[0] == [1000, 2000] and rows(run)[-1]["step"] == 2000
    finish(folder, "resume", run, "--steps", ENDS)
    assert_same(run, whole)


CHANGES = [
    ("--agent.learning-rate 1e-3", "agent.learning_rate cannot change"),
    ("--env.num-envs 8", "env.num_envs cannot change"),
    ("--seed 3", "seed cannot change"),
    ("--log-every 50", "log_every cannot change"),
    ("--steps 2000", "steps must be at least 5000"),
]


@pytest.mark.parametrize(("change", "sentence"), CHANGES)
def test_what_cannot_change_is_one_sentence(uninterrupted, capsys, monkeypatch, change, sentence):
    monkeypatch.setattr("bellmax.launch.devices.configure_jax", lambda **_: None)
    whole = uninterrupted("dqn")
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}
    assert main(["resume", str(whole), *change.split()]) == 2
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1 and sentence in captured.err, captured.err
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_run_that_is_training_refuses_a_second_process(uninterrupted, capsys, monkeypatch):
    monkeypatch.setattr("bellmax.launch.devices.configure_jax", lambda **_: None)
    whole = uninterrupted("dqn")
    descriptor = os.open(whole, os.O_RDONLY)  # what a process that trains there holds
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        assert main(["resume", str(whole)]) == 2
    finally:
        os.close(descriptor)
    assert capsys.readouterr().err == (
        f"bellmax: another process is training in {whole}; wait or stop it\n"
    )
