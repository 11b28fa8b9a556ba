"""Runs with Ray actors learn the same as runs with local actors; an actor that dies is replaced."""

import contextlib
import importlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import psutil
import pytest

from bellmax.envs.host import HostVector
from bellmax.envs.options import install_command
from bellmax.launch.actors.actor import Actor
from bellmax.launch.actors.ray_actor import make_ray_actors
from bellmax.launch.cli import main
from bellmax.launch.config.run_config import load
from bellmax.launch.distributed.ray_cluster import connected
from bellmax.launch.training.experiment import build
from helpers import runs
from helpers.host_runners import stored
from helpers.host_tasks import CountingBatch
from helpers.processes import HANG_SECONDS, environment, start_python, wait_until

ray = pytest.importorskip("ray")
pytest.importorskip("grpc")
utils = importlib.import_module("ray._private.authentication_test_utils")
CONFIG = """
steps: 240
warmup_steps: 80
rollout_length: 10
updates_per_rollout: 2
log_every: 80
evaluate_every: 0
evaluation_episodes: 2
evaluation_max_steps: 20
checkpoint_every: 0
agent: {name: dqn, batch_size: 16, network: {hidden: [16]}}
env: {name: "mine:cartpole", num_envs: 4}
replay: {capacity: 4000}
host: {actors: 2}
"""
ON_POLICY = """{name: on_policy, batch_size: 2, policy_loss: ppo,
  network: {hidden: [8], latent_size: 8, memory_size: 8, head_hidden: []}}"""
# Counting observes the id of its process and the number of earlier observations.
TASKS = """
import os
import gymnasium
import numpy as np
from bellmax import UserError
from bellmax.envs.options import install_command

def cartpole():
    return gymnasium.make("CartPole-v1")

class Counting(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 2.0**24, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, wrong_at=-1):
        self.shown, self.time, self.wrong_at = -1, 0, wrong_at

    def look(self):
        self.shown += 1
        return np.array([os.getpid(), self.shown], np.float32)

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return self.look(), {}

    def step(self, action):
        self.time += 1
        if self.shown == self.wrong_at:
            raise UserError("the wires are mixed up")
        seen = self.look()
        return seen, float(seen[1]), self.time == 7, False, {}
"""


@pytest.fixture(scope="module")
def variables():
    """Ray requires a token that only this module knows; its workers import this tree's code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", uuid.uuid4().hex + uuid.uuid4().hex)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
        patch.delenv("RAY_ADDRESS", raising=False)
        utils.reset_auth_token_state()  # it was read when Ray was imported
        yield
    utils.reset_auth_token_state()


def free_port():
    with contextlib.closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


def answers(port):
    """Whether a server listens at this address."""
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    return False


def wait_for_a_client(address, log):
    """Wait until Ray's client server can start a process for a client.

    Soon after the cluster's own start that process may die at once, which the server's log tells;
    the client itself would wait for it for 30 s.
    """
    join = f"import ray; ray.init({address!r}, log_to_driver=False)"
    for failures in range(5):
        process = start_python("-c", join, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + HANG_SECONDS
        while process.poll() is None:
            died = log.read_text().count("SpecificServer startup failed") > failures
            if died or time.monotonic() > until:
                process.kill()
            time.sleep(0.05)
        if process.returncode == 0:
            return
    raise TimeoutError(log.read_text())


@pytest.fixture(scope="module")
def cluster(variables):
    """The addresses of a cluster of two CPUs, of its head and of its client server."""
    head, client = free_port(), free_port()
    words = f"start --head --block --num-cpus 2 --port {head} --ray-client-server-port {client}"
    words += " --node-ip-address 127.0.0.1 --include-dashboard false --temp-dir"
    command = ["-m", "ray.scripts.scripts", *words.split()]
    with tempfile.TemporaryDirectory(prefix="ray") as folder, open(f"{folder}/said", "w") as said:
        process = start_python(*command, folder, stdout=said, stderr=said)
        try:
            for address in (head, client):
                wait_until(lambda port=address: answers(port), process)
            log = Path(folder, "session_latest", "logs", "ray_client_server.err")
            wait_for_a_client(f"ray://127.0.0.1:{client}", log)
            yield f"127.0.0.1:{head}", f"ray://127.0.0.1:{client}"
        finally:
            for child in process.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            process.kill()
            process.wait()


@pytest.fixture
def folder(variables, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    (tmp_path / "run.yaml").write_text(CONFIG)
    (tmp_path / "mine.py").write_text(TASKS)
    return tmp_path


def rows(run):
    """Rows of training without columns that depend on the place of the actors."""
    kept = runs.rows(run, "train")
    return [{key: row[key] for key in row if key != "restarts_died"} for row in kept]


def trained(folder, name, *words):
    """Train from the command line and return the files' contents."""
    assert main(["train", "run.yaml", *words, "--out", name]) == 0
    policy = folder / name / "policy" / "seed-0.msgpack"
    return rows(folder / name), policy.read_bytes()


def children():
    return {process.pid for process in psutil.Process().children(recursive=True)}


@pytest.mark.slow
def test_a_clusters_actors_learn_to_the_bit_what_those_here_learn(folder, cluster, capsys):
    """An off-policy agent, through the client server; the task is a module of the user's own."""
    there = trained(folder, "there", "--host.lock-step", "--actors", cluster[1])
    assert f"2 actors on {cluster[1]}" in capsys.readouterr().out
    here = trained(folder, "here", "--host.lock-step")
    assert there == here and here[0][-1]["gradient_steps"] == 2 * (240 - 80) // 40


@pytest.mark.slow
def test_recurrent_on_policy_agents_act_in_ray_and_user_errors_are_raised(
    folder, cluster, capsys, monkeypatch
):
    """In the cluster that RAY_ADDRESS names."""
    monkeypatch.setenv("RAY_ADDRESS", cluster[0])
    text = CONFIG.replace("{name: dqn, batch_size: 16, network: {hidden: [16]}}", ON_POLICY)
    (folder / "run.yaml").write_text(text.replace("warmup_steps: 80", "warmup_steps: 0"))
    config = load("run.yaml", ["--env.normalise-observations"])
    results = []
    with connected("ray", 2):
        for make_actor in (make_ray_actors(config), None):
            experiment = build(config, make_actor=make_actor)
            state, interval = experiment.runner.advance(experiment.init(), 0, 4)
            results.append((state.learner, state.env, state.actor, interval))
            experiment.close()
        capsys.readouterr()
        many = ["--host.actors", "4", "--actors", "ray"]
        assert main(["train", "run.yaml", *many, "--out", "many"]) == 2
        said = capsys.readouterr().err
        most = f"host.actors must be at most 2, the CPUs of the Ray cluster at {cluster[0]}"
        assert said.startswith(f"bellmax: {most}, got 4;") and said.count("\n") == 1
    for one, other in zip(*map(jax.tree.leaves, results), strict=True):
        if not jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    assert int(results[0][0].steps) == 8
    words = ["--env.name", "mine:Counting", "--env.options.wrong-at", "25", "--actors", "ray"]
    capsys.readouterr()
    assert main(["train", "run.yaml", *words, "--out", "wrong"]) == 2
    assert capsys.readouterr().err == "bellmax: the wires are mixed up\n"


@pytest.mark.slow
def test_a_run_starts_a_ray_cluster_of_its_own_and_stops_it(folder, capsys):
    before, processes = signal.getsignal(signal.SIGTERM), children()
    assert main(["train", "run.yaml", "--actors", "ray", "--out", "run"]) == 0
    last = rows(folder / "run")[-1]
    assert last["step"] == 240 and last["gradient_steps"] == 2 * (240 - 80) // 40
    said = capsys.readouterr()
    assert "2 actors on this machine" in said.out and said.err == ""
    assert not ray.is_initialized() and signal.getsignal(signal.SIGTERM) is before
    assert children() <= processes
    assert main(["resume", "run", "--trust", "--steps", "280"]) == 0  # and with local actors


@pytest.mark.slow
def test_an_actor_that_is_killed_is_replaced_and_no_step_is_lost_or_wrong(
    folder, cluster, monkeypatch
):
    monkeypatch.setenv("RAY_ADDRESS", cluster[0])
    config = load("run.yaml", ["--env.name", "mine:Counting", "--rollout-length", "2"])
    with connected("ray", 2):
        experiment = build(config, make_actor=make_ray_actors(config))
        state, first = experiment.runner.advance(experiment.init(), 20, 0)
        assert experiment.runner.report()["restarts_died"] == 0
        victim = int(stored(state).observation[0, 0, 0])
        os.kill(victim, signal.SIGKILL)
        state, rest = experiment.runner.advance(state, 0, 20)
        assert experiment.runner.report()["restarts_died"] == 1
        experiment.close()
    steps = jax.tree.map(lambda x: x[:80], stored(state))
    process, number = steps.observation[..., 0], steps.observation[..., 1]
    for i in range(4):
        lives = np.flatnonzero(np.diff(process[:, i])) + 1
        assert len(lives) == (1 if i < 2 else 0)  # the first actor has the first two
        # Each process has every step once and in order; the first of the next opens an episode.
        np.testing.assert_array_equal(
            number[:, i], np.concatenate([np.arange(n) for n in np.diff([0, *lives, 80])])
        )
        assert steps.is_last[lives - 1, i].all() and steps.is_first[lives, i].all()
    going = ~steps.is_last
    np.testing.assert_array_equal(steps.is_first[1:], steps.is_last[:-1])
    np.testing.assert_array_equal(steps.reward[going], number[going] + 1)
    assert (process[:, :2] == victim).any() and (process[-1, :2] != victim).all()
    assert int(state.actor.env_steps[0]) == int(going.sum())
    ends = int((number % 8 == 7).sum())
    assert int(first.episodes[0] + rest.episodes[0]) - ends in range(5)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--actors spark", "--actors must be ray or ray://HOST:PORT, got 'spark'"),
        ("--actors ray://head", "--actors must be ray or ray://HOST:PORT, got 'ray://head'"),
        ("--actors ray --env.name bellmax/CartPole", "left out for bellmax/CartPole, got"),
        (
            "--actors ray --coordinator auto",
            "--actors must be left out with --coordinator, got ray",
        ),
        (
            "--actors ray --host.actors 3",
            "host.actors must be a divisor of env.num_envs = 4, got 3",
        ),
        ("--actors ray://127.0.0.1:{port}", "the Ray cluster at ray://127.0.0.1:{port} cannot be"),
        ("--actors ray RAY_ADDRESS=127.0.0.1:{port}", "the Ray cluster at 127.0.0.1:{port} cannot"),
        ("--actors ray RAY_ADDRESS=head", "RAY_ADDRESS is not HOST:PORT"),
        ("--actors ray without ray", f"ray is not installed: {install_command('ray')}"),
        ("--actors ray without grpc", f"grpc is not installed: {install_command('ray')}"),
    ],
)
def test_mistakes_get_one_sentence(folder, capsys, monkeypatch, words, sentence):
    port, (words, _, missing) = free_port(), words.partition(" without ")
    words, _, address = words.format(port=port).partition(" RAY_ADDRESS=")
    if missing:
        monkeypatch.setitem(sys.modules, missing, None)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    assert main(["train", "run.yaml", "--out", "run", *words.split()]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and sentence.format(port=port) in said
    assert not (folder / "run").exists()


def test_a_replacing_actor_starts_with_the_last_time_step_of_the_replaced_one():
    """The action there has no transition; the replacement's own first step follows."""

    def act(observation, memory, is_first, now):
        return observation, np.full(2, now), memory + 1, ()

    def make(env, **more):
        options = {"length": 3, "observes": True, "normalised": False, "seed": 0}
        return Actor(HostVector(env), lambda acting: act, **options, **more)

    one = make(CountingBatch(0, 2))
    before, _ = one.collect((), np.zeros(2), 0)
    env = CountingBatch(10, 2)
    other = make(env, seen=before.after)
    after, sums = other.collect((), before.memory, 3)
    np.testing.assert_array_equal(after.records.observation[:, 0], [[0, 3], [10, 0], [10, 1]])
    np.testing.assert_array_equal(after.records.is_first[:, 0], [False, True, False])
    np.testing.assert_array_equal(after.records.is_last[:, 0], [True, False, False])
    np.testing.assert_array_equal(after.records.reward[1:, 0], [1, 2])
    np.testing.assert_array_equal(np.stack(env.actions)[:, 0], [4, 5])
    assert sums.env_steps == 4 and not after.outcome.ended.any()
    more, _ = other.collect((), after.memory, 6)
    np.testing.assert_array_equal(more.records.observation[:, 0], [[10, 2], [10, 3], [10, 4]])
    assert not more.records.is_last.any()
