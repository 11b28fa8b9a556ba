"""Read the files of a run, during or after training."""

import json
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bellmax.launch.config.run_config import load
from bellmax.launch.runners.train_state import TrainState
from bellmax.launch.training.checkpoints import Checkpoints
from bellmax.launch.training.experiment import build


def rows(run: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """Return the rows of a run's log without the columns that depend on the clock.

    An incomplete last line, as a kill leaves it, is ignored; a missing log has no rows.
    """
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    parsed = [json.loads(line) for line in lines if line.endswith("\n")]
    kept = [row for row in parsed if kind is None or row["kind"] == kind]
    return [{key: row[key] for key in row if key != "timing"} for row in kept]


def checkpoints(run: Path) -> Checkpoints:
    """Return the checkpoints of a run, opened for reading."""
    return Checkpoints(run / "checkpoints", keep=100, read_only=True)


def saved(run: Path) -> tuple[list[int], list[str]]:
    """Return (steps of complete checkpoints, names of those that are being written)."""
    folder = run / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    complete = sorted(int(name) for name in names if name.isdigit())
    return complete, [name for name in names if not name.isdigit()]


def contents(folder: Path) -> dict[Path, bytes]:
    """Return the bytes of every file below a folder by its path relative to it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): path.read_bytes() for path in files}


def saved_files(run: Path) -> dict[Path, bytes]:
    """Return the files of complete checkpoints.

    Remains of a failed save are excluded, because a thread of orbax may still write there.
    """
    files = contents(run / "checkpoints")
    return {path: data for path, data in files.items() if path.parts[0].isdigit()}


def bits(leaf: Any) -> tuple[str, tuple[int, ...], bytes]:
    """Return (dtype, shape, bytes) of an array or a PRNG key."""
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    array = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
    return str(leaf.dtype), array.shape, array.tobytes()


def assert_same_run(run: Path, whole: Path) -> TrainState:
    """Assert that two runs are equal: log, every checkpoint to the bit, policies and config.

    Returns:
      Shapes and dtypes of the state that was compared.
    """
    assert rows(run) == rows(whole) != []
    steps, leftovers = saved(run)
    assert (steps, leftovers) == (saved(whole)[0], [])
    config = load(whole, trust=True)
    abstract = build(config).abstract_state()
    for step in steps:
        states = [
            jax.tree_util.tree_leaves_with_path(checkpoints(r).restore(step, abstract))
            for r in (run, whole)
        ]
        for (path, one), (_, other) in zip(*states, strict=True):
            assert bits(one) == bits(other), (step, jax.tree_util.keystr(path))
    ours, policies = (contents(r / "policy") for r in (run, whole))
    assert len([path for path in policies if len(path.parts) == 1]) == config.seeds + 1
    # The policy of the best evaluation is saved with `steps` as configured at that time.
    for files in (ours, policies):
        path = Path("best/config.yaml")
        files[path] = re.sub(rb"(?m)^steps: .*", b"", files[path])
    assert ours == policies
    assert (run / "config.yaml").read_bytes() == (whole / "config.yaml").read_bytes()
    return abstract
