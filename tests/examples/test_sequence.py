"""The example of a tiny language model: exact numbers, every loss traces, and some learn."""

import importlib.util
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.compiling import compiles_soon

FILE = Path(__file__).parents[2] / "examples" / "sequence" / "train.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("sequence_train", FILE)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FILE.parent)  # as it is for a script
        spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def as_for_readers():
    with jax.numpy_rank_promotion("allow"), compiles_soon():
        yield


@pytest.fixture(scope="module")
def problem(example):
    with jax.numpy_rank_promotion("allow"), compiles_soon():
        return example.make_problem(example.sizes_of(small=True))


def test_the_reward_counts_upwards(example):
    strings = np.array([[0, 1, 2, 3], [3, 2, 1, 0], [0, 1, 3, 0]])
    np.testing.assert_allclose(example.reward(strings), [1.0, 0.0, 1 / 3], rtol=1e-6)
    rewards = example.all_rewards(example.sizes_of(small=True))
    assert rewards.shape == (4**4,) and np.argmax(rewards) == 0 * 64 + 1 * 16 + 2 * 4 + 3


@pytest.mark.slow
def test_enumeration_gives_each_string_its_probability(example, problem):
    strings = np.array(list(itertools.product(range(4), repeat=4)))
    each = jax.jit(lambda x: example.log_probs(problem.model, problem.ref, x))(jnp.asarray(strings))
    np.testing.assert_allclose(problem.log_ref, np.sum(each, axis=1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.sum(np.exp(problem.log_ref)), 1.0, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "beta"), [("dpo", 0.3), ("copg_offline", 0.05), ("rloo", 0.05)])
def test_one_loss_of_each_kind_learns_below_the_best_possible(example, problem, name, beta):
    train = jax.jit(example.make_train(problem, name, 60))
    reward, kl = train(jax.random.key(0), beta)
    before = np.exp(problem.log_ref) @ problem.r
    assert reward > before + 0.05
    best, at = example.best_possible(problem, np.geomspace(0.02, 5.0, 200))
    order = np.argsort(at)
    assert reward <= np.interp(kl, at[order], best[order]) + 1e-3


@pytest.mark.slow
def test_every_loss_traces(example, problem):
    for name in example.LOSSES:
        train = example.make_train(problem, name, 2)
        shapes = jax.eval_shape(train, jax.random.key(0), jnp.float32(0.1))
        assert [x.shape for x in shapes] == [(), ()]


@pytest.mark.slow
def test_the_command_line(example, capsys):
    rewards, kls, before = example.main(
        ["--small", "--loss", "ipo", "--seeds", "2", "--steps", "20"]
    )
    assert rewards.shape == kls.shape == (2,) and np.all(kls > 0) and np.all(rewards > before)
    assert "ipo seed 1: reward" in capsys.readouterr().out
