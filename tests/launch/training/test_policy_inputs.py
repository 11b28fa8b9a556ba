"""Playing a finished run reads only parameters and statistics from its checkpoint."""

import jax
import numpy as np
import pytest

from bellmax.launch.cli import main
from bellmax.launch.config.run_config import load
from bellmax.launch.studies.evaluate import restore, restore_policy_inputs
from bellmax.launch.training.checkpoints import Checkpoints
from bellmax.launch.training.experiment import build, needed_leaves

PRESETS = [
    *("dqn/cartpole", "munchausen_dqn/cartpole", "qr_dqn_retrace/cartpole", "va_learning/cartpole"),
    *("iqn/cartpole", "c51/cartpole"),
    *("expectrl/pendulum", "td3/pendulum", "byol_explore/deepsea", "rnd/deepsea", "icm/deepsea"),
    *("count_bonus/deepsea", "on_policy/deepsea", "munchausen_dqn/gymnasium_cartpole"),
]


def names(tree):
    return {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.parametrize("preset", PRESETS)
def test_policies_need_neither_replay_nor_optimiser(preset):
    experiment = build(load(preset))
    state = experiment.abstract_state()
    needed = needed_leaves(experiment.policy_inputs, state)
    # The policies can be made from it alone, and are equal.
    inputs, of_all = experiment.policy_inputs(needed), experiment.policy_inputs(state)
    assert jax.tree.leaves(inputs) == jax.tree.leaves(of_all)
    assert names(needed.learner.params) and names(needed.learner.params) <= names(
        state.learner.params
    )
    unread = needed.replay, needed.learner.opt_state, needed.learner.target_params
    assert not names((unread, needed.keys, needed.actor, needed.env.env_state))
    experiment.close()


def test_what_a_function_does_not_use_is_left_out():
    one, other = jax.ShapeDtypeStruct((2,), "float32"), jax.ShapeDtypeStruct((), "float32")
    tree = {"used": one, "seen": [other, one], "not": other}
    needed = needed_leaves(lambda x: (x["seen"][1] + x["seen"][0] * 0, x["used"]), tree)
    assert needed == {"used": one, "seen": [other, one], "not": None}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """An untrained run with statistics, whose checkpoint lacks the replay."""
    monkeypatch.setattr("bellmax.launch.distributed.devices.configure_jax", lambda **_: None)
    folder = tmp_path / "run"
    folder.mkdir()
    text = "agent: {name: dqn, batch_size: 8, network: {hidden: [8]}}\nreplay: {capacity: 1000}\n"
    env = "env: {name: bellmax/CartPole, num_envs: 4, normalise_observations: true}\n"
    (folder / "config.yaml").write_text(f"{text}{env}seeds: 2\nevaluation_max_steps: 20\n")
    checkpoints = Checkpoints(folder / "checkpoints", keep=2)
    checkpoints.save(7, build(load(folder, trust=True)).init(), metric=None, extra={})
    for path in (folder / "checkpoints" / "7" / "replay").rglob("*"):
        if path.is_file():
            path.unlink()
    return folder


def test_a_run_is_played_without_its_replay(run, capsys):
    assert main(["evaluate", str(run), "--trust", "--episodes", "2"]) == 0
    assert "2 episodes) at step 7; deviation " in capsys.readouterr().out
    experiment = build(load(run, trust=True))
    step, inputs, warning = restore_policy_inputs(run, experiment)
    assert (step, warning) == (7, None)
    expected = experiment.policy_inputs(experiment.init())
    for one, other in zip(jax.tree.leaves(inputs), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)
    # Resuming reads the replay, and reports that it is missing.
    with pytest.raises(ValueError, match="there is no intact checkpoint"):
        restore(run, experiment)
