"""Learning curves: pooling of runs, names of groups, and the files written."""

import numpy as np
import pytest

from bellmax import UserError
from bellmax.launch.reporting import plot
from bellmax.launch.reporting.plot import plot_runs
from helpers.plotted import make_run


def drawn(monkeypatch, runs, tmp_path, **options):
    """The axes of the figure that `plot_runs` draws."""
    figures = []
    draw = plot._draw
    monkeypatch.setattr(plot, "_draw", lambda *args: figures.append(draw(*args)) or figures[0])
    plot_runs(runs, tmp_path / "out", **options)
    return figures[0].axes


def labels(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_one_run_writes_beside_itself(tmp_path):
    run = make_run(tmp_path / "run", seeds=range(3))
    png, svg = plot_runs([run])
    assert (png, svg) == (run / "curve.png", run / "curve.svg")
    assert png.read_bytes().startswith(b"\x89PNG") and "<svg" in svg.read_text()


def test_many_runs_write_where_one_stands(tmp_path, monkeypatch):
    runs = [make_run(tmp_path / name, agent=name) for name in ("dqn", "munchausen_dqn")]
    monkeypatch.chdir(tmp_path)
    assert [path.name for path in plot_runs(runs)] == ["curves.png", "curves.svg"]
    assert plot_runs(runs, tmp_path / "a" / "b.png")[1] == tmp_path / "a" / "b.svg"


def test_runs_that_differ_by_seed_are_one_curve(tmp_path, monkeypatch):
    runs = [make_run(tmp_path / str(seed), seeds=[seed]) for seed in range(4)]
    (axes,) = drawn(monkeypatch, runs, tmp_path)
    assert labels(axes) == ["dqn, 4 seeds"] and len(axes.lines) == 5
    assert "(interquartile mean, 95 % interval)" in axes.get_ylabel()
    assert (axes.get_title(), axes.get_xlabel()) == ("bellmax/CartPole", "environment steps")


def test_few_seeds_show_the_mean(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", seeds=range(3))
    (axes,) = drawn(monkeypatch, [run], tmp_path)
    seeds = np.array([line.get_ydata() for line in axes.lines[:3]])
    np.testing.assert_allclose(axes.lines[3].get_ydata(), seeds.mean(axis=0))
    assert "(mean, 95 % interval)" in axes.get_ylabel()


def test_curves_of_one_panel_show_the_same_statistic(tmp_path, monkeypatch):
    many = make_run(tmp_path / "many", seeds=range(5))
    few = make_run(tmp_path / "few", agent="other", seeds=range(2))
    (axes,) = drawn(monkeypatch, [many, few], tmp_path)
    seeds = np.array([line.get_ydata() for line in axes.lines[:5]])
    np.testing.assert_allclose(axes.lines[5].get_ydata(), seeds.mean(axis=0))
    assert "(mean, 95 % interval)" in axes.get_ylabel()


def test_one_seed_promises_no_interval(tmp_path, monkeypatch):
    (axes,) = drawn(monkeypatch, [make_run(tmp_path / "run")], tmp_path)
    assert axes.get_ylabel() == "evaluation episode return" and labels(axes) == ["dqn, 1 seed"]


def test_what_sets_runs_apart_is_named(tmp_path, monkeypatch):
    slow = make_run(tmp_path / "slow", rate=1e-4)
    fast = make_run(tmp_path / "fast", rate=1e-3)
    other = make_run(tmp_path / "other", agent="munchausen_dqn")
    (axes,) = drawn(monkeypatch, [slow, fast, other], tmp_path)
    names = ["dqn (learning_rate 0.0001)", "dqn (learning_rate 0.001)", "munchausen_dqn"]
    assert labels(axes) == [f"{name}, 1 seed" for name in names]
    assert len({line.get_color() for line in axes.lines}) == 3


def test_a_panel_for_each_task(tmp_path, monkeypatch):
    runs = [make_run(tmp_path / name, env=f"bellmax/{name}") for name in ("Catch", "CartPole")]
    panels = drawn(monkeypatch, runs, tmp_path)
    assert [axes.get_title() for axes in panels] == ["bellmax/Catch", "bellmax/CartPole"]


def test_a_run_that_is_behind_shortens_the_mean_only(tmp_path, monkeypatch):
    done = make_run(tmp_path / "done", seeds=[0], steps=[0, 10, 20])
    behind = make_run(tmp_path / "behind", seeds=[1], steps=[0, 10])
    (axes,) = drawn(monkeypatch, [done, behind], tmp_path)
    assert [len(line.get_xdata()) for line in axes.lines] == [3, 2, 2]
    apart = make_run(tmp_path / "apart", seeds=[2], steps=[7])
    with pytest.raises(UserError, match="no step in common"):
        plot_runs([done, apart], tmp_path / "out")


def test_training_rows_serve_where_evaluation_lacks_the_metric(tmp_path, monkeypatch):
    (axes,) = drawn(monkeypatch, [make_run(tmp_path / "run")], tmp_path, metric="loss")
    assert axes.get_ylabel() == "train loss"


def test_mistakes_are_one_sentence(tmp_path):
    run = make_run(tmp_path / "run")
    with pytest.raises(UserError, match="no regret in .*; it has episode_return, loss"):
        plot_runs([run], metric="regret")
    with pytest.raises(UserError, match="there is no metrics.jsonl"):
        plot_runs([tmp_path])
    with pytest.raises(UserError, match="nothing to plot"):
        plot_runs([])
    (run / "config.yaml").unlink()
    with pytest.raises(UserError, match="there is no config.yaml"):
        plot_runs([run])
