"""Training on host environments, from the command line to the files written."""

import signal

import jax
import numpy as np
import pytest

from bellmax.launch.cli import main
from bellmax.launch.training.policy import load_policy
from helpers.faults import signal_when
from helpers.runs import rows

CONFIG = """
steps: 1200
warmup_steps: 400
updates_per_rollout: 2
log_every: 400
evaluate_every: 800
evaluation_episodes: 3
evaluation_max_steps: 30
checkpoint_every: 800
agent: {name: dqn, batch_size: 16, network: {hidden: [16]}}
env: {name: gymnasium/CartPole-v1, num_envs: 4}
replay: {capacity: 2000}
"""
# A user's task that breaks at every 50th step, in a way of its own.
TASKS = """
import os, sys
import gymnasium
import numpy as np

class Broken(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    steps = 0

    def __init__(self, how="raise RuntimeError('a wire came off')", opens=True):
        self.how, self.opens = how, opens

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        if not self.opens:
            exec(self.how)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        Broken.steps += 1
        self.time += 1
        if Broken.steps % 50 == 0:
            exec(self.how)
        return np.full(2, self.time / 9, np.float32), 1.0, self.time == 9, False, {}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(CONFIG)
    (tmp_path / "wires.py").write_text(TASKS)
    return tmp_path


def test_two_runs_in_lock_step_are_equal_to_the_bit(folder):
    words = ["train", "run.yaml", "--host.lock-step", "--host.actors", "2", "--out"]
    assert [main([*words, name]) for name in ("one", "two")] == [0, 0]
    assert rows(folder / "one") == rows(folder / "two") and rows(folder / "one")
    first, second = (folder / name / "policy" / "seed-0.msgpack" for name in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()
    assert main([*words, "other", "--seed", "1"]) == 0
    other = rows(folder / "other", "train")
    assert [r["episode_return"] for r in other] != [
        r["episode_return"] for r in rows(folder / "one", "train")
    ]


def test_threads_take_the_configured_gradient_steps_and_a_resume_continues(folder, capsys):
    assert main(["train", "run.yaml", "--host.actors", "2", "--out", "run"]) == 0
    assert "learner waited" in capsys.readouterr().out
    run = folder / "run"
    last = rows(run, "train")[-1]
    assert last["gradient_steps"] == 2 * (1200 - 400) // 4
    assert main(["resume", "run", "--trust", "--steps", "2000"]) == 0
    assert "resuming run at step 1,200, with new episodes" in capsys.readouterr().out
    train = rows(run, "train")
    assert train[-1]["gradient_steps"] == 2 * (2000 - 400) // 4
    steps = [row["env_steps"] for row in train]
    assert steps == sorted(steps) and 1850 < steps[-1] <= 2000
    assert [row["step"] for row in rows(run, "evaluation")] == [800, 1200, 1600, 2000]


def test_what_it_leaves_is_evaluated_and_loaded(folder, capsys):
    assert main(["train", "run.yaml", "--replay.memory", "host", "--out", "run"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "run", "--trust", "--episodes", "4"]) == 0
    assert "4 episodes" in capsys.readouterr().out
    policy = load_policy(folder / "run", trust=True)
    key, seen = jax.random.key(0), np.zeros((5, 4), np.float32)
    action, _ = policy.act(seen, policy.initial_memory(5), np.ones(5, bool), key)
    assert action.shape == (5,)


@pytest.mark.slow
def test_on_policy_agents_run_here_too(folder):
    text = CONFIG.replace("{name: dqn, batch_size: 16, network: {hidden: [16]}}", "{name: rnd}")
    small = "agent: {name: rnd, batch_size: 2, policy_loss: ppo, rnd_hidden: [8], rnd_features: 8, "
    small += "network: {hidden: [16], latent_size: 8, memory_size: 8, head_hidden: []}}"
    text = text.replace("agent: {name: rnd}", small) + "rollout_length: 8\n"
    (folder / "rnd.yaml").write_text(text.replace("warmup_steps: 400", "warmup_steps: 0"))
    for name in ("one", "two"):
        assert main(["train", "rnd.yaml", "--env.normalise-observations", "--out", name]) == 0
    # Always in lock-step: an on-policy agent waits for its newest parameters.
    assert rows(folder / "one") == rows(folder / "two")
    assert rows(folder / "one", "train")[-1]["gradient_steps"] == 2 * (1200 // 32)


@pytest.mark.parametrize(
    "how",
    [
        "raise RuntimeError('a wire came off')",
        "sys.exit(0)",
        pytest.param("sys.exit('enough')", marks=pytest.mark.slow),
        pytest.param("raise SystemExit(3)", marks=pytest.mark.slow),
    ],
)
def test_a_task_that_breaks_is_restarted_and_reported(folder, capsys, how):
    words = ["--env.name", "wires:Broken", "--env.options.how", repr(how)]
    assert main(["train", "run.yaml", *words, "--out", "run"]) == 0
    assert "restarts raised" in capsys.readouterr().out
    last = rows(folder / "run", "train")[-1]
    # 1,200 vector steps of which one in ten opens an episode; threads may be a little ahead.
    assert 15 <= last["restarts_raised"] <= 30
    assert last["env_steps"] < 1200


@pytest.mark.parametrize("how", ["sys.exit(0)", "sys.exit()", "raise ValueError('no wires')"])
def test_a_run_that_cannot_reach_its_steps_never_ends_with_0(folder, capsys, how):
    words = ["--env.name", "wires:Broken", "--env.options.opens", "false"]
    words += ["--env.options.how", repr(how)]
    assert main(["train", "run.yaml", *words, "--out", "run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "10 times in a row" in line and ("SystemExit" if "exit" in how else "no wires") in line


@pytest.mark.slow
def test_a_process_of_a_task_that_exits_is_restarted(folder, capsys):
    words = ["--env.name", "wires:Broken", "--env.options.how", "os._exit(0)"]
    # Few, because each start of a process takes a second.
    words += "--env.num-envs 2 --steps 480 --evaluation-episodes 1 --env.timeout 60".split()
    assert main(["train", "run.yaml", *words, "--out", "run"]) == 0
    assert rows(folder / "run", "train")[-1]["restarts_raised"] >= 3
    assert "its process died with exit code 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--seeds 2", "seeds must be 1"),
        ("--env.name bellmax/CartPole --replay.memory host", "replay.memory must be device"),
        ("--host.actors 3", "host.actors must be a divisor of env.num_envs = 4, got 3"),
        ("--env.coverage", "env.coverage"),
        ("--env.name gymnasium/CartPoll-v1", "did you mean CartPole-v1?"),
        ("--host.acters 2", "did you mean host.actors"),
        ("--env.name ale/Breakout --env.timeout 5", "timeout must be None for ale/Breakout"),
        ("--env.name envpool/CartPole-v1 --env.timeout 5", "timeout must be None for envpool"),
    ],
)
def test_mistakes_get_one_sentence(folder, capsys, words, sentence):
    assert main(["train", "run.yaml", "--out", "run", *words.split()]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and sentence in said
    assert not (folder / "run").exists()


def test_sigterm_leaves_a_checkpoint_from_which_the_run_is_resumed(folder, capsys):
    words = ["train", "run.yaml", "--steps", "1000000", "--checkpoint-every", "0", "--out", "run"]
    run = folder / "run"
    with signal_when(lambda: len(rows(run, "train")) > 2, signal.SIGTERM):
        assert main([*words, "--evaluate-every", "0"]) == 143
    out, err = capsys.readouterr()
    assert "bellmax resume run" in err and len(err.splitlines()) == 1, (out, err)
    (saved,) = [int(path.name) for path in (run / "checkpoints").iterdir()]
    assert saved == rows(run, "train")[-1]["step"] and f"checkpoint {saved} is written" in out
    assert main(["resume", "run", "--trust", "--steps", str(saved + 400)]) == 0
    train = rows(run, "train")
    assert train[-1]["step"] >= saved + 400 - 4
    assert train[-1]["gradient_steps"] == 2 * (train[-1]["step"] - 400) // 4


LEVERS = """
steps: 1200
warmup_steps: 200
updates_per_rollout: 4
log_every: 1200
evaluate_every: 1200
evaluation_episodes: 4
checkpoint_every: 1200
agent:
  {name: dqn, batch_size: 32, learning_rate: 0.003, discount: 0, network: {hidden: [32]}}
env: {name: "helpers.two_levers:TwoLevers", num_envs: 4}
replay: {capacity: 2000}
"""


def test_joint_actions_are_learned_and_a_policy_gives_the_tasks_own(tmp_path):
    (tmp_path / "run.yaml").write_text(LEVERS)
    run = str(tmp_path / "run")
    assert main(["train", str(tmp_path / "run.yaml"), "--out", run]) == 0
    policy = load_policy(run, trust=True)
    wanted = np.array([[lever, other] for lever in range(2) for other in range(3)])
    seen = np.concatenate([np.eye(2)[wanted[:, 0]], np.eye(3)[wanted[:, 1]]], axis=1)
    seen, is_first = seen.astype(np.float32), np.ones(6, bool)
    action, _ = policy.act(seen, policy.initial_memory(6), is_first)
    np.testing.assert_array_equal(action, wanted + [0, 5])
    assert policy.values(seen, (), is_first).q_values.shape == (6, 6)
    assert rows(tmp_path / "run", "evaluation")[-1]["episode_return"] == 8
