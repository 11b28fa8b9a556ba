"""Saves or restores an array in pieces that is split over all devices, perhaps of two processes.

python -m helpers.device_checkpoints FOLDER save|restore [ADDRESS PROCESS]
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from bellmax.launch.training import pieces
from bellmax.launch.training.checkpoints import Checkpoints


def make() -> dict:
    bits = jax.random.bits(jax.random.key(0), (1, 60, 8, 50), "uint8")
    return {"learner": {"key": jax.random.key(1), "bias": jnp.arange(4.0)}, "replay": bits}


def main(folder: str, what: str, address: str = "", process: str = "") -> None:
    if address:
        jax.distributed.initialize(address, 2, int(process))
    pieces.PIECE_BYTES = 5000
    shapes, devices = jax.eval_shape(make), jax.device_count()
    mesh = jax.make_mesh((devices,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
    whole, split = (NamedSharding(mesh, PartitionSpec(*x)) for x in [(), (None, None, "devices")])
    where = {"learner": {"key": whole, "bias": whole}, "replay": split}
    checkpoints = Checkpoints(Path(folder), keep=1, read_only=process == "1")
    if what == "save":
        checkpoints.save(1, jax.jit(make, out_shardings=where)(), metric=None, extra={"n": devices})
    else:
        spec = jax.tree.map(
            lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, where
        )
        state, wanted = checkpoints.restore(1, spec), make()
        frames = state["replay"]
        assert frames.sharding == split and state["learner"]["bias"].sharding == whole
        for shard in frames.addressable_shards:
            assert shard.data.shape == (1, 60, 8 // devices, 50)
            np.testing.assert_array_equal(shard.data, wanted["replay"][shard.index])
        # XLA owns it: it can be donated.
        address = frames.addressable_shards[0].data.unsafe_buffer_pointer()
        again = jax.jit(lambda x: x + 1, donate_argnums=0, out_shardings=split)(frames)
        assert again.addressable_shards[0].data.unsafe_buffer_pointer() == address
        same = jax.jit(lambda x, y: x == y)(state["learner"]["key"], wanted["learner"]["key"])
        assert same.addressable_data(0)
    print(f"{what} with {devices} devices")


if __name__ == "__main__":
    main(*sys.argv[1:])
