"""Runs that were damaged, moved or started twice lose nothing without a word."""

import json
import shutil

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import UserError
from bellmax.launch.cli import main
from bellmax.launch.config.run_config import load
from bellmax.launch.distributed.locks import locked
from bellmax.launch.runners.base import PolicyInputs
from bellmax.launch.training import train as training
from bellmax.launch.training.checkpoint_files import is_checkpoint
from bellmax.launch.training.loop import MovedError, first_checkpoint
from bellmax.launch.training.policy import policy_from_bytes, policy_to_bytes
from helpers.checkpointing import make_state, saved
from helpers.runs import contents

SILENT = training.Output(shows_progress=False)


def begun_meanwhile(run, out):
    """A `build` that takes so long that another process has trained into `out` when it returns."""
    real = training.build

    def build(*arguments, **options):
        made = real(*arguments, **options)
        shutil.copytree(run, out)
        return made

    return build


def test_a_run_that_another_process_began_meanwhile_is_not_wiped(finished, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(training, "build", begun_meanwhile(finished, out))
    before = contents(finished)
    with pytest.raises(UserError, match="out holds a run already; continue it with"):
        training.train(load(finished), out, output=SILENT)
    assert contents(out) == before
    shutil.rmtree(out)
    told = []
    output = training.Output(shows_progress=False, on_metrics=lambda *row: told.append(row))
    assert training.train(load(finished), out, output=output, continues=True) == 0
    same = [name for name in before if name.parts[0] in ("checkpoints", "metrics.jsonl")]
    assert [contents(out)[name] == before[name] for name in same] == [True] * len(same)
    assert told == []  # it was finished


@pytest.mark.parametrize("gone", ["checkpoints", "checkpoints and metrics of the end"])
def test_a_run_whose_checkpoints_are_gone_is_not_begun_again(finished, gone, monkeypatch, capsys):
    shutil.rmtree(finished / "checkpoints")
    shutil.rmtree(finished / "policy")
    log = finished / "metrics.jsonl"
    if "metrics" in gone:
        log.write_text("".join(log.read_text().splitlines(keepends=True)[:2]))
    else:
        (finished / "checkpoints").mkdir()
    before = contents(finished)
    assert main(["resume", str(finished)]) == 2
    error = capsys.readouterr().err
    assert "the checkpoints of" in error and "are gone" in error, error
    assert contents(finished) == before


def test_the_first_checkpoint_is_where_the_loop_stops():
    config = load("dqn/cartpole", ["--env.num-envs", "8", "--checkpoint-every", "50"])
    assert first_checkpoint(config) == 48
    assert first_checkpoint(load("dqn/cartpole", ["--checkpoint-every", "0"])) == 1_000_000


@pytest.mark.parametrize("how", ["moved", "removed", "replaced"])
def test_a_lock_knows_whether_its_folder_is_in_place(tmp_path, how):
    folder = tmp_path / "run"
    folder.mkdir()
    with locked(folder, "training") as in_place:
        assert in_place()
        folder.rename(tmp_path / "elsewhere")
        if how == "replaced":
            folder.mkdir()
        elif how == "removed":
            (tmp_path / "elsewhere").rmdir()
        assert not in_place()


@pytest.mark.slow
def test_a_run_that_is_moved_stops_at_its_next_save(finished, tmp_path):
    def move(*_):
        if finished.exists():
            finished.rename(tmp_path / "elsewhere")

    output = training.Output(shows_progress=False, on_metrics=move)
    config = load(finished, ["--steps", "4000"])
    with pytest.raises(MovedError, match="was moved or removed while it trained; it stopped at"):
        training.resume(finished, config, output=output)
    assert not finished.exists() and (tmp_path / "elsewhere" / "checkpoints" / "1200").is_dir()


def test_a_resume_withchanged_versions_says_so_in_one_line(tmp_path):
    now = training.all_versions()
    (tmp_path / "versions.json").write_text(json.dumps(now))
    assert training.changed_versions(tmp_path) == []
    (tmp_path / "versions.json").write_text(json.dumps(now | {"jax": "0.1.2", "numpy": "0"}))
    (line,) = training.changed_versions(tmp_path)
    assert line.startswith("the run began with jax 0.1.2 and continues with jax ")
    for text in ("", "[1]", '{"jax": '):
        (tmp_path / "versions.json").write_text(text)
        assert training.changed_versions(tmp_path) == []


def test_no_flipped_bit_of_a_policy_is_read_as_another_number():
    params = {"w": jnp.arange(6.0).reshape(2, 3), "half": jnp.ones(2, jnp.bfloat16)}
    inputs = jax.device_get(PolicyInputs(params, (jnp.int32(3),)))
    template = jax.tree.map(np.zeros_like, inputs)
    data = policy_to_bytes(inputs, {"step": 7, "score": 1.5})
    bits = [leaf.tobytes() for leaf in jax.tree.leaves(inputs)]
    assert flax.serialization.msgpack_restore(data)["params"]["w"].shape == (2, 3)
    found = 0
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            step, read = policy_from_bytes(template, bytes(damaged))
        except Exception:  # load_policy gives all the same sentence
            found += 1
        else:  # the same numbers in another spelling
            assert [leaf.tobytes() for leaf in jax.tree.leaves(read)] == bits and step == 7, bit
    assert found > 7.9 * len(data)


def test_a_policy_of_an_older_bellmax_is_read_and_one_of_another_network_is_not():
    inputs = PolicyInputs({"w": np.ones((2, 3), np.float32)}, ())
    old = flax.serialization.to_bytes(inputs)
    assert policy_from_bytes(inputs, old)[1].params["w"].sum() == 6
    with pytest.raises(ValueError, match="another network"):
        policy_from_bytes(PolicyInputs({"w": np.ones((2, 4), np.float32)}, ()), old)


def test_what_the_user_keeps_among_checkpoints_is_neither_read_nor_removed(tmp_path):
    saved(tmp_path, [1, 2])
    for name in ("2024", "01", "3 copy", "2.backup"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").touch()
    (tmp_path / "7").write_text("a file")
    (tmp_path / "2" / "state" / "._stray").touch()
    checkpoints = saved(tmp_path, [3], keep=1)  # removes 1 and 2
    names = sorted(path.name for path in tmp_path.iterdir())
    assert checkpoints.steps() == [3]
    assert names == sorted(["3", "2024", "01", "3 copy", "2.backup", "7"])
    (tmp_path / "3" / "state" / "Thumbs.db").write_text("stray")
    assert checkpoints.restore_latest_valid(jax.eval_shape(make_state))[0] == 3
    assert not is_checkpoint(tmp_path / "2024") and is_checkpoint(tmp_path / "3")
    with pytest.raises(UserError, match="2024 could not be saved"):  # in the place of the user's
        checkpoints.save(2024, make_state(), metric=None, extra={})
    assert (tmp_path / "2024" / "mine").exists()
