"""What people type who come from other libraries is answered with the right key or name."""

import os

import jax
import pytest

from bellmax import UserError
from bellmax.agents import registry
from bellmax.envs.registry import make
from bellmax.launch.cli import commands, main
from bellmax.launch.config.aliases import NAMES, known_as
from bellmax.launch.config.fields import keys
from bellmax.launch.config.run_config import RunConfig, load
from bellmax.launch.distributed.devices import check_platform
from bellmax.launch.training.experiment import build
from helpers.processes import finish, start_bellmax
from helpers.runs import rows

ALIASES = [
    ("--gamma 0.9", "'gamma'; did you mean agent.discount?"),
    ("--tau 0.9", "'tau'; did you mean agent.target_rate?"),
    ("--agent.tau 0.9", "'agent.tau'; did you mean agent.target_rate?"),
    ("--total-timesteps 9", "did you mean steps?"),
    ("--buffer_size 9", "did you mean replay.capacity?"),
    ("--learning_starts 9", "did you mean warmup_steps?"),
    ("--train-freq 9", "did you mean rollout_length?"),
    ("--lr 9", "did you mean agent.learning_rate?"),
    ("--agent.LR 9", "did you mean agent.learning_rate?"),
    ("--env gymnasium/CartPole-v1", "did you mean env.name?"),
    ("--agent td3", "did you mean agent.name?"),
    ("--env-id x", "did you mean env.name?"),
    ("--env.max_episode_steps 9", "did you mean env.time_limit?"),
    ("--net_arch 64", "did you mean agent.network.hidden?"),
    ("--log-dir x", "did you mean --out?"),
    ("agent.lr=1e-3", "did you mean --agent.learning-rate=1e-3?"),
    ("--seed 3 agent.lr=1e-3", "did you mean --agent.learning-rate=1e-3?"),
    ("+env.name=x", "did you mean --env.name=x?"),
    ("--seed 0,1", "`bellmax sweep` trains a run for each"),
    ("--agent.learning-rate 1e-3,1e-4", "`bellmax sweep` trains a run for each"),
]


@pytest.mark.parametrize(("words", "answer"), ALIASES)
def test_words_of_other_libraries_are_answered_with_the_key(words, answer, capsys):
    assert main(["show-config", "dqn/cartpole", *words.split()]) == 2
    error = capsys.readouterr().err
    assert answer in error and error.count("\n") == 1, error


def test_every_key_that_an_alias_names_exists():
    every = {key for name in registry.names() for key in keys(RunConfig, agent_of(name))}
    ours = {name: aliases.split()[0] for name, aliases in NAMES.items()}
    assert not [name for name, alias in ours.items() if known_as(alias, every) is None]
    aliases = " ".join(NAMES.values()).split()
    assert len(set(aliases)) == len(aliases)


def agent_of(name):
    return {"agent": registry.config_class(name)}


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("ALE/Pong-v5", "ale/Pong"),
        ("ALE/MsPacman-v5", "ale/MsPacman"),
        ("BreakoutNoFrameskip-v4", "ale/Breakout"),
        ("LunarLander-v3", "gymnasium/LunarLander-v3"),
        ("CartPole-v1", "gymnasium/CartPole-v1"),
        ("gym/Hopper-v5", "gymnasium/Hopper-v5"),
        ("MiniGrid-DoorKey-8x8-v0", "minigrid/DoorKey-8x8"),
    ],
)
def test_names_of_tasks_elsewhere_are_answered_with_ours(name, ours):
    with pytest.raises(UserError, match=f"did you mean {ours}"):
        make(name)


@pytest.mark.parametrize("steps", ["300", "5000", "1e6"])
@pytest.mark.parametrize("name", registry.names())
def test_an_agent_alone_has_defaults_that_fit_its_steps(name, steps):
    config = load(name, ["--steps", steps])
    assert config.steps == float(steps) and config.agent_name == name
    assert config.warmup_steps <= max(config.steps // 3, 256)
    assert config.log_every * 20 <= config.steps
    assert getattr(config.agent, "epsilon_steps", 1) <= config.steps


def test_what_is_given_beside_an_agent_alone_is_kept():
    words = "--env.num-envs 4 --warmup-steps 700 --agent.epsilon-steps 9 --log-every 3"
    config = load("dqn", words.split())
    given = config.env.num_envs, config.warmup_steps, config.agent.epsilon_steps, config.log_every
    assert given == (4, 700, 9, 3)
    assert load("td3").env.name == "bellmax/Pendulum" and load("td3").env.num_envs == 1
    assert load("on_policy", ["--env.num-envs", "6"]).agent.batch_size == 2
    with pytest.raises(UserError, match="did you mean td3"):
        load("td33")


@pytest.mark.parametrize("name", ["qr_dqn_retrace", "td3", "on_policy"])
def test_an_agent_alone_can_be_built(name):
    build(load(name, ["--steps", "3000"])).abstract_state()


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.names())
def test_an_agent_alone_trains(name, tmp_path):
    words = ["train", name, "--steps", "600", "--out", str(tmp_path / "run")]
    sizes = {"hidden", "latent_size", "memory_size"} & vars(load(name).agent.network).keys()
    assert main([*words, *(f"--agent.network.{size}=8" for size in sizes)]) == 0


@pytest.mark.parametrize("words", [["--env.options", "null"], ["--env.options=none"]])
def test_null_clears_the_options_of_a_preset(words, tmp_path):
    assert load("dqn/deepsea").env.options and load("dqn/deepsea", words).env.options == {}
    (tmp_path / "own.yaml").write_text("agent: {name: dqn}\nenv: {options: null, randomise: null}")
    assert load(tmp_path / "own.yaml").env.options == {}


def test_two_runs_that_start_in_one_second_have_two_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda form: "now")
    folders = [commands.make_default_folder("dqn/cartpole") for _ in range(3)]
    names = ["dqn-cartpole-now", "dqn-cartpole-now-2", "dqn-cartpole-now-3"]
    assert [str(folder) for folder in folders] == [f"runs/{name}" for name in names]
    assert sorted(os.listdir("runs")) == names


def test_a_run_that_is_refused_leaves_no_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main("train dqn/cartpole --env.name nowhere/X".split()) == 2
    assert list(tmp_path.glob("runs/*")) == []


@pytest.mark.parametrize(
    "line", ["train dqn --out=", "sweep dqn --out=", "plot x --out=", "record x --out="]
)
def test_an_empty_name_of_a_folder_is_refused(line, capsys):
    assert main([*line.split()]) == 2
    assert "--out must be text that is not empty" in capsys.readouterr().err


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("Unable to initialize\nX")])
def test_a_platform_that_does_not_start_is_one_sentence(monkeypatch, error, capsys):
    def devices():
        raise error

    monkeypatch.setattr(jax, "devices", devices)
    with pytest.raises(UserError, match=r"JAX_PLATFORMS must be .* jax\[cuda12\]") as caught:
        check_platform()
    assert "\n" not in str(caught.value)
    assert main(["doctor"]) == 1 and "jax finds no device" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("jax_enable_x64", True, "jax_enable_x64 must be off for runs, got on"),
        ("jax_numpy_dtype_promotion", "strict", "jax_numpy_dtype_promotion must be standard"),
    ],
)
def test_a_program_with_other_settings_of_jax_is_refused(setting, value, words):
    before = jax.config.values[setting]
    jax.config.update(setting, value)
    try:
        with pytest.raises(UserError, match=words):
            build(load("dqn/cartpole"))
    finally:
        jax.config.update(setting, before)


@pytest.mark.slow
def test_commands_train_whatever_the_variables_of_jax_say(tmp_path):
    """A variable that stays in force changes dtypes, and with them the rows of the log."""
    words = ["train", "dqn", "--steps", "1500", "--agent.network.hidden", "8", "--out"]
    variables = {"JAX_ENABLE_X64": "1", "JAX_NUMPY_DTYPE_PROMOTION": "strict"}
    finish(start_bellmax(*words, tmp_path / "other", env=variables))
    assert main([*words, str(tmp_path / "plain")]) == 0
    assert rows(tmp_path / "other") == rows(tmp_path / "plain") != []
