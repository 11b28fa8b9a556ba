"""The stream of host environments equals that of JAX environments."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bellmax import UserError
from bellmax.envs import (
    EnvConfig,
    HostVector,
    LoopBatch,
    is_host_env,
    make_host_vector,
    make_vector_env,
)
from bellmax.envs.errors import in_words
from helpers import scripted
from helpers.scripted_host import NOT_FINITE, HostCounter

FIELDS = "reward discount is_first is_last truncated episode_return episode_length".split()


def stream_of(vector, actions):
    """The stream [T + 1, N, ...] of a HostVector through actions [T, N]."""
    steps = [vector.reset(0), *(vector.step(np.asarray(a, np.int32)) for a in actions)]
    return type(steps[0])(*(np.stack(leaves) for leaves in zip(*steps, strict=True)))


@settings(max_examples=25, deadline=None)
@given(
    actions=st.lists(st.lists(st.integers(0, 2), min_size=3, max_size=3), min_size=20, max_size=20),
    ends_at=st.integers(1, 6),
    ending=st.sampled_from(["terminates", "truncates", "time_limit"]),
    clip=st.sampled_from([None, 1.0, 12.0]),
)
def test_stream_equals_a_loop(actions, ends_at, ending, clip):
    limit = ends_at if ending == "time_limit" else None
    batch = LoopBatch(
        lambda: HostCounter(100 if limit else ends_at, ending == "truncates"), 3, time_limit=limit
    )
    stream = stream_of(HostVector(batch, reward_clip=clip), actions)
    wanted = scripted.numpy_stream(
        actions, ends_at=ends_at, truncates=ending != "terminates", clip=clip
    )
    np.testing.assert_array_equal(stream.observation[..., :2], wanted[..., :2])
    for i, name in enumerate(FIELDS):
        np.testing.assert_array_equal(getattr(stream, name), wanted[..., 2 + i], err_msg=name)


def test_stacked_frames_are_filled_at_resets():
    batch = LoopBatch(lambda: HostCounter(2, truncates=True), 2)
    vector = HostVector(batch, frame_stack=3)
    assert vector.spec.observation.shape == (9,)
    # The second task terminates at once, so that the two reset at different steps.
    stream = stream_of(vector, [[0, 2], [0, 0], [0, 0], [0, 0]])
    time = stream.observation[..., 0::3]
    np.testing.assert_array_equal(
        time[:, 0], [[0, 0, 0], [0, 0, 1], [0, 1, 2], [0, 0, 0], [0, 0, 1]]
    )
    np.testing.assert_array_equal(
        time[:, 1], [[0, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 1], [0, 1, 2]]
    )


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere arrays are always copied")
@pytest.mark.parametrize("count", range(1, 8))
def test_jax_reads_stacks_where_they_lie(count):
    vector = HostVector(LoopBatch(lambda: HostCounter(9), count), frame_stack=2)
    vector.reset(0)
    stack = vector.step(np.ones(count, np.int32)).observation
    seen = jax.device_put(stack, may_alias=True)
    assert seen.unsafe_buffer_pointer() == stack.ctypes.data


def test_a_restart_fills_the_stack_and_forgets_the_return():
    vector = HostVector(LoopBatch(lambda: HostCounter(9), 2), frame_stack=2)
    stream = stream_of(vector, [[1, 1], [NOT_FINITE, 1], [1, 1]])
    np.testing.assert_array_equal(stream.is_first[:, 0], [1, 0, 1, 0])
    np.testing.assert_array_equal(stream.is_last, np.zeros((4, 2)))
    np.testing.assert_array_equal(stream.discount, np.ones((4, 2)))
    np.testing.assert_array_equal(stream.episode_return[:, 0], [0, 10, 0, 10])
    np.testing.assert_array_equal(stream.episode_length[:, 0], [0, 1, 0, 1])
    np.testing.assert_array_equal(stream.episode_return[:, 1], [0, 10, 20, 30])
    np.testing.assert_array_equal(stream.observation[:, 0, 0::3], [[0, 0], [0, 1], [0, 0], [0, 1]])
    assert vector.faults == {"raised": 0, "timed out": 0, "not finite": 1}


def test_dtypes():
    vector = HostVector(LoopBatch(lambda: HostCounter(2), 2), reward_clip=1.0)
    for ts in (vector.reset(0), *(vector.step(np.ones(2, np.int32)) for _ in range(4))):
        kinds = {name: getattr(ts, name).dtype.name for name in ("observation", *FIELDS)}
        assert kinds == {
            **dict.fromkeys(["observation", "reward", "discount", "episode_return"], "float32"),
            **dict.fromkeys(["is_first", "is_last", "truncated"], "bool"),
            "episode_length": "int32",
        }
    assert vector.spec.reward_range == (-1.0, 1.0)


def test_config_reaches_the_stream():
    config = EnvConfig(
        "helpers.scripted_host:HostCounter",
        num_envs=3,
        time_limit=2,
        reward_clip=1.0,
        frame_stack=2,
        options={"ends_at": 7},
    )
    assert is_host_env(config)
    vector = make_host_vector(config)
    assert vector.num_envs == 3 and vector.spec.time_limit == 2
    assert vector.spec.observation.shape == (6,)
    stream = stream_of(vector, np.ones((2, 3)))
    assert stream.is_last[2].all() and stream.truncated[2].all()
    np.testing.assert_array_equal(stream.reward[1], [1, 1, 1])
    raw = make_host_vector(config, num_envs=1, evaluation=True)
    np.testing.assert_array_equal(stream_of(raw, [[1]]).reward[1], [10])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"optimistic_resets": 4}, "env.optimistic_resets must be left out for"),
        ({"randomise": {"mass": (1.0, 2.0)}}, "env.randomise must be left out for"),
        ({"coverage": True}, "env.coverage must be left out for"),
        (
            {"options": {"time_limit": 3}},
            "env.options.time_limit must be left out, got 3; set env.time_limit",
        ),
        (
            {"options": {"end_at": 3}},
            "unknown option 'end_at' of helpers.scripted_host:HostCounter; did you mean ends_at",
        ),
        ({"name": "bellmax/Catch"}, "bellmax/Catch is a JAX environment"),
        ({"timeout": -1.0}, "timeout must be above 0 seconds, got -1.0"),
    ],
)
def test_mistakes_of_the_configuration(change, words):
    config = EnvConfig(**{"name": "helpers.scripted_host:HostCounter", **change})
    with pytest.raises(UserError) as error:
        make_host_vector(config)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_environments_of_jax_take_no_timeout():
    assert not is_host_env(EnvConfig("bellmax/Catch"))
    with pytest.raises(UserError, match="env.timeout must be left out for"):
        make_vector_env(EnvConfig("bellmax/Catch", timeout=3.0))
    with pytest.raises(UserError, match="is a host environment; make it with"):
        make_vector_env(EnvConfig("helpers.scripted_host:HostCounter"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"reward_clip": 0.0}, "reward_clip must be above 0, got 0.0"),
        ({"frame_stack": 0}, "frame_stack must be at least 1"),
    ],
)
def test_arguments_out_of_range(arguments, words):
    with pytest.raises(UserError, match=words):
        HostVector(LoopBatch(HostCounter, 1), **arguments)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("", "ValueError: without a message"),
        ("one\ntwo", "ValueError: one"),
        ("from the server:", "ValueError: from the server:"),
        (
            "from the server:\nTraceback\nOSError: full\n",
            "ValueError: from the server: OSError: full",
        ),
    ],
)
def test_errors_are_told_in_one_line(message, words):
    assert in_words(ValueError(message)) == words
