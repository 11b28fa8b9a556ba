"""Observations of an image and a vector: one array in replay, two inputs of a user's network."""

import pickle

import jax
import numpy as np
import pytest
from dm_env import specs
from gymnasium import spaces

from bellmax import UserError
from bellmax.envs import make_batch
from bellmax.envs.adapters.dm_env import convert_observation as convert_dm_env
from bellmax.envs.adapters.shared.gymnasium_spaces import convert_observation
from bellmax.envs.checks import describe_spaces
from bellmax.envs.packed import PackedArray
from bellmax.envs.vector import agent_spec
from bellmax.envs.wrappers.frame_stack import repeat_spec
from bellmax.launch import load_policy, train
from bellmax.networks import make_actor, make_critics, make_q_network, make_recurrent_network
from bellmax.networks.config import (
    ContinuousNetworkConfig,
    NetworkConfig,
    RecurrentNetworkConfig,
)
from helpers.two_inputs import IMAGE, Camera

TWO = "helpers.two_inputs"
ACTION = specs.BoundedArray((2,), np.float32, -1, 1)


def packed_of(space, value):
    found = convert_observation(space, "task")
    packed = found.convert(value)
    assert packed.shape == found.spec.shape and packed.dtype == found.spec.dtype == np.uint8
    return found.spec, packed


@pytest.mark.parametrize(
    ("space", "names"),
    [
        (Camera.observation_space, ["image", "speed", "gear"]),
        (spaces.Tuple([IMAGE, spaces.Box(-9, 9, (), np.float32)]), ["0", "1"]),
        (spaces.Dict(a=spaces.Discrete(9000), b=spaces.Box(0, 1, (2,), bool)), ["a", "b"]),
        (spaces.Dict(map=spaces.Box(-1, 1, (4, 4)), at=spaces.MultiBinary(3)), ["map", "at"]),
    ],
)
def test_each_entry_comes_back_as_it_was(space, names):
    space.seed(3)
    values = [space.sample() for _ in range(4)]
    spec = packed_of(space, values[0])[0]
    batch = np.stack([packed_of(space, value)[1] for value in values])
    arrays = jax.jit(spec.unpack)(batch)
    assert sorted(arrays) == sorted(names) and names == list(spec.entries)
    keys = list(space.spaces) if isinstance(space.spaces, dict) else range(len(space.spaces))
    for name, key in zip(names, keys, strict=True):
        one = convert_observation(space[key], "task")
        expected = np.stack([one.convert(value[key]) for value in values])
        np.testing.assert_array_equal(arrays[name], expected)
        assert arrays[name].dtype == expected.dtype
    np.testing.assert_array_equal(spec.pack(jax.device_get(arrays)), batch)


def test_a_dict_within_a_dict_is_one():
    space = spaces.Dict(eyes=spaces.Dict(left=IMAGE, right=IMAGE), goal=spaces.Box(0, 1, (2,)))
    spec, packed = packed_of(space, value := space.sample())
    found = spec.unpack(packed)
    np.testing.assert_array_equal(found["eyes"]["right"], value["eyes"]["right"])
    assert pickle.loads(pickle.dumps(spec)) == spec != PackedArray({"goal": spec.entries["goal"]})
    assert str(spec).startswith("{eyes {left [6, 5, 3] uint8, right [6, 5, 3] uint8}, goal [2]")


def test_mappings_of_dm_env_with_an_image_are_packed_too():
    pixels = specs.BoundedArray((4, 4, 3), np.uint8, 0, 255)
    found = convert_dm_env({"touch": specs.Array((2,), np.float64), "pixels": pixels})
    value = {"touch": np.array([0.5, -1.0]), "pixels": np.full((4, 4, 3), 7, np.uint8)}
    arrays = found.spec.unpack(found.convert(value))
    np.testing.assert_array_equal(arrays["touch"], [0.5, -1.0])
    np.testing.assert_array_equal(arrays["pixels"], value["pixels"])
    # Without an image they are joined as before.
    assert convert_dm_env({"a": specs.Array((2,), float), "b": specs.Array((), float)}).spec == (
        specs.Array((3,), np.float32)
    )


def test_what_is_not_finite_or_of_another_shape_is_told():
    spec = convert_observation(Camera.observation_space, "task").spec
    image = np.zeros(IMAGE.shape, np.uint8)
    arrays = {"image": image, "speed": [0.0, np.nan], "gear": np.zeros(3)}
    with pytest.raises(ValueError, match="'speed' is not finite"):
        spec.pack(arrays)
    for other, words in [
        ({"gear": np.zeros(2)}, r"'gear' must have shape \(3,\), got \(2,\)"),
        ({"gear": None}, r"'gear' must have shape"),
        ({"image": image / 2.0}, "'image' must be uint8, got float64"),
        ({"image": image.astype(np.int16)}, "'image' must be uint8, got int16"),
    ]:
        with pytest.raises(ValueError, match=words):
            spec.pack(arrays | {"speed": np.zeros(2)} | other)


@pytest.mark.parametrize(
    ("words", "make"),
    [
        ("agent.network.module", lambda spec: make_q_network(NetworkConfig(), spec, 2)),
        (
            "agent.network.module",
            lambda spec: make_recurrent_network(RecurrentNetworkConfig(), spec, 2),
        ),
        ("actor and critic", lambda spec: make_actor(ContinuousNetworkConfig(), spec, ACTION)),
        ("actor and critic", lambda spec: make_critics(ContinuousNetworkConfig(), spec, ACTION)),
        ("frame_stack must be 1", lambda spec: repeat_spec(spec, 4)),
    ],
)
def test_others_are_answered_with_the_ways_out(words, make):
    spec = convert_observation(Camera.observation_space, "task").spec
    with pytest.raises(UserError, match=words) as error:
        make(spec)
    assert "image [6, 5, 3] uint8" in str(error.value)
    assert "observation" in str(error.value) and "key" in str(error.value)


def test_normalisation_is_refused():
    spec = make_batch(f"{TWO}:Camera", 1).spec
    with pytest.raises(UserError, match="env.normalise_observations must be false"):
        agent_spec(spec, reward_clip=None, normalised=True)


def test_a_network_that_takes_one_array_is_told_what_it_got():
    spec = convert_observation(spaces.Dict(a=IMAGE, b=IMAGE), "task").spec
    with pytest.raises(UserError, match=r"does not accept observations \{a \[6, 5, 3\]"):
        make_q_network(NetworkConfig(module=f"{TWO}:TwoInputs"), spec, 2)


def test_check_env_names_the_entries():
    line = describe_spaces(f"{TWO}:Camera")[0]
    assert "image [6, 5, 3] uint8, speed [2] float32" in line and "agent.network.module" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("agent", "task", "network"),
    [
        ("dqn", "Camera", {"module": "TwoInputs"}),
        ("td3", "Driver", {"actor": "OwnActor", "critic": "OwnCritic"}),
    ],
)
@pytest.mark.parametrize("timeout", [None, 60])
def test_a_network_of_both_trains_and_acts(tmp_path, agent, task, network, timeout):
    if timeout and agent == "td3":
        pytest.skip("one kind of agent suffices for processes")
    run = train(
        agent,
        out=tmp_path / "run",
        steps=600,
        warmup_steps=300,
        log_every=300,
        evaluate_every=0,
        evaluation_episodes=2,
        env={"name": f"{TWO}:{task}", "num_envs": 2, "timeout": timeout},
        replay={"capacity": 500},
        agent={"network": {key: f"{TWO}:{name}" for key, name in network.items()}},
    )
    assert max(run.metrics("train")["gradient_steps"]) > 0
    policy = load_policy(tmp_path / "run", trust=True)
    seen = [Camera.observation_space.sample() for _ in range(2)]
    gears = np.eye(3, dtype=np.float32)[[one["gear"] for one in seen]]
    both = {key: np.stack([one[key] for one in seen]) for key in ("image", "speed")}
    action, _ = policy.act({**both, "gear": gears}, policy.initial_memory(2), np.ones(2, bool))
    assert len(action) == 2
    with pytest.raises(UserError, match="observation: 'speed' must have shape"):
        policy.act({**both, "gear": gears, "speed": [[1.0]]}, (), np.ones(2, bool))
