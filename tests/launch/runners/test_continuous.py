"""Agents with continuous actions on the command line: a run, its policy, and mistakes."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from bellmax.launch.cli import main
from bellmax.launch.config.run_config import load
from bellmax.launch.training.checkpoints import Checkpoints
from bellmax.launch.training.experiment import build
from bellmax.launch.training.policy import load_policy

SMALL = (
    "--steps 1200 --warmup-steps 200 --evaluate-every 400 --evaluation-episodes 2 --log-every 400 "
    "--checkpoint-every 400 --agent.random-steps 200 --agent.batch-size 32 "
    "--agent.network.hidden 16 --env.time-limit 40 --env.normalise-observations --seeds 2 --seed 3"
).split()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of AutoExpectRL on pendulums of random mass."""
    run = tmp_path_factory.mktemp("continuous") / "run"
    options = ["--agent.alpha", "auto", "--env.randomise.mass", "0.5,2", *SMALL]
    assert main(["train", "expectrl/pendulum", *options, "--out", str(run)]) == 0
    return run


def test_the_policy_is_that_of_the_best_head(run):
    experiment = build(load(run))
    checkpoints = Checkpoints(run / "checkpoints", keep=2, read_only=True)
    state = checkpoints.restore(1200, experiment.abstract_state())
    weights = np.asarray(state.learner.aux.bandit.weights)
    assert weights.shape == (2, 4) and np.abs(weights).max() > 0
    seen = jax.random.normal(jax.random.key(0), (20, 3))
    for i, seed in enumerate((3, 4)):
        whole = state.learner, state.env.statistics
        learner, statistics = jax.tree.map(lambda x, i=i: x[i] if x.ndim else x, whole)
        scale = np.sqrt(np.asarray(statistics.variance) + 1e-8)
        normal = np.clip((seen - statistics.mean[None]) / scale[None], -10, 10)
        # The head's own column, computed from the parameters.
        tree = learner.params.actor["params"]
        bias = tree["MLP_0"]["Dense_0"]["bias"]
        hidden = jax.nn.relu(normal @ tree["MLP_0"]["Dense_0"]["kernel"] + bias[None])
        out = hidden @ tree["Dense_0"]["kernel"] + tree["Dense_0"]["bias"][None]
        arm = int(np.argmax(weights[i]))
        expected = 2 * np.tanh(out[:, arm : arm + 1])
        policy = load_policy(run, seed)
        first, key = np.ones(20, bool), jax.random.key(0)
        action, _ = policy.act(seen, policy.initial_memory(20), first, key)
        np.testing.assert_allclose(action, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_each_episode_has_a_mass_of_its_own(run):
    experiment = build(load(run))
    state = experiment.init()
    masses = [np.asarray(state.env.env_state.env_state.parameters["mass"])]
    for _ in range(3):
        state, _ = experiment.runner.advance(state, 41, 0)  # 40 steps and the reset
        masses.append(np.asarray(state.env.env_state.env_state.parameters["mass"]))
    assert len(np.unique(masses)) == 8 and 0.5 <= np.min(masses) and np.max(masses) <= 2


def test_the_log_has_what_was_learned(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if row["kind"] == "train"][-1]
    assert last["gradient_steps"] == 1000 and last["q_value"] < 0 < last["loss"]


REFUSED = {
    "td3/pendulum --env.name bellmax/CartPole": "must be a task with continuous actions",
    "dqn/cartpole --env.name bellmax/Pendulum": "must be a task with discrete actions",
    "expectrl/pendulum --agent.alpha 1": "agent.alpha",
    "expectrl/pendulum --agent.alpha automatic": "agent.alpha",
    "expectrl/pendulum --agent.alphas 0.2,1.5": "agent.alphas",
    "td3/pendulum --agent.alpha 0.2": "agent.alpha",
    "td3/pendulum --agent.reduce median": "agent.reduce",
    "td3/pendulum --agent.policy-delay 0": "agent.policy_delay",
    "td3/pendulum --env.randomise.masss 1,2": "did you mean mass?",
    "td3/pendulum --env.randomise.mass 2,1": "low <= high",
    "td3/pendulum --env.randomise.mass 2": "env.randomise.mass",
}


@pytest.mark.parametrize(("command", "words"), REFUSED.items())
def test_mistakes_end_in_one_sentence(command, words, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", *command.split(), "--out", str(out)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("bellmax: ") and words in lines[0], lines
    assert not Path(out).exists()
