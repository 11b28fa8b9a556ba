"""Every preset that comes with the package: its parts fit together, and it can take steps."""

import re

import jax
import numpy as np
import pytest

from bellmax.launch.config.run_config import list_presets, load
from bellmax.launch.runners.host_runner import HostRunner
from bellmax.launch.training.experiment import build
from helpers.marked import some_slow

# Tasks of other projects; tracing, or even making, some of them takes seconds.
OTHERS = ("atari", "brax_", "craftax_", "gymnasium_", "hopper", "host_", "minatar_", "minigrid_")
OWN = [name for name in list_presets() if not name.split("/")[1].startswith(OTHERS)]
# The first preset of each agent and of each kind of task; an agent and a task lower apart.
FIRST_OWN = {n.split("/")[0]: n for n in reversed(OWN)}
FIRST_TASK = {n.split("/")[1].split("_")[0]: n for n in reversed(list_presets())}
LOWERED = [*dict.fromkeys((*FIRST_OWN.values(), *FIRST_TASK.values()))]
BONUSES = [FIRST_OWN[name] for name in ("count_bonus", "icm", "rnd")]  # agents that differ by these
SLOW = [n for n in list_presets() if "brax_" in n and not n.endswith("inverted_pendulum")]
SLOW += [n for n in list_presets() if "/minatar_" in n and not n.endswith("breakout")]


def built(preset):
    """The experiment of a preset, without allocated state."""
    config = load(preset)
    suite = config.env.name.split("/")[0]
    if suite != "bellmax":
        pytest.importorskip({"ale": "ale_py"}.get(suite, suite))  # an extra; CI has them
    return build(config)


@pytest.mark.parametrize("preset", some_slow(list_presets(), SLOW))
def test_every_preset_can_be_built(preset):
    experiment = built(preset)
    assert int(np.prod(experiment.abstract_state().vector_steps.shape)) == 1
    if experiment.agent.replay.on_policy:
        assert experiment.replay_bytes == 0
    elif preset.endswith("/atari"):  # a million steps of one frame each, and their other fields
        assert 7_056 < experiment.replay_bytes / 10**6 < 7_056 + 100
    else:
        assert experiment.replay_bytes < 2 * 10**9


@pytest.mark.parametrize(
    "preset",
    some_slow(LOWERED, [n for n in LOWERED if n not in FIRST_OWN.values()] + BONUSES),
)
def test_a_learning_phase_keeps_the_shapes_of_the_state_and_lowers_for_accelerators(preset):
    experiment = built(preset)
    state, runner = experiment.abstract_state(), experiment.runner
    counts = jax.ShapeDtypeStruct((), np.int32)
    if isinstance(runner, HostRunner):
        counts, functions = np.zeros(2, np.int32), runner.functions
        packed, keys = functions.pack(state)
        given = packed, keys, runner.zero_metrics, runner.abstract_rollout(), counts
        program = functions.learn.trace(*given)
        after = functions.unpack(program.out_info[0], keys)
    else:
        program = runner.advance.trace(state, counts, counts)
        after = program.out_info[0]
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    for platform in ("cuda", "rocm", "tpu"):
        text = program.lower(lowering_platforms=(platform,)).as_text()
        # Here jaxlib has none of an accelerator's: each would be one of the CPU.
        assert set(re.findall(r"custom_call @(\w+)", text)) <= {"Sharding"}, platform


PIXELS = ["munchausen_dqn/pixel_catch", "qr_dqn_retrace/pixel_catch"]


@pytest.mark.slow
@pytest.mark.parametrize("preset", PIXELS)
def test_presets_at_atari_shapes_take_gradient_steps(preset):
    """Frames are stored once, as bytes; the Nature torso has 1,684,128 parameters."""
    config = load(preset, ["--replay.capacity", "200", "--warmup-steps", "64"])
    experiment = build(config)
    state = experiment.init()
    frames = state.replay.storage.observation
    assert (frames.shape, frames.dtype) == ((1, 50 * 4, 84 * 84), np.uint8)
    before = jax.device_get(state.learner.params)
    torso = jax.tree.leaves(before["params"]["NatureConv_0"])
    assert sum(leaf.size for leaf in torso) == 1_684_128
    state, interval = experiment.runner.advance(state, 16, 2)
    assert interval.updates == 2 and bool(interval.finite.all())
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), before, state.learner.params)
    assert 0 < max(jax.tree.leaves(moved)) < 1e-3
    state, _ = experiment.runner.advance(state, 10, 0)
    stored = np.asarray(state.replay.storage.observation)
    assert set(np.unique(stored[:, : 28 * 4])) == {0, 255}
