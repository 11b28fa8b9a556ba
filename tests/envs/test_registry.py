"""Names and options of tasks, and messages about wrong ones."""

import importlib.util
import subprocess
import sys

import pytest

from bellmax import UserError
from bellmax.envs import (
    EnvConfig,
    is_host,
    list_names,
    make,
    make_batch,
    make_host_vector,
    make_vector_env,
)

OWN = [
    *("bellmax/CartPole", "bellmax/Catch", "bellmax/DeepSea", "bellmax/Gamble"),
    *("bellmax/NoisyGrid", "bellmax/Pendulum", "bellmax/PixelCatch", "bellmax/TicTacToe"),
    "bellmax/TwoStateChain",
]


def test_own_names_are_listed_and_made():
    assert list_names()[:9] == OWN
    for name in OWN:
        assert make(name).spec.name == name


def test_factory_of_the_user():
    assert make("helpers.scripted:Counter", ends_at=7).ends_at == 7


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        (
            "bellmax/Cartpole",
            {},
            "unknown environment 'bellmax/Cartpole'; did you mean bellmax/CartP",
        ),
        ("CartPole", {}, "did you mean bellmax/CartPole"),
        ("nothing/like-it", {}, "minigrid/<Task>, module.path:factory"),
        ("gymnax/", {}, "unknown environment 'gymnax/'"),
        (
            "bellmax/DeepSea",
            {"siz": 4},
            "unknown option 'siz' of bellmax/DeepSea; did you mean size",
        ),
        ("bellmax/DeepSea", {"size": "abc"}, "size must be a whole number, got 'abc'"),
        ("bellmax/Pendulum", {"mass": True}, "mass must be a number, got True"),
        ("helpers.scripted:Counte", {}, "unknown callable 'Counte' of module 'helpers.s"),
        ("no_such_module:Counter", {}, "needs the module 'no_such_module'"),
        ("helpers.scripted:", {}, "must be of the form module.path:name"),
        (":factory", {}, "must be of the form module.path:name"),
        ("helpers.scripted:Counter", {"end_at": 3}, "did you mean ends_at"),
        ("helpers.scripted:rollout", {}, "needs the option 'env'"),
        ("builtins:dict", {}, "must return an Environment with spec"),
    ],
)
def test_mistakes_are_explained(name, options, words):
    with pytest.raises(UserError) as error:
        make(name, **options)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_config_reaches_the_environment():
    config = EnvConfig("bellmax/DeepSea", num_envs=3, frame_stack=2, options={"size": 4})
    env = make_vector_env(config)
    assert env.num_envs == 3 and env.spec.observation.shape == (4, 8)
    assert make_vector_env(config, num_envs=5).num_envs == 5


@pytest.mark.parametrize(
    ("name", "own", "option"),
    [
        ("gymnasium/CartPole-v1", 500, "max_episode_steps"),
        ("gymnasium/Pendulum-v1", 200, "max_episode_steps"),
        ("bellmax/Pendulum", 200, "time_limit"),
        ("gymnax/CartPole-v1", 500, "max_steps_in_episode"),
        ("helpers.scripted:Counter", 7, None),
    ],
)
def test_a_time_limit_above_the_tasks_own_is_refused_as_it_would_do_nothing(name, own, option):
    if name.startswith("gymnax"):
        pytest.importorskip("gymnax")
    build = make_host_vector if is_host(name) else make_vector_env
    ours = {"truncates": True, "ends_at": own} if option is None else {}
    for limit in (own + 1, 10 * own):
        with pytest.raises(UserError, match=f"env.time_limit must be at most {own} for") as error:
            build(EnvConfig(name, num_envs=1, time_limit=limit, options=ours))
        if option:
            assert f"--env.options.{option}".replace("_", "-") in str(error.value)
            longer = build(EnvConfig(name, num_envs=1, options={option: limit}))
            assert longer.spec.time_limit == limit
    config = EnvConfig(name, num_envs=1, time_limit=own, options=ours)
    assert build(config).spec.time_limit == own


IMPORTS = """
import sys, bellmax.envs.config
assert "jax" not in sys.modules, "names and configurations cost no jax"
bellmax.envs.list_names()
suites = "gymnax xminigrid brax craftax jumanji navix pgx mujoco_playground"
for package in suites.split():
    assert package not in sys.modules, f"listing imports {package}"
"""
SUITES = {"brax": "brax/hopper", "craftax": "craftax/Craftax-Classic-Symbolic-v1"}
MAKES = f"""
import sys
from bellmax.envs import make
for name in {[name for package, name in SUITES.items() if importlib.util.find_spec(package)]}:
    make(name)
assert "pygame" not in sys.modules and not any(m.startswith("brax.training") for m in sys.modules)
"""


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(IMPORTS, id="names import no suite"),
        pytest.param(MAKES, id="making is quiet", marks=pytest.mark.slow),
    ],
)
def test_a_process_of_its_own(code, tmp_path):
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []  # nothing is left behind


@pytest.mark.parametrize(
    "package", ["brax", "craftax", "gymnax", "jumanji", "navix", "pgx", "xminigrid"]
)
def test_suites_that_are_installed_are_listed(package):
    listed = any(name.startswith(f"{package}/<") for name in list_names())
    assert listed == (importlib.util.find_spec(package) is not None)


def test_which_environments_python_steps():
    for name in (
        "ale/Pong",
        "gymnasium/CartPole-v1",
        "bsuite/catch/0",
        "helpers.scripted_host:HostCounter",
    ):
        assert is_host(name)
    for name in ("bellmax/Catch", "gymnax/CartPole-v1", "helpers.scripted:Counter"):
        assert not is_host(name)
    for name in ("CartPole", "gymnasium/", "ale"):
        with pytest.raises(UserError, match="unknown environment"):
            is_host(name)
    with pytest.raises(UserError, match="did you mean ends_at"):
        is_host("helpers.scripted:Counter", end_at=3)


def test_host_environments_of_the_user():
    assert (
        make_batch(
            "helpers.scripted_host:HostCounter", 2, ends_at=3, truncates=True
        ).spec.time_limit
        == 3
    )
    with pytest.raises(
        UserError, match="bellmax/Catch is a JAX environment; make it with bellmax.envs.make"
    ):
        make_batch("bellmax/Catch", 2)
    with pytest.raises(UserError, match="must return an Environment .*, got a dict"):
        make_batch("builtins:dict", 2)


def test_only_installed_suites_are_listed(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name: None if name in ("ale_py", "bsuite") else real(name),
    )
    listed = list_names()
    assert not {"ale/<Game>", "bsuite/<id>/<number>"} & set(listed)
    assert "gymnasium/<Task>" in listed
