"""Runs with replay of single frames: memory per step, capacity checks, and equal training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import UserError
from bellmax.agents.munchausen_dqn import MunchausenDQNConfig, make_munchausen_dqn
from bellmax.envs import Step, vectorise
from bellmax.envs.tasks.pixel_catch import PixelCatch
from bellmax.launch.config import run_config
from bellmax.launch.replay.ring import make_replay
from bellmax.launch.runners.device_runner import make_runner
from bellmax.launch.training.experiment import build
from bellmax.networks import NetworkConfig

PRESET = "munchausen_dqn/pixel_catch"


@pytest.mark.parametrize("prioritised", [False, True])
def test_an_atari_step_takes_one_frame(prioritised):
    flags = jnp.zeros(8, bool)
    zeros = jnp.zeros(8)
    step = Step(
        jnp.zeros((8, 84, 84, 4), jnp.uint8), zeros.astype(jnp.int32), zeros, zeros, flags, flags
    )
    slots, frame, others = 1000, 84 * 84, 3 * 4 + 2
    replay = make_replay(
        capacity=slots * 8,
        num_envs=8,
        rollout_length=1,
        sequence_length=2,
        batch_size=32,
        prioritised=prioritised,
        frame_stack=4,
    )
    state = jax.eval_shape(replay.init, step)
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    if prioritised:  # a sum tree of 16 children a node, and of partly filled nodes
        assert 0 < size - slots * 8 * (frame + others) < slots * 8 * 4 * 16 / 15 + 1000
    else:
        assert size == slots * 8 * (frame + others) + 8
    assert state.storage.observation.shape == (slots * 8, 84, 84, 1)


def test_the_frames_before_a_sequence_count_in_the_capacity():
    overrides = ["--replay.capacity", "19", "--warmup-steps", "32"]
    config = run_config.load(PRESET, overrides)
    run_config.check_replay(config, sequence_length=2, batch_size=32)
    with pytest.raises(UserError, match="at least 20, sequences of 2 steps and the 3 before them"):
        run_config.check_replay(config, sequence_length=2, batch_size=32, frame_stack=4)
    with pytest.raises(UserError, match=r"env\.frame_stack"):
        build(config)


def test_a_run_keeps_frames_unless_their_normalisation_changes():
    experiment = build(run_config.load(PRESET))
    assert experiment.replay_bytes == 10_000 * (84 * 84 + 14) + 8
    overrides = ["--env.frame-stack", "8", "--env.normalise-observations"]
    kept = [
        build(run_config.load("dqn/cartpole", overrides[:n])).abstract_state().replay.storage
        for n in (2, 3)
    ]
    assert [x.observation.size // x.reward.size for x in kept] == [4, 32]


@pytest.mark.slow
def test_training_is_the_same_to_the_bit_as_with_stacks_in_replay():
    env = vectorise(PixelCatch(), 2, frame_stack=4)
    config = MunchausenDQNConfig(
        network=NetworkConfig(hidden=(8,)), batch_size=16, epsilon_steps=50, learning_rate=1e-2
    )
    agent, ends = make_munchausen_dqn(config, env.spec), []
    for frame_stack in (4, 1):
        replay = make_replay(
            capacity=400,
            num_envs=2,
            rollout_length=1,
            sequence_length=agent.replay.sequence_length,
            batch_size=agent.replay.batch_size,
            frame_stack=frame_stack,
        )
        runner = make_runner(agent, env, replay, rollout_length=1, updates_per_rollout=1)
        state, interval = runner.advance(runner.init(jnp.array([3])), 20, 100)
        ends.append((state.learner, state.actor, interval))
    jax.tree.map(np.testing.assert_array_equal, *ends)
    assert ends[0][2].updates == 100 and ends[0][2].learn["loss"] > 0
