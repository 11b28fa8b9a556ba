"""Checkpoints come back bit for bit, survive kills and say what is wrong."""

import gc
import json
import logging
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from bellmax import UserError
from bellmax.launch.checkpoint_files import MANIFEST
from bellmax.launch.checkpoints import CheckpointError, Checkpoints


class State(NamedTuple):
    learner: Any
    replay: Any
    keys: Any
    counters: Any
    memory: Any = ()


def make_state(width: int = 5) -> State:
    key = jax.random.key(3)
    learner = {
        "Dense_0": {"kernel": jax.random.normal(key, (2, width)).at[0, 0].set(-jnp.nan)},
        "half": jnp.array([1.5, -0.0], jnp.bfloat16),
        "none": None,
    }
    replay = (jnp.arange(6, dtype=jnp.uint8), jnp.array([True, False]), jnp.zeros((2, 0)))
    keys = {"env": jax.random.split(key, 2), "other": jax.random.key(1, impl="rbg")}
    return State(learner, replay, keys, {"steps": jnp.int32(7)})


ABSTRACT = jax.eval_shape(make_state)


def raw(tree):
    def bits(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        array = np.array(jax.random.key_data(leaf) if is_key else leaf)
        return str(leaf.dtype), array.shape, array.tobytes()

    return [bits(leaf) for leaf in jax.tree.leaves(tree)]


def saved(folder: Path, steps, keep: int = 10) -> Checkpoints:
    checkpoints = Checkpoints(folder, keep=keep)
    for step in steps:
        checkpoints.save(step, make_state(), metric=None, extra={"step": step})
    return checkpoints


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
    # What a kill in the middle of it leaves is no damage.
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
            r"learner/Dense_0/kernel should be float32\[2,6\] .* float32\[2,5\]",
        ),
        (
            lambda: make_state()._replace(memory=jnp.ones(3)),
            r"memory should be float32\[3\].*nothing",
        ),
        (lambda: make_state()._replace(replay=()), r"replay/0 should be nothing .* uint8\[6\]"),
        (
            lambda: make_state()._replace(counters={"steps": jnp.uint32(0)}),
            r"steps should be uint32",
        ),
    ],
)
def test_a_state_that_does_not_fit_is_named(tmp_path, other, words):
    checkpoints = saved(tmp_path, [4])
    with pytest.raises(UserError, match=words) as caught:
        checkpoints.restore(4, jax.eval_shape(other))
    assert "\n" not in str(caught.value) and "checkpoint 4" in str(caught.value)


def listed(checkpoint: Path) -> list[Path]:
    """The files that a checkpoint vouches for, and the one in which it does."""
    files = json.loads((checkpoint / MANIFEST / MANIFEST).read_text())["files"]
    there = [checkpoint / name for name in [f"{MANIFEST}/{MANIFEST}", *files]]
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
    """Every single file in turn; of those that are not listed nothing is read."""
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
    """Those of a desktop in a checkpoint, and copies that a user made beside it."""
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
    sentence = "checkpoint 7 in .* is of bellmax 0.1.0, which alone reads it"
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
    with pytest.raises(UserError, match=r"counters/other should be int32\[\] .* has nothing"):
        other = {"other": jax.ShapeDtypeStruct((), jnp.int32)}
        checkpoints.restore(1, part._replace(counters=other), partial=True)
    with pytest.raises(UserError, match=r"learner/Dense_0/kernel should be nothing"):
        checkpoints.restore(1, part)


def test_orbax_reads_them_alone(tmp_path):
    """What stays of a run can be read without bellmax."""
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


KILLED = """
import sys
from pathlib import Path
import jax
import jax.numpy as jnp
from bellmax.launch.checkpoints import Checkpoints

checkpoints = Checkpoints(Path(sys.argv[1]), keep=2)
checkpoints.save(1, {"x": jnp.arange(10)}, metric=None, extra={})
noise = jax.random.bits(jax.random.key(0), (20, 2_000_000))
print("ready", flush=True)
for step in range(2, 1000):
    checkpoints.save(step, {"x": noise}, metric=float(step), extra={})
"""


@pytest.mark.parametrize("delay", [0.0, 0.1])
def test_a_kill_in_the_middle_of_a_save_leaves_the_earlier_ones(tmp_path, delay):
    process = subprocess.Popen([sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE)
    with process:
        assert process.stdout and process.stdout.readline() == b"ready\n"
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("*.orbax*")) and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
    leftovers = list(tmp_path.glob("*.*"))
    reader = Checkpoints(tmp_path, keep=2, read_only=True)
    assert list(tmp_path.glob("*.*")) == leftovers
    assert reader.latest() is not None and (leftovers or delay)  # later, it may be between saves
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert not list(tmp_path.glob("*.*"))
    every = ("state", "meta")
    assert checkpoints.steps()
    assert all(checkpoints._is_intact(step, every) for step in checkpoints.steps())


def test_a_full_disk_keeps_the_earlier_checkpoint(tmp_path):
    checkpoints = saved(tmp_path, [1])
    noise = jax.random.bits(jax.random.key(0), 500_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(
            CheckpointError, match="2 could not be saved .*checkpoint 1 is kept"
        ) as e:
            checkpoints.save(2, {"x": noise}, metric=None, extra={})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert "file too large" in str(e.value) and "\n" not in str(e.value)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    checkpoints.save(2, {"x": noise}, metric=None, extra={})
    assert checkpoints.steps() == [1, 2]


FULL = """
import resource
import signal
import sys
from pathlib import Path
import jax
import jax.numpy as jnp
from bellmax.launch import pieces
from bellmax.launch.checkpoints import CheckpointError, Checkpoints

pieces.PIECE_BYTES = 1 << 20
checkpoints = Checkpoints(Path(sys.argv[1]), keep=2)
checkpoints.save(1, {"x": jnp.ones(3)}, metric=None, extra={})
noise = jax.random.bits(jax.random.key(0), (6, 50_000))
state = {"replay": jnp.tile(noise[0], 12), "learner": list(noise)}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit in (100_000, 3_000, 100_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        checkpoints.save(2, state, metric=None, extra={})
    except CheckpointError as error:
        print(error)
"""


def test_a_disk_that_stays_full_is_told_in_a_sentence_a_save_and_in_nothing_else(tmp_path):
    """orbax's threads and tasks fail one after the other, some when the save has given up."""
    process = subprocess.run(
        [sys.executable, "-c", FULL, tmp_path / "run"], capture_output=True, text=True
    )
    lines = process.stdout.splitlines()
    assert (process.returncode, process.stderr, len(lines)) == (0, "", 3), process
    assert all("(file too large); checkpoint 1 is kept" in line for line in lines)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["1"]


def test_a_folder_that_cannot_be_written_is_an_error_for_the_user(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="there is no earlier one"):
        Checkpoints(tmp_path / "file" / "run", keep=1).save(1, {}, metric=None, extra={})


def test_saving_leaves_nothing_in_memory(tmp_path):
    checkpoints = saved(tmp_path, [1, 2, 3], keep=1)
    gc.collect()
    before = sys.getallocatedblocks()
    for step in range(4, 24):
        checkpoints.save(step, make_state(), metric=None, extra={})
    gc.collect()
    # tensorstore keeps 640 strings a save of what orbax asks it for: specifications and metrics.
    assert sys.getallocatedblocks() - before < 20 * 900


def test_saving_is_silent(tmp_path, capfd, caplog):
    with caplog.at_level(logging.INFO):
        saved(tmp_path, [1]).restore(1, ABSTRACT)
    assert not caplog.records and capfd.readouterr() == ("", "")
