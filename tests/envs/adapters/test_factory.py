"""Messages about a user's environment that raises, or is none: they name file and line."""

import re

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import UserError
from bellmax.envs import (
    EnvConfig,
    LoopBatch,
    is_host,
    is_host_env,
    make,
    make_batch,
    make_host_vector,
    vectorise,
)
from helpers import odd_tasks

HERE = r"odd_tasks\.py, line \d+\)$"


def make_drawing(render_mode=None, length=1):
    return gymnasium.make("CartPole-v1", render_mode=render_mode, max_episode_steps=length)


def make_blind():
    return gymnasium.make("CartPole-v1")


def test_a_factory_gets_a_render_mode_if_it_has_that_argument():
    pytest.importorskip("pygame")
    batch = make_batch(f"{__name__}:make_drawing", 1, render=True, length=9)
    batch.reset(0)
    assert batch.render().shape == (400, 600, 3)
    batch.close()


@pytest.mark.parametrize(
    ("factory", "options"),
    [
        ("make_drawing", {}),
        ("make_drawing", {"render": True, "render_mode": None}),
        ("make_blind", {"render": True}),
    ],
)
def test_a_task_without_a_render_mode_says_how_it_gets_one(factory, options):
    batch = make_batch(f"{__name__}:{factory}", 1, **options)
    batch.reset(0)
    with pytest.raises(UserError, match="give its factory the argument render_mode, which"):
        batch.render()
    batch.close()


def odd(name):
    return f"helpers.odd_tasks:{name}"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("make_raising", rf"make_raising cannot be made: KeyError: 'missing' \(.*{HERE}"),
        ("RaisesWhenMade", rf"RaisesWhenMade cannot be made: ValueError: .* \(.*{HERE}"),
        ("make_exiting", rf"make_exiting cannot be made: SystemExit: 0 \(.*{HERE}"),
        ("make_nothing", "got None; does the factory lack a `return`"),
        ("make_class", r"got the class Gym; return an instance, Gym\(\)"),
        ("an_instance", "must be a function or class that makes an environment, got a Gym"),
        ("late_spaces", "a Late without observation_space and action_space; set them in __init__"),
        ("misspelt_spaces", "'observation_spaces'; did you mean observation_space"),
        ("misspelt_reset", "with 'rest'; did you mean reset"),
        ("legacy_env", "got a Old; it is of the package gym, derive it from gymnasium.Env"),
        ("make_hangin", "did you mean make_hanging"),
    ],
)
def test_factories_that_make_no_environment(name, words):
    with pytest.raises(UserError, match=words) as error:
        make_batch(odd(name), 1)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=words):
        is_host(odd(name))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("legacy_space", "got a Box of the package gym instead of gymnasium"),
        ("space_class", "action space must be .*, got the class Discrete"),
        ("unseeded_reset", r"reset of .* must take the arguments seed and options, got \(\)"),
    ],
)
def test_gymnasium_tasks_of_another_interface(name, words):
    with pytest.raises(UserError, match=words):
        make_batch(odd(name), 1)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("old_reset", r"reset of .* must return \(observation, info\), got a ndarray"),
        ("old_step", "step of .* must return .*, got 4 values; this is Gymnasium's interface"),
        ("dm_tuple", "reset and step of .* must return a dm_env.TimeStep, got a tuple"),
        ("tuple_step", "reset and step of .* must return a HostTimeStep, got a tuple"),
        ("raising_reset", rf"10 times in a row, .* because ZeroDivisionError: .* \(.*{HERE}"),
        ("exiting_step", rf"10 times in a row, .* because SystemExit: 0 \(.*{HERE}"),
    ],
)
def test_steps_that_raise_or_return_something_else(name, words):
    batch = make_batch(odd(name), 1)
    with pytest.raises(UserError, match=words):
        batch.reset(0)
        for _ in range(20):
            batch.step(np.zeros(1, np.int32))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x = 1 / 0", r"cannot be imported: ZeroDivisionError: .* \(.*a_module\.py, line 2\)"),
        ("x = = 1", r"cannot be imported: SyntaxError: .* \(a_module\.py, line 2\)"),
        ("import nothing_like_it", r"ModuleNotFoundError: .*nothing_like_it.*a_module\.py, line 2"),
        ("raise SystemExit", r"cannot be imported: SystemExit: .*a_module\.py, line 2\)"),
    ],
)
def test_modules_that_cannot_be_imported(source, words, tmp_path, monkeypatch):
    (tmp_path / "a_module.py").write_text(f"# the first line\n{source}\n")
    monkeypatch.syspath_prepend(tmp_path)
    for use in (
        lambda: make("a_module:make"),
        lambda: make_batch("gymnasium/a_module:Task-v0", 1),
    ):
        with pytest.raises(UserError, match=words) as error:
            use()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["Drawn", "DrawnWithOptions", "DrawnAsStatic"])
def test_a_jax_task_that_can_be_drawn_and_closed_is_a_jax_task(name):
    assert not is_host(odd(name))
    assert make(odd(name)).spec.name == "test/Counter"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("jax_raising_step", rf"step of test/Counter fails: KeyError: 'bonus' \(.*{HERE}"),
        ("JaxBranching", rf"step of test/Counter fails: TracerBoolConversionError: .* \(.*{HERE}"),
        ("JaxRaisingSpec", rf"cannot be (made|read): ValueError: `num_values` must .* \(.*{HERE}"),
        ("jax_tuple", r"step of test/Counter must return \(state, TimeStep\), got 5 values"),
    ],
)
def test_jax_tasks_that_raise(name, words):
    with pytest.raises(UserError) as error:
        env = vectorise(make(odd(name)), 2)
        jax.eval_shape(
            lambda key: env.step(env.reset(key)[0], jnp.zeros(2, int), key), jax.random.key(0)
        )
    assert re.search(words, str(error.value)) and "\n" not in str(error.value)


def test_a_timeout_is_for_host_environments_and_asks_no_factory():
    config = EnvConfig(odd("make_hanging"), timeout=1.0)
    assert is_host_env(config)  # without a call of the factory
    with pytest.raises(
        UserError, match="env.timeout must be left out for helpers.scripted:Counter"
    ):
        make_host_vector(EnvConfig("helpers.scripted:Counter", timeout=300.0, num_envs=1))


@pytest.mark.slow
def test_a_factory_that_hangs_or_exits_falls_under_the_timeout(monkeypatch):
    monkeypatch.setattr("bellmax.envs.host.process.START_SECONDS", 1.0)
    with pytest.raises(UserError, match="cannot be made: SystemExit: 0"):
        make_batch(odd("make_exiting"), 1, timeout=60.0)
    with pytest.raises(UserError, match="cannot be made: .*no answer within"):
        LoopBatch(odd_tasks.make_hanging, 1, timeout=10.0)
