"""Learners and tasks of the claims: lanes equal runs, and tasks match their descriptions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benchmarks.claims import (
    agent_runs,
    far_problems,
    lanes,
    tables_munchausen,
    tables_retrace,
    tasks,
)
from benchmarks.claims.plan import make_plan

from bellmax.envs import DeepSea, TwoStateChain, value_iteration
from bellmax.launch.config.run_config import load
from bellmax.launch.training.experiment import build
from helpers.compiling import compiles_soon

WORDS = (
    "--env.name bellmax/TwoStateChain --env.num-envs 2 --steps 240 --warmup-steps 40 "
    "--evaluate-every 80 --evaluation-episodes 2 --replay.capacity 200 --agent.batch-size 8 "
    "--agent.target-period 1 --agent.network.hidden 4"
).split()
TRIALS = {"learning_rate": np.array([0.01, 0.1]), "target_rate": np.array([0.1, 0.5])}
SEEDS = [3, 4]


@pytest.fixture(scope="module", autouse=True)
def quickly():
    """Programs are compiled quickly, because that takes longer than they run."""
    with compiles_soon():
        yield


@pytest.fixture(scope="module")
def config():
    return load("dqn/cartpole", WORDS)


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    return lanes.train_lanes(config, TRIALS, SEEDS, tmp_path_factory.mktemp("whole"))


def test_a_lane_is_a_run_of_its_trial_and_seed(config, trained):
    """The last lane: the second trial, the second seed."""
    options = ["--agent.learning-rate", "0.1", "--agent.target-rate", "0.5", "--seed", "4"]
    alone = build(load("dqn/cartpole", [*WORDS, *options]))
    state, _ = alone.runner.advance(alone.init(), np.int32(20), np.int32(100))
    assert trained.steps.tolist() == [80, 160, 240] and trained.returns.shape == (4, 3)
    assert not trained.diverged.any()
    for ours, theirs in zip(
        jax.tree.leaves(trained.state.learner.params),
        jax.tree.leaves(state.learner.params),
        strict=True,
    ):
        np.testing.assert_allclose(ours[3], theirs[0], rtol=1e-3, atol=1e-4)
        assert np.abs(ours[1] - ours[3]).max() > 1e-3  # the trial counts
        assert np.abs(ours[2] - ours[3]).max() > 1e-3  # the seed counts


def test_a_killed_training_ends_as_if_it_had_not_been(config, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(lanes, "SAVE_SECONDS", 0.0)
    saves = []

    def save(path, what):
        original(path, what)
        saves.append(path)
        if len(saves) == 2:
            raise KeyboardInterrupt

    original = lanes._save
    monkeypatch.setattr(lanes, "_save", save)
    with pytest.raises(KeyboardInterrupt):
        lanes.train_lanes(config, TRIALS, SEEDS, tmp_path)
    assert (tmp_path / "lanes.pickle").is_file()
    again = lanes.train_lanes(config, TRIALS, SEEDS, tmp_path)
    assert len(saves) == 3 and not (tmp_path / "lanes.pickle").exists()
    np.testing.assert_array_equal(again.returns, trained.returns)
    same = jax.tree.map(np.array_equal, again.state.learner, trained.state.learner)
    assert all(jax.tree.leaves(same))


@pytest.mark.slow
def test_a_lane_that_diverged_neither_counts_nor_stops_the_others(config, tmp_path):
    numbers = {"learning_rate": np.array([0.01, np.nan]), "target_rate": np.array([0.1, 0.1])}
    found = lanes.train_lanes(config, numbers, SEEDS, tmp_path)
    assert found.diverged.tolist() == [False, False, True, True]
    assert np.isnan(found.returns[2:]).all() and np.isfinite(found.returns[:2]).all()


def test_trials_that_differ_in_shapes_are_programs_of_their_own():
    trials = [{"agent.n_step": n, "agent.learning_rate": x} for n in (3, 5) for x in (0.1, 0.2)]
    assert agent_runs.groups(trials) == [[0, 1], [2, 3]]
    config, numbers = agent_runs.configure(["qr_dqn_retrace/cartpole"], trials[2:])
    assert config.agent.n_step == 5
    np.testing.assert_array_equal(numbers["learning_rate"], [0.1, 0.2])


def test_six_trials_try_every_value_equally_often():
    rates = (1, 2, 3)
    trials = agent_runs.design(rates, "rate", ("a", "b"), "own", ("x", "y"))
    assert len({tuple(trial.items()) for trial in trials}) == 6
    for key, value, times in (("agent.learning_rate", 2, 2), ("rate", "a", 3), ("own", "y", 3)):
        assert sum(trial[key] == value for trial in trials) == times


def test_sticky_actions_repeat_as_often_as_they_should():
    """On the chain action 1 switches; the action before the first step is 0, which stays."""
    env = tasks.Sticky(TwoStateChain(time_limit=100), 0.25)

    def switched(key):
        reset_key, step_key = jax.random.split(key)
        state, before = env.reset(reset_key)
        state, after = env.step(state, jnp.int32(1), step_key)
        return before.observation.argmax() != after.observation.argmax(), state.action

    moved, action = jax.vmap(switched)(jax.random.split(jax.random.key(0), 4000))
    assert abs(moved.mean() - 0.75) < 0.03
    np.testing.assert_array_equal(moved, action == 1)


def test_a_redundant_action_is_the_one_that_it_repeats():
    env, key = tasks.redundant_deepsea(size=4, copies=3), jax.random.key(0)
    assert env.spec.action.num_values == 6
    state, _ = env.reset(key)
    for action in range(2):
        own = DeepSea(size=4).step(state, jnp.int32(action), key)[0]
        for repeat in (action, action + 2, action + 4):
            assert env.step(state, jnp.int32(repeat), key)[0] == own


def test_aliased_deepsea_is_deepsea_behind_symbols():
    aliased, sea = tasks.AliasedDeepSea(size=5, codes=3), DeepSea(size=5)
    key = jax.random.key(0)
    state, seen = aliased.reset(key)
    theirs, _ = sea.reset(key)
    for row in range(5):
        assert seen.observation.shape == (3,) and seen.observation.sum() == 1
        assert seen.observation.argmax() == aliased.symbols[state.row, state.column]
        action = jnp.int32(sea.action_mapping[row, row])
        state, seen = aliased.step(state, action, key)
        theirs, expected = sea.step(theirs, action, key)
        assert state == theirs and seen.reward == expected.reward
    assert seen.terminated and seen.reward == pytest.approx(1 - 0.01 / 5)
    assert (
        aliased.spec.observation.shape
        == jax.eval_shape(aliased.reset, key)[1].observation.shape
        == (3,)
    )


@pytest.mark.parametrize("task", ["corridor-6", "deepsea-5", "random-4"])
def test_laws_of_problems_have_the_optimal_values_as_means(task):
    control = far_problems.make(task, 7)
    p = control.problem.p * control.continues[None, None, :]
    # A transition into the end has no value after it: the missing mass is worth nothing.
    rest = 1 - p.sum(axis=-1, keepdims=True)
    p = np.concatenate([p, rest], axis=-1)
    p = np.concatenate([p, np.eye(p.shape[-1])[None, -1:].repeat(p.shape[1], axis=1)])
    r = np.concatenate([control.problem.r, np.zeros((1, p.shape[1]))])
    q = value_iteration(p, r, float(control.gamma))[:-1]
    counted = control.counted.astype(bool)
    np.testing.assert_allclose(control.law.mean(axis=-1)[counted], q[counted], atol=0.03)
    best = control.problem.pi.argmax(axis=-1)[counted]
    ahead = np.take_along_axis(q[counted], best[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(ahead, q[counted].max(axis=-1))


def test_the_behaviour_of_deepsea_finds_the_reward_in_a_fifth_of_its_episodes():
    control = far_problems.make("deepsea-6", 0)
    problem = control.problem
    right = problem.mu[np.arange(6) * 7, problem.pi[np.arange(6) * 7].argmax(axis=-1)]
    assert np.prod(right) == pytest.approx(0.2)
    assert control.counted.sum() < 36  # columns beyond the diagonal are out of reach
    np.testing.assert_allclose(problem.mu.sum(axis=-1), 1.0)


@pytest.mark.slow
def test_windows_of_one_step_are_one_step():
    trials, seeds = [{"step_size": 0.1, "period": 1, "k": 1}], [1, 2]
    found = [
        tables_retrace.run("corridor-4", side, trials, seeds, "", updates=500)
        for side in ("one_step", "retrace", "uncorrected")
    ]
    for other in found[1:]:
        np.testing.assert_array_equal(found[0].curves, other.curves)
    longer = tables_retrace.run(
        "corridor-4", "retrace", [trials[0] | {"k": 3}], seeds, "", updates=500
    )
    assert (longer.scores["w1"] < found[0].scores["w1"]).all()


def test_the_optimal_table_loses_nothing():
    p, r, optimum = tables_munchausen.draw(3, (5,))
    lost, gap = tables_munchausen.measure(p[0], r[0], optimum[0], optimum[0])
    assert lost == pytest.approx(0.0, abs=1e-5) and gap > 0
    worst, _ = tables_munchausen.measure(p[0], r[0], optimum[0], -optimum[0])
    assert worst > 0.5


def commands():
    """(study, task, side, whether it is tuning) of all that trains agents."""
    for study in make_plan():
        if "command" in getattr(study.run, "keywords", {}):
            for task in study.tasks:
                yield from (
                    (study, task, side, tuning) for side in study.sides for tuning in (0, 1)
                )


def test_every_command_is_a_configuration_of_its_trials():
    for study, task, side, tuning in commands():
        words = study.run.keywords["command"](task, side, bool(tuning))
        config, numbers = agent_runs.configure(words, list(study.sides[side])[:1])
        assert config.evaluate_every >= config.warmup_steps, study.name
        assert config.steps % config.evaluate_every == 0, study.name
        for name in numbers:
            lanes._replaced(config.agent, name.split("."), 1.0)  # the agent has that number
