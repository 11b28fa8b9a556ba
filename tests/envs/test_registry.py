"""Names, options, and what is said when they are wrong."""

import subprocess
import sys

import pytest

from bellmax import UserError
from bellmax.envs import EnvConfig, list_names, make, make_vector_env

OWN = [
    *("bellmax/CartPole", "bellmax/Catch", "bellmax/DeepSea", "bellmax/NoisyGrid"),
    *("bellmax/Pendulum", "bellmax/PixelCatch", "bellmax/TwoStateChain"),
]


def test_own_names_are_listed_and_made():
    assert list_names()[:7] == OWN
    for name in OWN:
        assert make(name).spec.name == name


def test_factory_of_the_user():
    assert make("scripted:Counter", ends_at=7).ends_at == 7


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        (
            "bellmax/Cartpole",
            {},
            "'bellmax/Cartpole', did you mean 'bellmax/CartPole'",
        ),
        ("CartPole", {}, "did you mean 'bellmax/CartPole'"),
        ("nothing/like-it", {}, "`xminigrid/<Task>` and `module.path:factory` work too"),
        ("gymnax/", {}, "There is no environment 'gymnax/'"),
        ("bellmax/DeepSea", {"siz": 4}, "no option 'siz', did you mean 'size'; it takes size, det"),
        ("scripted:Counte", {}, "no callable 'Counte', did you mean 'Counter'"),
        ("no_such_module:Counter", {}, "needs the module 'no_such_module'"),
        ("scripted:", {}, "no callable ''"),
        (":factory", {}, "not of the form module.path:factory"),
        ("scripted:Counter", {"end_at": 3}, "did you mean 'ends_at'"),
        ("scripted:rollout", {}, "needs the option 'env'"),
        ("builtins:dict", {}, "returned a dict, not an Environment"),
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
