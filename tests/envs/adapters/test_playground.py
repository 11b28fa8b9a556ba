"""MuJoCo Playground's tasks through the adapter; most are only traced, as they compile long."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import UserError
from bellmax.envs import check_env, make
from bellmax.envs.adapters.playground import from_playground
from bellmax.envs.options import install_command
from helpers import suite_objects
from helpers.compiling import compiled
from helpers.marked import some_slow

playground = pytest.importorskip("mujoco_playground")
# Playground imports packages that warn.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
KEY = jax.random.key(0)
TASKS = playground.dm_control_suite.ALL_ENVS  # the others download their models
QUICK = ("CartpoleBalance", "PendulumSwingup")
# Playground 0.2 calls `MjSpec.find_body`, which newer versions of mujoco do not have.
BROKEN = ("ReacherEasy", "ReacherHard")


def kinds(tree):
    return [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]


@pytest.mark.parametrize(
    "task", some_slow([t for t in TASKS if t not in BROKEN], set(TASKS) - {*QUICK, *BROKEN})
)
def test_every_task_is_as_its_spec_says(task):
    """By tracing alone."""
    env = make(f"playground/{task}")
    spec = env.spec
    state, first = jax.eval_shape(env.reset, KEY)
    new, ts = jax.eval_shape(env.step, state, jnp.zeros(spec.action.shape), KEY)
    assert kinds((state, first)) == kinds((new, ts))
    assert ts.observation.shape == spec.observation.shape and ts.observation.dtype == np.float32
    assert (ts.reward.dtype, ts.terminated.dtype, ts.truncated.dtype) == ("float32", "bool", "bool")
    assert spec.time_limit == 1000 and spec.name == f"playground/{task}"
    assert np.all(spec.action.minimum == -1) and np.all(spec.action.maximum == 1)


@pytest.mark.parametrize("task", BROKEN)
def test_a_task_that_its_package_cannot_make_is_one_sentence(task):
    with pytest.raises(UserError, match=f"^playground/{task} cannot be made: AttributeError: "):
        make(f"playground/{task}")


@pytest.mark.slow
def test_check_env_passes():
    assert check_env("playground/CartpoleBalance", episode_length=40) == []


def roll(env, steps):
    def run(key):
        def body(state, _):
            return env.step(state, jnp.array([0.5, 2.0]), key)  # 2 is clipped to 1

        state, first = env.reset(key)
        return first, jax.lax.scan(body, state, None, steps)[1]

    return jax.device_get(compiled(run, KEY)(KEY))


def test_the_time_limit_truncates_and_done_terminates():
    first, ts = roll(from_playground(suite_objects.playground_own()), 6)
    assert first.observation.tolist() == [0, 0, 0] and not first.terminated | first.truncated
    np.testing.assert_allclose(ts.observation[:, 0], 1.5 * np.arange(1, 7))
    assert ts.reward.tolist() == [1, 2, 3, 4, 5, 6]
    assert ts.truncated.tolist() == [False] * 5 + [True] and not ts.terminated.any()
    _, ts = roll(from_playground(suite_objects.playground_own(ends_at=6)), 6)
    assert ts.terminated.tolist() == [False] * 5 + [True] and not ts.truncated.any()


def test_actions_are_repeated_until_the_end():
    env = from_playground(suite_objects.playground_own(ends_at=5, action_repeat=4))
    assert env.spec.time_limit == 2  # of 6 control steps
    _, ts = roll(env, 2)
    assert ts.reward.tolist() == [1 + 2 + 3 + 4, 5]
    assert ts.terminated.tolist() == [False, True] and not ts.truncated.any()
    np.testing.assert_allclose(ts.observation[:, 0], [6, 7.5])
    assert check_env(suite_objects.playground_own(ends_at=5)) == []


def test_wrappers_are_refused():
    wrapped = playground.wrapper.Wrapper(suite_objects.playground_own())
    with pytest.raises(UserError, match="must not be in a wrapper, got a Wrapper; return"):
        from_playground(wrapped)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"episode_length": 0}, "episode_length must be at least 1 environment step, got 0"),
        ({"episode_length": 1.5}, "episode_length must be a whole number, got 1.5"),
        ({"episode_lenght": 3}, "did you mean episode_length?"),
        ({"vision": True}, "vision must be false for playground/CartpoleBalance, got true"),
    ],
)
def test_mistakes_are_explained(options, words):
    with pytest.raises(UserError) as error:
        make("playground/CartpoleBalance", **options)
    assert words in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match="did you mean CartpoleBalance?"):
        make("playground/CartpoleBalanc")


def test_options_reach_the_task():
    assert make("playground/CartpoleBalance", episode_length=7).spec.time_limit == 7


def test_missing_playground_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco_playground", None)
    with pytest.raises(UserError) as error:
        make("playground/CartpoleBalance")
    command = install_command("playground")
    assert str(error.value) == f"mujoco_playground is not installed: {command}"
