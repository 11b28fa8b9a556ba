"""The trials of a search in its storage: what they choose after a kill, and failures."""

import pytest

from bellmax.launch.studies.tune.space import Dimension
from bellmax.launch.studies.tune.trials import Trials

pytest.importorskip("optuna")


def test_a_trial_that_ran_when_the_search_was_killed_is_continued(tmp_path):
    space = [
        Dimension("agent.learning_rate", 1e-4, 1e-2, log=True),
        Dimension("x", choices=("a", "b")),
    ]
    whole = Trials(tmp_path, space, seed=3, prunes=True)
    first = [whole.ask() for _ in range(2)]
    whole.report(0, {80: 1.0})
    whole.finish(0, 2.0)
    # Another process: the second trial still runs, with its values.
    again = Trials(tmp_path, space, seed=3, prunes=True)
    assert again.running() == [first[1]]
    assert not again.report(1, {80: 0.5})
    again.fail(1, "lost")
    third = again.ask()
    assert [trial.state for trial in again.all()] == ["complete", "failed", "running"]
    # A sampler that never stopped would have chosen the same.
    (tmp_path / "other").mkdir()
    other = Trials(tmp_path / "other", space, seed=3, prunes=True)
    assert [other.ask() for _ in range(2)] == first
    other.finish(0, 2.0)
    other.fail(1, "lost")
    assert other.ask() == third


@pytest.mark.parametrize("chosen", [0, 1, 2])
def test_a_trial_that_was_killed_while_it_was_chosen_gets_the_same_values(
    tmp_path, monkeypatch, chosen
):
    space = [Dimension(f"agent.{name}", 0.0, 1.0) for name in ("a", "b", "c")]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        study = Trials(folder, space, seed=3, prunes=False)
        for number in range(2):
            study.ask()
            study.finish(number, float(number))
    expected = Trials(whole, space, seed=3, prunes=False).ask().values
    suggest, calls = Dimension.suggest, []

    def killing(dimension, trial):
        calls.append(dimension.key)
        if len(calls) > chosen:
            raise KeyboardInterrupt
        return suggest(dimension, trial)

    monkeypatch.setattr(Dimension, "suggest", killing)
    with pytest.raises(KeyboardInterrupt):
        Trials(killed, space, seed=3, prunes=False).ask()
    monkeypatch.undo()
    (trial,) = Trials(killed, space, seed=3, prunes=False).running()
    assert trial.values == expected and len(set(expected.values())) == 3


def test_a_return_that_is_not_finite_is_a_failure(tmp_path):
    study = Trials(tmp_path, [Dimension("agent.n_step", 1, 3)], seed=0, prunes=False)
    study.ask()
    study.finish(0, float("nan"))
    assert study.all()[0].state == "failed" and study.importances() == {}
