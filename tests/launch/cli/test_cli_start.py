"""The command line at its start: what it loads, completion, the doctor and the cache."""

import gc
import sys
from pathlib import Path

import pytest

from bellmax.envs.options import install_command
from bellmax.launch.cli import main
from bellmax.launch.distributed import devices
from bellmax.launch.reporting.versions import requirements
from helpers.processes import finish, start_bellmax, start_python

PRESET = "steps: 5000\nagent: {name: dqn, learning_rate: 1e-3}\nenv: {name: bellmax/CartPole}\n"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Provide a folder with one good file and one plain file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.yaml").write_text(PRESET)
    (tmp_path / "plain").write_text("a file")


def test_the_doctor_fails_for_a_missing_core_package(capsys, monkeypatch):
    monkeypatch.setattr("bellmax.launch.cli.doctor.version", lambda name: None)
    assert main(["doctor"]) == 1
    report = capsys.readouterr().out
    assert "jax is MISSING: pip install jax" in report and install_command("wandb") in report


@pytest.mark.parametrize(
    ("extra", "command"),
    [
        ("ale", "pip install 'ale-py>=0.12'"),
        ("brax", "pip install 'brax>=0.14.2' 'mujoco>=3.17'"),
        ("dm-control", "pip install dm-control 'mujoco>=3.17,<4'"),
    ],
)
def test_outside_a_clone_an_extra_is_its_requirements(monkeypatch, tmp_path, extra, command):
    lines = [
        "jax>=0.10",
        'ale-py>=0.12; extra == "ale"',
        "brax>=0.14.2; extra == 'brax'",
        "mujoco>=3.17; (python_version < '4') and extra == 'brax'",
        'dm-control ; extra == "dm-control"',
        'mujoco>=3.17,<4; extra == "dm-control"',
        'bellmax[ale]; extra == "all"',
    ]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: lines)
    monkeypatch.setattr("bellmax.__file__", str(tmp_path / "lib" / "bellmax" / "__init__.py"))
    assert install_command(extra) == command


@pytest.mark.parametrize(("argv", "changes"), [(None, True), (["--version"], False)])
def test_only_as_a_program_it_collects_garbage_less_often(monkeypatch, argv, changes):
    monkeypatch.setattr(sys, "argv", ["bellmax", "--version"])
    before = gc.get_threshold()
    try:
        gc.set_threshold(700, 10, 10)
        assert main(argv) == 0
        assert (gc.get_threshold() == (10_000, 10, 10)) == changes
        assert changes or gc.get_threshold() == (700, 10, 10)
    finally:
        gc.set_threshold(*before)


def test_in_a_clone_the_command_names_its_folder():
    folder = Path(install_command("gymnax").removeprefix('pip install "').removesuffix('[gymnax]"'))
    assert (folder / "pyproject.toml").is_file() and folder.is_absolute()


def test_the_doctor_names_no_extra_that_is_made_of_others(monkeypatch):
    lines = ["jax>=0.10", 'ale-py>=0.12; extra == "ale"', 'bellmax[ale]; extra == "all"']
    monkeypatch.setattr("importlib.metadata.requires", lambda name: lines)
    assert requirements() == (["jax", "jaxlib"], {"ale": ["ale-py"]})


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("BELLMAX_CACHE", raising=False)
    assert devices.cache_folder() == tmp_path / "bellmax" / "xla"
    monkeypatch.setenv("BELLMAX_CACHE", str(tmp_path / "plain" / "below"))
    assert devices.cache_folder() == tmp_path / "plain" / "below"
    assert not devices.usable(devices.cache_folder())


AT_ONCE = [  # commands that answer in a second or two, because they import nothing slow
    "--help",
    "--version",
    "list agents",
    "list envs",
    "list presets",
    "schema td3",
    "train expectrl/pendulum --help",
    "show-config dqn/cartpole --seed 3",
    "train icm/deepsea --agent.lr 3 --out out",
]


def test_what_needs_no_jax_loads_nothing_that_takes_long():
    code = (
        "import sys; from bellmax.launch.cli import main\n"
        "slow = {'jax', 'flax', 'rlax', 'optax', 'matplotlib', 'gymnasium', 'orbax'}\n"
        f"for line in {AT_ONCE}:\n"
        "    main(line.split()); print('loaded', line, *(slow & set(sys.modules)), sep='|')"
    )
    out, _ = finish(start_python("-c", code))
    found = [line for line in out.splitlines() if line.startswith("loaded|")]
    assert found == [f"loaded|{line}" for line in AT_ONCE] and "show-config" in out


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_completion_of_shells_knows_commands_keys_and_words(capsys, name):
    assert main(["--tyro-print-completion", name]) == 0
    script = capsys.readouterr().out
    for part in ("show-config", "--agent.icm-hidden", "--env.num-envs", "--episodes", "minatar"):
        assert part in script, part


def test_a_process_ends_with_exit_code_2_and_one_line():
    out, err = finish(start_bellmax("show-config", "good.yaml", "--agent.lr", "3"), code=2)
    assert out == "" and len(err.splitlines()) == 1 and err.startswith("bellmax: ")


def test_configuring_jax_survives_an_unwritable_cache(monkeypatch):
    code = (
        "from bellmax.launch.distributed.devices import configure_jax;"
        "configure_jax(deterministic=True);"
        "import jax, os;"
        "print(jax.config.values['jax_compilation_cache_dir'], os.environ['XLA_FLAGS'])"
    )
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    out, _ = finish(start_python("-c", code, env={"BELLMAX_CACHE": "plain/x"}))
    assert out.startswith("None") and "deterministic_ops=true" in out


def test_lists_and_doctor_answer(capsys):
    for kind, expected in [("agents", "dqn"), ("envs", "bellmax/CartPole"), ("presets", "")]:
        assert main(["list", kind]) == 0
        assert expected in capsys.readouterr().out
    assert main(["doctor"]) == 0
    report = capsys.readouterr().out
    assert "jaxlib" in report and "device 0:" in report and "extra wandb:" in report
