"""Replay of sequences on device: a ring of vector steps, sampled uniformly or by priority.

The storage is time-major, rows of C vector steps of N environments, so that adding is one
contiguous write. All functions are pure; donate the state to a jitted caller and it is written in
place. `cursor` and `filled` are the same for every seed, so under `vmap` over seeds they stay
unbatched (`seed_axes`) and the write stays a slice instead of a scatter.

For stacked observations only the newest frame is stored, and samples rebuild the stacks: a stack of
S frames takes the memory of one. The S - 1 slots from the cursor on then never start a sequence,
because the frames before them are overwritten.

Observations are stored as vectors if their shape is given. Time and environments are one axis where
one device has them all, and the numbers of short observations are in this axis too. An accelerator
pads the last two axes of an array to whole tiles, of 8 x 128 on a TPU: an image with few channels,
or the numbers of few environments, would take many times their size, and reading them would first
copy the whole replay into another layout.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bellmax import must
from bellmax.agents import Batch
from bellmax.envs import Step
from bellmax.launch.replay import sum_tree

_TILE = 128  # elements to whose multiple a TPU pads the last axis of an array


class ReplayState(NamedTuple):
    """The contents of replay.

    storage: leaves [C * N, ...], row slot * N + environment; [C, N, ...] if several devices hold
        the environments. Of stacked observations it has the newest frame. Observations are vectors
        if the replay was made with their shape, and one axis [C * N * size] if these are short.
    cursor: [] next slot to write. filled: [] number of slots that hold steps.
    priorities: sum tree over the C * N possible first steps of a sequence, () if uniform.
    max_priority: [] largest priority seen, to the power of the exponent, () if uniform.
    """

    storage: Step
    cursor: jax.Array
    filled: jax.Array
    priorities: Any
    max_priority: Any


class Sample(NamedTuple):
    """A sample. batch: sequences [B, T], weights [B]; indices: [B] int32, for update_priorities."""

    batch: Batch
    indices: jax.Array


class Replay(NamedTuple):
    """Functions of a replay.

    init(step) -> state, for vector steps with leaves [N, ...] (only shapes and dtypes are used)

    add(state, steps [L, N, ...]) -> state; observations are stacks or their newest frames
    sample(state, key) -> Sample
    update_priorities(state, indices [B], priorities [B]) -> state; does nothing if uniform
    end_episodes(state) -> state; the newest step of each environment is the last of its episode
    frame_stack: S, as in `make_replay`
    """

    init: Callable[[Step], ReplayState]
    add: Callable[[ReplayState, Step], ReplayState]
    sample: Callable[[ReplayState, jax.Array], Sample]
    update_priorities: Callable[[ReplayState, jax.Array, jax.Array], ReplayState]
    end_episodes: Callable[[ReplayState], ReplayState]
    frame_stack: int


class _Layout(NamedTuple):
    """Sizes of a replay: C slots, N environments, rollouts of L steps, sequences of T, stacks of S.

    shape: of the stored part of an observation; None stores observations in their own shape.
    sharded: whether several devices hold the environments.
    """

    slots: int
    num_envs: int
    rollout_length: int
    sequence_length: int
    frame_stack: int
    shape: tuple[int, ...] | None
    sharded: bool

    @property
    def joined(self) -> bool:
        """Whether the observations of all steps are one axis, because each is shorter than a tile.

        Indices into this axis are int32.
        """
        if self.shape is None or self.sharded:
            return False
        size = math.prod(self.shape)
        return size < _TILE and self.slots * self.num_envs * size < 2**31

    @property
    def history(self) -> int:
        """Number of steps before a sequence that hold its older frames, S - 1."""
        return self.frame_stack - 1


seed_axes = ReplayState(storage=0, cursor=None, filled=None, priorities=0, max_priority=0)  # type: ignore[arg-type]


def make_replay(
    *,
    capacity: int,
    num_envs: int,
    rollout_length: int,
    sequence_length: int,
    batch_size: int,
    prioritised: bool = False,
    priority_exponent: float = 0.6,
    importance_exponent: float = 0.4,
    frame_stack: int = 1,
    observation_shape: tuple[int, ...] | None = None,
    sharded: bool = False,
) -> Replay:
    """Make a replay of sequences.

    Args:
      capacity: steps kept, summed over environments; rounded down to whole rollouts.
      num_envs: N, number of environments, whose steps are added together.
      rollout_length: L, vector steps per call of `add`.
      sequence_length: T, contiguous steps of one environment in a sampled sequence.
      batch_size: B, sequences in a sample.
      prioritised: whether to sample in proportion to priority ** priority_exponent, excluding
        sequences that start at the end of an episode; otherwise uniformly over all sequences.
      importance_exponent: beta; weights are (probability ** -beta), divided by the batch's largest.
      frame_stack: S; above 1, observations are single arrays of S frames joined on the last axis,
        oldest first, as `bellmax.envs.wrappers.FrameStack` makes them. A frame must be the same in
        every stack, so normalisation by running statistics is excluded. The first step added, and
        every step with `is_first`, opens an episode.
      observation_shape: shape of one observation, as the agent sees it; observations are then
        stored as vectors, with equal samples. None stores them in their own shape.
      sharded: whether several devices hold the environments, which then have an axis of their own
        in the storage; samples are equal.

    Returns:
      Replay, a named tuple of pure functions.

    Raises:
      ValueError: the capacity is too small for a sequence; from `init` and `add`: the last axis
        of an observation is not a multiple of S.

    Source: Schaul et al. 2016, arXiv:1511.05952 (proportional variant, stratified).
    """
    slots = capacity // (num_envs * rollout_length) * rollout_length
    shape = _frame_shape(observation_shape, frame_stack)
    layout = _Layout(slots, num_envs, rollout_length, sequence_length, frame_stack, shape, sharded)
    _check_slots(layout, capacity)
    starts = slots * num_envs

    def init(step: Step) -> ReplayState:
        state = _empty_state(step, layout)
        if not prioritised:
            return state
        return state._replace(priorities=sum_tree.init(starts), max_priority=jnp.ones(()))

    def add(state: ReplayState, steps: Step) -> ReplayState:
        state = state._replace(storage=_write(state, steps, layout))
        if prioritised:
            state = state._replace(priorities=_rank_new_starts(state, layout))
        return state._replace(
            cursor=(state.cursor + rollout_length) % slots,
            filled=jnp.minimum(state.filled + rollout_length, slots),
        )

    def sample(state: ReplayState, key: jax.Array) -> Sample:
        if prioritised:
            indices, probabilities = sum_tree.sample(state.priorities, key, batch_size)
            weights = (probabilities / jnp.min(probabilities)) ** -importance_exponent
        else:
            indices = _uniform_starts(state, key, batch_size, layout)
            weights = jnp.ones((batch_size,))
        offsets = jnp.arange(sequence_length) * num_envs
        where = (indices[:, None] + offsets[None]) % starts
        return Sample(Batch(_read_steps(state, where, layout), weights), indices)

    def update_priorities(
        state: ReplayState, indices: jax.Array, priorities: jax.Array
    ) -> ReplayState:
        if not prioritised:
            return state
        scaled = (priorities + 1e-6) ** priority_exponent
        return state._replace(
            priorities=sum_tree.update(state.priorities, indices, scaled),
            max_priority=jnp.maximum(state.max_priority, jnp.max(scaled)),
        )

    end_episodes = functools.partial(_end_episodes, layout)
    return Replay(init, add, sample, update_priorities, end_episodes, frame_stack)


def _check_slots(layout: _Layout, capacity: int) -> None:
    length, history = layout.sequence_length, layout.history
    if layout.slots < length + layout.rollout_length + history:
        before = f" and the {history} before it" if history else ""
        allowed = f"enough for a sequence of {length} steps{before}"
        raise ValueError(must("capacity", allowed, capacity))


def _frame_shape(
    observation_shape: tuple[int, ...] | None, frame_stack: int
) -> tuple[int, ...] | None:
    """Return the shape of the stored part of an observation, before it becomes a vector."""
    if observation_shape is None or frame_stack == 1:
        return observation_shape
    return *observation_shape[:-1], observation_shape[-1] // frame_stack


def _stored(steps: Step, shape: tuple[int, ...] | None) -> Step:
    """Return the steps with observations as vectors, unless the shape is None."""
    if shape is None:
        return steps
    size = math.prod(shape)
    return steps._replace(observation=steps.observation.reshape(*steps.is_last.shape, size))


def _empty_state(step: Step, layout: _Layout) -> ReplayState:
    """Return the state of a uniform replay without steps; `step` has the shapes of one."""
    kept = jax.eval_shape(
        lambda step: _stored(newest_frame(step, layout.frame_stack), layout.shape), step
    )
    slots, num_envs = layout.slots, layout.num_envs
    rows = (slots, num_envs) if layout.sharded else (slots * num_envs,)
    storage = jax.tree.map(lambda x: jnp.zeros((*rows, *x.shape[1:]), x.dtype), kept)
    if layout.joined:
        storage = storage._replace(observation=storage.observation.reshape(-1))
    # Two arrays: the same buffer cannot be donated twice.
    cursor, filled = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
    return ReplayState(storage, cursor, filled, (), ())


def _write(state: ReplayState, steps: Step, layout: _Layout) -> Step:
    """Return the storage after writing a rollout at the cursor."""
    if layout.frame_stack > 1:
        channels = (layout.shape or state.storage.observation.shape)[-1]
        if steps.observation.shape[-1] != channels:
            steps = newest_frame(steps, layout.frame_stack)

    return jax.tree.map(
        lambda storage, new: _overwrite(storage, new, state.cursor, layout),
        state.storage,
        _stored(steps, layout.shape),
    )


def _overwrite(storage: jax.Array, new: jax.Array, slot: jax.Array, layout: _Layout) -> jax.Array:
    """Return a leaf of the storage with vector steps, [L, N, ...], from `slot` on."""
    width = storage.shape[0] // layout.slots  # entries of the first axis in a slot
    rows = new.reshape(new.shape[0] * width, *storage.shape[1:])
    return jax.lax.dynamic_update_slice_in_dim(storage, rows, slot * width, axis=0)


def _end_episodes(layout: _Layout, state: ReplayState) -> ReplayState:
    """Mark the newest step of each environment as the last of its episode."""
    newest = (state.cursor - 1) % layout.slots
    ended = jnp.ones((1, layout.num_envs), bool)
    is_last = _overwrite(state.storage.is_last, ended, newest, layout)
    return state._replace(storage=state.storage._replace(is_last=is_last))


def _read_steps(state: ReplayState, where: jax.Array, layout: _Layout) -> Step:
    """Return the steps at `where`, [B, T], with whole observations."""
    if layout.frame_stack > 1:
        steps = _read(state.storage._replace(observation=()), where, layout)
        return steps._replace(observation=_read_stacks(state, where, layout))
    steps = _read(state.storage, where, layout)
    return steps._replace(observation=_whole(steps.observation, where, layout))


def newest_frame(steps: Step, frame_stack: int) -> Step:
    """Return the steps with the newest frame [..., C] of each observation [..., S * C]."""
    if frame_stack == 1:
        return steps
    size = steps.observation.shape[-1]
    if size % frame_stack:
        allowed = f"a multiple of frame_stack, {frame_stack}"
        raise ValueError(must("the observation's last axis", allowed, size))
    return steps._replace(observation=steps.observation[..., -(size // frame_stack) :])


def _read(storage: Any, where: jax.Array, layout: _Layout) -> Any:
    """Return the rows of each leaf of the storage at `where` (slot * N + environment)."""
    slots, num_envs = layout.slots, layout.num_envs

    def read(x: jax.Array) -> jax.Array:
        if layout.sharded:  # one index would gather the whole replay on each device
            return x[where // num_envs, where % num_envs]
        size = x.shape[0] // (slots * num_envs)
        if size == 1:
            return x.at[where].get(mode="promise_in_bounds", wrap_negative_indices=False)
        rows = jax.vmap(lambda row: jax.lax.dynamic_slice(x, (row * size,), (size,)))
        return rows(where.reshape(-1)).reshape(*where.shape, size)

    return jax.tree.map(read, storage)


def _whole(observations: jax.Array, where: jax.Array, layout: _Layout) -> jax.Array:
    """Return stored parts of observations, [*where.shape, ...], in their own shape."""
    if layout.shape is None:
        return observations
    return observations.reshape(*where.shape, *layout.shape)


def _read_stacks(state: ReplayState, where: jax.Array, layout: _Layout) -> jax.Array:
    """Return observations [B, T, ..., S * C] of the sequences of steps at `where` [B, T]."""
    slots, num_envs, history = layout.slots, layout.num_envs, layout.history
    length, first = where.shape[1], where[:, :1]
    # The sequence, and the S - 1 steps before it that hold its older frames, [B, S - 1 + T].
    window = (first + jnp.arange(-history, length)[None] * num_envs) % (slots * num_envs)
    oldest = window // num_envs == (state.cursor - state.filled) % slots
    opens = _read(state.storage.is_first, window, layout) | oldest
    place = jnp.arange(history + length)
    opened = jax.lax.cummax(jnp.where(opens, place[None], 0), axis=1)[:, history:]
    wanted = place[:length, None] + jnp.arange(layout.frame_stack)[None]
    shown = jnp.maximum(wanted[None], opened[:, :, None])  # [B, T, S] places in the window
    slot = (first[:, :, None] + (shown - history) * num_envs) % (slots * num_envs)
    frames = _whole(_read(state.storage.observation, slot, layout), slot, layout)
    stacks = jnp.moveaxis(frames, 2, -2)
    # Without the barrier XLA rebuilds the stacks in each reader's loop, five times as slow.
    return jax.lax.optimization_barrier(stacks.reshape(*stacks.shape[:-2], -1))


def _rank_new_starts(state: ReplayState, layout: _Layout) -> tuple[jax.Array, ...]:
    """Set the priorities of the sequences that a write at the cursor changes.

    Sequences that the write completes get the largest priority. Sequences that it overwrites in
    part, or whose preceding `history` steps it overwrites, get 0.
    """
    num_envs, length, rollout = layout.num_envs, layout.sequence_length, layout.rollout_length
    offsets = jnp.arange(1 - length, rollout + layout.history)
    slot = (state.cursor + offsets) % layout.slots
    complete = (offsets <= rollout - length) & (state.filled + offsets >= 0)
    leaves = slot[:, None] * num_envs + jnp.arange(num_envs)[None]
    fresh = complete[:, None] & ~_read(state.storage.is_last, leaves, layout)
    values = jnp.where(fresh, state.max_priority, 0.0)
    return sum_tree.update(state.priorities, leaves.reshape(-1), values.reshape(-1))


def _uniform_starts(
    state: ReplayState, key: jax.Array, batch_size: int, layout: _Layout
) -> jax.Array:
    """Draw [B] first steps of complete sequences with `history` steps before them, uniformly."""
    slots, num_envs, history = layout.slots, layout.num_envs, layout.history
    filled = jnp.minimum(state.filled, slots - history) if history else state.filled
    # The remainder's bias is below starts / 2**32; it saves half of the random bits.
    bits = jax.random.bits(key, (batch_size,), jnp.uint32)
    age = bits % ((filled - layout.sequence_length + 1) * num_envs).astype(jnp.uint32)
    oldest = (state.cursor - filled) * num_envs
    return (age.astype(jnp.int32) + oldest) % (slots * num_envs)
