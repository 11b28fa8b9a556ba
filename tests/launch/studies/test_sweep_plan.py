"""The plan of a sweep: separation of values, and names of runs."""

from pathlib import Path

import pytest

from bellmax import UserError
from bellmax.launch.studies.sweep.plan import plan_runs, read_values, split_values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1", ["1"]),
        ("1,2, 3", ["1", "2", "3"]),
        ("[64,64],[128]", ["[64,64]", "[128]"]),
        ("[[1,2],(3,4)],{a: 1, b: 2}", ["[[1,2],(3,4)]", "{a: 1, b: 2}"]),
        ('"64,64",128', ["64,64", "128"]),
        ("'a, [b',it's", ["a, [b", "it's"]),
        ("['a]',b],c", ["['a]',b]", "c"]),
        ("", [""]),
        ("'',x", ["", "x"]),
    ],
)
def test_commas_separate_values_but_not_in_brackets_or_quotes(text, values):
    assert split_values("key", text) == values


@pytest.mark.parametrize("text", ["[1,2", "1,2]", "'a,b", "1,,2", "1,", ",1", "(1],2)("])
def test_values_that_cannot_be_told_apart_are_refused(text):
    with pytest.raises(UserError, match="agent.key"):
        split_values("agent.key", text)


def plan(*overrides, source="dqn/cartpole"):
    return plan_runs(source, read_values(overrides), Path("out"))


def test_the_product_is_named_by_what_varies_and_what_it_means():
    jobs = plan(
        *("--seed", "1,0_2", "--agent.network.hidden=[64,64],[128]"),
        *("--agent.learning-rate", "1e-3", "--tensorboard"),
    )
    names = ["hidden=64-64,seed=1", "hidden=128,seed=1", "hidden=64-64,seed=2", "hidden=128,seed=2"]
    assert [job.name for job in jobs] == names
    assert jobs[2].values == {"agent.network.hidden": "[64, 64]", "seed": "2"}
    assert [(job.config.seed, job.config.agent.network.hidden) for job in jobs] == [
        (1, (64, 64)),
        (1, (128,)),
        (2, (64, 64)),
        (2, (128,)),
    ]
    assert {(j.config.agent.learning_rate, j.config.tensorboard) for j in jobs} == {(1e-3, True)}
    assert jobs[0].arguments == [
        *("train", "dqn/cartpole", "--out", "out/hidden=64-64,seed=1", "--resume", "--seed=1"),
        *("--agent.network.hidden=[64,64]", "--agent.learning_rate=1e-3", "--tensorboard"),
    ]


def test_names_are_stable_and_safe():
    first = plan("--seed", "0,1", "--agent.learning-rate", "1e-3,1e-5")
    again = plan("--agent.learning_rate=0.00001,0.001", "--seed=1,0")
    assert {job.name for job in first} == {job.name for job in again}
    assert "learning_rate=1e-05,seed=0" in {job.name for job in first}
    assert [job.name for job in plan("--seed", "3")] == ["run"]
    (one, _) = plan("--agent.name", "dqn,munchausen_dqn", "--env.name", "bellmax/CartPole")
    assert one.name == "name=dqn"
    both = plan("--agent.name", "dqn,va_learning", "--env.name", "bellmax/CartPole,my own:b/ü")
    assert both[1].name == "agent.name=dqn,env.name=my-own-b--"
    long = [job.name for job in plan("--wandb", f"{'x' * 200},{'x' * 201},null")]
    assert len(set(long)) == 3 and all(len(name) <= 120 for name in long)
    assert long[2] == "wandb=null"
