"""Robust evaluation: exact numbers on a task whose return is a known function of its parameters."""

import dataclasses
import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from bellmax import UserError
from bellmax.agents.dqn import DQNConfig, make_dqn
from bellmax.envs import EnvConfig, EnvSpec, TimeStep, vectorise
from bellmax.launch.cli import main
from bellmax.launch.config.boxes import (
    Box,
    make_cells,
    own_box,
)
from bellmax.launch.config.run_config import load
from bellmax.launch.runners.evaluation import Episodes, make_evaluator
from bellmax.launch.studies.evaluate import restore
from bellmax.launch.studies.robust import run as robust
from bellmax.launch.studies.robust.run import evaluate_robust, make_cell_evaluator, summarise
from bellmax.launch.training.experiment import build
from bellmax.networks import NetworkConfig

STEPS = 4
BONUS = 5.0
NOMINAL = {"theta": 4.0, "slope": 0.5, "root": 1.0}


class Walk(NamedTuple):
    time: jax.Array
    start: jax.Array


@dataclasses.dataclass(frozen=True)
class Hill:
    """Pays -(theta - 1)^2 + slope + sqrt(root) - 1 a step, four times.

    While it is plain it pays 5 more, so that its nominal parameters set are not the plain task.
    With `noise` a draw at the reset, one at the step and the action count too, and episodes with
    theta below 0.5 take two steps.
    """

    noise: bool = False
    bonus: float = BONUS
    theta: jax.Array | float = NOMINAL["theta"]
    slope: jax.Array | float = NOMINAL["slope"]
    root: jax.Array | float = NOMINAL["root"]
    spec = EnvSpec(
        "Hill", specs.Array((2,), np.float32), specs.DiscreteArray(2, np.int32), time_limit=STEPS
    )
    parameters = NOMINAL

    def with_parameters(self, values):
        return type(self)(self.noise, 0.0 if values else BONUS, **values)

    def _show(self, state, reward):
        over = state.time >= STEPS
        observation = jnp.stack([state.time.astype(jnp.float32), state.start])
        fell = (state.time >= 2) & (self.theta < 0.5) & self.noise
        return state, TimeStep(observation, jnp.asarray(reward, jnp.float32), fell, over & ~fell)

    def reset(self, key):
        return self._show(Walk(jnp.zeros((), jnp.int32), jax.random.normal(key)), 0.0)

    def step(self, state, action, key):
        reward = -((self.theta - 1.0) ** 2) + self.slope + jnp.sqrt(self.root) - 1.0
        reward += self.bonus
        luck = self.slope * state.start * action + jax.random.normal(key)
        return self._show(state._replace(time=state.time + 1), reward + luck * self.noise)


class Computed(Hill):
    """The same with a spec that computes with jax, which must not be read within a trace."""

    @property
    def spec(self):
        low = jnp.full(2, -100.0)
        return Hill.spec._replace(observation=specs.BoundedArray((2,), np.float32, low, -low))


class Rigid:
    """The same without parameters."""

    spec, reset, step = Hill.spec, Hill.reset, Hill.step
    _show, noise, theta, slope, root, bonus = Hill._show, False, 1.0, 1.0, 1.0, 0.0


CONFIG = f"""
steps: 80
warmup_steps: 40
seeds: 2
evaluation_episodes: 2
agent: {{name: dqn, batch_size: 8, network: {{hidden: [4]}}}}
env:
  name: "{__name__}:Hill"
  num_envs: 4
  normalise_observations: true
  randomise: {{theta: [5, 6]}}
replay: {{capacity: 64}}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two seeds on Hill."""
    folder = tmp_path_factory.mktemp("robust")
    (folder / "hill.yaml").write_text(CONFIG)
    assert main(["train", str(folder / "hill.yaml"), "--out", str(folder / "run")]) == 0
    return folder / "run"


def renamed(run, folder, task):
    """The run with another task of this file in its configuration."""
    copy = folder / "run"
    copy.mkdir()
    (copy / "checkpoints").symlink_to(run / "checkpoints")
    text = (run / "config.yaml").read_text()
    (copy / "config.yaml").write_text(text.replace(f"{__name__}:Hill", f"{__name__}:{task}"))
    return copy


def paid(theta, slope=NOMINAL["slope"], root=NOMINAL["root"]):
    return STEPS * (-((theta - 1.0) ** 2) + slope + np.sqrt(root) - 1.0)


# Boxes and grids


@pytest.mark.parametrize(("count", "tail"), [(9, 1), (10, 1), (25, 3), (100, 10), (1000, 100)])
def test_the_summary_by_sorting(count, tail):
    returns = np.random.default_rng(count).normal(size=(3, count))
    summary = summarise(returns)
    for i, row in enumerate(returns):
        in_order = sorted(row.tolist())
        assert summary.cvar[i] == pytest.approx(sum(in_order[:tail]) / tail)
        assert summary.worst[i] == in_order[0] == row[summary.worst_cell[i]]
        assert summary.mean[i] == pytest.approx(sum(in_order) / count)
        # The mean beyond the 10 % quantile, where a tenth is a whole number of cells.
        if count % 10 == 0:
            cut = np.quantile(row, 0.1, method="inverted_cdf")
            assert summary.cvar[i] == pytest.approx(row[row <= cut].mean())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_the_worst_and_hides_behind_no_mean(bad):
    returns = np.arange(20.0).reshape(2, 10)
    returns[0, 7] = bad
    summary = summarise(returns)
    assert np.isnan([summary.mean[0], summary.worst[0], summary.cvar[0]]).all()
    assert summary.worst_cell[0] == 7
    assert (summary.mean[1], summary.worst[1], summary.cvar[1]) == (14.5, 10.0, 10.0)


# Evaluation


@pytest.mark.parametrize("upper_end", ["included", "excluded"])
def test_every_number_is_the_known_one(run, upper_end):
    box = Box("own", {"theta": (0.0, 2.0), "slope": (0.0, 1.0)})
    result = evaluate_robust(run, box, trust=True, points=5, upper_end=upper_end, episodes=3)
    ends = [4, 4] if upper_end == "included" else [5, 5]
    theta, slope = (high * np.arange(5) / end for high, end in zip([2.0, 1.0], ends, strict=True))
    wanted = paid(theta[:, None], slope[None, :]).reshape(-1)
    np.testing.assert_allclose(result.returns, np.stack([wanted] * 2), atol=1e-5)
    assert result.episodes.episode_return.shape == (25, 2, 3) and result.seeds == [0, 1]
    assert result.episodes.episode_return.dtype == np.float64
    assert (result.episodes.episode_length == STEPS).all() and not result.episodes.cut.any()
    # theta is nominally 4, outside of the box.
    np.testing.assert_allclose(result.nominal_returns, [paid(4.0) + STEPS * BONUS] * 2)
    summary = summarise(result.returns)
    np.testing.assert_allclose(summary.worst, wanted.min(), atol=1e-5)
    assert summary.worst_cell.tolist() == [0, 0] and wanted.argmin() == 0
    np.testing.assert_allclose(summary.cvar, np.sort(wanted)[:3].mean(), atol=1e-5)
    np.testing.assert_allclose(summary.mean, wanted.mean(), atol=1e-5)


@pytest.mark.slow
def test_a_grid_in_chunks_is_each_cell_by_itself(run, tmp_path, monkeypatch):
    """With noise, an effective policy and normalisation, and episodes of unequal length."""
    noisy = renamed(run, tmp_path, "Hill")
    text = (noisy / "config.yaml").read_text()
    (noisy / "config.yaml").write_text(text.replace("options: {}", "options: {noise: true}"))
    monkeypatch.setattr(robust, "MAX_ENVIRONMENTS", 2 * 3 * 4)  # at most 4 of 9 cells
    box, told = Box("own", {"theta": (0.0, 2.0), "slope": (0.5, 3.0)}), []
    result = evaluate_robust(noisy, box, trust=True, points=3, episodes=3, report=told.append)
    assert told == [f"{n} of 9 cells evaluated" for n in (3, 6, 9)]
    config = load(noisy, trust=True)
    assert config.env.options == {"noise": True}
    experiment = build(config)
    step, state, _ = restore(noisy, experiment)
    acting = experiment.agent.actor_params(state.learner), state.env.statistics

    def alone(values):
        env = Hill(True, 0.0 if values else BONUS, **(NOMINAL | values))
        vector_env = vectorise(env, 3, normalise_observations=True, update_statistics=False)
        evaluator = make_evaluator(experiment.agent, vector_env, None)
        return jax.device_get(evaluator(*acting, jnp.arange(2), jnp.int32(step)))

    cells = make_cells(result.axes)
    for i in (0, 5, 7):
        one = alone({name: float(x[i]) for name, x in cells.items()})
        for field in Episodes._fields:
            ours, theirs = getattr(result.episodes, field)[i], getattr(one, field)
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(
        result.nominal_episodes.episode_return, alone({}).episode_return, rtol=1e-6
    )
    lengths = result.episodes.episode_length.reshape(3, -1)
    assert (lengths[0] == 2).all() and (lengths[1:] == STEPS).all()
    assert np.ptp(result.episodes.episode_return, axis=-1).min() > 0.01


def test_a_spec_is_not_computed_within_the_trace():
    env = Computed()
    agent = make_dqn(DQNConfig(network=NetworkConfig(hidden=(4,))), env.spec)
    params = agent.actor_params(jax.vmap(agent.init)(jax.random.split(jax.random.key(0), 1)))
    evaluate = make_cell_evaluator(agent, env, EnvConfig(time_limit=2), 3, None)
    values = {"theta": jnp.array([1.0, 3.0])}
    found = evaluate(values, params, (), jnp.arange(1), jnp.int32(0)).episode_return
    wanted = np.stack([np.full((1, 3), paid(theta) / 2) for theta in (1.0, 3.0)])
    np.testing.assert_allclose(found, wanted)


# The command


def test_the_command_writes_a_table_and_pictures(run, capsys):
    argv = [
        "evaluate",
        str(run),
        "--trust",
        "--robust",
        "--parameter",
        "theta=0,2",
        "--points",
        "5",
    ]
    assert main([*argv, "--parameter", "slope=0,1", "--episodes", "2"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    # Worst: theta 0 or 2, slope 0, where a step pays -1. Tenth of 25 cells: three; -4, -4 and -3.
    # Mean over theta of -(theta - 1)^2 is -0.5 and of slope 0.5.
    assert "box theta-slope: 25 cells (theta 0 to 2, slope 0 to 1), 2 episodes a cell" in lines[0]
    answer = "mean 0.00, worst -4.00 at theta 0, slope 0, CVaR 10% -3.67, nominal -14.00"
    assert lines[1:3] == [f"seed 0: {answer}", f"seed 1: {answer}"]
    assert lines[3].startswith("range of 2 seeds: mean 0.00 [0.00, 0.00], worst -4.00 [")
    stem = run / "robust-theta-slope"
    paths = [stem.with_name(stem.name + suffix) for suffix in (".jsonl", ".png", ".svg")]
    assert lines[4:] == [str(path) for path in paths]
    assert paths[1].read_bytes().startswith(b"\x89PNG") and "<svg" in paths[2].read_text()
    rows = [json.loads(line) for line in paths[0].read_text().splitlines()]
    assert [row["kind"] for row in rows] == ["nominal"] * 2 + ["cell"] * 50
    assert [row["seed"] for row in rows] == [0, 1] * 26
    assert rows[0]["parameters"] == {"theta": 4.0, "slope": 0.5}
    for row in rows:
        values = row["parameters"]
        bonus = STEPS * BONUS if row["kind"] == "nominal" else 0.0
        assert row["episode_return"] == pytest.approx(paid(**values) + bonus, abs=1e-5)
        assert row["episodes"] == 2 and row["episode_length"] == STEPS
        assert row["not_finite_episodes"] == row["cut_episodes"] == 0 and row["step"] == 80
    assert len({tuple(row["parameters"].values()) for row in rows}) == 26


def test_out_names_the_files_and_excluded_leaves_the_upper_end_out(run, tmp_path):
    out = tmp_path / "below" / "mine.png"
    argv = [
        "evaluate",
        str(run),
        "--trust",
        "--robust",
        "--parameter",
        "theta=1,3",
        "--points",
        "4",
    ]
    assert main([*argv, "--upper-end", "excluded", "--episodes", "1", "--out", str(out)]) == 0
    names = sorted(path.name for path in out.parent.iterdir())
    assert names == ["mine.jsonl", "mine.png", "mine.svg"]
    rows = [json.loads(line) for line in out.with_suffix(".jsonl").read_text().splitlines()]
    thetas = [row["parameters"]["theta"] for row in rows if row["kind"] == "cell"]
    assert thetas == [1.0, 1.0, 1.5, 1.5, 2.0, 2.0, 2.5, 2.5]


def test_returns_that_are_not_finite_are_reported(run, tmp_path, capsys):
    argv = [
        "evaluate",
        str(run),
        "--trust",
        "--robust",
        "--parameter",
        "root=-1,1",
        "--points",
        "5",
    ]
    assert main([*argv, "--episodes", "2", "--out", str(tmp_path / "nan")]) == 1
    line = capsys.readouterr().out.splitlines()[1]
    assert "mean nan, worst nan at root -1, CVaR 10% nan, nominal -14.00" in line
    assert "2 cells have returns that are not finite, first at root -1" in line
    rows = [json.loads(line) for line in (tmp_path / "nan.jsonl").read_text().splitlines()]
    assert [r["episode_return"] is None for r in rows] == [False] * 2 + [True] * 4 + [False] * 6
    assert [r["not_finite_episodes"] for r in rows[2:6]] == [2] * 4


# (arguments after the run, what the sentence must contain)
MISTAKES = [
    ("--box 2d", ["--box must be left out without --robust, got 2d"]),
    ("--points 3", ["--points must be left out without --robust, got 3"]),
    ("--parameter theta=0,1", ["--parameter must be left out without --robust"]),
    ("--upper-end excluded", ["--upper-end must be left out without --robust"]),
    ("--out x", ["--out must be left out without --robust, got x"]),
    ("--robust", [":Hill has no published", "brax/hopper", "gymnax/Pendulum-v1", "--parameter"]),
    (
        "--robust --box 2d --parameter theta=0,1",
        ["--box must be left out with --parameter, got 2d"],
    ),
    ("--robust --points 1", ["--points must be an integer in [2, 2147483647]", "got '1'"]),
    ("--robust --parameter theta=0,1 --points 1", ["--points must be an integer in [2, "]),
    (
        "--robust --parameter theta=0,1 --points 100001",
        ["--points must be low enough for at most 100,000 cells, got 100001"],
    ),
    ("--robust --upper-end exclude", ["--upper-end", "did you mean excluded?"]),
    ("--robust --parameter thta=0,1", ["unknown parameter 'thta'", "did you mean theta?"]),
    ("--robust --parameter theta=1,0", ["theta must have LOW < HIGH, got 1,0"]),
    ("--robust --parameter theta=1,1", ["theta must have LOW < HIGH, got 1,1"]),
    ("--robust --parameter theta=1", ["NAME=LOW,HIGH", "'theta=1'"]),
    ("--robust --parameter theta=0,nan", ["NAME=LOW,HIGH", "'theta=0,nan'"]),
    ("--robust --parameter =0,1", ["NAME=LOW,HIGH", "'=0,1'"]),
    (
        "--robust --parameter theta=0,1 --parameter theta=0,2",
        ["--parameter must be given once for each name, got theta twice"],
    ),
    (
        "--robust --parameter a=0,1 --parameter b=0,1 --parameter c=0,1 --parameter d=0,1",
        ["1 to 3 times, got 4"],
    ),
    ("--robust --episodes 0", ["--episodes", "[1, 65536]", "got '0'"]),
    ("--robust --parameter theta=0,1 --checkpoint 7", ["there is no checkpoint 7", "saved: 80"]),
    ("--robust --parameter theta=0,1 --out {run}/config.yaml/x", ["--out", "cannot be written"]),
]


@pytest.mark.parametrize(("arguments", "parts"), MISTAKES)
def test_a_mistake_is_one_sentence(run, capsys, arguments, parts):
    argv = arguments.replace("{run}", str(run)).split(" ")
    assert main(["evaluate", str(run), "--trust", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and len(captured.err.splitlines()) == 1
    assert not [part for part in parts if part not in captured.err], captured.err


def test_a_task_without_parameters_and_a_run_without_checkpoints_are_errors(run, tmp_path):
    with pytest.raises(UserError, match=":Rigid has no parameters that can be changed"):
        evaluate_robust(renamed(run, tmp_path, "Rigid"), "2d", trust=True)
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.yaml").write_text((run / "config.yaml").read_text())
    with pytest.raises(UserError, match="no intact checkpoint"):
        evaluate_robust(bare, own_box(["theta=0,1"]), trust=True)
