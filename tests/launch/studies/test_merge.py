"""`bellmax merge`: averages of parameters that play, and sentences where policies do not match."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from bellmax.launch.cli import main
from bellmax.launch.config.run_config import load, to_yaml
from bellmax.launch.studies.evaluate import restore_policy_inputs
from bellmax.launch.training.checkpoints import Checkpoints
from bellmax.launch.training.experiment import build, needed_leaves
from bellmax.launch.training.policy import load_policy
from bellmax.losses.sequence import merge_task_vectors
from helpers.jitted import quick_jit
from helpers.small import SMALL

STEP = 400


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs a, b, c with a checkpoint of random parameters, and some that do not match them."""
    folder = tmp_path_factory.mktemp("merge")
    (folder / "small.yaml").write_text(SMALL + "seeds: 2\n")
    changes = {"a": (), "b": ("--seed", "2"), "c": ("--seed", "4")}
    changes["wide"] = "--agent.network.hidden", "16"
    changes["one"] = "--seeds", "1"
    generator = np.random.default_rng(0)
    draw = lambda x: jnp.asarray(generator.normal(size=x.shape), x.dtype)  # noqa: E731
    for name, overrides in changes.items():
        config = load(str(folder / "small.yaml"), overrides)
        experiment = build(config)
        # What acting needs: to train a run, or only to initialise it, would compile for long.
        state = needed_leaves(experiment.policy_inputs, experiment.abstract_state())
        state = jax.tree.map(draw, state)
        checkpoints = Checkpoints(folder / name / "checkpoints", keep=1)
        checkpoints.save(STEP, state, metric=None, extra={})
        (folder / name / "config.yaml").write_text(to_yaml(config))
    # Never read that far.
    for name, key, value in (("other", "agent", "va_learning"), ("else", "env", "bellmax/Catch")):
        (folder / name).mkdir()
        text = yaml.safe_load((folder / "a" / "config.yaml").read_text())
        if key == "agent":
            text["agent"] = {"name": value, "batch_size": 8}
        else:
            text["env"]["name"] = value
        (folder / name / "config.yaml").write_text(yaml.safe_dump(text))
    return folder


@pytest.fixture(autouse=True)
def here(runs, monkeypatch):
    monkeypatch.chdir(runs)


def parameters(run):
    """What greedy policies need of a run's checkpoint, in NumPy."""
    inputs = restore_policy_inputs(run, build(load(run)))[1]
    return [np.asarray(x) for x in jax.tree.leaves(inputs.params)]


def close(got, wanted):
    for x, y in zip(got, wanted, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-7)


def test_the_mean_of_three_runs_plays(runs, tmp_path, capsys):
    out = tmp_path / "mean"
    assert main(["merge", "a", "b", "c", "--out", str(out)]) == 0
    three = [parameters(runs / name) for name in "abc"]
    close(parameters(out), [sum(leaves) / 3 for leaves in zip(*three, strict=True)])
    assert "merged a at step 400, b at step 400" in capsys.readouterr().out
    assert json.loads((out / "merge.json").read_text())["steps"] == [STEP] * 3
    observation, is_first = np.ones((3, 8, 4), np.float32), np.ones(3, bool)
    policy = load_policy(out, seed=1)
    values = policy.values(observation.reshape(3, -1), policy.initial_memory(3), is_first)
    assert np.all(np.isfinite(values.q_values))
    assert main(["evaluate", str(out), "--episodes", "2"]) == 0
    assert "seed 1: mean return" in capsys.readouterr().out
    assert main(["resume", str(out)]) == 2
    assert "was merged from other runs and can only be played" in capsys.readouterr().err


@pytest.mark.slow
def test_arcs_are_those_of_single_learners(runs, tmp_path):
    out = tmp_path / "arcs"
    command = ["merge", "a", "b", "--start", "c", "--method", "spherical", "--eta", "0.4"]
    assert main([*command, "--out", str(out)]) == 0
    a, b, c = (parameters(runs / name) for name in "abc")
    merge = quick_jit(lambda c, *ends: merge_task_vectors(c, ends, eta=0.4))
    for learner in range(2):
        one = lambda leaves, i=learner: [x[i] for x in leaves]  # noqa: E731
        close(one(parameters(out)), merge(one(c), one(a), one(b)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("a b", "name the folder of the merged policy with --out DIR"),
        ("a --out x", "RUN must be given twice or more, got a"),
        ("a b --out a", "a holds a run already"),
        ("a nowhere --out x", "there is no run nowhere"),
        ("a b --out x --method spherical", "--method spherical needs --start RUN"),
        ("a b --out x --eta 0.5", "--eta needs --start RUN"),
        ("a b --out x --eta 2", "--eta must be"),
        ("a b --out x --method sphericle", "did you mean spherical?"),
        ("a other --out x", "agent.name must be 'dqn' in all runs, as in a, got 'va_learning'"),
        ("a else --out x", "env.name must be 'bellmax/CartPole' in all runs"),
        ("a one --out x", "seeds must be 2 in all runs, as in a, got 1 in one"),
        ("a wide --out x", "agent.network.hidden is [8] and [16]"),
        ("a b --checkpoint 7 --out x", "there is no checkpoint 7"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_no_folder(runs, arguments, words, capsys):
    assert main(["merge", *arguments.split()]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not (runs / "x").exists()
