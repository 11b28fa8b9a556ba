"""Checkpoints are restored bit for bit, and damaged ones are reported."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from bellmax import UserError
from bellmax.launch.training import pieces
from bellmax.launch.training.checkpoint_files import MANIFEST
from bellmax.launch.training.checkpoints import Checkpoints
from helpers.checkpointing import ABSTRACT, State, make_state, raw, saved


def test_round_trip_is_bitwise(tmp_path):
    state = make_state()
    checkpoints = saved(tmp_path, [5])
    restored = checkpoints.restore(5, ABSTRACT)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert raw(restored) == raw(state)
    assert str(jax.random.key_impl(restored.keys["other"])) == "rbg"
    assert Checkpoints(tmp_path, keep=1).extra(5) == {"step": 5}


def test_keeps_the_latest_and_the_best(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step, metric in enumerate([0.0, 9.0, float("nan"), 3.0, None, 1.0]):
        checkpoints.save(step, {"x": jnp.ones(2)}, metric=metric, extra={})
    assert checkpoints.steps() == [1, 4, 5]
    reopened = Checkpoints(tmp_path, keep=2)
    assert (reopened.best(), reopened.latest()) == (1, 5)


def test_a_metric_may_come_after_the_save(tmp_path):
    checkpoints = saved(tmp_path, [1, 2, 3], keep=1)
    checkpoints.score(3, float("nan"))
    assert checkpoints.best() is None
    checkpoints.score(3, 5.0)
    assert (checkpoints.best(), Checkpoints(tmp_path, keep=1).best()) == (3, 3)
    checkpoints.save(4, make_state(), metric=None, extra={"step": 4})
    assert checkpoints.steps() == [3, 4]
    # Remains of a killed write do not count as damage.
    (tmp_path / "4" / "metrics").mkdir()
    (tmp_path / "4" / "metrics" / "metrics.tmp").write_text("{")
    checkpoints.score(4, 6.0)
    (tmp_path / "4" / "metrics" / "metrics.tmp").write_text("{")
    assert checkpoints.steps() == [4] and checkpoints.extra(4) == {"step": 4}
    assert raw(checkpoints.restore(4, ABSTRACT)) == raw(make_state())


def test_no_checkpoints(tmp_path):
    checkpoints = Checkpoints(tmp_path / "none", keep=1)
    assert (checkpoints.steps(), checkpoints.latest(), checkpoints.best()) == ([], None, None)
    with pytest.raises(UserError, match="no checkpoint 3 in .*; saved: none"):
        checkpoints.restore(3, ABSTRACT)
    with pytest.raises(UserError, match="no intact checkpoint"):
        checkpoints.restore_latest_valid(ABSTRACT)


def test_saving_again_replaces_and_drops_what_came_later(tmp_path):
    checkpoints = saved(tmp_path, [1, 2, 3])
    checkpoints.save(2, {"x": jnp.ones(2)}, metric=1.0, extra={"again": True})
    assert checkpoints.steps() == [1, 2]
    assert checkpoints.extra(2) == {"again": True} and checkpoints.best() == 2


def test_donated_buffers_are_neither_copied_nor_recompiled_after_save_and_restore(tmp_path):
    traces = []

    def advance(state):
        traces.append(1)
        keys = jax.tree.map(lambda key: jax.random.fold_in(key, 1), state.keys["other"])
        learner = jax.tree.map(lambda x: x * 2, state.learner)
        return state._replace(learner=learner, keys={**state.keys, "other": keys})

    chunk = jax.jit(advance, donate_argnums=0)
    state = chunk(jax.jit(make_state)())
    address = state.replay[0].unsafe_buffer_pointer()
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, state, metric=None, extra={})
    state = chunk(state)
    assert state.replay[0].unsafe_buffer_pointer() == address
    restored = checkpoints.restore(1, ABSTRACT)
    assert not any(leaf.committed for leaf in jax.tree.leaves(restored))
    assert raw(chunk(restored)) == raw(state)
    assert len(traces) == 1 and chunk._cache_size() == 1


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            lambda: make_state(6),
            r"learner/Dense_0/kernel must be float32\[2,6\], got float32\[2,5\]",
        ),
        (
            lambda: make_state()._replace(memory=jnp.ones(3)),
            r"memory must be float32\[3\], got nothing",
        ),
        (lambda: make_state()._replace(replay=()), r"replay/0 must be nothing, got uint8\[6\]"),
        (
            lambda: make_state()._replace(counters={"steps": jnp.uint32(0)}),
            r"steps must be uint32",
        ),
    ],
)
def test_a_state_that_does_not_fit_is_named(tmp_path, other, words):
    checkpoints = saved(tmp_path, [4])
    with pytest.raises(UserError, match=words) as caught:
        checkpoints.restore(4, jax.eval_shape(other))
    assert "\n" not in str(caught.value) and "checkpoint 4" in str(caught.value)


@pytest.mark.parametrize("piece_bytes", [100, 10**9])
def test_a_replay_is_read_in_the_shape_that_the_number_of_devices_needs(
    tmp_path, monkeypatch, piece_bytes
):
    """Slots and environments are one axis or two; what has other steps does not fit."""
    monkeypatch.setattr(pieces, "PIECE_BYTES", piece_bytes)
    rows = np.arange(2 * 10 * 3 * 4, dtype=np.float32)
    shapes = [(2, 10, 3, 4), (2, 30, 4), (2, 120)]

    def state(shape, name="storage"):
        return {"replay": {name: jnp.asarray(rows).reshape(shape)}}

    checkpoints = Checkpoints(tmp_path, keep=9)
    for step, shape in enumerate(shapes):
        checkpoints.save(step, state(shape), metric=None, extra={})
        for other in shapes:
            got = checkpoints.restore(step, jax.eval_shape(lambda: state(other)))  # noqa: B023
            np.testing.assert_array_equal(got["replay"]["storage"], rows.reshape(other))
    mesh = jax.make_mesh((1,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, None, "devices"))
    where = jax.ShapeDtypeStruct(shapes[0], jnp.float32, sharding=split)
    got = checkpoints.restore(1, {"replay": {"storage": where}})["replay"]["storage"]
    assert got.sharding == split
    np.testing.assert_array_equal(got, rows.reshape(shapes[0]))
    for wrong in [(1, 60, 4), (2, 30, 3), (2, 10, 12)]:
        spec = jax.ShapeDtypeStruct(wrong, jnp.float32)
        with pytest.raises(UserError, match="must be float32"):
            checkpoints.restore(1, {"replay": {"storage": spec}})
    checkpoints.save(3, state(shapes[0], "priorities"), metric=None, extra={})
    with pytest.raises(UserError, match="replay/priorities must be float32"):
        checkpoints.restore(3, jax.eval_shape(lambda: state(shapes[1], "priorities")))


def listed(checkpoint: Path) -> list[Path]:
    """The files in a checkpoint's manifest, and the manifest itself."""
    files = json.loads((checkpoint / MANIFEST).read_text())["files"]
    there = [checkpoint / name for name in [MANIFEST, *files]]
    return [path for path in there if path.stat().st_size]


def files_of(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def truncate(path: Path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path):
    data = bytearray(path.read_bytes())
    if data:
        data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink])
def test_no_damage_goes_unseen(tmp_path, damage):
    """Damage each file in turn; files that are not in the manifest are not read."""
    saved(tmp_path / "good", [2])
    vouched = [path.relative_to(tmp_path / "good") for path in listed(tmp_path / "good" / "2")]
    assert len(vouched) > 10
    checkpoints = Checkpoints(tmp_path / "bad", keep=1)
    for file in vouched:
        shutil.copytree(tmp_path / "good", tmp_path / "bad")
        damage(tmp_path / "bad" / file)
        with pytest.raises(UserError, match="checkpoint 2 in .* is damaged"):
            checkpoints.restore(2, ABSTRACT)
        shutil.rmtree(tmp_path / "bad")
    for file in files_of(tmp_path / "good"):
        if file.relative_to(tmp_path / "good") not in vouched:
            damage(file)
    checkpoints = Checkpoints(tmp_path / "good", keep=1)
    assert raw(checkpoints.restore(2, ABSTRACT)) == raw(make_state())
    checkpoints.save(3, {"x": jnp.ones(2)}, metric=None, extra={})
    assert checkpoints.steps() == [3]


def test_bits_that_flip_anywhere_are_found(tmp_path):
    checkpoints = saved(tmp_path, [1])
    generator = np.random.default_rng(0)
    files = listed(tmp_path / "1")
    for _ in range(200):
        file = files[generator.integers(len(files))]
        data = bytearray(file.read_bytes())
        data[generator.integers(len(data))] ^= 1 << generator.integers(8)
        before = file.read_bytes()
        file.write_bytes(data)
        with pytest.raises(UserError, match="is damaged"):
            checkpoints.restore(1, ABSTRACT)
        file.write_bytes(before)
    assert raw(checkpoints.restore(1, ABSTRACT)) == raw(make_state())


def test_a_metric_whose_bits_flip_is_none(tmp_path):
    checkpoints = saved(tmp_path, [1])
    checkpoints.score(1, 3.0)
    checkpoints.save(2, make_state(), metric=4.0, extra={})
    assert checkpoints.best() == 2
    path = tmp_path / "2" / "metrics" / "metrics"
    path.write_text(path.read_text().replace("4.0", "5.0"))
    assert checkpoints.best() == 1


def test_files_of_others_do_no_harm_and_come_to_none(tmp_path):
    """Files of a desktop in a checkpoint, and copies of it that a user made next to it."""
    checkpoints = saved(tmp_path, [1, 2])
    (tmp_path / "2" / ".DS_Store").write_text("desktop")
    (tmp_path / "2" / "state" / ".DS_Store").write_text("desktop")
    for name in ("1.backup", "2.saving", "old"):
        shutil.copytree(tmp_path / "1", tmp_path / name)
    (tmp_path / ".DS_Store").write_text("desktop")
    assert raw(checkpoints.restore(2, ABSTRACT)) == raw(make_state())
    again = Checkpoints(tmp_path, keep=1)
    assert again.steps() == [1, 2]
    again.save(3, make_state(), metric=None, extra={})
    there = {path.name for path in tmp_path.iterdir()}
    assert there == {"3", "1.backup", "2.saving", "old", ".DS_Store"}
    (tmp_path / "1.backup").rename(tmp_path / "1")
    assert raw(again.restore(1, ABSTRACT)) == raw(make_state())


def test_damage_names_the_step_and_an_intact_one(tmp_path):
    checkpoints = saved(tmp_path, [1, 2, 3])
    for step in (2, 3):
        (tmp_path / str(step) / "state" / "_METADATA").unlink()
    with pytest.raises(UserError, match="checkpoint 3 in .* is damaged; checkpoint 1 is intact"):
        checkpoints.restore(3, ABSTRACT)
    with pytest.raises(UserError, match="checkpoint 2 in"):
        checkpoints.restore(2, ABSTRACT)
    step, state, warning = checkpoints.restore_latest_valid(ABSTRACT)
    assert step == 1 and raw(state) == raw(make_state())
    assert warning == "checkpoint 3, 2 is damaged; 1 is used instead"
    (tmp_path / "1" / "state" / "_METADATA").unlink()
    with pytest.raises(UserError, match="no older one is intact"):
        checkpoints.restore(3, ABSTRACT)
    with pytest.raises(UserError, match="there is no intact checkpoint in"):
        checkpoints.restore_latest_valid(ABSTRACT)


def test_what_is_no_checkpoint_is_said_to_be_none(tmp_path):
    checkpoints = saved(tmp_path, [1])
    (tmp_path / "2" / "state").mkdir(parents=True)
    with pytest.raises(UserError, match="checkpoint 2 in .* is damaged; checkpoint 1 is intact"):
        checkpoints.restore(2, ABSTRACT)
    assert checkpoints.restore_latest_valid(ABSTRACT)[0] == 1


def test_checkpoints_of_bellmax_0_1_are_refused_in_a_sentence(tmp_path):
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "bellmax.json").write_text('{"checksum": 1, "meta": {}}')
    checkpoints = Checkpoints(tmp_path, keep=2)
    sentence = "checkpoint 7 in .* has the format of an older bellmax, which this one cannot read"
    for partial in (False, True):
        with pytest.raises(UserError, match=sentence) as caught:
            checkpoints.restore(7, ABSTRACT, partial=partial)
        assert "\n" not in str(caught.value)
        with pytest.raises(UserError, match=sentence):
            checkpoints.restore_latest_valid(ABSTRACT, partial=partial)
    checkpoints.save(9, make_state(), metric=None, extra={})
    assert checkpoints.restore_latest_valid(ABSTRACT)[0] == 9


def test_a_part_is_read_without_the_files_of_the_replay(tmp_path):
    checkpoints = saved(tmp_path, [1])
    for path in files_of(tmp_path / "1" / "replay"):
        path.unlink()
    learner = {"Dense_0": ABSTRACT.learner["Dense_0"], "half": None}
    part = ABSTRACT._replace(learner=learner, replay=(), keys=None)
    state = checkpoints.restore(1, part, partial=True)
    wanted = make_state()
    assert raw(state.learner) == raw(wanted.learner["Dense_0"])
    assert state.replay == () and state.keys is None
    assert raw(state.counters) == raw(wanted.counters)
    assert raw(checkpoints.restore_latest_valid(part, partial=True)[1]) == raw(state)
    for path in files_of(tmp_path / "1" / "state"):
        flip(path)
    with pytest.raises(UserError, match="is damaged"):
        checkpoints.restore(1, part, partial=True)


def test_a_part_must_be_there(tmp_path):
    checkpoints = saved(tmp_path, [1])
    part = State(None, None, None, {"steps": jax.ShapeDtypeStruct((), jnp.int32)}, memory={})
    assert raw(checkpoints.restore(1, part, partial=True)) == raw(make_state().counters)
    with pytest.raises(UserError, match=r"counters/other must be int32\[\], got nothing"):
        other = {"other": jax.ShapeDtypeStruct((), jnp.int32)}
        checkpoints.restore(1, part._replace(counters=other), partial=True)
    with pytest.raises(UserError, match=r"learner/Dense_0/kernel must be nothing"):
        checkpoints.restore(1, part)


def test_orbax_reads_them_alone(tmp_path):
    """A checkpoint can be read without bellmax."""
    saved(tmp_path, [1])
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    registry.add("state", ocp.args.PyTreeRestore)
    registry.add("meta", ocp.args.JsonRestore)
    with ocp.CheckpointManager(tmp_path, handler_registry=registry) as manager:
        there = manager.item_metadata(1)["state"].tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), there)
        state = ocp.args.PyTreeRestore(restore_args=as_numpy)
        items = {"state": state, "meta": ocp.args.JsonRestore()}
        read = manager.restore(1, args=ocp.args.Composite(**items))
    kernel = make_state().learner["Dense_0"]["kernel"]
    np.testing.assert_array_equal(read["state"]["learner/Dense_0/kernel"], kernel)
    assert read["meta"]["extra"] == {"step": 1}


def test_the_latest_valid_one_comes_without_a_warning(tmp_path):
    step, _, warning = saved(tmp_path, [1, 2]).restore_latest_valid(ABSTRACT)
    assert (step, warning) == (2, None)


def test_a_damaged_later_checkpoint_does_not_displace_a_new_one(tmp_path):
    checkpoints = saved(tmp_path, [1, 9], keep=1)
    saved(tmp_path, [5], keep=1)
    assert Checkpoints(tmp_path, keep=1).steps() == [5]
    assert checkpoints.latest() == 5
