"""Names, options, and what is said when they are wrong."""

import importlib.util
import subprocess
import sys

import pytest

from bellmax import UserError
from bellmax.envs import EnvConfig, is_host, list_names, make, make_batch, make_vector_env

OWN = [
    *("bellmax/CartPole", "bellmax/Catch", "bellmax/DeepSea", "bellmax/NoisyGrid"),
    *("bellmax/Pendulum", "bellmax/PixelCatch", "bellmax/TwoStateChain"),
]


def test_own_names_are_listed_and_made():
    assert list_names()[:7] == OWN
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
            "'bellmax/Cartpole', did you mean 'bellmax/CartPole'",
        ),
        ("CartPole", {}, "did you mean 'bellmax/CartPole'"),
        ("nothing/like-it", {}, "`minigrid/<Task>` and `module.path:factory`"),
        ("gymnax/", {}, "there is no environment 'gymnax/'"),
        ("bellmax/DeepSea", {"siz": 4}, "no option 'siz', did you mean 'size'; it takes size, det"),
        ("bellmax/DeepSea", {"size": "abc"}, "size must be a whole number, got 'abc'"),
        ("bellmax/Pendulum", {"mass": True}, "mass must be a number, got True"),
        ("helpers.scripted:Counte", {}, "no callable 'Counte', did you mean 'Counter'"),
        ("no_such_module:Counter", {}, "needs the module 'no_such_module'"),
        ("helpers.scripted:", {}, "no callable ''"),
        (":factory", {}, "must be of the form module.path:factory"),
        ("helpers.scripted:Counter", {"end_at": 3}, "did you mean 'ends_at'"),
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


def test_names_and_config_cost_no_jax():
    code = "import sys, bellmax.envs.config; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_listing_does_not_import_gymnax():
    code = "import sys, bellmax.envs as e; e.list_names(); sys.exit('gymnax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


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
        with pytest.raises(UserError, match="there is no environment"):
            is_host(name)
    with pytest.raises(UserError, match="did you mean 'ends_at'"):
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
