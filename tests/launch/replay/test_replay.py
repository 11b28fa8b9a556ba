"""Replay returns complete sequences of written steps, with the right frequencies."""

import warnings
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from bellmax.envs import Step
from bellmax.launch.replay.ring import make_replay

# (num_envs, rollout_length, sequence_length, capacity): the last capacity is not whole rollouts.
SHAPES = [(1, 1, 2, 7), (3, 1, 4, 30), (2, 4, 3, 40), (5, 3, 2, 33), (2, 2, 9, 55)]


class Stream:
    """Steps with observation = (stream, time), some of them last."""

    def __init__(self, num_envs, length, seed=0):
        rng = np.random.default_rng(seed)
        self.last = rng.random((100_000 // num_envs, num_envs)) < 0.2
        self.num_envs, self.length, self.time = num_envs, length, 0

    def rollout(self):
        times = self.time + np.arange(self.length)
        self.time += self.length
        grid = np.stack(np.broadcast_arrays(np.arange(self.num_envs), times[:, None]), -1)
        last = self.last[times]
        reward = (grid[..., 1] + grid[..., 0] / 16).astype(np.float32)
        action = grid[..., 1] % 256
        fields = (grid.astype(np.int32), action.astype(np.uint8), reward, 1.0 * ~last, ~last, last)
        return Step(*(jnp.asarray(x) for x in fields), behaviour={"log": jnp.asarray(-reward)})


def build(shape, batch_size=64, **kwargs):
    num_envs, length, sequence, capacity = shape
    replay = make_replay(
        capacity=capacity,
        num_envs=num_envs,
        rollout_length=length,
        sequence_length=sequence,
        batch_size=batch_size,
        **kwargs,
    )
    stream = Stream(num_envs, length)
    example = jax.tree.map(lambda x: x[0], Stream(num_envs, length).rollout())
    return replay, stream, replay.init(example), example


def valid_starts(stream, slots, sequence, prioritised=False):
    """(stream, time) of every sequence that may be drawn, by the definition."""
    times = range(max(0, stream.time - slots), stream.time - sequence + 1)
    everything = product(range(stream.num_envs), times)
    return {(n, t) for n, t in everything if not (prioritised and stream.last[t, n])}


def check_steps(steps, stream, sequence):
    """Check that rows are consecutive steps of one stream, unchanged; return the starts."""
    seen = np.asarray(steps.observation)
    np.testing.assert_array_equal(seen[:, :, 0], np.repeat(seen[:, :1, 0], sequence, 1))
    np.testing.assert_array_equal(seen[:, :, 1], seen[:, :1, 1] + np.arange(sequence)[None])
    reward = seen[..., 1] + seen[..., 0] / 16
    np.testing.assert_array_equal(steps.reward, reward)
    np.testing.assert_array_equal(steps.behaviour["log"], -reward)
    np.testing.assert_array_equal(steps.action, seen[..., 1] % 256)
    np.testing.assert_array_equal(steps.is_last, stream.last[seen[..., 1], seen[..., 0]])
    assert steps.action.dtype == np.uint8 and steps.is_last.dtype == bool
    return [tuple(start) for start in seen[:, 0].tolist()]


@pytest.mark.parametrize("prioritised", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_draws_exactly_the_valid_sequences_at_every_moment(shape, prioritised):
    num_envs, length, sequence, capacity = shape
    replay, stream, state, _ = build(shape, 512, prioritised=prioritised)
    slots = capacity // (num_envs * length) * length
    add, sample = jax.jit(replay.add, donate_argnums=0), jax.jit(replay.sample)
    keys = iter(jax.random.split(jax.random.key(1), 10_000))
    for turn in range(5 * slots // length + 1):
        valid = valid_starts(stream, slots, sequence, prioritised)
        if valid and (turn < slots // length + 3 or turn % 7 == 0):
            drawn = [sample(state, next(keys)) for _ in range(2)]
            starts = [s for d in drawn for s in check_steps(d.batch.steps, stream, sequence)]
            assert set(starts) == valid
            for d in drawn:
                slot, env = np.divmod(np.asarray(d.indices), num_envs)
                np.testing.assert_array_equal(d.batch.steps.observation[:, 0, 0], env)
                np.testing.assert_array_equal(d.batch.steps.observation[:, 0, 1] % slots, slot)
        state = add(state, stream.rollout())
    valid = sorted(valid_starts(stream, slots, sequence, prioritised))
    drawn = [sample(state, next(keys)) for _ in range(15)]
    starts = [s for d in drawn for s in check_steps(d.batch.steps, stream, sequence)]
    counts = [starts.count(s) for s in valid]
    assert sum(counts) == len(starts)
    # Stratified draws are more even than independent ones; only less even draws are an error.
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    np.testing.assert_array_equal(drawn[0].batch.weights, np.ones(512))


def test_frequencies_and_weights_follow_the_priorities():
    alpha, beta = 0.7, 0.5
    shape = (3, 2, 3, 60)
    replay, stream, state, _ = build(
        shape, 128, prioritised=True, priority_exponent=alpha, importance_exponent=beta
    )
    add, sample = jax.jit(replay.add), jax.jit(replay.sample)
    for _ in range(33):
        state = add(state, stream.rollout())
    valid = sorted(valid_starts(stream, 20, 3, prioritised=True))
    indices = np.array([t % 20 * 3 + n for n, t in valid])
    priorities = np.random.default_rng(0).exponential(size=len(valid)) ** 3
    state = replay.update_priorities(state, jnp.asarray(indices), jnp.float32(priorities))
    p = (priorities + 1e-6) ** alpha
    np.testing.assert_allclose(state.max_priority, max(1.0, p.max()), rtol=1e-5)
    p /= p.sum()
    counts = np.zeros(60)
    for key in jax.random.split(jax.random.key(0), 200):
        drawn = sample(state, key)
        row = [indices.tolist().index(i) for i in np.asarray(drawn.indices)]
        np.testing.assert_allclose(drawn.batch.weights, (p[row] / p[row].min()) ** -beta, rtol=1e-4)
        assert drawn.batch.weights.max() == 1
        np.add.at(counts, np.asarray(drawn.indices), 1)
    assert counts.sum() == counts[indices].sum() == 200 * 128
    usual = p * 200 * 128 > 5
    expected = (p * 200 * 128)[usual]
    excess = ((counts[indices][usual] - expected) ** 2 / expected).sum()
    assert excess < usual.sum() + 4 * np.sqrt(2 * usual.sum())
    # New sequences start with the largest priority seen.
    state = add(state, stream.rollout())
    new = [t % 20 * 3 + n for n, t in valid_starts(stream, 20, 3, True) if t >= stream.time - 4]
    leaves = np.asarray(state.priorities[0])
    assert new and (leaves[new] == np.float32(state.max_priority)).all()


@pytest.mark.parametrize("prioritised", [False, True])
def test_adding_writes_in_place(prioritised):
    replay, stream, state, _ = build((4, 2, 3, 8000), prioritised=prioritised)
    add = jax.jit(replay.add, donate_argnums=0)
    steps = stream.rollout()
    memory = add.lower(state, steps).compile().memory_analysis()
    size = sum(x.nbytes for x in jax.tree.leaves(state.storage))
    assert memory.alias_size_in_bytes >= size and memory.temp_size_in_bytes < size / 10
    before = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(state.storage)]
    after = add(state, steps)
    assert before == [x.unsafe_buffer_pointer() for x in jax.tree.leaves(after.storage)]
    assert all(x.is_deleted() for x in jax.tree.leaves(state.storage))


@pytest.mark.parametrize("prioritised", [False, True])
def test_whole_rollouts_are_allocated(prioritised):
    _, _, state, _ = build((3, 4, 3, 1001), prioritised=prioritised)
    assert state.storage.reward.shape == (332 * 3,)  # rollouts of 12 steps


def test_a_capacity_without_a_sequence_is_refused():
    with pytest.raises(
        ValueError, match="capacity must be enough for a sequence of 9 steps, got 20"
    ):
        build((2, 2, 9, 20))


def test_holds_the_same_sequences_as_flashbax():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from flashbax import make_trajectory_buffer
    replay, stream, state, example = build((3, 2, 4, 36), 512)
    oracle = make_trajectory_buffer(3, 512, 4, 1, 4, None, 12)
    theirs = oracle.init(jax.tree.map(lambda x: x[0], example))
    with jax.numpy_rank_promotion("allow"):  # flashbax broadcasts
        functions = (replay.add, replay.sample, oracle.add, oracle.sample)
        add, sample, their_add, their_sample = map(jax.jit, functions)
        for turn in range(30):
            steps = stream.rollout()
            state = add(state, steps)
            theirs = their_add(theirs, jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), steps))
            if turn % 3 == 2:
                key = jax.random.key(turn)
                both = sample(state, key).batch.steps, their_sample(theirs, key).experience
                flat = [np.asarray(s.observation).reshape(512, -1).tolist() for s in both]
                ours, other = ({tuple(row) for row in rows} for rows in flat)
                assert ours == other and ours
