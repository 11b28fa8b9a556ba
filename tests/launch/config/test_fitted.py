"""What `bellmax train AGENT` fits to the steps, and that presets and files are left alone."""

import pytest

from bellmax.launch.config.run_config import load

TASK = ["--env.name", "bellmax/CartPole"]
REPLAY = {
    2_000: {"warmup_steps": 128, "agent.epsilon_steps": 500, "replay.capacity": 2_000},
    200_000: {"warmup_steps": 10_000, "agent.epsilon_steps": 50_000, "replay.capacity": 100_000},
    10**7: {"warmup_steps": 10_000, "agent.epsilon_steps": 2_500_000, "replay.capacity": 100_000},
}
PQN = {
    2_000: {"rollout_length": 7, "agent.batch_size": 32, "updates_per_rollout": 28},
    200_000: {
        "rollout_length": 32,
        "agent.batch_size": 128,
        "updates_per_rollout": 32,
        "agent.learning_rate_steps": 195 * 32,
        "agent.epsilon_steps": 40_000,
    },
}
RECURRENT = {
    200_000: {
        "rollout_length": 32,
        "agent.batch_size": 4,
        "updates_per_rollout": 32,
        "agent.learning_rate_steps": 195 * 32,
    },
}
MEMORY = ["--agent.network.memory", "gru"]


def value(config, key):
    for name in key.split("."):
        config = getattr(config, name)
    return config


def cases():
    for agent in ("dqn", "munchausen_dqn", "va_learning", "qr_dqn_retrace", "iqn", "c51"):
        for steps, expected in REPLAY.items():
            yield agent, [], steps, expected
    for words, table in (([], PQN), (MEMORY, RECURRENT)):
        for steps, expected in table.items():
            yield "pqn", words, steps, expected


@pytest.mark.parametrize(("agent", "words", "steps", "expected"), list(cases()))
def test_what_is_fitted_at_given_steps(agent, words, steps, expected):
    config = load(agent, [*TASK, *words, "--steps", str(steps)])
    assert {key: value(config, key) for key in expected} == expected
    assert config.log_every == steps // 20 and config.evaluate_every == steps // 5
    assert config.checkpoint_every == steps // 2


@pytest.mark.parametrize("agent", ["dqn", "munchausen_dqn", "va_learning"])
def test_the_loss_does_not_depend_on_the_scale_of_rewards(agent):
    assert load(agent, TASK).agent.huber_delta == 0
    assert load(agent, [*TASK, "--agent.huber-delta", "2"]).agent.huber_delta == 2


def test_quantiles_and_presets_keep_their_threshold(tmp_path):
    assert load("qr_dqn_retrace", TASK).agent.huber_delta == 1
    assert load("iqn", TASK).agent.huber_delta == 1
    assert load("munchausen_dqn/atari").agent.huber_delta == 1
    path = tmp_path / "mine.yaml"
    path.write_text("agent: {name: dqn}\nenv: {name: bellmax/CartPole}\n")
    assert load(path).agent.huber_delta == 1
