"""The stream of steps: next-step resets, episode ends, clipping, stacking, normalisation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bellmax import UserError, losses
from bellmax.envs import CartPole, EnvConfig, make_vector_env, vectorise
from bellmax.envs.statistics import (
    NORMALISED_BOUND,
    initial_statistics,
    merge_statistics,
    normalise,
)
from helpers import scripted

FIELDS = "reward discount is_first is_last truncated episode_return episode_length".split()


@functools.cache
def compiled(truncates, clip):
    """The stream of three `Counter`s as one program for all `ends_at` and actions [20, 3]."""

    @jax.jit
    def run(ends_at, actions):
        env = vectorise(scripted.Counter(ends_at, truncates), 3, reward_clip=clip)
        return scripted.play(env, actions)[0]

    return run


@settings(max_examples=40, deadline=None)
@given(
    actions=st.lists(st.lists(st.integers(0, 2), min_size=3, max_size=3), min_size=20, max_size=20),
    ends_at=st.integers(1, 6),
    ending=st.sampled_from([(False, None), (True, 1.0), (True, 12.0)]),
)
def test_stream_equals_a_loop(actions, ends_at, ending):
    truncates, clip = ending
    stream = jax.device_get(compiled(*ending)(ends_at, np.array(actions, np.int32)))
    wanted = scripted.numpy_stream(actions, ends_at=ends_at, truncates=truncates, clip=clip)
    np.testing.assert_array_equal(stream.observation, wanted[..., :2])
    for i, name in enumerate(FIELDS):
        np.testing.assert_array_equal(getattr(stream, name), wanted[..., 2 + i], err_msg=name)


def test_convention_by_hand():
    # The limit is two steps: o0, o1, o2 (last, truncated), then a reset at any action.
    vector = vectorise(scripted.Counter(2, truncates=True), 1, reward_clip=1.0)
    stream, _ = scripted.rollout(vector, np.array([[1], [1], [1], [2]], np.int32))
    np.testing.assert_array_equal(stream.observation[:, 0, 0], [0, 1, 2, 0, 1])
    np.testing.assert_array_equal(stream.is_first[:, 0], [1, 0, 0, 1, 0])
    np.testing.assert_array_equal(stream.is_last[:, 0], [0, 0, 1, 0, 1])
    np.testing.assert_array_equal(stream.truncated[:, 0], [0, 0, 1, 0, 0])
    np.testing.assert_array_equal(stream.discount[:, 0], [1, 1, 1, 1, 0])
    np.testing.assert_array_equal(stream.reward[:, 0], [0, 1, 1, 0, 1])
    np.testing.assert_array_equal(stream.episode_return[:, 0], [0, 10, 20, 0, 20])


def test_dtypes_and_shapes_stay():
    vector = vectorise(CartPole(), 4, normalise_observations=True, frame_stack=2, time_limit=3)
    key = jax.random.key(0)
    state, first = jax.eval_shape(vector.reset, key)
    new_state, second = jax.eval_shape(vector.step, state, jnp.zeros(4, jnp.int32), key)
    for before, after in ((state, new_state), (first, second)):
        assert jax.tree.map(lambda x: (x.shape, x.dtype), before) == jax.tree.map(
            lambda x: (x.shape, x.dtype), after
        )
    assert second.observation.shape == (4, *vector.spec.observation.shape)
    assert second.observation.dtype == vector.spec.observation.dtype
    assert second.reward.dtype == second.discount.dtype == jnp.float32
    assert second.episode_length.dtype == jnp.int32


def test_environments_and_resets_differ():
    vector = vectorise(CartPole(time_limit=1), 4)
    stream, _ = scripted.rollout(vector, np.zeros((4, 4), np.int32))
    starts = stream.observation[stream.is_first]
    assert len(starts) == 12
    assert len(np.unique(starts[:, 0])) == 12


@pytest.mark.parametrize(("own", "asked", "limit"), [(4, 2, 2), (2, 4, 2), (4, None, 4)])
def test_shorter_time_limit_counts(own, asked, limit):
    vector = vectorise(scripted.Counter(own, truncates=True), 1, time_limit=asked)
    stream, _ = scripted.rollout(vector, np.zeros((10, 1), np.int32))
    assert vector.spec.time_limit == limit
    assert set(stream.episode_length[stream.is_last]) == {limit}
    assert np.all(stream.truncated[stream.is_last])


def test_termination_at_the_time_limit_is_a_termination():
    vector = vectorise(scripted.Counter(3, truncates=False), 1, time_limit=3)
    stream, _ = scripted.rollout(vector, np.zeros((3, 1), np.int32))
    assert stream.is_last[3, 0] and not stream.truncated[3, 0] and stream.discount[3, 0] == 0


def test_frame_stack_holds_the_last_observations_oldest_first():
    vector = vectorise(scripted.Counter(3), 1, frame_stack=3)
    stream, _ = scripted.rollout(vector, np.zeros((5, 1), np.int32))
    times = stream.observation[:, 0, ::2]
    wanted = [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3], [0, 0, 0], [0, 0, 1]]
    np.testing.assert_array_equal(times, wanted)
    assert vector.spec.observation.shape == (6,)


def test_a_reset_fills_the_stack_with_its_own_observation():
    vector = vectorise(CartPole(time_limit=2), 2, frame_stack=3)
    stream, _ = scripted.rollout(vector, np.zeros((7, 2), np.int32))
    opened = stream.observation[stream.is_first].reshape(-1, 3, 4)
    assert len(opened) == 2 * 3 and np.all(opened != 0)
    np.testing.assert_array_equal(opened, opened[:, :1].repeat(3, axis=1))


def test_frame_stack_repeats_the_bounds():
    spec = vectorise(CartPole(), 1, frame_stack=2).spec.observation
    np.testing.assert_array_equal(spec.maximum[:4], spec.maximum[4:])


def test_statistics_equal_numpy():
    actions = np.random.default_rng(0).integers(0, 2, (50, 3)).astype(np.int32)
    raw, _ = scripted.rollout(vectorise(scripted.Counter(7), 3), actions)
    seen, state = scripted.rollout(
        vectorise(scripted.Counter(7), 3, normalise_observations=True), actions
    )
    flat = raw.observation.reshape(-1, 2)
    np.testing.assert_allclose(state.statistics.mean, flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(state.statistics.variance, flat.var(0), rtol=1e-5)
    assert state.statistics.seen == len(flat)
    wanted = (raw.observation[-1] - flat.mean(0)) / flat.std(0)
    np.testing.assert_allclose(seen.observation[-1], wanted, rtol=1e-4, atol=1e-5)


def test_statistics_are_the_running_moments_of_losses():
    """envs and losses must not import each other, so both implement this update."""
    x = np.random.default_rng(0).normal(3.0, [1e-3, 1.0, 1e3], (40, 3)).astype(np.float32)
    x = jnp.asarray(x * np.linspace(0.2, 5.0, 40)[:, None], jnp.float32)
    ours, theirs = initial_statistics((3,)), losses.running_moments_init((3,))
    for part in jnp.split(x, [1, 2, 9, 33]):
        ours = merge_statistics(ours, part)
        theirs = losses.running_moments_update(theirs, part, jnp.ones(len(part)))
    assert ours._fields == theirs._fields
    for own, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-5)
    far = jnp.concatenate([x, 100.0 * x])
    clipped = jax.vmap(lambda row: losses.standardise(theirs, row, clip=NORMALISED_BOUND))(far)
    np.testing.assert_allclose(normalise(ours, far), clipped, rtol=1e-4, atol=1e-5)
    assert clipped.max() == NORMALISED_BOUND


def test_evaluation_freezes_statistics_and_does_not_clip():
    config = EnvConfig(num_envs=3, normalise_observations=True, reward_clip=0.1)
    training, evaluation = make_vector_env(config), make_vector_env(config, evaluation=True)
    actions = np.zeros((20, 3), np.int32)
    _, trained = scripted.rollout(training, actions)
    stream, state = scripted.rollout(evaluation, actions, statistics=trained.statistics)
    jax.tree.map(np.testing.assert_array_equal, state.statistics, trained.statistics)
    assert stream.reward.max() == 1.0
    with pytest.raises(ValueError, match="frozen"):
        evaluation.reset(jax.random.key(0))


def test_normalisation_is_bounded():
    # A feature that was constant so far has a deviation of almost 0 when it first changes.
    env, options = scripted.Counter(50), {"normalise_observations": True}
    _, state = scripted.rollout(vectorise(env, 1, **options), np.zeros((9, 1), np.int32))
    vector = vectorise(env, 1, update_statistics=False, **options)
    stream, _ = scripted.rollout(vector, np.ones((9, 1), np.int32), statistics=state.statistics)
    assert np.abs(stream.observation).max() == vector.spec.observation.maximum == 10.0


def test_raw_return_with_wrappers_and_many_seeds():
    vector = vectorise(CartPole(), 2, reward_clip=0.5, time_limit=6)

    def returns(key):
        state, _ = vector.reset(key)
        step = lambda s, k: vector.step(s, jnp.zeros(2, jnp.int32), k)  # noqa: E731
        return jax.lax.scan(step, state, jax.random.split(key, 6))[1]

    seeds = jax.jit(jax.vmap(returns))(jax.random.split(jax.random.key(0), 3))
    assert seeds.episode_return.shape == (3, 6, 2)
    np.testing.assert_array_equal(seeds.episode_return[:, -1], 6.0)
    np.testing.assert_array_equal(seeds.reward, 0.5)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"num_envs": 0}, "num_envs"),
        ({"time_limit": 0}, "time_limit"),
        ({"reward_clip": 0.0}, "reward_clip"),
        ({"frame_stack": 0}, "frame_stack"),
    ],
)
def test_bad_arguments_are_named(options, word):
    with pytest.raises(UserError, match=word):
        vectorise(CartPole(), **({"num_envs": 1} | options))


class Drawn(scripted.Counter):
    """Observes the steps since the reset, and a number drawn at it; action 2 ends the episode."""

    def reset(self, key):
        state, ts = super().reset(key)
        state = state._replace(total=jax.random.randint(key, (), 0, 2**24))
        return state, ts._replace(observation=jnp.stack([0.0, state.total.astype(jnp.float32)]))

    def step(self, state, action, key):
        state, ts = super().step(state, action, key)
        total = state.total - action
        observation = ts.observation.at[1].set(total.astype(jnp.float32))
        return state._replace(total=total), ts._replace(observation=observation)


def test_optimistic_resets_are_shared_only_where_too_many_end_at_once():
    ends = np.zeros((8, 8), np.int32)
    ends[0, [1, 6]] = 2  # two end: each begins an episode of its own
    ends[2] = 2  # all end: two new episodes, each begun four times
    ends[4, 5] = 2
    env = vectorise(Drawn(50), 8, optimistic_resets=4)
    stream, _ = scripted.rollout(env, ends)
    drawn = stream.observation[..., 1]
    assert len(set(drawn[0])) == 8  # the first episodes are all different
    begun = [drawn[t][stream.is_first[t]] for t in (2, 4, 6)]
    assert [len(b) for b in begun] == [2, 8, 1] and [len(set(b)) for b in begun] == [2, 2, 1]
    np.testing.assert_array_equal(begun[1], np.tile(begun[1][:2], 4))
    assert len(set(np.concatenate([drawn[0], *begun]))) == 8 + 2 + 2 + 1
    np.testing.assert_array_equal(stream.is_last[[1, 3, 5]].sum(1), [2, 8, 1])
    # Between two ends the number stays, so nobody else's episode is changed.
    changed = drawn[1:] != drawn[:-1]
    np.testing.assert_array_equal(changed, stream.is_first[1:])


def test_optimistic_resets_change_no_statistic():
    actions = np.random.default_rng(0).integers(0, 3, (30, 7)).astype(np.int32)
    streams = [
        scripted.rollout(vectorise(scripted.Counter(4), 7, optimistic_resets=n), actions)[0]
        for n in (1, 3, 100)
    ]
    for other in streams[1:]:
        jax.tree.map(np.testing.assert_array_equal, streams[0], other)
    with pytest.raises(UserError, match="optimistic_resets must be at least 1, got 0"):
        vectorise(scripted.Counter(), 7, optimistic_resets=0)


def test_a_configuration_shares_resets():
    """The program of a step has one reset in the place of four."""

    def draws(config):
        env = make_vector_env(config)
        state, _ = jax.eval_shape(env.reset, KEY)
        text = str(jax.make_jaxpr(env.step)(state, jnp.zeros(4, int), KEY))
        return "f32[1,4]" in text

    KEY, plain = jax.random.key(0), EnvConfig("bellmax/CartPole", num_envs=4)
    assert not draws(plain) and draws(dataclasses.replace(plain, optimistic_resets=4))
