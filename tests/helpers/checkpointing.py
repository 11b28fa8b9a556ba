"""A small training state, and checkpoints of it."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bellmax.launch.training.checkpoints import Checkpoints


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
