"""Checkpoints of arrays that are too large for a second copy in memory."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import UserError
from bellmax.launch.training import pieces
from bellmax.launch.training.checkpoints import CheckpointError, Checkpoints

SOURCE = str(Path(__file__).parents[3] / "src")


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(pieces, "PIECE_BYTES", 1000)


def make_state():
    bits = jax.random.bits(jax.random.key(0), (1, 331, 3, 7), "uint32")
    return {
        "frames": bits.astype(jnp.uint8),
        "floats": jax.lax.bitcast_convert_type(bits[0], jnp.float32),  # NaNs of all kinds too
        "flags": bits[..., :1] > 7,
        "half": jnp.full((3, 1000), -0.0, jnp.bfloat16),
        "keys": jax.random.split(jax.random.key(1), 500),
        "small": jnp.arange(3),
        "empty": jnp.zeros((0, 5000)),
    }


ABSTRACT = jax.eval_shape(make_state)


def raw(state):
    def bits(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.array(jax.random.key_data(leaf) if is_key else leaf).tobytes()

    return jax.tree.map(bits, state)


def cuts_of(folder, step):
    return json.loads((folder / str(step) / "meta" / "metadata").read_text())["cuts"]


def test_pieces_come_back_bit_for_bit(tmp_path):
    state = make_state()
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, state, metric=None, extra={})
    # Along the longest axis; the rows of a piece take 1,000 bytes at most.
    cuts = {"frames": [1, 47], "floats": [0, 11], "half": [1, 166], "keys": [0, 125]}
    assert cuts_of(tmp_path, 1) == cuts
    restored = checkpoints.restore(1, ABSTRACT)
    assert raw(restored) == raw(state)
    assert not any(leaf.committed for leaf in jax.tree.leaves(restored))


def test_a_saved_array_is_still_reused_when_it_is_donated(tmp_path):
    advance = jax.jit(lambda x: x.at[0].add(1), donate_argnums=0)
    frames = advance(jnp.zeros((100, 50)))
    address = frames.unsafe_buffer_pointer()
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, {"x": frames}, metric=None, extra={})
    frames = advance(frames)
    assert frames.unsafe_buffer_pointer() == address
    restored = checkpoints.restore(1, {"x": jax.eval_shape(lambda: frames)})["x"]
    address = restored.unsafe_buffer_pointer()
    again = advance(restored)
    assert again.unsafe_buffer_pointer() == address and raw(again) == raw(frames)


def test_a_damaged_piece_is_found(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, make_state(), metric=None, extra={})
    largest = max((tmp_path / "1" / "state").rglob("*"), key=lambda path: path.stat().st_size)
    data = largest.read_bytes()
    largest.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UserError, match="checkpoint 1 in .* is damaged"):
        checkpoints.restore(1, ABSTRACT)


def test_a_disk_that_fills_up_between_pieces_keeps_the_earlier_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "PIECE_BYTES", 1_000_000)
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(1, {"x": jnp.arange(3)}, metric=None, extra={})
    noise = jax.random.bits(jax.random.key(0), 500_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(CheckpointError, match="file too large.*checkpoint 1 is kept"):
            checkpoints.save(2, {"x": noise}, metric=None, extra={})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


PEAK = """
import resource
import sys
from pathlib import Path
import jax
import jax.numpy as jnp
from bellmax.launch.training import pieces
from bellmax.launch.training.checkpoints import Checkpoints

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

pieces.PIECE_BYTES = 1 << 22
checkpoints = Checkpoints(Path(sys.argv[1]), keep=1)
small = {"x": jnp.ones((1, 3_000_000, 1))}
checkpoints.save(1, small, metric=None, extra={})  # what is loaded once
checkpoints.restore(1, jax.eval_shape(lambda: small))
state = {"x": jnp.ones((1, 75_000_000, 1))}
before = peak()
checkpoints.save(1, state, metric=None, extra={})
print((peak() - before) / state["x"].nbytes)
like = jax.eval_shape(lambda: state)
checkpoints.restore(1, like)
print((peak() - before) / state["x"].nbytes)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in kB on Linux")
def test_a_save_has_no_copy_of_the_replay_in_memory_and_a_restore_has_one(tmp_path):
    environment = {**os.environ, "PYTHONPATH": SOURCE, "JAX_PLATFORMS": "cpu"}
    process = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path)], env=environment, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    save, both = map(float, process.stdout.split())
    assert save < 0.5 and both < 1.5, process.stdout
