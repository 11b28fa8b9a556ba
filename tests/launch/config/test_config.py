"""Precedence of defaults, file and command line; messages about files that cannot be read."""

import pytest

from bellmax import UserError
from bellmax.launch.config import run_config
from bellmax.launch.config.options import read_overrides
from bellmax.launch.config.overrides import override
from bellmax.launch.config.sentences import FLAG
from bellmax.launch.config.yaml_files import dump_yaml, parse_yaml
from bellmax.launch.training.experiment import build


@pytest.fixture
def preset(tmp_path):
    path = tmp_path / "preset.yaml"
    path.write_text("steps: 5_000\nagent:\n  name: dqn\n  learning-rate: 1e-3\n")
    return path


def test_the_command_line_wins_over_the_file_and_the_file_over_defaults(preset):
    config = run_config.load(preset, ["--steps", "6e3", "--env.num-envs=4", "--tensorboard"])
    assert config.agent_name == "dqn"
    assert (config.steps, config.env.num_envs, config.tensorboard) == (6_000, 4, True)
    assert config.agent.learning_rate == 1e-3
    assert run_config.load(preset, ["--agent.learning-rate", "2e-3"]).agent.learning_rate == 2e-3
    assert config.warmup_steps == run_config.RunConfig("dqn").warmup_steps


def test_a_resolved_configuration_is_accepted_as_a_file_and_a_run_folder(preset, tmp_path):
    arguments = ["--agent.discount", "0.123456789012345678", "--env.options.size", "10"]
    arguments += ["--env.options.text", "'1e-3'", "--agent.network.hidden", "[3,5]"]
    config = run_config.load(preset, arguments)
    saved = tmp_path / "run" / "config.yaml"
    saved.parent.mkdir()
    saved.write_text(run_config.to_yaml(config))
    assert run_config.load(saved) == run_config.load(saved.parent) == config
    assert config.env.options["size"] == 10


def test_free_form_numbers_and_texts_survive_a_file():
    values = {"a": 1e-3, "b": "1e-3", "c": 10, "d": "10", "e": True, "f": "true", "g": 1e22}
    again = parse_yaml(dump_yaml(values).encode(), "x")
    assert again == values and [type(v) for v in again.values()] == [
        type(v) for v in values.values()
    ]
    assert parse_yaml(b"{a: 1e-3, b: -2E+5}", "x") == {"a": 1e-3, "b": -2e5}


def test_overrides_are_read_as_text_in_the_order_typed_and_the_last_of_two_wins():
    tokens = ["--agent.n-step", "1", "--seed=-1", "--agent.n_step=-2", "--tensorboard", "--wandb="]
    typed = read_overrides([*tokens, "--agent.discount", "-1e-3", "--env.num-envs", "8"])
    assert typed == {
        "agent.n_step": "-2",
        "seed": "-1",
        "tensorboard": "true",
        "wandb": "",
        "agent.discount": "-1e-3",
        "env.num_envs": "8",
    }
    assert list(typed)[:2] == ["agent.n_step", "seed"]
    assert typed["tensorboard"] is FLAG
    assert read_overrides(["--tensorboard=true"])["tensorboard"] is not FLAG


def test_free_form_keys_and_mistyped_ones_are_read_too():
    tokens = ["--env.options.frame-skip", "4", "--agent.lr=3", "--x", "--env.options.g", "-9.8"]
    typed = read_overrides([*tokens, "--y", "1", "2"])
    assert typed.pop("y") == ["1", "2"]
    assert typed == {
        "env.options.frame_skip": "4",
        "agent.lr": "3",
        "x": "true",
        "env.options.g": "-9.8",
    }
    assert typed["x"] is FLAG
    env = {"name": "x", "options": {"g": 1, "h": 2}}
    assert override({"env": env}, typed)["env"] == {
        "name": "x",
        "options": {"frame_skip": "4", "g": "-9.8", "h": 2},
    }
    assert env == {"name": "x", "options": {"g": 1, "h": 2}}
    assert override({}, {"a": 1, "a.b": 2}) == {"a": {"b": 2}}
    assert override({}, {"a.b": 2, "a": 1}) == {"a": 1}


def test_words_before_the_first_override_are_refused():
    with pytest.raises(UserError, match="unexpected argument 'left', 'over'; overrides look like"):
        read_overrides(["left", "over", "--seed", "1"])


def test_an_override_of_the_agent_brings_its_keys(tmp_path):
    path = tmp_path / "bare.yaml"
    path.write_text("agent: {name: dqn}")
    typed = [
        "--agent.name",
        "icm",
        "--agent.icm-hidden",
        "8",
        "9",
        "--agent.network.memory-size",
        "7",
    ]
    agent = run_config.load(path, typed).agent
    assert (agent.icm_hidden, agent.network.memory_size) == ((8, 9), 7)
    with pytest.raises(UserError, match="unknown key 'agent.icm_hidden'"):
        run_config.load(path, typed[2:])


def test_a_default_that_holds_values_is_not_shared():
    first, second = (run_config.load("dqn/cartpole").env for _ in range(2))
    assert first.options == second.options == {} and first.options is not second.options


BROKEN = [
    (b"", "got an empty file"),
    (b"# nothing\n", "got an empty file"),
    (b"- 1\n- 2\n", "must be a mapping of keys, got [1, 2]"),
    (b"just text\n", "must be a mapping of keys, got 'just text'"),
    (b"steps: 1\nsteps: 2\n", "line 2, column 1: the key steps is given twice"),
    (b"warmup-steps: 1\nwarmup_steps: 2", "line 2, column 1: the key warmup_steps is given twice"),
    (b"agent:\n  name: dqn\n  name: dqn\n", "line 3, column 3: the key name is given twice"),
    (b"steps: [1, 2\nagent: x", "line 2"),
    (b"steps: 1\n\tagent: 2", "line 2"),
    (b"\xff\xfe\x00steps", "is not UTF-8 text: byte 0"),
    (b"steps: \x07", "character 7 is not allowed"),
    (b"when: !!timestamp 2024-13-45", "line 1, column 7: a value must be a timestamp"),
    (b"x: " + b"[" * 5000, "nested too deeply"),
    (b"? [1, 2]\n: 3", "line 1"),
    (b"steps: 10", "agent.name must be one of byol_explore, "),
    (b"agent:", "agent must be a section of keys, got null"),
    (b"agent: dqn", "agent must be a section of keys, got 'dqn'"),
    (b"agent_name: dqn\nagent: {name: dqn}", "unknown key 'agent_name'; did you mean agent.name?"),
    (b"agent: {name: dqnn}", "got 'dqnn'; did you mean dqn?"),
    (b"agent: {name: [dqn]}", "got ['dqn']; did you mean dqn?"),
    (b"agent: {name: dqn, name-: 1}", "unknown key 'agent.name_'"),
]


@pytest.mark.parametrize(("data", "sentence"), BROKEN)
def test_a_broken_file_is_one_sentence_with_its_name(tmp_path, data, sentence):
    path = tmp_path / "broken.yaml"
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        run_config.load(path)
    message = str(caught.value)
    assert sentence in message and message.startswith(str(path)) and "\n" not in message.strip()


MISFITS = [
    (["--steps", "5"], "steps must be at least env.num_envs * rollout_length = 8, got 5"),
    (["--steps", "900"], "warmup_steps must be below steps = 900"),
    (["--env.num-envs", "100", "--replay.capacity", "150"], "replay.capacity must be at least"),
    (["--seed", str(2**31 - 1), "--seeds", "2"], "seed + seeds - 1 must be at most"),
]


@pytest.mark.parametrize(("overrides", "sentence"), MISFITS)
def test_values_that_do_not_go_together_are_refused(preset, overrides, sentence):
    with pytest.raises(UserError, match="must be") as caught:
        run_config.load(preset, overrides)
    assert sentence in str(caught.value)


def test_replay_must_hold_what_the_agent_samples(preset):
    config = run_config.load(preset, ["--replay.capacity", "100", "--warmup-steps", "64"])
    run_config.check_replay(config, sequence_length=2, batch_size=32)
    with pytest.raises(UserError, match="replay.capacity must be at least 160"):
        run_config.check_replay(config, sequence_length=20, batch_size=32)
    with pytest.raises(UserError, match="warmup_steps must be at least 65"):
        run_config.check_replay(config, sequence_length=2, batch_size=65)


ON_POLICY = """
warmup_steps: 0
rollout_length: 4
updates_per_rollout: 6
agent: {name: NAME, batch_size: 4, network: {hidden: [4]}}
env: {name: bellmax/DeepSea, num_envs: 12}
"""
ON_POLICY_AGENTS = ("byol_explore", "count_bonus", "icm", "on_policy", "rnd")
# (overrides, what the sentence says); 12 environments in parts of 4, so 3 gradient steps an epoch.
ROLLOUTS = [
    (
        ["--agent.batch-size", "5"],
        "agent.batch_size must be a divisor of env.num_envs = 12, as a batch is whole "
        "environments, got 5",
    ),
    (["--agent.batch-size", "24"], "agent.batch_size must be a divisor of env.num_envs = 12"),
    (
        ["--updates-per-rollout", "4"],
        "updates_per_rollout must be a multiple of 3 (env.num_envs = 12 over agent.batch_size = "
        "4), so that all environments count alike, got 4",
    ),
    (["--updates-per-rollout", "1"], "updates_per_rollout must be a multiple of 3"),
    (
        ["--rollout-length", "1"],
        "rollout_length must be at least 2, as the agent learns from rollouts alone, got 1",
    ),
]


@pytest.fixture
def on_policy(tmp_path):
    def write(name):
        path = tmp_path / f"{name}.yaml"
        path.write_text(ON_POLICY.replace("NAME", name))
        return path

    return write


@pytest.mark.parametrize(("overrides", "sentence"), ROLLOUTS)
def test_gradient_steps_must_fit_the_rollout(on_policy, overrides, sentence):
    source = on_policy("on_policy")
    for fits in ([], ["--agent.batch-size", "12"], ["--rollout-length", "2"]):
        assert build(run_config.load(source, fits)).agent.replay.on_policy
    with pytest.raises(UserError) as caught:
        build(run_config.load(source, overrides))
    assert str(caught.value).startswith(sentence) and "\n" not in str(caught.value)


def test_gradient_steps_must_fit_the_transitions_of_a_rollout(on_policy):
    source = on_policy("pqn")  # 48 transitions
    for size, updates in ((4, 12), (16, 6), (48, 1)):
        fits = ["--agent.batch-size", f"{size}", "--updates-per-rollout", f"{updates}"]
        assert build(run_config.load(source, fits)).agent.replay.transitions
    for size, updates, sentence in (
        (5, 6, "agent.batch_size must be a divisor of env.num_envs * rollout_length = 48, "),
        (4, 6, "updates_per_rollout must be a multiple of 12 (env.num_envs * rollout_length = 48"),
    ):
        wrong = ["--agent.batch-size", f"{size}", "--updates-per-rollout", f"{updates}"]
        with pytest.raises(UserError) as caught:
            build(run_config.load(source, wrong))
        assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize("name", ON_POLICY_AGENTS)
def test_on_policy_agents_refuse_continuous_actions(on_policy, name):
    config = run_config.load(on_policy(name), ["--env.name", "bellmax/Pendulum"])
    with pytest.raises(UserError) as caught:
        build(config)
    assert str(caught.value) == (
        "env.name must be a task with discrete actions, got bellmax/Pendulum"
    )


@pytest.mark.parametrize("name", run_config.list_presets())
def test_every_preset_that_comes_with_the_package_loads(name):
    assert run_config.load(name).agent_name == name.split("/")[0]
