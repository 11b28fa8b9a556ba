"""What `evaluate`, `plot`, `list` and `check-env` print and write for those who read on."""

import importlib.util
import json
import re

import numpy as np
import pytest

from bellmax import UserError
from bellmax.agents import registry
from bellmax.launch.cli import main
from bellmax.launch.cli.descriptions import describe_names
from bellmax.launch.config.run_config import list_presets
from bellmax.launch.reporting.plot import draw_runs
from bellmax.launch.reporting.plot_options import Look, read_look, smooth
from bellmax.launch.studies.evaluate import Evaluation, as_json, describe_evaluation
from helpers.plotted import make_run


def evaluation(returns):
    returns = np.asarray(returns, np.float32)
    lengths = np.ones(returns.shape, np.int32)
    seeds = np.arange(len(returns))
    return Evaluation(7, seeds, returns, lengths, lengths > 1, 0, None)


@pytest.mark.parametrize(
    ("returns", "text"),
    [
        (
            [1.0, 2.0, 3.0],
            "mean return 2.00 (min 1.00, max 3.00, 3 episodes) at step 7; deviation",
        ),
        ([0.0011, 0.0012, 0.0013], "mean return 0.001200 (min 0.001100, max 0.001300"),
        ([1e6, 2e6], "mean return 1500000.00"),
        ([5.0, 5.0], "mean return 5.00 (min 5.00, max 5.00, 2 episodes) at step 7; deviation 0.00"),
        ([5.0], "mean return 5.00 (min 5.00, max 5.00, 1 episodes) at step 7"),
        ([np.nan, 1.0], "mean return nan"),
    ],
)
def test_returns_have_the_digits_that_their_spread_needs(returns, text):
    (line,) = describe_evaluation(evaluation([returns]))
    assert text in line, line


def test_an_evaluation_is_json_with_every_episode():
    found = json.loads(
        json.dumps(as_json(evaluation([[1, 2, 6, 1, 5], [np.inf, 1, 2, 1, 1]])), allow_nan=False)
    )
    first, second = found["seeds"]
    assert first["mean"] == 3 and first["returns"] == [1, 2, 6, 1, 5] and found["step"] == 7
    assert first["interval"][0] < 3 < first["interval"][1]
    few = as_json(evaluation([[1, 2, 6, 1]]))["seeds"][0]
    assert few["interval"] == [None, None]
    assert second["mean"] is None and second["returns"][0] is None


def test_the_command_prints_json_of_one_seed(finished, capsys):
    words = ["evaluate", str(finished), "--episodes", "2", "--json", "--seed", "0"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["seed"] for one in found["seeds"]] == [0] and len(found["seeds"][0]["returns"]) == 2
    assert main([*words[:-1], "3"]) == 2 and "has no seed 3" in capsys.readouterr().err


def test_a_plot_has_the_look_that_is_asked_for(tmp_path, capsys):
    runs = [
        make_run(tmp_path / f"{rate}-{s}", rate=rate, seeds=(s,)) for rate in (1, 2) for s in (0, 1)
    ]
    words = "--title A --labels one,two --size 3,2 --range 0,9 --smoothing 3 --pdf --group"
    out = ["--out", str(tmp_path / "x.png"), *words.split(), "agent.learning-rate"]
    assert main(["plot", *map(str, runs), *out]) == 0
    paths = capsys.readouterr().out.split()
    assert [path[-4:] for path in paths] == [".png", ".svg", ".pdf"]
    assert (tmp_path / "x.pdf").read_bytes().startswith(b"%PDF")
    look = read_look(
        title="A", labels="one,two", size="3,2", limits="0,9", group="agent.learning_rate"
    )
    figure = draw_runs(runs, look=look)
    (axes,) = figure.axes
    assert axes.get_title() == "A" and axes.get_ylim() == (0, 9) and axes.get_xlim()[0] == 0
    assert axes.get_legend_handles_labels()[1] == ["one, 2 seeds", "two, 2 seeds"]
    assert tuple(figure.get_size_inches()) == (3, 2)
    assert axes.get_yscale() == "linear"
    (axes,) = draw_runs(runs, "loss", Look(log_scale=True)).axes
    assert axes.get_yscale() == "log" and axes.get_ylim()[0] > 0
    pooled = draw_runs(runs, look=Look(group="agent.name"))
    assert pooled.axes[0].get_legend_handles_labels()[1] == ["dqn, 4 seeds"]


def test_smoothing_is_a_running_mean():
    np.testing.assert_allclose(smooth(np.array([1.0, 3, 5, 7]), 2), [1, 2, 4, 6])
    np.testing.assert_allclose(smooth(np.array([1.0, 3]), 1), [1, 3])


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("--size 3", "--size must be W,H in inches"),
        ("--size 0,4", "--size must be W,H in inches"),
        ("--range 5,1", "--range must be LOW,HIGH with LOW < HIGH"),
        ("--range a,b", "--range must be LOW,HIGH"),
        ("--smoothing 0", "--smoothing must be an integer"),
        ("--labels a,b,c", "--labels must name 1 curves (dqn), got 3"),
        ("--group agent.lr", "unknown key 'agent.lr'"),
        ("--log-scale --range 0,9", "--range must be LOW,HIGH with 0 < LOW with --log-scale"),
    ],
)
def test_mistakes_of_the_look_are_one_sentence(tmp_path, capsys, words, part):
    run = make_run(tmp_path / "run")
    assert main(["plot", str(run), *words.split()]) == 2
    assert part in capsys.readouterr().err


def test_a_logarithmic_axis_needs_positive_values(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    rows = (run / "metrics.jsonl").read_text().replace('"loss": 1.0', '"loss": -1.0')
    (run / "metrics.jsonl").write_text(rows)
    assert main(["plot", str(run), "--metric", "loss", "--log-scale"]) == 2
    words = "--log-scale must be left out for loss, got values from -1"
    assert words in capsys.readouterr().err and not (run / "curve.png").exists()


@pytest.mark.parametrize("kind", ["agents", "envs", "presets"])
def test_a_list_describes_each_name(kind, capsys):
    assert main(["list", kind]) == 0
    lines = [re.split("  +", line, maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert all(len(line) == 2 and len(line[1]) > 3 for line in lines), lines
    names = [line[0] for line in lines]
    assert names == {"agents": registry.names(), "presets": list_presets()}.get(kind, names)


@pytest.mark.parametrize("name", ["bellmax/Pendulum", "gymnasium/CartPole-v1"])
def test_check_env_prints_the_spaces(name, capsys):
    assert main(["check-env", name]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{name}: nothing wrong found"
    assert [line.partition(":")[0] for line in lines[1:]] == [
        "observations",
        "actions",
        "time limit",
    ]


def test_check_env_takes_options_and_nothing_else(capsys):
    assert main("check-env bellmax/DeepSea --env.options.size 4".split()) == 0
    assert "observations: [4, 4]" in capsys.readouterr().out
    assert main("check-env bellmax/DeepSea --env.options.sise 4".split()) == 1
    assert "did you mean size" in capsys.readouterr().out
    assert main("check-env bellmax/DeepSea --steps 4".split()) == 2
    assert "--env.options.NAME" in capsys.readouterr().err


def test_a_traceback_is_printed_where_it_is_asked_for(capsys):
    assert main(["evaluate", "nowhere"]) == 2 and "Traceback" not in capsys.readouterr().err
    for words in (["evaluate", "nowhere", "--traceback"], ["--traceback", "list", "x"]):
        assert main(words) == 2
        lines = capsys.readouterr().err.splitlines()
        assert lines[0].startswith("Traceback") and lines[-1].startswith("bellmax: ")
    with pytest.raises(UserError):
        read_look(size="x")


@pytest.mark.parametrize(
    ("seeds", "text"),
    [
        (3, "mean over 3 seeds: 1.00 (range of 3 seeds 0.00 to 2.00)"),
        (5, "mean over 5 seeds: 2.00 (95 % interval 0."),
    ],
)
def test_few_seeds_have_a_range_and_no_interval(seeds, text):
    *each, last = describe_evaluation(evaluation([[seed] * 2 for seed in range(seeds)]))
    assert last.startswith(text), last
    assert all("interval" not in line for line in each)  # of two episodes


def test_a_preset_names_the_extra_that_is_missing(monkeypatch):
    missing = {"gymnax", "mujoco"}
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n in missing else find(n))
    names = ["dqn/cartpole", "td3/hopper", "munchausen_dqn/gymnasium_acrobot"]
    said = describe_names("presets", [*names, "dqn/minatar_breakout"])
    needs = [line.partition("needs the extra ")[2] for line in said.values()]
    assert needs == ["", "gymnasium]", "", "gymnax]"]


def test_an_agent_in_place_of_a_preset_and_the_version_are_explained(capsys):
    assert main(["train", "mine:make_agent"]) == 2
    assert "type a preset and `--agent.name mine:make_agent`" in capsys.readouterr().err
    assert main(["train", "nothing_like_any"]) == 2
    assert "`bellmax list presets` and `bellmax list agents` name" in capsys.readouterr().err
    assert main(["--help"]) == 0 and "--version" in capsys.readouterr().out
