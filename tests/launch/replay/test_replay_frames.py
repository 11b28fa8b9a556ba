"""Replay of single frames samples exactly the stacks that were added and not overwritten."""

from collections import deque
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from bellmax.envs import EnvSpec, Step, vectorise
from bellmax.envs.host import HostTimeStep, HostVector
from bellmax.envs.tasks.pixel_catch import PixelCatch
from bellmax.launch.actors.actor import Actor
from bellmax.launch.replay.ring import make_replay, seed_axes
from bellmax.launch.training.checkpoints import Checkpoints

# (frame_stack, channels, sequence_length, num_envs, rollout_length): every pair of values is there.
SHAPES = [
    (2, 1, 1, 1, 1),
    (2, 3, 1, 3, 5),
    (2, 1, 2, 3, 1),
    (2, 3, 5, 1, 1),
    (4, 3, 1, 3, 1),
    (4, 3, 2, 1, 5),
    (4, 1, 2, 3, 1),
    (4, 1, 5, 3, 5),
]
each_kind = pytest.mark.parametrize("prioritised", [False, True], ids=["uniform", "prioritised"])


def stack(frames, is_first, size):
    """Stacks [time, N, ..., size * C] of frames [time, N, ..., C], by their definition."""
    held, stacks = [None] * frames.shape[1], []
    for now, opens in zip(frames, is_first, strict=True):
        for n, frame in enumerate(now):
            held[n] = deque([frame] * size, size) if opens[n] else held[n]
            if not opens[n]:
                held[n].append(frame)
        stacks.append([np.concatenate(list(frames), -1) for frames in held])
    return np.array(stacks)


def random_steps(shape, length=80, seed=0):
    """Steps [length, N] with short episodes, some without a last step, as after a fault."""
    size, channels, _, num_envs, _ = shape
    rng = np.random.default_rng(seed)
    axes = (2, 3) if num_envs > 1 else ()
    frames = rng.integers(0, 256, (length, num_envs, *axes, channels), dtype=np.uint8)
    is_last = rng.random((length, num_envs)) < 0.15
    is_first = rng.random((length, num_envs)) < 0.1
    is_first[0] = True
    is_first[1:] |= is_last[:-1]
    reward = rng.normal(size=is_last.shape).astype(np.float32)
    observation = stack(frames, is_first, size)
    discount = 1 - is_last.astype(np.float32)
    action = rng.integers(0, 6, is_last.shape, dtype=np.int32)
    return Step(observation, action, reward, discount, is_first, is_last, {"log": -reward})


def make(shape, slots=20, frame_stack=None, batch_size=512, **kwargs):
    size, _, sequence, num_envs, length = shape
    return make_replay(
        capacity=slots * num_envs,
        num_envs=num_envs,
        rollout_length=length,
        sequence_length=sequence,
        batch_size=batch_size,
        frame_stack=frame_stack or size,
        **kwargs,
    )


def rollouts(steps, length):
    """(time afterwards, steps [length, N, ...]) of one rollout after the other."""
    for now in range(0, len(steps.reward) - length + 1, length):
        yield now + length, jax.tree.map(lambda x, a=now: jnp.asarray(x[a : a + length]), steps)


def example(steps):
    return jax.tree.map(lambda x: jnp.asarray(x[0]), steps)


def starts_with_history(shape, steps, now, slots, prioritised):
    """(time, stream) of each sequence in replay whose oldest frame is there or never was needed."""
    size, _, sequence, num_envs, _ = shape
    oldest, newest = max(0, now - slots + size - 1), now - sequence
    grid = product(range(oldest, newest + 1), range(num_envs))
    return {(t, n) for t, n in grid if not (prioritised and steps.is_last[t, n])}


def check_sample(sample, steps, now, slots, sequence):
    """Every leaf is what was added, to the bit, at the times of the indices, which it returns."""
    slot, stream = np.divmod(np.asarray(sample.indices), steps.reward.shape[1])
    first = now - 1 - (now - 1 - slot) % slots
    times = first[:, None] + np.arange(sequence)[None]

    def compare(read, added):
        expected = added[times, stream[:, None]]
        assert (read.dtype, read.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(read, expected)

    jax.tree.map(compare, sample.batch.steps, steps)
    return list(zip(first.tolist(), stream.tolist(), strict=True))


@each_kind
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sampled_stacks_equal_the_original_observations(shape, prioritised):
    size, _, sequence, _, length = shape
    slots, steps, replay = 20, random_steps(shape), make(shape, prioritised=prioritised)
    add, sample = jax.jit(replay.add, donate_argnums=0), jax.jit(replay.sample)
    state, places, drawn = replay.init(example(steps)), set(), []
    for now, rollout in rollouts(steps, length):
        state = add(state, rollout)
        valid = starts_with_history(shape, steps, now, slots, prioritised)
        if not valid:
            continue
        samples = [sample(state, jax.random.key(2 * now + i)) for i in range(2)]
        drawn = [s for x in samples for s in check_sample(x, steps, now, slots, sequence)]
        assert set(drawn) == valid
        for t, n in valid:
            window = range(max(t - size + 1, 0), t + sequence)
            places |= {u - t for u in window if steps.is_first[u, n]}
    assert places == set(range(1 - size, sequence))  # episodes opened everywhere
    counts = [drawn.count(start) for start in sorted(valid)]
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


@each_kind
@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[-1]], ids=str)
def test_samples_of_frames_equal_those_of_stacks_and_of_vectors(shape, prioritised):
    size, _, sequence, _, length = shape
    slots, steps = 20, random_steps(shape)
    observation_shape = steps.observation.shape[2:]
    kinds = [(size, None), (1, None), (size, observation_shape), (1, observation_shape)]
    replays = [
        make(shape, frame_stack=s, observation_shape=o, prioritised=prioritised) for s, o in kinds
    ]
    states = [replay.init(example(steps)) for replay in replays]
    assert [state.storage.observation.ndim for state in states[2:]] == [1, 1]
    adds, samples, ranks = (
        [jax.jit(getattr(replay, name)) for replay in replays]
        for name in ("add", "sample", "update_priorities")
    )
    for now, rollout in rollouts(steps, length):
        if now > slots - size + 1:
            break
        states = [add(state, rollout) for add, state in zip(adds, states, strict=True)]
        if now < max(sequence, 4):
            continue
        key = jax.random.key(now)
        ours, *others = (sample(state, key) for sample, state in zip(samples, states, strict=True))
        for theirs in others:
            jax.tree.map(np.testing.assert_array_equal, ours, theirs)
        priorities = jax.random.uniform(key, (512,))
        states = [
            rank(state, ours.indices, priorities) for rank, state in zip(ranks, states, strict=True)
        ]
    jax.tree.map(np.testing.assert_array_equal, states[0].priorities, states[1].priorities)


def test_a_priority_is_lost_with_the_history_and_never_comes_back():
    shape = (4, 1, 2, 2, 5)
    slots, steps, replay = 20, random_steps(shape), make(shape, prioritised=True)
    state, add = replay.init(example(steps)), jax.jit(replay.add)
    rank = jax.jit(replay.update_priorities)
    for now, rollout in rollouts(steps, 5):
        state = add(state, rollout)
        valid = starts_with_history(shape, steps, now, slots, True)
        ranked = np.flatnonzero(np.asarray(state.priorities[0])[: slots * 2])
        assert set(ranked.tolist()) == {t % slots * 2 + n for t, n in valid}
        # Some of them twice, so that every call has the same shape.
        indices = jnp.asarray(np.resize(ranked, 2 * slots), jnp.int32)
        state = rank(state, indices, np.full(2 * slots, 5, np.float32))


def test_the_first_step_of_all_opens_an_episode():
    shape = (3, 1, 2, 2, 1)
    steps, replay = random_steps(shape), make(shape)
    state = replay.init(example(steps))
    is_first = steps.is_first.copy()
    is_first[0] = False
    for _, rollout in rollouts(jax.tree.map(lambda x: x[:2], steps._replace(is_first=is_first)), 1):
        state = jax.jit(replay.add)(state, rollout)
    sampled = jax.jit(replay.sample)(state, jax.random.key(0)).batch.steps.observation
    first = {x.tobytes() for x in np.asarray(sampled[:, 0])}
    assert first == {x.tobytes() for x in steps.observation[0]}


@each_kind
def test_seeds_together_sample_what_each_does_alone(prioritised):
    shape = (4, 1, 2, 3, 1)
    replay, streams = (
        make(shape, prioritised=prioritised),
        [random_steps(shape, seed=i) for i in range(3)],
    )
    alone = [replay.init(example(steps)) for steps in streams]
    together = jax.vmap(replay.init, out_axes=seed_axes)(
        jax.tree.map(lambda *x: jnp.stack(x), *map(example, streams))
    )
    keys = jax.random.split(jax.random.key(0), 3)
    add = jax.jit(jax.vmap(replay.add, in_axes=(seed_axes, 0), out_axes=seed_axes))
    add_one, sample_one = jax.jit(replay.add), jax.jit(replay.sample)
    sample = jax.jit(jax.vmap(replay.sample, in_axes=(seed_axes, 0)))
    for parts in zip(*(rollouts(steps, 1) for steps in streams), strict=True):
        each = [rollout for _, rollout in parts]
        alone = [add_one(state, rollout) for state, rollout in zip(alone, each, strict=True)]
        together = add(together, jax.tree.map(lambda *x: jnp.stack(x), *each))
    samples = [sample_one(state, key) for state, key in zip(alone, keys, strict=True)]
    expected = jax.tree.map(lambda *x: jnp.stack(x), *samples)
    jax.tree.map(np.testing.assert_array_equal, sample(together, keys), expected)


class Game:
    """A host batch of random frames; episodes end, and tasks are restarted, at random."""

    spec = EnvSpec("test/Game", PixelCatch().spec.observation, PixelCatch().spec.action)
    num_envs, faults = 3, {}

    def __init__(self):
        self.rng, self.ended = np.random.default_rng(0), np.zeros(3, bool)

    def reset(self, seed):
        return self._show(np.ones(3, bool))

    def step(self, action):
        is_first = self.ended | (self.rng.random(3) < 0.1)
        return self._show(is_first), is_first

    def _show(self, is_first):
        frames = self.rng.integers(0, 256, (3, 84, 84, 1), dtype=np.uint8)
        self.ended = ~is_first & (self.rng.random(3) < 0.3)
        return HostTimeStep(frames, np.zeros(3), self.ended, ~self.ended & False)


def stream_on_host(length):
    env: HostVector = HostVector(Game(), frame_stack=4)
    yield env.reset(0)
    for _ in range(length - 1):
        yield env.step(np.zeros(3, np.int32))


def stream_on_device(length):
    env = vectorise(PixelCatch(rows=4, columns=5), 3, frame_stack=4)
    state, timestep = jax.jit(env.reset)(jax.random.key(0))
    step = jax.jit(env.step)
    yield timestep
    for key in jax.random.split(jax.random.key(1), length - 1):
        state, timestep = step(state, jax.random.randint(key, (3,), 0, 3), key)
        yield timestep


@pytest.mark.parametrize("stream", [stream_on_host, stream_on_device])
def test_stacks_are_those_of_the_environments(stream):
    shape = (4, 1, 3, 3, 1)
    seen = list(stream(40))
    flags = [
        Step(x.observation, x.reward, x.reward, x.discount, x.is_first, x.is_last) for x in seen
    ]
    steps = jax.tree.map(lambda *x: np.stack([np.asarray(y) for y in x]), *flags)
    replay = make(shape, batch_size=128)
    state, add = replay.init(example(steps)), jax.jit(replay.add, donate_argnums=0)
    for now, rollout in rollouts(steps, 1):
        state = add(state, rollout)
        if now in (15, 40):
            check_sample(replay.sample(state, jax.random.key(now)), steps, now, 20, 3)
    assert steps.is_first.sum() > 12 and (steps.is_last.sum(0) > 1).all()


@pytest.mark.parametrize("replaced", [False, True])
def test_actors_hand_over_frames_from_which_the_same_is_stored(replaced):
    def act(observation, memory, is_first, now):
        return (), np.zeros(3, np.int32), (), ()

    seen = list(stream_on_host(9))[-1] if replaced else None
    options = {"length": 5, "observes": False, "normalised": False, "seed": 0, "seen": seen}
    whole, frames = (
        Actor(HostVector(Game(), frame_stack=4), lambda acting: act, frames=frames, **options)
        for frames in (False, True)
    )
    replay = make((4, 1, 3, 3, 5))
    stacks, newest = (
        [actor.collect((), (), 0)[0].records for _ in range(4)] for actor in (whole, frames)
    )
    assert newest[0].observation.shape == (5, 3, 84, 84, 1)
    states = []
    for rollout in (stacks, newest):
        state, add = replay.init(example(stacks[0])), jax.jit(replay.add)
        for records in rollout:
            state = add(state, records)
        states.append(state)
    assert int(states[0].filled) == 20 and states[0].storage.observation.any()
    jax.tree.map(np.testing.assert_array_equal, *states)


@each_kind
def test_a_restored_state_continues_bit_for_bit(tmp_path, prioritised):
    shape = (4, 3, 2, 3, 5)
    steps, replay = random_steps(shape), make(shape, prioritised=prioritised)
    state, other = replay.init(example(steps)), None
    add, sample = jax.jit(replay.add), jax.jit(replay.sample)
    for now, rollout in rollouts(steps, 5):
        state = add(state, rollout)
        if now == 30:
            checkpoints = Checkpoints(tmp_path, keep=1)
            checkpoints.save(now, state, metric=None, extra={})
            other = checkpoints.restore(now, jax.eval_shape(replay.init, example(steps)))
        elif other is not None:
            other = add(other, rollout)
            both = (sample(s, jax.random.key(now)) for s in (state, other))
            jax.tree.map(np.testing.assert_array_equal, *both)
    jax.tree.map(np.testing.assert_array_equal, state, other)


@each_kind
def test_adding_writes_in_place(prioritised):
    shape = (4, 3, 2, 3, 5)
    steps, replay = random_steps(shape), make(shape, 8000, prioritised=prioritised)
    state, (_, rollout) = replay.init(example(steps)), next(rollouts(steps, 5))
    memory = jax.jit(replay.add, donate_argnums=0).lower(state, rollout).compile().memory_analysis()
    size = sum(x.nbytes for x in jax.tree.leaves(state.storage))
    assert memory.alias_size_in_bytes >= size and memory.temp_size_in_bytes < size / 10


def test_what_does_not_fit_is_refused():
    steps = random_steps((4, 1, 2, 1, 1))
    with pytest.raises(ValueError, match="enough for a sequence of 2 steps and the 3 before it"):
        make((4, 1, 2, 1, 1), slots=5)
    make((4, 1, 2, 1, 1), slots=6)
    with pytest.raises(ValueError, match="last axis must be a multiple of frame_stack, 3, got 4"):
        make((3, 1, 2, 1, 1)).init(example(steps))
