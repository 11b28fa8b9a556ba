"""A run keeps policies as it trains, and the folder of them is enough to play."""

import re
import shutil

import flax.serialization
import pytest

import bellmax
from bellmax import UserError
from bellmax.launch.cli import main
from bellmax.launch.config.run_config import load
from bellmax.launch.training.policy import best_score
from helpers.runs import contents, rows


def said(capsys, *words):
    capsys.readouterr()
    assert main([*words]) == 0
    return re.findall("mean return .*", capsys.readouterr().out)


def facts(path):
    content = flax.serialization.msgpack_restore(path.read_bytes())
    return content["step"], content.get("score")


def test_a_folder_of_policies_alone_is_evaluated_as_its_run(finished, tmp_path, capsys):
    alone = shutil.copytree(finished / "policy", tmp_path / "alone")
    whole = said(capsys, "evaluate", str(finished), "--episodes", "3")
    assert said(capsys, "evaluate", str(alone), "--episodes", "3") == whole != []
    shutil.rmtree(finished / "checkpoints")  # and so is a run without its checkpoints
    assert said(capsys, "evaluate", str(finished), "--episodes", "3") == whole
    assert bellmax.load_policy(alone).initial_memory(2) == ()
    config = load(alone)
    assert (config.loggers, config.wandb, config.steps) == ((), None, 1200)
    assert main(["evaluate", str(alone), "--checkpoint", "800"]) == 2  # it has no checkpoints
    assert sum(map(len, contents(alone).values())) < 100_000


def test_the_best_policy_is_that_of_the_best_evaluation(finished):
    returns = {row["step"]: row["episode_return"] for row in rows(finished, "evaluation")}
    step, score = facts(finished / "policy" / "best" / "seed-0.msgpack")
    assert (
        score == returns[step] == max(returns.values()) == best_score(finished / "policy" / "best")
    )
    assert step == max(s for s, value in returns.items() if value == score)  # the later of equals
    assert facts(finished / "policy" / "seed-0.msgpack") == (1200, None)
    bellmax.load_policy(finished, best=True)


def test_a_policy_that_is_missing_or_damaged_is_named(finished, tmp_path):
    shutil.rmtree(finished / "checkpoints")
    path = finished / "policy" / "seed-0.msgpack"
    path.write_bytes(path.read_bytes()[:-9])
    for use in (bellmax.load_policy, lambda run: bellmax.load_run(run).evaluate(1)):
        with pytest.raises(UserError, match="seed-0.msgpack is damaged"):
            use(finished)
    path.unlink()
    with pytest.raises(UserError, match="there is no policy"):
        bellmax.load_run(finished).evaluate(1)
    assert best_score(tmp_path / "policy" / "best") is None


def test_a_finished_run_says_so_before_anything_is_built(finished, monkeypatch, capsys):
    def refuses(*_, **__):
        raise UserError("built")

    monkeypatch.setattr("bellmax.launch.training.train.build", refuses)
    assert main(["resume", str(finished)]) == 2
    assert "has taken its 1,200 steps already; raise --steps" in capsys.readouterr().out
    assert main(["resume", str(finished), "--steps", "1600"]) == 2
    assert "already" not in capsys.readouterr().out
